"""A package of the smoke preset: made, looked through for names, sent, and taken by somebody with another cohort."""

import getpass
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pypdf
import pytest
import yaml
from PIL import Image
from safetensors import safe_open

from analysis import limits
from benchmark.data.slices import SliceSet
from benchmark.errors import UserError
from benchmark.parsing import parse
from benchmark.stages import RunningTask, fingerprint, folder_of, needs, release
from benchmark.table.run import call

ROOT = Path(__file__).parents[3]
CHANNELS = ("T1", "T1ce", "T2", "FLAIR", "SEG")
PAGES = ("README.md", "datasheet.md", "model_card.md")


@contextmanager
def _on_machine_of(folder):
    """Runs are tracked in the folder's own store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
        yield


@pytest.fixture(scope="module")
def owner(prepared, tmp_path_factory):
    """The owner's machine: released(**keys) → result and package; work, index and licence of it."""
    folder = tmp_path_factory.mktemp("owner")
    shutil.copytree(prepared, folder, dirs_exist_ok=True)
    licence = folder / "terms.txt"
    licence.write_text("For research alone.\n")

    def configured(stage, **keys):
        given = {"preset": "smoke", "work_dir": str(folder / "work"), "synthetic": "stylegan2", **keys}
        return parse(stage, {"licence": str(licence), **given} if stage == "release" else given)

    def released(**keys):
        with _on_machine_of(folder):
            result = call("release", configured("release", **keys))
        package, zipped = (Path(result.headline[key]) for key in ("package", "zip"))
        return SimpleNamespace(result=result, package=package, zip=zipped)

    real = SliceSet.open(next((folder / "work" / "prepare").glob("*/meta.json")).parent)
    return SimpleNamespace(folder=folder, released=released, configured=configured, real=real)


@pytest.fixture(scope="module")
def png(owner):
    return owner.released(force=True, weights=True)


@pytest.fixture(scope="module")
def selected(owner, png):
    """What is left of the set, in the owner's work folder."""
    return SliceSet.open(next((owner.folder / "work" / "select").glob("*/meta.json")).parent)


@pytest.fixture(scope="module")
def receiver(prepared, tmp_path_factory):
    """called(stage, synthetic, **keys) on another machine with another cohort."""
    folder = tmp_path_factory.mktemp("receiver")
    shutil.copy(prepared / "mlflow.db", folder)  # making one takes seconds

    def called(stage, synthetic, **keys):
        given = {"preset": "smoke", "work_dir": str(folder / "work"), "prepare.seed": "7", "phantom_subjects": "6"}
        with _on_machine_of(folder):
            return call(stage, parse(stage, {**given, "synthetic": str(synthetic), **keys}))

    return called


# --- what is released ------------------------------------------------------------------------------------------------


def test_a_package_that_fails_its_audit_is_refused_with_the_limit_and_its_value(owner, png):
    with pytest.raises(UserError, match=r"images: number of held-out patients is 3, at least 10 is needed.*force=true"):
        owner.released()
    assert not list((owner.folder / "work" / "release").glob("*/package/*/README.md"))[1:]


def test_forced_is_said_on_every_page(png):
    assert png.result.headline["forced"] is True
    for page in PAGES:
        text = (png.package / page).read_text()
        assert "**Forced.**" in text
        assert "images: number of held-out patients is 3" in text
        assert "weights: number of held-out patients is 3" in text
    card = (png.package / "card.html").read_text()
    assert "orced" in card
    assert "The patient’s image is not shown" in card  # of the worst one
    assert "<img" not in card  # nor is the slice pointed out that comes closest to one
    assert "Forced" in json.loads((png.package / "croissant.json").read_text())["rai:dataLimitations"]


def test_what_keeps_its_limits_is_made_without_force(owner, monkeypatch):
    monkeypatch.setattr(limits, "ALPHA", 0.0)  # whether an attack finds anything in so small a set is up to rounding
    kept = owner.released(least_patients="3", most_copied="1", most_auc="1", least_found="0.01", most_removed="1")
    assert kept.result.headline["forced"] is False
    assert kept.result.headline["not_kept"] == []
    assert "Forced" not in (kept.package / "README.md").read_text()
    assert not (kept.package / "weights").exists()


def test_the_images_are_those_that_the_filter_left_judged_anew(owner, png, selected):
    headline = png.result.headline
    audits = {}
    for path in (owner.folder / "work" / "audit").glob("*/audit.json"):
        audit = json.loads(path.read_text())
        audits[audit["n_synthetic"]] = audit
    assert set(audits) == {48, len(selected)}
    assert headline["samples"] == len(selected) == 48 - sum(headline["removed"].values())
    said = (png.package / "datasheet.md").read_text()
    assert f"Of the slices here, {100 * audits[len(selected)]['copied_share']['tau99']:.1f} %" in said
    codes = np.array([0, 51, 102, 204], np.uint8)
    for number in (0, len(selected) - 1):
        for channel, name in enumerate(CHANNELS):
            with Image.open(png.package / name / f"{number:06d}.png") as image:
                assert image.mode == "L"
                assert image.info == {}
                expected = codes[selected.labels[number]] if name == "SEG" else selected.images[number, channel]
                np.testing.assert_array_equal(np.asarray(image), expected)


def test_slices_keep_their_order_and_are_black_outside_brains_and_what_left_has_a_reason(owner, selected):
    whole = SliceSet.open(next((owner.folder / "work" / "sample").glob("*/meta.json")).parent)
    removed = pd.read_csv(selected.folder / "removed.csv")
    kept = np.setdiff1d(np.arange(len(whole)), removed["row"])
    brain = (whole.images > 10).any(1, keepdims=True)
    assert whole.images.max(1, keepdims=True, initial=0)[~brain].any()  # there is something to take out
    np.testing.assert_array_equal(selected.images, np.where(brain, whole.images, 0)[kept])
    assert selected.index["seed"].tolist() == whole.index["seed"].to_numpy()[kept].tolist()
    assert removed["reason"].str.len().gt(0).all()


def test_card_and_model_card_say_how_much_dice_is_kept(owner, png):
    scores = pd.concat(pd.read_csv(path) for path in (owner.folder / "work" / "evaluate").glob("*/scores.csv"))
    dice = scores[(scores["metric"] == "dice") & scores["region"].isin(["NCR", "ED", "ET"])]
    means = dice.groupby("arm")["value"].mean()
    kept = f"these alone teach {100 * means['synthetic'] / means['real']:.0f} %"
    assert kept in (png.package / "model_card.md").read_text()
    assert kept in (png.package / "card.html").read_text()


def test_checksums_are_those_of_all_files(png):
    lines = (png.package / "checksums.sha256").read_text().splitlines()
    listed = {line[66:]: line[:64] for line in lines}
    there = {p.relative_to(png.package).as_posix() for p in png.package.rglob("*") if p.is_file()}
    assert there == {*listed, "checksums.sha256"}
    for name in list(listed)[::17]:
        assert hashlib.sha256((png.package / name).read_bytes()).hexdigest() == listed[name]


def _contents(package):
    """Every file, as it is, and unpacked where it is packed; PNG's and safetensors' own texts are plain bytes."""
    for path in package.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            yield path.relative_to(package).as_posix(), content
            if path.suffix == ".gz":
                yield f"{path.name}, unpacked", gzip.decompress(content)
            if path.suffix == ".pdf":
                reader = pypdf.PdfReader(io.BytesIO(content))
                text = "".join(page.extract_text() for page in reader.pages) + repr(reader.metadata)
                yield f"{path.name}, text", text.encode()


def _is_packed(content):
    try:
        return not content.decode("utf-8").isprintable() and "\0" in content.decode("utf-8")
    except UnicodeDecodeError:
        return True


@pytest.mark.parametrize("form", ["png", "nifti", "arrays"])
def test_no_name_of_a_person_a_file_or_a_machine_is_in_it(owner, png, form, tmp_path):
    made = png if form == "png" else owner.released(force=True, format=form)
    names = {str(name) for column in ("subject", "patient") for name in owner.real.index[column]}
    secrets = {*names, str(owner.folder), owner.folder.name, "/tmp/", socket.gethostname(), getpass.getuser()}
    with zipfile.ZipFile(made.zip) as archive:
        archive.extractall(tmp_path)
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert not any(entry.extra or entry.comment for entry in archive.infolist())
    packed, loose = dict(_contents(tmp_path / made.package.name)), dict(_contents(made.package))
    assert packed == loose
    for secret in secrets:
        word = re.compile(rb"(?<![A-Za-z0-9])" + re.escape(secret.encode()) + rb"(?![A-Za-z0-9])")
        for name, content in loose.items():
            if len(secret) < 6 and _is_packed(content):  # a few letters stand in any such bytes, by chance
                continue
            if name.startswith("weights/generators/"):  # the public code, as it is
                assert content == (ROOT / name.removeprefix("weights/")).read_bytes()
                continue
            assert not word.search(content.replace(b":root", b"")), f"{secret} in {name}"  # a word of CSS
            assert not word.search(name.encode()), name


def test_safetensors_hold_no_metadata(png):
    with safe_open(png.package / "weights" / "generator_0.safetensors", "pt") as stored:
        assert not stored.metadata()


def test_the_same_results_make_the_same_bytes_and_a_killed_release_goes_on(owner, png):
    before, first = png.zip.read_bytes(), hashlib.sha256(png.zip.read_bytes()).hexdigest()
    folder = png.result.path
    (folder / "stage.json").unlink()
    (png.package / "checksums.sha256").rename(png.package / "checksums.sha256.partial")
    journal = (png.package / "checksums.sha256.partial").read_bytes()
    (png.package / "checksums.sha256.partial").write_bytes(journal[: 66 * 20 + 1000])  # killed within the slices
    (png.package / "T1" / "000030.png").write_bytes(b"half")
    again = owner.released(force=True, weights=True)
    assert hashlib.sha256(again.zip.read_bytes()).hexdigest() == first

    shutil.rmtree(folder)  # from nothing
    anew = owner.released(force=True, weights=True)
    assert anew.zip.read_bytes() == before
    assert owner.released(force=True, weights=True).result.reused
    shutil.rmtree(png.package)  # the zip is still there
    again = owner.released(force=True, weights=True)
    assert not again.result.reused
    assert (again.package / "checksums.sha256").is_file()
    assert again.zip.read_bytes() == before


def test_pages_have_blanks_that_the_owner_fills(owner, png, tmp_path):
    text = (png.package / "datasheet.md").read_text()
    assert "**[to be filled in by the owner: the patients' consent" in text
    for heading in ("Motivation", "Composition", "Collection", "Processing", "Uses", "Distribution", "Maintenance"):
        assert f"## {heading}\n" in text
    answers = tmp_path / "answers.yaml"
    answers.write_text(
        "title: 'Heads: a set'\ncreators: [Ada Lovelace, B. Byron]\nlegal_basis: Consent of all.\ndate: 2026-01-31\n"
    )
    filled = owner.released(force=True, answers=str(answers))
    assert json.loads((filled.package / "croissant.json").read_text())["datePublished"] == "2026-01-31"
    assert "Consent of all." in (filled.package / "datasheet.md").read_text()
    citation = yaml.safe_load((filled.package / "CITATION.cff").read_text())
    assert (citation["title"], citation["authors"]) == (
        "Heads: a set",
        [{"name": "Ada Lovelace"}, {"name": "B. Byron"}],
    )
    assert "`creators`" not in (filled.package / "README.md").read_text()
    answers.write_text("title: [a, b]\n")
    with pytest.raises(UserError, match="'title' needs a text"):
        fingerprint("release", owner.configured("release", answers=str(answers)))
    answers.write_text("creator: me\n")
    with pytest.raises(UserError, match="unknown key 'creator'; did you mean 'creators'"):
        fingerprint("release", owner.configured("release", answers=str(answers)))


def test_a_licence_is_needed_before_anything_is_made(owner, tmp_path):
    config = parse("release", {"preset": "smoke", "synthetic": "stylegan2"})
    with pytest.raises(UserError, match="licence=FILE"):
        fingerprint("release", config)
    (tmp_path / "empty").touch()
    with pytest.raises(UserError, match="no text of a licence"):
        fingerprint("release", owner.configured("release", licence=str(tmp_path / "empty")))


def test_what_changes_while_parents_are_made_is_refused_before_anything_is_written(owner, tmp_path):
    licence, answers = tmp_path / "terms.txt", tmp_path / "answers.yaml"
    licence.write_text("For research alone.")
    answers.write_text("contact: ada@example.org")
    config = owner.configured("release", licence=str(licence), answers=str(answers))
    folder = folder_of("release", config, fingerprint("release", config, {}))
    task = RunningTask(config, {}, folder, None, None, None)
    with pytest.raises(KeyError):  # it goes on, to parents that are not there
        release.run(task)
    assert "ada@example.org" not in str(release.settings(config))
    for file, text in ((licence, "For nobody."), (answers, "contact: nobody")):
        before = file.read_text()
        file.write_text(text)
        with pytest.raises(UserError, match="changed since this call began"):
            release.run(task)
        file.write_text(before)
    assert not folder.exists()


def test_metadata_is_valid_croissant(png):
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    described = mlcroissant.Dataset(str(png.package / "croissant.json"))
    assert {record_set.name for record_set in described.metadata.record_sets} == set(CHANNELS)
    records = {record["SEG/slice"]: record["SEG/image"] for record in described.records("SEG")}
    assert len(records) == png.result.headline["samples"]
    with Image.open(png.package / "SEG" / "000003.png") as image:
        np.testing.assert_array_equal(np.asarray(records[b"000003"])[..., 0], np.asarray(image))


def test_strangers_sample_from_the_weights_without_our_pipeline(owner, png, tmp_path):
    """sample.py in a copy of the weights' folder alone, with an empty working folder; the set's own first slices."""
    copied = shutil.copytree(png.package / "weights", tmp_path / "weights")
    (tmp_path / "empty").mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(copied / "sample.py"), "--count", "3", "--seed", "0", "--out", "drawn"]
    done = subprocess.run(command, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole = SliceSet.open(next((owner.folder / "work" / "sample").glob("*/meta.json")).parent)
    codes = np.array([0, 51, 102, 204])
    for number in range(3):
        drawn = [np.asarray(Image.open(tmp_path / "empty" / "drawn" / c / f"{number:06d}.png"), int) for c in CHANNELS]
        expected = [*whole.images[number], codes[whole.labels[number]]]
        assert np.abs(np.array(drawn[:4]) - np.array(expected[:4], int)).max() <= 1  # other batches, other last bits
        assert (drawn[4] != expected[4]).mean() < 0.01


def test_weights_of_a_sent_set_cannot_be_released(owner, selected):
    with pytest.raises(UserError, match="without the generator"):
        needs("release", owner.configured("release", synthetic=str(selected.folder), weights=True))


# --- what is received ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["png", "nifti", "arrays"])
def test_a_receiver_with_another_cohort_has_the_same_slices(owner, png, selected, receiver, form, tmp_path):
    made = png if form == "png" else owner.released(force=True, format=form)
    with zipfile.ZipFile(made.zip) as archive:
        archive.extractall(tmp_path)
    result = receiver("import_samples", tmp_path / made.package.name)
    taken = SliceSet.open(result.path)
    np.testing.assert_array_equal(taken.images, selected.images)
    np.testing.assert_array_equal(taken.labels, selected.labels)
    assert taken.meta["spacing"] == {made.package.name: next(iter(selected.meta["spacing"].values()))}
    assert result.headline["rejected"] == 0


def test_an_affine_says_where_right_and_front_are(owner, selected):
    made = owner.released(force=True, format="nifti")
    image = nib.load(made.package / "T2" / "000001.nii.gz")
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    np.testing.assert_array_equal(np.asarray(image.dataobj)[:, :, 0].T, selected.images[1, 2])
    assert bytes(image.header["descrip"]).strip(b"\0") == b""
    assert bytes(image.header["db_name"]).strip(b"\0") == b""


def test_a_receiver_trains_on_it_and_tests_on_their_patients(png, receiver):
    result = receiver("evaluate", png.package, train_on="synthetic")
    scores = pd.read_csv(result.path / "scores.csv")
    assert set(scores["generator"]) == {png.package.name}


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda p: (p / "T2" / "000004.png").write_bytes(b"x"), r"T2/000004\.png: differs"),
        (lambda p: (p / "SEG" / "000000.png").unlink(), r"SEG/000000\.png: missing"),
        (lambda p: (p / "notes.txt").write_text("x"), r"notes\.txt: extra"),
        (lambda p: (p / "checksums.sha256").unlink(), r"checksums\.sha256: missing, or no file"),
        (lambda p: (p / "checksums.sha256").write_text("0" * 64 + "  ../../secret\n"), r"line 1: no 'SHA256  FILE'"),
        (lambda p: (p / "stand-in.json").write_text("{}"), r"stand-in\.json is damaged"),
    ],
)
def test_what_was_changed_on_the_way_is_named(png, receiver, tmp_path, harm, said):
    package = shutil.copytree(png.package, tmp_path / "package", ignore=shutil.ignore_patterns("weights"))
    listing = (package / "checksums.sha256").read_text().splitlines(keepends=True)
    (package / "checksums.sha256").write_text("".join(line for line in listing if "  weights/" not in line))
    harm(package)
    with pytest.raises(UserError, match=said):
        receiver("import_samples", package)


def test_another_size_is_refused_and_a_zip_has_to_be_unpacked(png, receiver):
    with pytest.raises(UserError, match="give image_size=16"):
        receiver("import_samples", png.package, image_size="32")
    with pytest.raises(UserError, match="show 256 × 256 mm, those of the cohort 192 mm: give field_of_view=256"):
        receiver("import_samples", png.package, field_of_view="192")
    with pytest.raises(UserError, match="unpack it"):
        receiver("import_samples", png.zip)
