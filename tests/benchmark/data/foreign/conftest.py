"""Sets as people send them, as small as they can be."""

import csv
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from benchmark.data.foreign import detect, importing
from benchmark.data.slices import SliceSet
from benchmark.data.slicing import Frame
from benchmark.errors import UserError

SIZE = 16
META = {
    "kind": "synthetic",
    "cohort": "phantom",
    "simulated": True,
    "generator": "sent",
    "spacing": {"sent": [1, 1, 1]},
}
FOLDERS = ("T1", "T1ce", "T2", "FLAIR", "SEG")
BRATS = np.array([0, 1, 2, 4], np.uint8)  # of classes 0–3


def make_set(count: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """images uint8 [N, 4, H, W] of a bright square, and labels uint8 [N, H, W] with every class."""
    rng = np.random.default_rng(count)
    images = np.zeros((count, 4, size, size), np.uint8)
    images[:, :, 2:-2, 3:-3] = rng.integers(60, 256, (count, 4, size - 4, size - 6))
    labels = np.zeros((count, size, size), np.uint8)
    labels[:, 4:10, 5:11] = rng.integers(0, 4, (count, 6, 6))
    return images, labels


def save_png(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_folders(folder: Path, images, annotation, names=FOLDERS, pattern="slice_{number:03d}.png") -> Path:
    """`pattern` is filled with number and channel (the folder's name in lower case)."""
    for number, (channels, values) in enumerate(zip(images, annotation, strict=True)):
        for name, pixels in zip(names, (*channels, values), strict=True):
            save_png(pixels, folder / name / pattern.format(number=number, channel=name.lower()))
    return folder


def save_nifti(pixels: np.ndarray, path: Path, flips=(-1, -1), dims: int = 2) -> None:
    """uint8 [H, W] as a NIfTI of stored [x, y]; LPS by default, RAS with flips (1, 1)."""
    stored = pixels.T[:: -flips[0], :: -flips[1]]
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(stored if dims == 2 else stored[..., None], np.diag([*flips, 1, 1]).astype(float)), path)


def run(folder: Path, out: Path, image_size: int = SIZE, workers: int = 2, set_labels: str = "auto") -> SliceSet:
    found = detect.find(folder)
    coding = importing.check(found, image_size, workers, lambda _: None, set_labels)
    importing.write(found, coding, out, META, frame=Frame(image_size), workers=workers, progress=lambda _: None)
    return SliceSet.open(out)


def refused(folder: Path, out: Path, **options) -> str:
    """The refusal's text; nothing that opens may be left."""
    with pytest.raises(UserError) as error:
        run(folder, out, **options)
    assert not (out / "meta.json").exists()
    assert not list(out.glob("*.partial"))
    return str(error.value)


def rejected(out: Path) -> list[tuple[str, str, str]]:
    with (out / "rejected.csv").open(encoding="utf-8", newline="") as file:
        return [(row["subject"], row["file"], row["reason"]) for row in csv.DictReader(file)]


def assert_holds(opened: SliceSet, images, labels) -> None:
    np.testing.assert_array_equal(opened.images, images)
    np.testing.assert_array_equal(opened.labels, labels)
    assert set(opened.index["split"]) == {"synthetic"}
    assert set(opened.index["seed"]) == {-1}
    assert opened.index["tumour_pixels"].tolist() == (labels > 0).sum((1, 2)).tolist()


def save_arrays(folder: Path, **arrays) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


@pytest.fixture(scope="session")
def sets() -> SimpleNamespace:
    """The functions and constants above."""
    names = (
        make_set, save_png, save_folders, save_nifti, save_arrays, run, refused, rejected, assert_holds,
    )  # fmt: skip
    return SimpleNamespace(**{function.__name__: function for function in names}, META=META, FOLDERS=FOLDERS)
