"""One subject's NIfTI files → canonical 8 bit. Nothing here trusts a file."""

import gzip
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from benchmark.data.cohorts import MODALITIES, RejectedSubject, Subject
from benchmark.data.labels import BRATS_CLASSES

AFFINE_TOLERANCE = 1e-2  # mm: tools round the affine differently
VOXEL_SIZES = 0.05, 50.0  # mm: what is outside is a unit or a header gone wrong

UNREADABLE = (  # what Python, zlib and nibabel raise for damaged files; found by damaging them byte by byte
    OSError, EOFError, ValueError, OverflowError, MemoryError, zlib.error, WrapStructError, HeaderDataError,
)  # fmt: skip


@dataclass(frozen=True)
class Volume:
    """One subject in LPS orientation: Z runs inferior to superior, H anterior to posterior, W right to left."""

    images: np.ndarray  # uint8 [4, Z, H, W]: each modality divided by its own maximum, times 255
    labels: np.ndarray  # uint8 [Z, H, W]: classes 0–3 = background, NCR, ED, ET
    spacing: tuple[float, float, float]  # mm along Z, H, W


def read(subject: Subject) -> Volume:
    """A subject's images and labels in LPS orientation, as 8 bit.

    Raises RejectedSubject for a damaged file, grids that disagree, NaN or infinite voxels, unknown label values, or a
    modality that is nowhere above zero.
    """
    stored = _load(subject.annotation)
    grid = _Grid(stored)
    labels = _to_classes(stored, grid, subject)

    images = np.zeros((len(MODALITIES), *grid.shape), np.uint8)
    for m, (path, stored) in enumerate(_modalities(subject)):
        other = _Grid(stored)
        if other.shape != grid.shape:
            raise RejectedSubject(path, f"shape {other.shape} differs from the annotation's {grid.shape} (z, y, x)")
        if not np.allclose(other.affine, grid.affine, rtol=0, atol=AFFINE_TOLERANCE):
            raise RejectedSubject(path, "affine differs from the annotation's: the two do not lie on the same grid")
        _to_8bit(path, stored, MODALITIES[m], other, out=images[m])
    return Volume(images, labels, grid.spacing)


@dataclass(frozen=True)
class _Stored:
    """An image as its file has it: real voxels are voxels × slope + intercept."""

    voxels: np.ndarray  # [x, y, z], in Fortran order
    affine: np.ndarray
    slope: float
    intercept: float


def _modalities(subject: Subject) -> Iterator[tuple[Path, _Stored]]:
    """T1, T1ce, T2 and FLAIR, one at a time."""
    if not subject.channels:
        for path in subject.images:
            yield path, _load(path)
        return
    (path,) = subject.images
    stored = _load(path, channels=len(subject.channels))
    for channel in subject.channels:
        yield path, replace(stored, voxels=stored.voxels[..., channel])


def _load(path: Path, channels: int | None = None) -> _Stored:
    """A whole file, without conversion or copy of its voxels."""
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = _gunzip(content)
        kind = nib.Nifti2Header if nib.Nifti2Header.may_contain_header(content[:540]) else nib.Nifti1Header
        header = kind.from_fileobj(BytesIO(content))
        affine, (slope, intercept) = header.get_best_affine(), header.get_slope_inter()
        shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), header.get_data_offset()
        if min(shape, default=0) < 1:
            raise ValueError(f"its shape is {shape}")
        if dtype.kind not in "iuf":
            raise RejectedSubject(path, f"voxels of type {dtype} are no grey values")
        if (promised := math.prod(shape) * dtype.itemsize) > len(content) - offset:
            raise EOFError(f"{len(content) - offset} of {promised} bytes of voxels are there")
        voxels = np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape, order="F")
    except UNREADABLE as error:
        raise RejectedSubject(path, f"truncated or unreadable: {error}") from error

    shape = (*voxels.shape[:3], channels) if channels else voxels.shape[:3]
    if len(shape) < 3 or math.prod(shape) != voxels.size:
        expected = f"4-D with {channels} channels" if channels else "3-D"
        raise RejectedSubject(path, f"shape {voxels.shape} is not {expected}")
    if not np.isfinite(affine).all() or np.isnan(io_orientation(affine)).any():
        raise RejectedSubject(path, "its affine is singular: orientation and voxel size are unknown")
    sizes = voxel_sizes(affine)
    if sizes.min() < VOXEL_SIZES[0] or sizes.max() > VOXEL_SIZES[1]:
        raise RejectedSubject(path, f"voxels of {' × '.join(f'{size:g}' for size in sizes)} mm are not plausible")
    return _Stored(voxels.reshape(shape, order="F"), affine, 1.0 if slope is None else slope, intercept or 0.0)


def _gunzip(content: bytes) -> bytes:
    """What gzip.decompress gives, faster: the file's last four bytes say how much memory to take."""
    size = int.from_bytes(content[-4:], "little")
    whole = zlib.decompress(content, wbits=31, bufsize=size)  # wbits 31: gzip's header and checksum
    return whole if len(whole) == size else gzip.decompress(content)  # several members, or padding after the last


class _Grid:
    """How to see a stored array as [Z, H, W] in LPS orientation, and where that lies in the scanner."""

    def __init__(self, stored: _Stored) -> None:
        self._to_lps = ornt_transform(io_orientation(stored.affine), axcodes2ornt("LPS"))
        self.affine = stored.affine @ inv_ornt_aff(self._to_lps, stored.voxels.shape)
        self.shape = self.view(stored.voxels).shape
        self.spacing = tuple(float(size) for size in voxel_sizes(self.affine)[::-1])

    def view(self, array: np.ndarray) -> np.ndarray:
        """[x, y, z] as stored → [Z, H, W], without a copy."""
        return apply_orientation(array, self._to_lps).T


def _to_8bit(path: Path, stored: _Stored, modality: str, grid: _Grid, out: np.ndarray) -> None:
    """round(255 × value / maximum), negative values at 0 (PROTOCOL, section 1), into `out`, zeros [Z, H, W].

    A positive slope cancels when there is no intercept; and 255 × a 16-bit integer is exact in float32, whose division
    is then accurate enough to round as exact arithmetic would.
    """
    voxels, slope, intercept = stored.voxels, stored.slope, stored.intercept
    extremes = np.array([voxels.min(), voxels.max()], np.float64)  # NaN if any voxel is
    if not np.isfinite(extremes).all():
        count = np.count_nonzero(~np.isfinite(voxels))
        raise RejectedSubject(path, f"{count} voxels of {modality} are NaN or infinite")
    if slope > 0 and intercept == 0:
        slope = 1.0
    maximum = (extremes * slope + intercept).max()
    if not maximum > 0:
        raise RejectedSubject(path, f"{modality} is nowhere above zero: there is no brain in it")

    scaled = slope != 1 or intercept != 0
    precision = np.float64 if scaled or voxels.dtype.itemsize > 2 else np.float32
    maximum = precision(maximum)
    for source, target in zip(grid.view(voxels), out, strict=True):  # slice by slice, to stay in the cache
        if scaled:
            source = np.multiply(source, slope, dtype=np.float64) + intercept
        if source.max() <= 0:
            continue
        values = np.multiply(source, 255, dtype=precision)
        values /= maximum
        np.rint(values, out=values)
        target[...] = np.maximum(values, 0, out=values)


def _to_classes(stored: _Stored, grid: _Grid, subject: Subject) -> np.ndarray:
    """The annotation as classes 0–3, uint8 [Z, H, W]."""
    values = stored.voxels
    if stored.slope != 1 or stored.intercept != 0:
        values = np.multiply(values, stored.slope, dtype=np.float64) + stored.intercept
    if values.dtype.kind in "iu" and values.min() >= 0 and values.max() <= 255:
        values = values.astype(np.uint8, copy=False)
    else:
        whole = np.nan_to_num(values).round().clip(0, 255).astype(np.uint8)
        # Scaled files hold 3.9999998 for 4. NaN compares as false, so it is caught here as well.
        if not (fits := np.abs(values - whole) < 1e-3).all():
            raise _unknown_labels(subject, values[~fits])
        values = whole

    present = [value for value in range(int(values.max()) + 1) if (values == value).any()]
    if unknown := set(present) - subject.classes.keys():
        raise _unknown_labels(subject, np.array(sorted(unknown)))
    if subject.classes == BRATS_CLASSES and {3, 4} <= set(present):
        raise RejectedSubject(
            subject.annotation, "labels 3 and 4 are both there: one is ET, but 4 may be a resection cavity (BraTS 2024)"
        )
    table = np.array([subject.classes.get(value, 0) for value in range(256)], np.uint8)
    classes = np.zeros(grid.shape, np.uint8)
    for source, target in zip(grid.view(values), classes, strict=True):
        if source.any():
            target[...] = table[source]
    return classes


def _unknown_labels(subject: Subject, values: np.ndarray) -> RejectedSubject:
    shown = ", ".join(f"{value:g}" for value in np.unique(values)[:5])
    known = ", ".join(map(str, subject.classes))
    return RejectedSubject(subject.annotation, f"unknown label value {shown}; known are {known}")
