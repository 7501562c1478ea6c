"""Small NIfTI cohorts whose canonical content is known.

`make_subject` and the `save_…` functions: 24 × 24 × 10 voxels of 12 × 10 × 10 mm, noise within an ellipsoid.
`write_subject`: 48 × 48 × 32 voxels of 5 mm, a brain whose grey tells the modalities apart (`grey`) with a tumour that
lies left and anterior, which tells mirror images apart; under any file endings, label values and affine.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform

from benchmark.data.cohorts import Cohort, Subject
from benchmark.data.nifti import Volume, read
from benchmark.data.reading import understand

SHAPE = (10, 24, 24)  # Z, H, W
SPACING = (12.0, 10.0, 10.0)  # a field of view of 256 mm is then 26 pixels wide


def make_subject(seed: int, shape: tuple = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """int16 images [4, Z, H, W] of an ellipsoid with noise, and classes [Z, H, W] of three shells inside it."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    brain = (x / 0.8) ** 2 + (y / 0.9) ** 2 + (z / 0.85) ** 2 < 1
    images = rng.integers(300, 1200, (4, *shape)) * brain
    radius = np.sqrt((x - 0.2) ** 2 + (y + 0.1) ** 2 + z**2)
    labels = np.select([radius < 0.2, radius < 0.3, radius < 0.5], [1, 3, 2], 0)
    return images.astype(np.int16), labels.astype(np.uint8)


def save(volume: np.ndarray, path: Path, axes: str = "LPS", spacing: tuple = SPACING, scale: tuple | None = None):
    """A volume [Z, H, W] (or [C, Z, H, W]) in LPS as NIfTI, stored along `axes`; `scale` is (slope, intercept)."""
    affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])
    affine[:3, 3] = 90, 120, -60
    image = nib.Nifti1Image(np.asarray(volume).T, affine)
    image = image.as_reoriented(ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(axes)))
    if scale:
        image.header.set_slope_inter(*scale)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def save_brats(
    folder: Path, name: str, images, labels, style: str = "2020", suffix: str = ".nii.gz", et: int = 4, **how
):
    """One subject in its own folder, named as BraTS does."""
    endings = {
        "2020": ("_t1", "_t1ce", "_t2", "_flair", "_seg"),
        "2023": ("-t1n", "-t1c", "-t2w", "-t2f", "-seg"),
    }[style]
    annotation = np.where(labels == 3, et, labels).astype(np.uint8)
    for ending, volume in zip(endings, (*images, annotation), strict=True):
        save(volume, folder / name / f"{name}{ending}{suffix}", **how)


def save_msd(folder: Path, name: str, images, labels, suffix: str = ".nii.gz", **how):
    """FLAIR, T1, T1ce, T2 in one 4-D file; 1 ED, 2 NCR, 3 ET."""
    save(images[[3, 0, 1, 2]], folder / "imagesTr" / f"{name}{suffix}", **how)
    save(np.array([0, 2, 1, 3], np.uint8)[labels], folder / "labelsTr" / f"{name}{suffix}", **how)


NNUNET_V2 = {
    "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"},
    "labels": {"background": 0, "NCR": 1, "ED": 2, "ET": 3},
    "file_ending": ".nii.gz",
}


def save_nnunet(
    folder: Path,
    name: str,
    images,
    labels,
    suffix=".nii.gz",
    dataset=None,
    order=(0, 1, 2, 3),
    values=(0, 1, 2, 3),
    **how,
):
    """`order` says which modality channel i holds, `values` how each class is stored, `dataset` is dataset.json."""
    for channel, modality in enumerate(order):
        save(images[modality], folder / "imagesTr" / f"{name}_{channel:04d}{suffix}", **how)
    save(np.array(values, np.uint8)[labels], folder / "labelsTr" / f"{name}{suffix}", **how)
    (folder / "dataset.json").write_text(json.dumps(dataset or NNUNET_V2))


GREY = {"T1": 0.8, "T1ce": 0.6, "T2": 0.4, "FLAIR": 0.3}  # of the brain, as a share of what the tumour nearly reaches
AFFINE = np.array([[-5, 0, 0, 117.5], [0, -5, 0, 117.5], [0, 0, 5, -70], [0, 0, 0, 1.0]])  # LPS
BRATS_2020 = ("_t1", "_t1ce", "_t2", "_flair", "_seg")


def brain_with_tumour(seed: int, ncr: int = 1, ed: int = 2, et: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """int16 images [4, x, y, z] in the order of GREY, 0 … 1000 with a tumour of 950, and label values [x, y, z]."""
    (x, y, z), rng = np.indices((48, 48, 32)), np.random.default_rng(seed)
    brain = ((x - 23.5) / 14) ** 2 + ((y - 23.5) / 17) ** 2 + ((z - 15.5) / 13) ** 2 < 1
    radius = np.sqrt((x - 29) ** 2 + (y - 16) ** 2 + (z - 15) ** 2)
    noise = rng.normal(0, 0.01, radius.shape)
    images = [1000 * np.where(radius < 5, 0.95, brain * (grey + noise)).clip(0, 1) for grey in GREY.values()]
    labels = np.select([radius < 2, radius < 3.6, radius < 5], [ncr, et, ed])
    return np.array(images).astype(np.int16), labels.astype(np.uint8)


def save_array(array: np.ndarray, path: Path, affine: np.ndarray = AFFINE) -> Path:
    """An array [x, y, z] as it is stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def write_subject(
    folder: Path,
    name: str,
    endings: tuple[str, ...] = BRATS_2020,
    seed: int = 0,
    *,
    ncr: int = 1,
    ed: int = 2,
    et: int = 4,
    affine: np.ndarray = AFFINE,
    suffix: str = ".nii.gz",
) -> list[Path]:
    """Files of `brain_with_tumour` in `folder`: name + ending of T1, T1ce, T2, FLAIR, annotation + suffix.

    An ending with {name} in it is the whole path: "sub/{name}_t1" is folder/sub/NAME_t1.
    """
    images, labels = brain_with_tumour(seed, ncr, ed, et)
    paths = [folder / (ending.format(name=name) if "{name}" in ending else name + ending) for ending in endings]
    return [
        save_array(array, path.with_name(path.name + suffix), affine)
        for array, path in zip((*images, labels), paths, strict=True)
    ]


def modality_of(path: Path) -> str:
    """Which image of `brain_with_tumour` a file holds, by its grey level; "annotation" for label values."""
    array = np.asarray(nib.load(path).dataobj)
    if array.max() < 100:
        return "annotation"
    grey = np.median(array[(array > 0) & (array < 900)]) / 1000
    return min(GREY, key=lambda name: abs(GREY[name] - grey))


def to_8bit(images: np.ndarray) -> np.ndarray:
    """Each volume divided by its own maximum, times 255, rounded (half to even): by hand in whole numbers."""
    values = images.clip(0).astype(np.int64)
    maximum = values.reshape(len(values), -1).max(1)[:, None, None, None]
    quotient, rest = np.divmod(values * 255, maximum)
    up = (2 * rest > maximum) | ((2 * rest == maximum) & (quotient % 2 == 1))
    return quotient + up


def assert_volume(volume: Volume, images: np.ndarray, labels: np.ndarray, spacing: tuple = SPACING) -> None:
    """A volume is these images [4, Z, H, W] of whole numbers, divided by their maxima, and these classes."""
    assert volume.images.dtype == volume.labels.dtype == np.uint8
    np.testing.assert_array_equal(volume.images, to_8bit(images))
    np.testing.assert_array_equal(volume.labels, labels)
    np.testing.assert_allclose(volume.spacing, spacing, rtol=1e-5)


def read_subject(cohort: Cohort, subject: Subject) -> Volume:
    """One subject of a cohort, all of whose annotations say what their values mean."""
    understood = {known.name: known for known in understand(cohort).cohort.subjects}
    return read(understood[subject.name])


@pytest.fixture(scope="session")
def nifti() -> SimpleNamespace:
    """The functions above."""
    return SimpleNamespace(
        make_subject=make_subject,
        save=save,
        save_brats=save_brats,
        save_msd=save_msd,
        save_nnunet=save_nnunet,
        brain_with_tumour=brain_with_tumour,
        save_array=save_array,
        write_subject=write_subject,
        modality_of=modality_of,
        to_8bit=to_8bit,
        assert_volume=assert_volume,
        read=read_subject,
        grey=GREY,
        affine=AFFINE,
        shape=SHAPE,
        spacing=SPACING,
    )
