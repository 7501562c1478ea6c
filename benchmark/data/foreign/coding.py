"""How a set's annotation is coded, and its values as classes."""

import numpy as np
import torch

from benchmark.data.foreign.facts import Part
from benchmark.data.labels import BRATS_CLASSES
from benchmark.data.slices import CODES, from_network

TIMES_51 = "BraTS values × 51, decoded by thresholds"
VALUES = "BraTS values"
OFF_CODE_LIMIT = 0.5  # share of annotated pixels that are no code: then it is another coding, not a generator's noise

# Class and off-code flag of every 8-bit annotation value, read off the decoder that sampling uses.
_RAMP = (torch.arange(256) / 127.5 - 1).view(256, 1, 1, 1).expand(256, 5, 1, 1)
_CLASS_OF, _OFF_CODE = (table.flatten().numpy() for table in from_network(_RAMP)[1:])
_BRATS_CLASS_OF = np.array([BRATS_CLASSES.get(value, 0) for value in range(256)], np.uint8)


class Values:
    """The values that occur in the annotations: pixels of each, and a file that holds it."""

    def __init__(self) -> None:
        self.pixels = np.zeros(256, int)
        self.first: dict[int, str] = {}

    def add(self, where: str, pixels: np.ndarray) -> None:
        self.pixels += pixels
        for value in np.flatnonzero(pixels).tolist():
            self.first.setdefault(value, where)

    def coding(self) -> tuple[str, list[str]]:
        """How the values are to be understood, and what cannot be.

        Values × 51 have pixels above the first threshold; where none lies above it, these are the values themselves.
        """
        present = self.first.keys()
        if not any(_CLASS_OF[value] for value in present):
            unknown = [f"{self._shown(value)} is no class" for value in sorted(present - BRATS_CLASSES.keys())]
            if {3, 4} <= present:
                unknown.append(f"{self._shown(3)} and {self._shown(4)} are both there, but only one of them can be ET")
            known = f"known are {', '.join(map(str, BRATS_CLASSES))}, or × 51: {', '.join(map(str, CODES))}"
            return VALUES, [f"{problem}; {known}" for problem in unknown]

        if present <= {*BRATS_CLASSES, *CODES} and (small := present & BRATS_CLASSES.keys() - {0}):
            both = f"{self._shown(min(small))} and {self._shown(max(present))}"
            return TIMES_51, [f"both codings are there, BRATS values as they are and × 51: {both}"]
        annotated = self.pixels * (_CLASS_OF > 0)
        off_code = (annotated * _OFF_CODE).astype(int)
        if (share := off_code.sum() / annotated.sum()) > OFF_CODE_LIMIT:
            commonest = ", ".join(self._shown(value) for value in np.argsort(-off_code, kind="stable")[:3].tolist())
            return TIMES_51, [
                f"{share:.0%} of the annotated pixels are far from every code ({', '.join(map(str, CODES))}): this is "
                f"no annotation × 51. Most often: {commonest}"
            ]
        return TIMES_51, []

    def _shown(self, value: int) -> str:
        return f"annotation value {value} ({self.pixels[value]} pixels, first in {self.first.get(value, 'none')})"


def decoded(subjects: list[str], images: np.ndarray, annotation: np.ndarray, coding: str) -> Part:
    """Slices with their annotation, uint8 [B, H, W], decoded."""
    if coding == TIMES_51:
        labels, off_code = _CLASS_OF[annotation], _OFF_CODE[annotation].mean((1, 2))
    else:
        labels, off_code = _BRATS_CLASS_OF[annotation], np.zeros(len(annotation), np.float32)
    return Part(subjects, [-1] * len(subjects), images, labels, off_code)
