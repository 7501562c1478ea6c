"""Arrays of slices."""

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import numpy as np

from benchmark.data.cohorts import MODALITIES, Rejection
from benchmark.data.foreign.array_files import stored_arrays
from benchmark.data.foreign.coding import decoded
from benchmark.data.foreign.facts import NO_VALUES, Facts, Part, Progress, refuse
from benchmark.errors import UserError


class Arrays:
    """images [N, 4, H, W] (or [N, H, W, 4]) with labels [N, H, W], or one array whose fifth channel is the annotation.

    Images are uint8, or float in 0 … 1, which is multiplied by 255; labels are whole numbers.
    """

    unit = "slice"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        arrays = stored_arrays(folder)
        if {"images", "labels"} <= arrays.keys():
            self._images, self._labels = arrays["images"], arrays["labels"]
        elif len(arrays) == 1:
            (self._images,), self._labels = arrays.values(), None
        else:
            found = ", ".join(map(str, arrays.values()))
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
            problems.append(f"{labels}: shape {labels.shape} does not fit that of {images}, {images.shape}")
        if images.dtype != np.uint8 and images.dtype.kind != "f":
            problems.append(f"{images}: values are {images.dtype}; uint8, or float in 0 … 1, is needed")
        if labels and labels.dtype.kind not in "iu":
            problems.append(f"{labels}: values are {labels.dtype}; whole numbers are needed")
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
                problems, values = [], NO_VALUES
                if not (pixels.min() >= 0 and pixels.max() <= (255 if images.dtype == np.uint8 else 1)):  # so is NaN
                    remedy = "floats must lie in 0 … 1, and 0 … 255 be saved as uint8"
                    problems.append(f"{images}, slice {row}: values {pixels.min():g} … {pixels.max():g}; {remedy}")
                elif not (annotation.min() >= 0 and annotation.max() <= 255):
                    span = f"{annotation.min()} … {annotation.max()}"
                    problems.append(f"{labels}, slice {row}: values {span}; 8 bit is needed")
                else:
                    values = np.bincount(_to_8bit(annotation).ravel(), minlength=256)
                yield Facts(f"{labels}, slice {row}", {}, problems, values)
                row += 1

    def read(
        self, image_size: int, coding: str, scratch: Path, workers: int, progress: Progress
    ) -> Iterator[Part | Rejection]:
        """The slices in their order, named by the set and their row."""
        row = 0
        for pixels, annotation in self._batches():
            images, annotation = _to_8bit(pixels[:, :4]), _to_8bit(annotation)
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

    def _batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(images, annotation) as they are stored, but channels first, a few slices at a time."""
        labels = self._labels.batches() if self._labels else repeat(None)
        for pixels, annotation in zip(self._images.batches(), labels, strict=False):
            if self._channels_last:
                pixels = np.moveaxis(pixels, 3, 1)
            yield pixels, pixels[:, 4] if annotation is None else annotation


def _to_8bit(values: np.ndarray) -> np.ndarray:
    return np.rint(255 * values).astype(np.uint8) if values.dtype.kind == "f" else values.astype(np.uint8, copy=False)
