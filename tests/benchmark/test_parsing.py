"""What a call may say: empty values, commas, counts, and presets of every kind of nonsense."""

import os

import pytest

from benchmark.__main__ import main
from benchmark.config import TrainGenerator
from benchmark.errors import UserError
from benchmark.parsing import parse, resolve_model
from benchmark.preset_files import LONGEST_CHAIN


def _refused(stage, **given):
    with pytest.raises(UserError) as refusal:
        parse(stage, {"preset": "smoke", **given})
    return str(refusal.value)


@pytest.mark.parametrize("value", ["", " ", None])
@pytest.mark.parametrize(
    ("stage", "key"),
    [("prepare", "data"), ("prepare", "work_dir"), ("report", "out"), ("report", "title"), ("prepare", "preset")],
)
def test_an_empty_value_is_refused_by_the_name_of_its_key(stage, key, value):
    assert f"{key} is empty" in _refused(stage, **{key: value})


@pytest.mark.parametrize("key", ["split", "synthetic", "study", "storage"])
def test_an_empty_value_of_a_key_without_default_is_refused_too(key):
    stage = {"split": "prepare", "synthetic": "audit"}.get(key, "tune")
    assert f"{key} is empty" in _refused(stage, **{key: ""})


@pytest.mark.parametrize(
    "key", ["data", "split", "model", "synthetic", "segmenter", "train_on", "augment", "real_subjects"]
)
@pytest.mark.parametrize("value", ["", ",", "a,,b", "a,"])
def test_a_list_with_an_empty_place_is_refused(key, value):
    assert f"{key} is empty" in _refused("benchmark", **{key: value})


@pytest.mark.parametrize("section", ["prepare: {data: ''}", "prepare: {data: }", "analyze: {data: ','}"])
def test_an_empty_value_of_a_preset_is_refused(section, tmp_path):
    (tmp_path / "mine.yaml").write_text(section)
    assert "data is empty" in _refused("benchmark", preset=str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("call", [["--data", ""], ["--data="], ["--data"], ["--data", "--strict"], ["--image_size"]])
def test_the_command_line_refuses_a_key_without_its_value(call, capsys):
    assert main(["prepare", "--preset", "smoke", *call]) == 2
    said = capsys.readouterr().err
    assert call[0].strip("-=") in said
    assert len(said.splitlines()) == 1


def test_a_comma_inside_a_path_that_is_there_separates_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("Site A,B/x", "c", "e , f,g"):
        (tmp_path / folder).mkdir(parents=True)

    def read(key, value):
        return getattr(parse("benchmark", {"preset": "smoke", key: value}).analyze, key)

    assert read("data", "Site A,B/x") == ("Site A,B/x",)
    assert read("data", "c,Site A,B/x, phantom") == ("c", "Site A,B/x", "phantom")
    assert read("data", "e , f,g,c") == ("e , f,g", "c")
    assert read("data", "phantom,c") == ("phantom", "c")
    assert read("synthetic", f"{tmp_path}/Site A,B/x") == (f"{tmp_path}/Site A,B/x",)
    assert parse("prepare", {"preset": "smoke", "data": "no,such,folder"}).prepare.data == "no,such,folder"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/dev/zero", "is a folder or a device"),
        ("folder", "is a folder or a device"),
        ("fifo", "is a folder or a device"),
        ("x" * 5000, "longer than a path can be"),
        ("a/" + "x" * 256, "longer than a path can be"),
        ("é" * 128, "longer than a path can be"),
        ("a\0b", "NUL"),
        ("\udcff", "no UTF-8"),
        ("~nobody-of-this-name/x", "no home folder"),
    ],
)
def test_what_cannot_be_a_file_is_refused_in_one_sentence(path, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    said = _refused("prepare", split=path)
    assert says in said
    assert len(said) < 400
    assert len(said.splitlines()) == 1


def test_what_cannot_be_a_folder_to_work_in_is_refused(tmp_path):
    (tmp_path / "file").touch()
    assert "needs a folder" in _refused("prepare", work_dir=str(tmp_path / "file" / "work"))


def test_a_folder_to_write_into_may_lie_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.yaml").write_text("extends: smoke\ncommon: {work_dir: ~/preset}\n")
    assert parse("prepare", {"preset": str(tmp_path / "own.yaml")}).common.work_dir == tmp_path / "preset"
    config = parse("benchmark", {"preset": "smoke", "work_dir": "~/work", "out": "~/out"})
    assert (config.common.work_dir, config.report.out) == (tmp_path / "work", tmp_path / "out")


@pytest.mark.parametrize(
    ("stage", "key", "value"),
    [
        ("sample", "ensemble", "1000000"),
        ("benchmark", "repeats", "100000000"),
        ("sample", "samples", "1" + "0" * 5000),
        ("train_generator", "images", "1e11"),
        ("train_generator", "snapshots", "inf"),
        ("train_generator", "batch_size", "9999999999"),
        ("tune", "trials", "1e99"),
        ("prepare", "phantom_subjects", "100001"),
        ("prepare", "phantom_grid", "100000,100000,100000"),
        ("prepare", "phantom_grid", "512,512,512"),
        ("report", "replicates", "1e9"),
        ("audit", "memory_gib", "nan"),
        ("audit", "memory_gib", "inf"),
        ("prepare", "test_share", "nan"),
        ("train_generator", "checkpoint_seconds", "inf"),
        ("train_generator", "images", True),
        ("train_generator", "images", "1.5e0"),
        ("prepare", "seed", "-1"),
    ],
)
def test_a_count_without_bounds_is_refused_before_work(stage, key, value):
    said = _refused(stage, **{key: value})
    assert key in said
    assert len(said) < 500


def test_a_batch_has_to_fit_into_memory():
    assert "at this size take 512 at most" in _refused("train_generator", image_size="1024", batch_size="513")
    parse("train_generator", {"preset": "smoke", "image_size": "1024", "batch_size": "512"})


@pytest.mark.parametrize(
    ("text", "number"), [("1e6", 10**6), ("2.5e3", 2500), ("1_000", 1000), (" 7 ", 7), ("1E+2", 100)]
)
def test_whole_numbers_as_people_write_them(text, number):
    assert parse("train_generator", {"preset": "smoke", "images": text}).train_generator.images == number


def test_a_share_that_rounding_put_above_one_is_one():
    assert parse("train_segmenter", {"real_subjects": "1.000001"}).train_segmenter.real_subjects == 1.0
    assert "less than or equal to 1" in _refused("train_segmenter", real_subjects="1.00001")


def test_a_key_of_a_model_without_its_value_is_refused():
    for value in (True, "", "8,,16"):
        with pytest.raises(UserError, match=r"unet\.widths"):
            resolve_model(parse("train_segmenter", {"preset": "smoke", "unet.widths": value}), "unet")


@pytest.mark.parametrize("value", ["\udc80", "x" * 5000, True, "a\nb"])
@pytest.mark.parametrize("key", ["model", "layout", "segmenter", "labels", "device", "train_on"])
def test_a_name_that_nothing_has_is_refused_in_few_words(key, value):
    said = _refused("prepare" if key in ("layout", "labels") else "benchmark", **{key: value})
    assert key in said
    assert len(said) < 900


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e30", 10**30])
def test_a_number_of_a_model_is_finite_and_has_a_bound(value):
    with pytest.raises(UserError, match=r"stylegan3\.r1_gamma"):
        resolve_model(parse("train_generator", {"stylegan3.r1_gamma": value}), "stylegan3")


BOMB = "a: &a {x: 1}\nprepare: {data: *a}"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (BOMB, "aliases"),
        ("prepare: {seed: 1}\nprepare: {seed: 2}", "'prepare' is given twice"),
        ("prepare: {seed: 1, seed: 2}", "'seed' is given twice"),
        ("prepare: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("1: {seed: 1}", "1 is no section's name"),
        ("null: {seed: 1}", "None is no section's name"),
        ("prepare: {1: 1}", "1 is no key's name"),
        ("prepare:", "section 'prepare' must hold"),
        ("prepare: {seed: 2020-99-99}", "not readable as YAML"),
        ("[" * 5000, "not readable as YAML"),
        ("{a: " * 5000, "not readable as YAML"),
        ("prepare: {seed: 1}\n---\nprepare: {seed: 2}", "not readable as YAML"),
        ("extends: [smoke]", "'extends' needs the name"),
        ("extends: 3", "'extends' needs the name"),
        ("extends: mine.yaml", "in a circle: mine → mine"),
        ("# " + "x" * 2**20, "larger than any preset"),
        (b"\x89PNG\r\n\x1a\n\0\0", "not text in UTF-8"),
        ("prepare: {seed: 1}".encode("utf-16"), "not text in UTF-8"),
        ("title: Größe".encode("latin-1"), "not text in UTF-8"),
        ("prepare: {seed: \0}", "not readable as YAML"),
    ],
)
def test_a_preset_of_nonsense_is_refused_in_one_sentence_with_its_file(content, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    said = _refused("prepare", preset="mine.yaml")
    assert "mine.yaml" in said
    assert says in said
    assert len(said.splitlines()) == 1
    assert len(said) < 400


def test_presets_that_extend_too_many_others_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(1000):
        (tmp_path / f"p{number}.yaml").write_text(f"extends: p{number + 1}.yaml\nprepare: {{seed: {number}}}")
    assert "p0 → p1 → p2 → …" in _refused("prepare", preset="p0.yaml")
    (tmp_path / f"p{LONGEST_CHAIN - 2}.yaml").write_text("extends: smoke")
    assert parse("prepare", {"preset": "p0.yaml"}).prepare.seed == 0
    (tmp_path / "p5.yaml").write_text("extends: p2.yaml")
    assert "p2 → p3 → p4 → p5 → p2" in _refused("prepare", preset="p2.yaml")


def test_a_preset_that_is_no_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.yaml")
    os.mkdir("folder.yaml")
    os.symlink("/dev/zero", "zero.yaml")
    for name in ("fifo.yaml", "folder.yaml", "zero.yaml"):
        assert f"preset '{name}' is not a file" in _refused("prepare", preset=name)
    for name in ("x" * 5000, "a\0b", "\udcff", "../demo/x", "=cmd"):
        said = _refused("prepare", preset=name)
        assert "no preset" in said
        assert len(said) < 400


def test_a_preset_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbfextends: smoke\nprepare: {seed: 7}")
    assert parse("prepare", {"preset": str(tmp_path / "mine.yaml")}).prepare.seed == 7


def test_a_model_without_a_key_is_no_key():
    with pytest.raises(UserError, match=r"unknown key 'stylegan3\.' for train_segmenter"):
        parse("train_segmenter", {"stylegan3.": "1"})


@pytest.mark.parametrize(
    ("given", "preset"),
    [
        ({}, "demo"),
        ({"data": "phantom"}, "demo"),
        ({"data": "phantom", "preset": "cpu"}, "cpu"),
        ({"data": "/data/glioma"}, "auto"),
        ({"prepare.data": "/data/glioma", "preset": "auto"}, "auto"),
        ({"data": "/data/glioma", "preset": "demo"}, "demo"),
    ],
)
def test_nobody_s_cohort_gets_the_budgets_of_a_demonstration_unasked(given, preset):
    config = parse("train_generator", given)
    assert config.common.preset == preset
    if preset == "auto":
        assert config.train_generator == TrainGenerator()
        assert config.prepare.field_of_view == 256


def test_a_table_of_cohorts_one_of_them_somebody_s_has_no_demonstration(tmp_path):
    (tmp_path / "glioma").mkdir()
    assert parse("benchmark", {"data": f"phantom,{tmp_path / 'glioma'}"}).common.preset == "auto"
