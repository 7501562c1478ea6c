"""Four tiny subjects in three layouts, and the file of one of them that is to be damaged."""

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (26, 24, 10)  # x, y, z: all different, so that exchanged axes are seen
AFFINE = np.array([[-9.0, 0, 0, 112], [0, 9.5, 0, -110], [0, 0, 12, -60], [0, 0, 0, 1]])
NAMES = ("case-a", "case-b", "case-c", "case-d")
ENDINGS = ("_t1", "_t1ce", "_t2", "_flair", "_seg")
LAYOUTS = ("brats .nii.gz", "brats .nii", "msd")

# What must become of the damaged subject.
SAME = "same"  # the change keeps the meaning: read, with the values of the undamaged one
ASIDE = "aside"  # it cannot be used
EITHER = "either"  # one of the two
ANY = "any"  # set aside, or read with whatever values: the file is a sound one with another content


def make_subject(number: int) -> tuple[list[np.ndarray], np.ndarray]:
    """T1, T1ce, T2, FLAIR as int16, and BraTS's annotation, [x, y, z]: textured heads, no two alike."""
    rng = np.random.default_rng(100 + number)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    head = (x / 0.75) ** 2 + (y / 0.85) ** 2 + (z / 0.8) ** 2 < 1
    radius = np.sqrt((x - rng.uniform(-0.3, 0.3)) ** 2 + (y - 0.2) ** 2 + (z - rng.uniform(-0.1, 0.1)) ** 2)
    annotation = np.select([radius < 0.2, radius < 0.33, radius < 0.5], [1, 4, 2], 0).astype(np.uint8)
    images = []
    for level, gain in ((0.8, -0.3), (0.6, 0.4), (0.4, 0.5), (0.3, 0.6)):
        texture = rng.uniform(0.7, 1.3, SHAPE) * (1 + 0.3 * np.sin(3 * x + number) + 0.2 * y)
        images.append((1000 * head * (level * texture + gain * (annotation > 0))).clip(0, 4000).astype(np.int16))
    return images, annotation


def image_of(array: np.ndarray) -> nib.Nifti1Image:
    """NIfTI-1 with sform and qform set alike."""
    image = nib.Nifti1Image(array, AFFINE, dtype=array.dtype)
    image.set_sform(AFFINE, 1)
    image.set_qform(AFFINE, 1)
    return image


def save(array: np.ndarray, path: Path) -> None:
    content = image_of(array).to_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1, mtime=0) if path.suffix == ".gz" else content)


def write_cohort(folder: Path, layout: str) -> None:
    for number, name in enumerate(NAMES):
        images, annotation = make_subject(number)
        if layout == "msd":
            save(np.stack([images[i] for i in (3, 0, 1, 2)], -1), folder / "imagesTr" / f"{name}.nii.gz")
            save(np.array([0, 2, 1, 3, 3], np.uint8)[annotation], folder / "labelsTr" / f"{name}.nii.gz")
            continue
        for ending, array in zip(ENDINGS, (*images, annotation), strict=True):
            save(array, folder / name / f"{name}{ending}{layout.removeprefix('brats ')}")


@dataclass
class Victim:
    """The file to damage."""

    folder: Path  # the cohort's
    path: Path
    subject: str
    layout: str
    rng: np.random.Generator

    @property
    def is_annotation(self) -> bool:
        return self.path.parent.name == "labelsTr" or "_seg" in self.path.name

    @property
    def annotation(self) -> Path:
        """The subject's annotation, whichever file was drawn."""
        files = (path for path in self.folder.rglob("*.nii*") if path.name.startswith(self.subject))
        return next(path for path in files if path.parent.name == "labelsTr" or "_seg" in path.name)

    @property
    def gzipped(self) -> bool:
        return self.path.suffix == ".gz"

    def content(self) -> bytearray:
        """The NIfTI file, unpacked."""
        raw = self.path.read_bytes()
        return bytearray(gzip.decompress(raw) if self.gzipped else raw)

    def write(self, content: bytes) -> None:
        self.path.write_bytes(gzip.compress(bytes(content), 1, mtime=0) if self.gzipped else bytes(content))

    def set(self, offset: int, code: str, *values: float) -> None:
        """Sets a header field."""
        content = self.content()
        struct.pack_into(f"<{code}", content, offset, *values)
        self.write(content)

    def voxels(self) -> np.ndarray:
        return np.asanyarray(nib.Nifti1Image.from_bytes(bytes(self.content())).dataobj)
