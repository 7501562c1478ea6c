"""One subject's volume → its axial slices: field of view, size, and which slices hold enough brain.

This is what a worker process runs, so it imports neither torch nor pandas, whose imports cost more than a subject.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from benchmark.data.anatomy import thumbnail
from benchmark.data.cohorts import Subject
from benchmark.data.nifti import read

FIELD_OF_VIEW = 256.0  # mm along both sides of the study's slices: PROTOCOL pads BraTS's 240 × 240 mm by 8 to this
T1_THRESHOLD, BRAIN_SHARE = 50, 0.15  # kept are slices where T1 > 50 of 255 in more than 15 % of that field
WHOLE_PIXELS = 0.03  # native ones, of up to 8 mm, span a field of view but for so much
WEIGHT_UNIT = 1 << 16
AT_A_TIME = 16  # slices that are framed and resized together


@dataclass(frozen=True)
class Frame:
    """What a square slice shows: the centre of the axial plane."""

    image_size: int  # pixels along both sides
    field_of_view: float = FIELD_OF_VIEW  # mm along both sides

    @property
    def study_pixels(self) -> float:
        """Pixels of this size in the study's field, whose share decides which slices are kept, whatever is framed."""
        return (self.image_size * FIELD_OF_VIEW / self.field_of_view) ** 2

    def contradicted_by(self, spacing: Sequence[float]) -> str | None:
        """For people: that slices as large, whose pixels have this spacing (mm along z, H, W), show more or less of the
        head, which would be taken for one of another size."""
        shown = self.image_size * np.array(spacing[1:])
        if np.allclose(shown, self.field_of_view, rtol=WHOLE_PIXELS):
            return None
        return (
            f"its slices show {shown[0]:.0f} × {shown[1]:.0f} mm, those of the cohort {self.field_of_view:g} mm: give "
            f"field_of_view={shown.mean():.0f}, for which the cohort is prepared anew"
        )

    def native(self, spacing: tuple[float, float, float]) -> tuple[int, int]:
        """Pixels along H and W that span the field of view, for a spacing in mm along z, H, W."""
        return round(self.field_of_view / spacing[1]), round(self.field_of_view / spacing[2])


@dataclass(frozen=True)
class SubjectSlices:
    """What is known of a subject's slices. What is large lies in a folder: images.npy, labels.npy, and thumbnail.npy of
    the brain. A worker killed while it hands a large result over would leave the others waiting for the rest of it."""

    z: np.ndarray  # int [n]
    kept: np.ndarray  # bool [n]: enough brain
    spacing: tuple[float, float, float]  # mm along z, H, W, after resizing
    digest: str  # of the images as read, whatever the file's compression, orientation or name
    cut: int  # voxels above zero that lie outside the field of view
    facts: dict  # of the volume, for people: see nifti.Volume
    remarks: tuple[str, ...]


def slice_subject(subject: Subject, folder: Path, frame: Frame, every: bool) -> SubjectSlices:
    """Reads a subject and writes its slices to a new `folder`: every slice, or those with enough brain.

    Raises RejectedSubject.
    """
    folder.mkdir()
    volume = read(subject)
    digest = hashlib.sha256(repr(volume.images.shape).encode() + b"\0")
    digest.update(volume.images.data)

    image_size = frame.image_size
    rows, columns = frame.native(volume.spacing)
    cropped = _within(volume.images, rows, columns)
    study = Frame(image_size).native(volume.spacing)
    kept = enough_brain(_within(volume.images, *study)[0], prod(study))
    z = np.arange(len(kept)) if every else np.flatnonzero(kept)
    images = np.empty((len(z), len(volume.images), image_size, image_size), np.uint8)
    labels = np.empty((len(z), image_size, image_size), np.uint8)
    for start in range(0, len(z), AT_A_TIME):  # frames of small voxels are large
        some = slice(start, start + AT_A_TIME)
        images[some] = resize_images(centre(volume.images, z[some], rows, columns), image_size)
        labels[some] = resize_labels(centre(volume.labels[None], z[some], rows, columns)[:, 0], image_size)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    np.save(folder / "thumbnail.npy", thumbnail(volume.images, volume.spacing))
    return SubjectSlices(
        z=z,
        kept=kept[z],
        spacing=(
            volume.spacing[0],
            volume.spacing[1] * rows / image_size,
            volume.spacing[2] * columns / image_size,
        ),
        digest=digest.hexdigest(),
        cut=0 if cropped.size == volume.images.size else np.count_nonzero(volume.images) - np.count_nonzero(cropped),
        facts=volume.facts,
        remarks=volume.remarks,
    )


def window(length: int, framed: int) -> tuple[slice, slice]:
    """The part of an axis that is inside the centred frame, and where in the frame it lies."""
    before = (framed - length) // 2  # negative where the frame is the smaller
    start, stop = max(before, 0), min(before + length, framed)
    return slice(start - before, stop - before), slice(start, stop)


def _within(volume: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Of a volume [C, Z, h, w] what lies inside the centred frame of rows × columns, [C, Z, ≤ rows, ≤ columns]."""
    inside = window(volume.shape[2], rows)[0], window(volume.shape[3], columns)[0]
    return volume[:, :, *inside]


def centre(volume: np.ndarray, z: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Slices z of a volume [C, Z, h, w], zero-padded or cropped around their centre; [len(z), C, rows, columns]."""
    from_rows, to_rows = window(volume.shape[2], rows)
    from_columns, to_columns = window(volume.shape[3], columns)
    out = np.zeros((len(z), len(volume), rows, columns), volume.dtype)
    for slices, number in zip(out, z, strict=True):
        slices[:, to_rows, to_columns] = volume[:, number, from_rows, from_columns]
    return out


def enough_brain(t1: np.ndarray, pixels: float) -> np.ndarray:
    """Which T1 slices uint8 [Z, h, w] have more than 15 % of `pixels` above 50 of 255; bool [Z]."""
    above = np.array([np.count_nonzero(piece > T1_THRESHOLD) for piece in t1])
    return above > BRAIN_SHARE * pixels


def resize_images(images: np.ndarray, size: int) -> np.ndarray:
    """Antialiased bilinear: a triangle over the source as wide as two output pixels; uint8 [N, C, h, w] → size².

    The weights are multiples of 2^-16, so every product and sum is exact (below 2^24 in float32, 2^40 in float64):
    the bytes depend on neither machine, threads nor BLAS. Rows and columns without anything are not multiplied.
    """
    if images.shape[-2:] == (size, size):
        return images
    out = np.zeros((*images.shape[:-2], size, size), np.uint8)
    present = images.max(axis=(0, 1), initial=0)
    if not present.any():
        return out
    rows, columns = (np.flatnonzero(present.any(axis=axis)) for axis in (1, 0))
    rows, columns = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    down = _weights(images.shape[-2], size)[:, rows].astype(np.float32)
    across = _weights(images.shape[-1], size)[:, columns].T
    for source, target in zip(images, out, strict=True):
        half = (down @ source[:, rows, columns].astype(np.float32)).astype(np.float64)
        target[...] = np.rint(half @ across / WEIGHT_UNIT**2)
    return out


def _weights(length: int, size: int) -> np.ndarray:
    """[size, length] whole numbers; each row sums to WEIGHT_UNIT."""
    scale = length / size
    distance = (np.arange(length) + 0.5) - (np.arange(size)[:, None] + 0.5) * scale
    weights = np.clip(1 - np.abs(distance) / max(scale, 1), 0, None)
    weights = np.rint(WEIGHT_UNIT * weights / weights.sum(1, keepdims=True))
    weights[np.arange(size), weights.argmax(1)] += WEIGHT_UNIT - weights.sum(1)
    return weights


def resize_labels(labels: np.ndarray, size: int) -> np.ndarray:
    """Nearest neighbour by pixel centres; uint8 [N, h, w] → [N, size, size]."""
    if labels.shape[-2:] == (size, size):
        return labels
    rows, columns = ((np.arange(size) + 0.5) * length / size for length in labels.shape[-2:])
    return labels[:, rows.astype(int)[:, None], columns.astype(int)]
