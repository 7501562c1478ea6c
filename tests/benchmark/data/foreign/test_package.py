"""A package whose declaration or folder is not what the stage release writes."""

import hashlib
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from benchmark.data.foreign.package import CHANNELS, Declaration, Package
from benchmark.data.slices import SliceSet, SliceWriter
from benchmark.data.slicing import Frame
from benchmark.errors import UserError
from benchmark.release.encoding import write_slices
from benchmark.release.writing import PackageFiles

SOUND = {
    "stand_in_package": 1,
    "format": "png",
    "image_size": 16,
    "slices": 2,
    "spacing": [1.0, 1, 1],
    "simulated": True,
}


@pytest.fixture
def package(tmp_path):
    """declared(**keys) writes the declaration into a folder whose two slices are listed; nothing decodes them."""
    folder = tmp_path / "package"

    def declared(text=None, **keys):
        (folder / "stand-in.json").write_text(text or json.dumps(SOUND | keys))
        return folder

    names = [f"{channel}/{number:06d}.png" for number in range(2) for channel in CHANNELS]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    declared()
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (*names, "stand-in.json")}
    (folder / "checksums.sha256").write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))
    return SimpleNamespace(folder=folder, declared=declared)


def understand(folder):
    counted = []
    Package(folder).understand(16, counted.append)
    return sum(counted)


def test_a_sound_package_is_taken(package):
    assert understand(package.folder) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"slices": 1.5},
        {"slices": True},
        {"slices": 0},
        {"slices": "2"},
        {"image_size": 16.0},
        {"spacing": "abc"},
        {"spacing": [np.nan, 1, 1]},
        {"spacing": [-1, 1, 1]},
        {"spacing": [1, 1, np.inf]},
        {"spacing": [1, 1, 10**400]},
        {"spacing": [1, 1, True]},
        {"spacing": [1, 1]},
        {"spacing": {"z": 1, "y": 1, "x": 1}},
        {"simulated": "no"},
        {"simulated": 1},
        {"format": ["png"]},
        {"format": "jpeg"},
    ],
)
def test_a_value_of_another_kind_is_refused(package, wrong):
    with pytest.raises(UserError, match=r"stand-in\.json is damaged"):
        Package(package.declared(**wrong))


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "1", "{"])
def test_what_is_no_declaration_is_refused(package, text):
    with pytest.raises(UserError, match=r"stand-in\.json is damaged"):
        Package(package.declared(text))


def test_more_slices_than_files_are_refused_before_they_are_counted(package):
    with pytest.raises(UserError, match=r"10\d+ slices are declared, but checksums\.sha256 lists 11 files"):
        Package(package.declared(slices=10**18))


def test_slices_that_are_not_listed_are_named(package):
    with pytest.raises(UserError, match=r"000002\.png: declared, but not in checksums"):
        understand(package.declared(slices=4))


def test_a_linked_folder_is_extra_and_nothing_walks_into_it(package, tmp_path):
    (package.folder / "T1" / "more").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"1 problem\(s\).*\n  T1/more: extra"):
        understand(package.folder)


@pytest.mark.parametrize("replaced", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_checksums_that_are_no_file_are_refused_and_not_read_for_ever(package, replaced):
    (package.folder / "checksums.sha256").unlink()
    replaced(package.folder / "checksums.sha256")
    with pytest.raises(UserError, match="missing, or no file"):
        Package(package.folder)


def test_slices_that_are_listed_but_not_declared_are_named(package):
    with pytest.raises(UserError, match=r"T1/000001\.png: in checksums\.sha256, but not declared"):
        understand(package.declared(slices=1))


@pytest.mark.parametrize(("form", "value"), [("png", 50), ("png", 255), ("arrays", 51)])
def test_an_annotation_with_another_value_is_refused(tmp_path, form, value):
    """Its checksums fit, so somebody made it so; thresholds would take 50 for NCR."""
    images, labels = np.zeros((2, 4, 16, 16), np.uint8), np.zeros((2, 16, 16), np.uint8)
    labels[1, 3, 3] = 1
    meta = {"kind": "synthetic", "cohort": "x", "simulated": True, "spacing": {"made": [1.0, 1.0, 1.0]}}
    with SliceWriter(tmp_path / "made", 16, meta) as writer:
        writer.append(images, labels, subject="made", seed=-1, z=-1, split="synthetic")
    folder = tmp_path / "package"
    declared = Declaration(form, 16, 2, [1.0, 1.0, 1.0], simulated=True)
    with PackageFiles(folder) as files:
        write_slices(files, SliceSet.open(tmp_path / "made"), declared, "made", 1, lambda _: None)
        files.add("stand-in.json", lambda: [declared.to_json().encode()])

    def read():
        package = Package(folder)
        coding = package.understand(16, lambda _: None)
        return np.concatenate([part.labels for part in package.read(Frame(16), coding, tmp_path, 1, lambda _: None)])

    np.testing.assert_array_equal(read(), labels)
    path = folder / ("labels.npy" if form == "arrays" else "SEG/000001.png")
    if form == "arrays":
        labels[1, 3, 3] = value
        np.save(path, labels)
    else:
        Image.fromarray(np.full((16, 16), value, np.uint8)).save(path)
    lines = (folder / "checksums.sha256").read_text().splitlines()
    digest, name = hashlib.sha256(path.read_bytes()).hexdigest(), path.relative_to(folder).as_posix()
    kept = [line for line in lines if not line.endswith(name)]
    (folder / "checksums.sha256").write_text("\n".join([*kept, f"{digest}  {name}"]) + "\n")
    with pytest.raises(UserError, match=f"an annotation holds {value}, which is no class of a package of"):
        read()
