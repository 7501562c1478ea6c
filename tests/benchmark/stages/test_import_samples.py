"""Where a synthetic set is wanted, a folder may be a SliceSet or something to import; and what import makes of it."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from benchmark.data.slices import SliceSet, SliceWriter
from benchmark.errors import UserError
from benchmark.parsing import parse
from benchmark.stages import StageResult, fingerprint, import_samples, needs, synthetic

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


def test_a_slice_set_is_used_as_it_is(tmp_path):
    with SliceWriter(tmp_path / "made", SIZE, {"kind": "synthetic", "cohort": "made", "spacing": {}}) as writer:
        images = np.full((2, 4, SIZE, SIZE), 100, np.uint8)
        writer.append(images, images[:, 0] * 0, subject="made", z=-1, split="synthetic", off_code=[0.0, 0.0])
    config = configured("audit", tmp_path, synthetic=str(tmp_path / "made"))
    assert needs("audit", config).keys() == {"prepare"}
    assert synthetic.settings_of(config, config.audit.synthetic).keys() == {"images.npy", "labels.npy", "index.parquet"}
    np.testing.assert_array_equal(synthetic.open_synthetic(config, config.audit.synthetic, {}).images, images)

    (tmp_path / "made" / "labels.npy").rename(tmp_path / "made" / "labels.npy.partial")  # unfinished is no arrays
    with pytest.raises(UserError, match=r"labels\.npy"):
        fingerprint("audit", config)


def test_what_is_no_set_is_refused_with_what_would_be(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in (str(tmp_path / "empty"), "stylegan4"):
        config = configured("audit", tmp_path, synthetic=name)
        with pytest.raises(UserError, match=r"neither a generator.*SliceSet.*PNG.*NIfTI volumes.*arrays"):
            fingerprint("audit", config)
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
    headline = import_samples.run(config, inputs, out, tracked)
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
