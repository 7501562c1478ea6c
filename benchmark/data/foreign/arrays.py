"""Arrays of slices."""

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import numpy as np

from benchmark.data.cohorts import MODALITIES, Rejection
from benchmark.data.foreign.array_files import MOST_RATIO, StoredArray, array_names
from benchmark.data.foreign.coding import Coding, decoded
from benchmark.data.foreign.facts import NO_VALUES, Facts, Part, Progress, refuse
from benchmark.data.slicing import Frame
from benchmark.errors import UserError

TINY = 1e-6  # of the range: what rounding adds above 1 or takes below 0
WHOLE = 1e-3  # labels that were scaled and scaled back are 3.9999998


class Arrays:
    """images [N, 4, H, W] (or [N, H, W, 4]) with labels [N, H, W], or one array whose fifth channel is the annotation.

    Images are uint8, or float in 0 … 1, which is multiplied by 255; labels are whole numbers of any type.
    """

    unit = "slice"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = array_names(folder)
        if {"images", "labels"} <= names.keys():
            self._images, self._labels = (StoredArray(*names[name]) for name in ("images", "labels"))
        elif len(names) == 1:
            self._images, self._labels = StoredArray(*next(iter(names.values()))), None
        else:
            found = ", ".join(f"{name} in {path.name}" for name, (path, _) in names.items())
            raise UserError(f"{folder}: the arrays images and labels, or one alone, are needed; found {found}")
        self._refuse_headers()
        self.files = sorted({array.path for array in (self._images, self._labels) if array})
        self.format = "arrays of float × 255" if self._images.dtype.kind == "f" else "arrays"
        self.count = self._images.shape[0]

    def _refuse_headers(self) -> None:
        images, labels, problems = self._images, self._labels, []
        channels = 4 if labels else 5
        self._channels_last = images.shape[3:] == (channels,)
        self._size = images.shape[1:3] if self._channels_last else images.shape[2:]
        if len(images.shape) != 4 or (images.shape[1] == channels) == self._channels_last:
            what = "beside labels" if labels else "with the annotation last"
            problems.append(
                f"{images}: shape {images.shape}; [N, {channels}, H, W] or channels last, {what}, is needed"
            )
        elif labels and labels.shape != (images.shape[0], *self._size):
            one_hot = len(labels.shape) == 4
            remedy = "; one value a pixel is needed, not a channel for each class or region" if one_hot else ""
            problems.append(f"{labels}: shape {labels.shape} does not fit that of {images}, {images.shape}{remedy}")
        if images.dtype != np.uint8 and images.dtype.kind != "f":
            needed = "uint8, or float in 0 … 1, is needed: 255 × value / the volume's maximum"
            problems.append(f"{images}: values are {images.dtype}; {needed}")
        if labels and labels.dtype.kind not in "iuf":
            problems.append(f"{labels}: values are {labels.dtype}; whole numbers are needed")
        if images.is_bomb:
            problems.append(f"{images}: it unpacks to more than {MOST_RATIO} times its size, as no images do")
        refuse(self.folder, problems)

    def inspect(self, image_size: int, workers: int) -> Iterator[Facts]:
        """All values, slice by slice; nothing but the size where that does not fit."""
        images, labels = self._images, self._labels or self._images
        if self._size != (image_size, image_size):
            yield Facts(str(images), {str(images): self._size}, [], NO_VALUES)
            return
        row = 0
        for batch in self._batches():
            for pixels, annotation in zip(*batch, strict=True):
                values, problems = NO_VALUES, []
                if problem := _intensity_problem(pixels):
                    problems.append(f"{images}, slice {row}: {problem}")
                elif problem := self._labels and _label_problem(annotation):
                    problems.append(f"{labels}, slice {row}: {problem}")
                else:
                    values = np.bincount(self._values(annotation).ravel(), minlength=256)
                yield Facts(f"{labels}, slice {row}", {}, problems, values)
                row += 1

    def read(
        self, frame: Frame, coding: Coding, scratch: Path, workers: int, progress: Progress
    ) -> Iterator[Part | Rejection]:
        """The slices in their order, named by the set and their row."""
        row = 0
        for pixels, annotation in self._batches():
            images, annotation = _to_8bit(pixels[:, :4]), self._values(annotation)
            rows = np.arange(row, row + len(images))
            full = images.any((2, 3))
            for missing, number in zip(full[~full.all(1)], rows[~full.all(1)], strict=True):
                reason = f"{MODALITIES[missing.argmin()]} is nowhere above zero"
                yield Rejection(f"{self._images} {number}", str(self._images), reason)
            if full.all(1).any():
                keep = full.all(1)
                yield decoded([f"{self._images} {n}" for n in rows[keep]], images[keep], annotation[keep], coding)
            progress(len(images))
            row += len(images)

    def _values(self, annotation: np.ndarray) -> np.ndarray:
        """uint8: labels are whole numbers, a fifth channel is an image like the others."""
        return np.rint(annotation).astype(np.uint8) if self._labels else _to_8bit(annotation)

    def _batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(images, annotation) as they are stored, but channels first, a few slices at a time."""
        labels = self._labels.batches() if self._labels else repeat(None)
        for pixels, annotation in zip(self._images.batches(), labels, strict=False):
            if self._channels_last:
                pixels = np.moveaxis(pixels, 3, 1)
            yield pixels, pixels[:, 4] if annotation is None else annotation


def _to_8bit(values: np.ndarray) -> np.ndarray:
    return np.rint(np.multiply(values, 255, dtype=np.float64)).astype(np.uint8) if values.dtype.kind == "f" else values


def _intensity_problem(pixels: np.ndarray) -> str:
    """Why values cannot be grey values, and what to do; float has to lie in 0 … 1, but for what rounding leaves."""
    if pixels.dtype == np.uint8:
        return ""
    low, high = float(pixels.min()), float(pixels.max())  # NaN if any pixel is
    if low >= -TINY and high <= 1 + TINY:
        return ""
    if not np.isfinite([low, high]).all():
        remedy = "NaN and infinite values are no image"
    elif low >= 0 and high <= 255:
        remedy = "floats must lie in 0 … 1: save 0 … 255 as uint8"
    elif low >= -1 - TINY and high <= 1 + TINY:
        remedy = "floats must lie in 0 … 1: save (value + 1) / 2"
    else:
        remedy = "floats must lie in 0 … 1, with 0 outside the head: save value / maximum of each volume, no z-scores"
    return f"values {low:g} … {high:g}; {remedy}"


def _label_problem(annotation: np.ndarray) -> str:
    low, high = annotation.min(), annotation.max()
    if not (low >= 0 and high <= 255):  # so is NaN
        return f"values {low} … {high}; whole numbers in 0 … 255 are needed"
    if annotation.dtype.kind == "f" and (odd := np.abs(annotation - np.rint(annotation)) > WHOLE).any():
        return f"value {annotation[odd][0]:g} is no whole number; save 0, 1 for NCR, 2 for ED and 4 for ET"
    return ""
