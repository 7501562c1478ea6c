"""How a set's annotation is coded, and its values as classes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmark.data import labels
from benchmark.data.annotation import CODES, THRESHOLDS
from benchmark.data.foreign.facts import Part
from benchmark.data.labels import BRATS_CLASSES
from benchmark.data.reading import Understood
from benchmark.errors import UserError

OFF_CODE_LIMIT = 0.5  # share of annotated pixels that are no code: then it is another coding, not a generator's noise
FEW = 16  # distinct values that an annotation without noise may have; a generator's has dozens
ROUNDING = 2  # 8-bit steps between a value and its code that scaling there and back makes
PEAK_SHARE = 0.01  # of the annotated pixels: fewer at a code are noise


@dataclass(frozen=True, eq=False)
class Coding:
    """What each of the 256 annotation values means; or, of volumes, what their cohort's values do."""

    name: str
    class_of: np.ndarray  # uint8 [256], classes 0–3
    off_code: np.ndarray  # float32 [256]: 1 where the value is far from every code
    remarks: tuple[str, ...] = ()  # what was decided, where a reader would want to know
    understood: Understood | None = None  # volumes, which may hold values above 255


def _times_51(name: str, codes: tuple[int, ...], thresholds: tuple[float, ...], *remarks: str) -> Coding:
    values = np.arange(256)
    distance = np.abs(values[:, None] - codes).min(1)
    classes = np.digitize(values, thresholds, right=True)  # strictly above a threshold: the next class
    return Coding(name, classes.astype(np.uint8), (distance > 0.25 * 51).astype(np.float32), remarks)


def as_they_are(name: str, class_of: Mapping[int, int]) -> Coding:
    """Values that need no decoding; those that `class_of` does not name are background."""
    classes = np.array([class_of.get(value, 0) for value in range(256)], np.uint8)
    return Coding(name, classes, np.zeros(256, np.float32))


VALUES = as_they_are("BraTS values", BRATS_CLASSES)
TIMES_51 = _times_51("BraTS values × 51, decoded by thresholds", CODES, THRESHOLDS)
TIMES_51_2023 = _times_51(
    "BraTS 2023 values × 51 (153 is ET), decoded by thresholds",
    (0, 51, 102, 153),
    (25.5, 76.5, 127.5),
    "the annotation has values around 153 (3 × 51) and none around 204: 153 is taken for ET, as from BraTS 2023 on",
)


def of_volumes(understood: Understood, notes: tuple[str, ...]) -> Coding:
    """The coding of volumes, whose subjects know their classes."""
    name, remarks = f"BraTS values ({understood.convention.name})", (*notes, *understood.warnings)
    return Coding(name, VALUES.class_of, VALUES.off_code, remarks, understood)


_KNOWN = f"known are {', '.join(map(str, BRATS_CLASSES))}, or × 51: {', '.join(map(str, CODES))}, or 153 for ET"
_REMEDY = "Save 0, 1 for NCR, 2 for ED and 4 for ET"


class Values:
    """The values that occur in the annotations: pixels of each, and a file that holds it."""

    def __init__(self) -> None:
        self.pixels = np.zeros(256, int)
        self.first: dict[int, str] = {}

    def add(self, where: str, pixels: np.ndarray) -> None:
        self.pixels += pixels
        for value in np.flatnonzero(pixels).tolist():
            self.first.setdefault(value, where)

    def coding(self, wanted: str = "auto") -> tuple[Coding, list[str]]:
        """How the values are to be understood, and what cannot be.

        Values × 51 have pixels above the first threshold; where none lies above it, these are the values themselves.
        `wanted` names a convention for those, or what each means: see `labels.check_name`.
        Raises UserError where such values are not those of the convention.
        """
        if wanted != "auto":
            counts = {value: int(self.pixels[value]) for value in self.first}
            convention = labels.decide("slices", {"the set": counts}, wanted)
            return as_they_are(f"values as {wanted}", convention.classes), []
        if max(self.first, default=0) <= THRESHOLDS[0]:
            return VALUES, self._no_values()
        return self._without_noise() if len(self.first) <= FEW else self._with_noise()

    def _no_values(self) -> list[str]:
        present = self.first.keys()
        unknown = [f"{self._shown(value)} is no class" for value in sorted(present - BRATS_CLASSES.keys())]
        if {3, 4} <= present:
            unknown.append(f"{self._shown(3)} and {self._shown(4)} are both there, but only one of them can be ET")
        remedy = "or say what each value means: import_samples.set_labels=1:NCR,2:ED,4:ET, or the name of a convention"
        return [f"{problem}; {_KNOWN}; {remedy}" for problem in unknown]

    def _without_noise(self) -> tuple[Coding, list[str]]:
        """Codes × 51 and nothing else."""
        present = sorted(self.first)
        code_of = {value: min((*CODES, 153), key=lambda code: abs(value - code)) for value in present}
        unknown = [value for value, code in code_of.items() if abs(value - code) > ROUNDING]
        small = [value for value in present if value in BRATS_CLASSES and value]
        if small and not set(unknown) - set(small):
            both = f"{self._shown(small[0])} and {self._shown(present[-1])}"
            return TIMES_51, [f"both codings are there, BRATS values as they are and × 51: {both}"]
        if unknown:
            hint = "a mask of one class" if set(present) <= {0, 255} else "another coding"
            return TIMES_51, [f"{self._shown(value)} is no class: {hint}; {_KNOWN}. {_REMEDY}" for value in unknown]
        et = {code: value for value, code in code_of.items() if code in (153, 204)}
        if len(et) == 2:
            return TIMES_51, [self._both(et[153], et[204])]
        return TIMES_51_2023 if 153 in et else TIMES_51, []

    def _with_noise(self) -> tuple[Coding, list[str]]:
        """Codes × 51 as a generator makes them: values heap around them."""
        heaps = [code for code in (153, 204) if self._is_heap(code)]
        if len(heaps) == 2:
            return TIMES_51, [self._both(153, 204)]
        between, above = self.pixels[128:179].sum(), self.pixels[179:].sum()
        if not heaps and between > PEAK_SHARE * self.pixels[26:].sum() and above < between / 4:
            return TIMES_51, [
                f"annotation values heap at neither 153 nor 204, but {between} pixels are 128 … 178 and {above} above: "
                f"it cannot be told which of them is ET. {_REMEDY}"
            ]
        coding = TIMES_51_2023 if heaps == [153] else TIMES_51
        off_code = (self.pixels * (coding.class_of > 0) * coding.off_code).astype(int)
        if (share := off_code.sum() / self.pixels[coding.class_of > 0].sum()) > OFF_CODE_LIMIT:
            commonest = ", ".join(self._shown(value) for value in np.argsort(-off_code, kind="stable")[:3].tolist())
            codes = ", ".join(map(str, CODES))
            return coding, [
                f"{share:.0%} of the annotated pixels are far from every code ({codes}, or 153 for ET): this is "
                f"no annotation × 51. Most often: {commonest}"
            ]
        return coding, []

    def _is_heap(self, code: int) -> bool:
        """Whether more than twice as many pixels lie at a code as in either gap beside it, halfway to the next code.

        What only lies on the way from 102 to 204, at blurred borders, makes no heap at 153.
        """
        at, below, above = (self.pixels[centre - 6 : centre + 7].sum() for centre in (code, code - 25, code + 25))
        return at > 2 * max(below, above) and at >= PEAK_SHARE * self.pixels[26:].sum()

    def _both(self, low: int, high: int) -> str:
        remedy = "ET is 204 (4 × 51) until BraTS 2021 and 153 (3 × 51) from 2023 on; only one of them can be ET"
        return f"{self._shown(low)} and {self._shown(high)} are both there: {remedy}"

    def _shown(self, value: int) -> str:
        return f"annotation value {value} ({self.pixels[value]} pixels, first in {self.first.get(value, 'none')})"


def named_for_sets(error: UserError) -> str:
    """What `labels.decide` asks of a cohort, asked of a set: the key has another name."""
    return str(error).replace("labels=", "import_samples.set_labels=")


def decoded(subjects: list[str], images: np.ndarray, annotation: np.ndarray, coding: Coding) -> Part:
    """Slices with their annotation, uint8 [B, H, W], decoded."""
    off_code = coding.off_code[annotation].mean((1, 2))
    return Part(subjects, [-1] * len(subjects), images, coding.class_of[annotation], off_code)
