"""Where a synthetic set is wanted, a folder may be a SliceSet or something to import; and what import makes of it."""

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from benchmark.data import synthetic
from benchmark.data.foreign import importing
from benchmark.data.slices import SliceSet, SliceWriter
from benchmark.errors import UserError
from benchmark.parsing import parse
from benchmark.stages import RunningTask, StageResult, fingerprint, import_samples, needs
from benchmark.training.processes import Team

SIZE = 16


@pytest.fixture
def sent(tmp_path):
    """Arrays of six slices, one of them empty."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(60, 256, (6, 4, SIZE, SIZE), np.uint8), rng.integers(0, 4, (6, SIZE, SIZE), np.uint8)
    images[:, :, [0, 1, -2, -1]] = 0  # the background is black
    images[4], labels[:2] = 0, 0
    folder = tmp_path / "sent"
    folder.mkdir()
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    return folder


def configured(stage, tmp_path, **given):
    return parse(stage, {"preset": "smoke", "work_dir": str(tmp_path / "work"), **given})


@pytest.mark.parametrize(("stage", "more"), [("audit", {}), ("train_segmenter", {"train_on": "synthetic"})])
def test_a_folder_to_import_is_imported_first(tmp_path, sent, stage, more):
    config = configured(stage, tmp_path, synthetic=str(sent), **more)
    parent, its_config = needs(stage, config)["synthetic"]
    assert parent == "import_samples"
    called = configured("import_samples", tmp_path, synthetic=str(sent))
    assert fingerprint(parent, its_config) == fingerprint("import_samples", called)
    assert synthetic.settings_of(config, str(sent)) == {}


@pytest.mark.parametrize("same_process", [True, False])
def test_what_is_sent_is_known_by_its_content(tmp_path, sent, monkeypatch, same_process):
    def mark(folder) -> str:
        if not same_process:
            import_samples._hashed.cache_clear()
        return fingerprint("import_samples", configured("import_samples", tmp_path, synthetic=str(folder)))

    before = mark(sent)
    monkeypatch.chdir(tmp_path)
    assert mark("sent") == before
    np.save(sent / "labels.npy", np.zeros((6, SIZE, SIZE), np.uint8))
    os.utime(sent / "labels.npy", (1, 1))
    assert mark(sent) != before


def test_a_slice_set_is_used_as_it_is(tmp_path, prepared):
    with SliceWriter(tmp_path / "made", SIZE, {"kind": "synthetic", "cohort": "made", "spacing": {}}) as writer:
        images = np.full((2, 4, SIZE, SIZE), 100, np.uint8)
        writer.append(images, images[:, 0] * 0, subject="made", z=-1, split="synthetic", off_code=[0.0, 0.0])
    config = configured("audit", tmp_path, synthetic=str(tmp_path / "made"))
    assert needs("audit", config).keys() == {"prepare"}
    files = {"images.npy", "labels.npy", "index.parquet", "meta.json"}
    assert synthetic.settings_of(config, config.audit.synthetic).keys() == {"name", *files}
    np.testing.assert_array_equal(
        synthetic.open_synthetic(config, config.audit.synthetic, {"prepare": prepared["prepare"].path}).images, images
    )

    (tmp_path / "made" / "labels.npy").rename(tmp_path / "made" / "labels.npy.partial")  # unfinished is no arrays
    with pytest.raises(UserError, match=r"labels\.npy"):
        fingerprint("audit", config)


def test_a_slice_set_is_known_by_its_name_and_by_what_it_says_of_itself(tmp_path):
    meta = {"kind": "synthetic", "cohort": "made", "spacing": {}}
    with SliceWriter(tmp_path / "made", SIZE, meta) as writer:
        images = np.full((2, 4, SIZE, SIZE), 100, np.uint8)
        writer.append(images, images[:, 0] * 0, subject="made", z=-1, split="synthetic", off_code=[0.0, 0.0])

    def mark(name) -> str:
        return fingerprint("audit", configured("audit", tmp_path, synthetic=str(tmp_path / name)))

    before = mark("made")
    shutil.copytree(tmp_path / "made", tmp_path / "copied")
    assert mark("copied") != before
    (tmp_path / "made").rename(tmp_path / "renamed")
    assert mark("renamed") not in (before, mark("copied"))
    (tmp_path / "renamed").rename(tmp_path / "made")
    assert mark("made") == before
    said = json.loads((tmp_path / "made" / "meta.json").read_text())
    (tmp_path / "made" / "meta.json").write_text(json.dumps(said | {"spacing": {"a": [1, 1, 1]}}))
    assert mark("made") != before


def test_what_is_no_set_is_refused_with_what_would_be(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in (str(tmp_path / "empty"), "stylegan4"):
        config = configured("audit", tmp_path, synthetic=name)
        with pytest.raises(UserError, match=r"neither a generator.*SliceSet.*PNG.*NIfTI volumes.*arrays"):
            fingerprint("audit", config)
    with pytest.raises(UserError, match=r"synthetic: '.*/mistyped' does not exist"):
        fingerprint("audit", configured("audit", tmp_path, synthetic=str(tmp_path / "mistyped")))
    with pytest.raises(UserError, match="give synthetic=FOLDER"):
        fingerprint("import_samples", configured("import_samples", tmp_path))


def test_an_import_says_whose_set_it_is_and_what_became_of_it(tmp_path, sent):
    meta = {"kind": "real", "cohort": "somewhere", "simulated": False, "spacing": {}}
    with SliceWriter(tmp_path / "real", SIZE, meta) as writer:
        writer.meta["spacing"] = {"a": [1, 2, 2], "b": [3, 2, 2], "c": [5, 4, 2]}
        images = np.full((1, 4, SIZE, SIZE), 100, np.uint8)
        writer.append(images, images[:, 0] * 0, subject="a", z=0, split="train")
    logged, tags = [], {}
    tracked = SimpleNamespace(log_artifact=lambda path, folder: logged.append(path.name), set_tags=tags.update)
    out = tmp_path / "out"
    out.mkdir()
    config = configured("import_samples", tmp_path, synthetic=str(sent))
    inputs = {"prepare": StageResult("prepare", "", "", tmp_path / "real", False)}
    headline = import_samples.run(RunningTask(config, inputs, out, tracked, Team(), None))
    assert headline == {
        "samples": 5,
        "rejected": 1,
        "off_code_share": 0,
        "tumour_share": 3 / 5,
        "format": "arrays",
        "annotation": "BraTS values",
        "absent_classes": [],
        "orientation": "as the cohort",
        "warnings": [f"1 set aside, see {out / 'rejected.csv'}"],
    }
    assert tags == {"annotation": "BraTS values", "orientation": "as the cohort"}
    meta = json.loads((out / "meta.json").read_text())
    assert {key: meta[key] for key in ("kind", "cohort", "simulated", "generator", "spacing")} == {
        "kind": "synthetic",
        "cohort": "somewhere",
        "simulated": False,
        "generator": "sent",
        "spacing": {"sent": [3, 2, 2]},
    }
    assert len(SliceSet.open(out)) == 5
    assert sorted(logged) == ["preview.npz", "rejected.csv", "samples.png"]


@pytest.fixture
def head():
    """uint8 [4, SIZE, SIZE]: longer from front to back than wide, and brighter in front."""
    y, x = np.indices((SIZE, SIZE)) - (SIZE - 1) / 2
    inside = (x / 5) ** 2 + (y / 7) ** 2 < 1
    return np.stack([np.where(inside, grey - 8 * y, 0) for grey in (180, 160, 120, 100)]).astype(np.uint8)


@pytest.fixture
def prepared(tmp_path, head):
    """A cohort of eight such heads."""
    meta = {"kind": "real", "cohort": "somewhere", "simulated": False, "spacing": {"a": [1, 1, 1]}}
    with SliceWriter(tmp_path / "prepared", SIZE, meta) as writer:
        images = np.stack([head] * 8)
        writer.append(images, images[:, 0] * 0, subject="a", z=range(8), split="train")
    return {"prepare": StageResult("prepare", "", "", tmp_path / "prepared", False)}


def send(folder, images, annotation):
    """PNG slices, uint8 [N, 4, H, W] and [N, H, W], in a folder per channel."""
    for number, channels in enumerate(np.concatenate([images, annotation[:, None]], axis=1)):
        for name, pixels in zip(("T1", "T1ce", "T2", "FLAIR", "SEG"), channels, strict=True):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{number:04d}.png")
    return folder


def imported(tmp_path, folder, inputs, **given):
    """The stage's headline, tags, and the set."""
    tags = {}
    tracked = SimpleNamespace(log_artifact=lambda *_: None, set_tags=tags.update)
    out = tmp_path / "imported"
    out.mkdir(exist_ok=True)
    config = configured("import_samples", tmp_path, synthetic=str(folder), **given)
    headline = import_samples.run(RunningTask(config, inputs, out, tracked, Team(), None))
    return headline, tags, SliceSet.open(out)


def test_et_at_3_times_51_is_et_and_said(tmp_path, head, prepared, caplog):
    """As BraTS 2023 has it: 0, 51, 102, 153."""
    labels = np.random.default_rng(0).integers(0, 4, (12, SIZE, SIZE), np.uint8)
    folder = send(tmp_path / "sent", np.stack([head] * 12), 51 * labels)
    headline, tags, slices = imported(tmp_path, folder, prepared)
    np.testing.assert_array_equal(slices.labels, labels)
    np.testing.assert_array_equal(slices.images, np.stack([head] * 12))
    assert headline["annotation"] == tags["annotation"] == "BraTS 2023 values × 51 (153 is ET), decoded by thresholds"
    assert headline["absent_classes"] == []
    assert "153 is taken for ET" in caplog.text


@pytest.mark.parametrize(
    ("turn", "name"),
    [
        (lambda x: x, "as the cohort"),
        (lambda x: x[..., ::-1], "as the cohort"),  # this head is symmetric
        (lambda x: x[..., ::-1, :], "upside down"),
        (lambda x: np.rot90(x, 2, (-2, -1)), "upside down"),
        (lambda x: np.rot90(x, 1, (-2, -1)), "t"),
        (lambda x: np.swapaxes(x, -2, -1), "t"),
    ],
)
def test_a_set_that_lies_otherwise_is_warned_of(tmp_path, head, prepared, caplog, turn, name):
    images = turn(np.stack([head] * 3)).copy()
    labels = np.zeros((3, SIZE, SIZE), np.uint8)
    labels[:, 5:8, 5:8] = 1, 2, 4
    headline, tags, slices = imported(tmp_path, send(tmp_path / "sent", images, labels), prepared)
    np.testing.assert_array_equal(slices.images, images)  # warned of, and left as it is
    assert headline["orientation"] == tags["orientation"]
    assert headline["orientation"].startswith(name)
    warned = any("the set seems to lie" in warning for warning in headline["warnings"])
    assert warned == ("the set seems to lie" in caplog.text) == (name != "as the cohort")


@pytest.mark.parametrize(
    ("values", "absent", "said"),
    [
        ((0, 1, 2, 4), [], None),
        ((0, 1, 1, 1), ["ED", "ET"], "no ED and no ET in the whole set. Are these masks of the whole tumour?"),
        ((0, 51, 102, 102), ["ET"], "no ET in the whole set"),
        ((0, 0, 0, 0), [], "no slice has any tumour annotated"),
    ],
)
def test_classes_that_no_slice_has_are_said_aloud(tmp_path, head, prepared, caplog, values, absent, said):
    labels = np.random.default_rng(0).integers(0, 4, (3, SIZE, SIZE), np.uint8)
    folder = send(tmp_path / "sent", np.stack([head] * 3), np.array(values, np.uint8)[labels])
    headline, *_ = imported(tmp_path, folder, prepared)
    assert headline["absent_classes"] == absent
    assert headline["warnings"] == ([said] if said else [])
    assert said is None or said in caplog.text


@pytest.mark.parametrize(
    "name",
    ["sent (1)", "=cmd|' /C calc'!A0", "<script>", "$\\input{x}$", "a\nb", "\u202edetrevni", "ä" * 120, b"\xff\xfe"],
    ids=range(8),
)
def test_a_set_is_called_as_its_folder_whatever_that_is(tmp_path, head, prepared, name):
    folder = tmp_path / (os.fsdecode(name) if isinstance(name, bytes) else name.replace("/", "∕"))
    plain = "\\xff\\xfe" if isinstance(name, bytes) else folder.name
    send(folder, np.stack([head] * 2), np.zeros((2, SIZE, SIZE), np.uint8))
    if isinstance(name, bytes):  # no key may be such a name, but a link may lead to it
        (tmp_path / "link").symlink_to(folder)
        folder = tmp_path / "link"
    config = configured("import_samples", tmp_path, synthetic=str(folder))
    assert import_samples.tags(config)["generator"] == import_samples.settings(config)["synthetic"] == plain
    assert synthetic.name_of(configured("audit", tmp_path, synthetic=str(folder)), str(folder)) == plain
    _, _, slices = imported(tmp_path, folder, prepared)
    assert slices.meta["generator"] == plain
    assert slices.meta["spacing"] == {plain: [1, 1, 1]}


def test_a_pipe_or_a_broken_link_in_a_set_neither_hangs_nor_ends_the_call(tmp_path, head, prepared):
    folder = send(tmp_path / "sent", np.stack([head] * 4), np.zeros((4, SIZE, SIZE), np.uint8))
    for path, make in ((folder / "T2" / "0001.png", os.mkfifo), (folder / "SEG" / "0002.png", os.mkdir)):
        path.unlink()
        make(path)
    headline, _, slices = imported(tmp_path, folder, prepared)
    assert slices.index["subject"].tolist() == ["0000", "0003"]
    assert headline["rejected"] == 2
    before = import_samples.settings(configured("import_samples", tmp_path, synthetic=str(folder)))
    (folder / "SEG" / "0002.png").rmdir()
    Image.fromarray(head[0] * 0).save(folder / "SEG" / "0002.png")
    assert import_samples.settings(configured("import_samples", tmp_path, synthetic=str(folder))) != before


def test_a_set_that_changes_while_it_is_read_is_refused(tmp_path, head, prepared, monkeypatch):
    folder = send(tmp_path / "sent", np.stack([head] * 4), np.zeros((4, SIZE, SIZE), np.uint8))

    def meddling(*arguments, **named):
        Image.fromarray(head[1]).save(folder / "T1" / "0003.png")
        return write(*arguments, **named)

    write = importing.write
    monkeypatch.setattr(importing, "write", meddling)
    with pytest.raises(UserError, match="files changed while they were read"):
        imported(tmp_path, folder, prepared)


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody_of_this_name/sent", "/dev/null", "/dev/zero"])
def test_what_is_no_folder_is_refused_in_a_sentence(tmp_path, name):
    for stage in ("import_samples", "audit"):
        with pytest.raises(UserError) as error:
            fingerprint(stage, configured(stage, tmp_path, synthetic=name))
        assert len(str(error.value)) < 900


def test_a_sent_slice_set_with_a_label_that_is_no_class_is_refused(tmp_path):
    """In one slice of many: opening a set looks at 64 of them."""
    with SliceWriter(tmp_path / "made", SIZE, {"kind": "synthetic", "cohort": "made", "spacing": {}}) as writer:
        images = np.full((500, 4, SIZE, SIZE), 100, np.uint8)
        writer.append(images, images[:, 0] * 0, subject="made", z=-1, split="synthetic", off_code=[0.0] * 500)
    labels = np.load(tmp_path / "made" / "labels.npy", mmap_mode="r+")
    labels[3, 5, 5] = 4
    labels.flush()
    config = configured("audit", tmp_path, synthetic=str(tmp_path / "made"))
    with pytest.raises(UserError, match=r"labels\.npy: label 4 in slice 3; expected 0–3"):
        synthetic.open_synthetic(config, config.audit.synthetic, {})


def test_a_cohort_s_own_slices_are_no_synthetic_set(tmp_path, prepared):
    config = configured("audit", tmp_path, synthetic=str(prepared["prepare"].path))
    with pytest.raises(UserError, match=r"meta\.json says that its slices are 'real'"):
        synthetic.open_synthetic(config, config.audit.synthetic, {"prepare": prepared["prepare"].path})


def test_a_sent_slice_set_that_lies_upside_down_is_warned_of(tmp_path, head, prepared, caplog):
    for name, images in (("right", np.stack([head] * 3)), ("wrong", np.stack([head[:, ::-1]] * 3))):
        with SliceWriter(tmp_path / name, SIZE, {"kind": "synthetic", "cohort": "made", "spacing": {}}) as writer:
            writer.append(images, images[:, 0] * 0, subject="made", z=-1, split="synthetic", off_code=[0.0] * 3)
        config = configured("audit", tmp_path, synthetic=str(tmp_path / name))
        caplog.clear()
        opened = synthetic.open_synthetic(config, config.audit.synthetic, {"prepare": prepared["prepare"].path})
        np.testing.assert_array_equal(opened.images, images)
        assert ("the set seems to lie upside down" in caplog.text) == (name == "wrong")


@pytest.mark.parametrize(("spacing", "told"), [(256 / SIZE, False), (192 / SIZE, True), (1.0, False)])
def test_a_sent_slice_set_that_shows_less_of_the_head_is_warned_of(tmp_path, head, prepared, caplog, spacing, told):
    """Pixels of 1 mm would show a head of 2 cm: a number that somebody filled in."""
    meta = {"kind": "synthetic", "cohort": "made", "spacing": {"made": [5.0, spacing, spacing]}}
    with SliceWriter(tmp_path / "made", SIZE, meta) as writer:
        writer.append(head[None], head[None, 0] * 0, subject="made", z=-1, split="synthetic", off_code=[0.0])
    config = configured("audit", tmp_path, synthetic=str(tmp_path / "made"))
    synthetic.open_synthetic(config, config.audit.synthetic, {"prepare": prepared["prepare"].path})
    assert ("192 × 192 mm, those of the cohort 256 mm: give field_of_view=192" in caplog.text) == told


@pytest.mark.parametrize("target", ["/dev/zero", "nowhere", "labels.npy"])
def test_a_sent_slice_set_is_never_hashed_without_end(tmp_path, target):
    with SliceWriter(tmp_path / "made", SIZE, {"kind": "synthetic", "cohort": "made", "spacing": {}}) as writer:
        images = np.full((2, 4, SIZE, SIZE), 100, np.uint8)
        writer.append(images, images[:, 0] * 0, subject="made", z=-1, split="synthetic", off_code=[0.0, 0.0])
    (tmp_path / "made" / "labels.npy").unlink()
    (tmp_path / "made" / "labels.npy").symlink_to(target)
    with pytest.raises(UserError, match=r"labels\.npy is missing"):
        fingerprint("audit", configured("audit", tmp_path, synthetic=str(tmp_path / "made")))
