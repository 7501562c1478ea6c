"""One subject's NIfTI files → canonical 8 bit. What is wrong with them becomes a RejectedSubject."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmark.data.cohorts import MODALITIES, RejectedSubject, Subject
from benchmark.data.labels import CLASSES
from benchmark.data.stored import UNREADABLE, Grid, Stored, load

__all__ = ["UNREADABLE", "Annotation", "Volume", "inspect_annotation", "read"]

LABEL_ROUNDING = 1e-3  # scaled files hold 3.9999998 for 4
HIGHEST_LABEL = 65535
HUGE = 1e30  # no scanner's value; 255 times it still fits a double
BINS = 32  # of the histograms, 8 grey levels each

# Values below 0 become 0. Interpolation leaves some beside edges: a cubic spline swings 7 % of an edge's height past
# it, in the voxels next to it, which is under 2 % of the whole signal even in small volumes. Of z-scored voxels one
# half, of −1 … 1 with background −1 most of the signal is negative.
NEGATIVE_WEIGHT = 0.05  # the sum of negative values relative to that of positive values
# Air is dark. Corners at a quarter of the maximum are an offset (CT's 1024, z-scores shifted above 0) or inverted grey.
CORNERS = 0.25
# A volume is divided by its maximum: where 99.9 % of what is not background lies below this share, one spike decides.
SPIKE_SHARE = 0.1


@dataclass(frozen=True)
class Volume:
    """One subject in LPS orientation: Z runs inferior to superior, H anterior to posterior, W right to left."""

    images: np.ndarray  # uint8 [4, Z, H, W]: each modality divided by its own maximum, times 255
    labels: np.ndarray  # uint8 [Z, H, W]: classes 0–3 = background, NCR, ED, ET
    spacing: tuple[float, float, float]  # mm along Z, H, W
    facts: dict = field(default_factory=dict)  # for people: orientation, shape, voxel_mm, class_ml, modalities
    remarks: tuple[str, ...] = ()  # what is odd, and no reason to set the subject aside


@dataclass(frozen=True)
class Annotation:
    """What is known of a subject's annotation before its values have a meaning."""

    values: dict[int, int]  # value → voxels that have it, 0 included
    unplaced: bool  # its affine is exactly the identity, which programs write that know none


def inspect_annotation(subject: Subject) -> Annotation:
    """The values of a subject's annotation, whatever they mean, with their counts. Raises RejectedSubject."""
    stored = load(subject.annotation)
    values = _whole_values(stored, subject.annotation)
    return Annotation(_counted(values), np.array_equal(stored.affine, np.eye(4)))


def read(subject: Subject) -> Volume:
    """A subject's images and labels in LPS orientation, as 8 bit.

    Raises RejectedSubject for a damaged file, grids that disagree, NaN or infinite voxels, label values that
    `subject.classes` does not know, and grey values that would lose tissue when they are divided by their maximum.
    """
    stored = load(subject.annotation)
    grid = Grid(stored)
    labels, counts = _to_classes(stored, grid, subject)
    millilitres = {name: counts[number] * math.prod(grid.spacing) / 1000 for name, number in CLASSES.items()}

    images = np.zeros((len(MODALITIES), *grid.shape), np.uint8)
    modalities, remarks = {}, []
    for path, stored in _modalities(subject):  # no enumerate or zip: they hold what they gave last
        modality, other = MODALITIES[len(modalities)], Grid(stored)
        if other.shape != grid.shape:
            raise RejectedSubject(path, f"shape {other.shape} differs from the annotation's {grid.shape} (z, y, x)")
        if far := grid.apart(other):
            one, file = ("images'", subject.annotation) if grid.lost and not other.lost else ("annotation's", path)
            lost = ". Its origin is (0, 0, 0): a lost header?" if grid.lost != other.lost else ""
            raise RejectedSubject(file, f"affine differs from the {one}: {far}{lost}")
        modalities[modality], remark = _to_8bit(path, stored, modality, other, out=images[len(modalities)])
        remarks += remark
        del stored  # so that the next one is unpacked to the same memory: new memory is slow
    facts = {
        "orientation": grid.axes,
        "shape": list(grid.voxels),
        "voxel_mm": [round(size, 4) for size in grid.sizes],
        "class_ml": {name: round(volume, 4) for name, volume in millilitres.items() if name != "background"},
        "modalities": modalities,
    }
    return Volume(images, labels, grid.spacing, facts, tuple(remarks))


def _modalities(subject: Subject) -> Iterator[tuple[Path, Stored]]:
    """T1, T1ce, T2 and FLAIR, one at a time."""
    if not subject.channels:
        for path in subject.images:
            yield path, load(path)
        return
    (path,) = subject.images
    stored = load(path, channels=len(subject.channels))
    for channel in subject.channels:
        yield path, replace(stored, voxels=stored.voxels[..., channel])


# --- grey values -----------------------------------------------------------------------------------------------------


def _to_8bit(path: Path, stored: Stored, modality: str, grid: Grid, out: np.ndarray) -> tuple[dict, list[str]]:
    """round(255 × value / maximum), negative values at 0 (PROTOCOL, section 1), into `out`, zeros [Z, H, W].

    A positive slope cancels when there is no intercept; and 255 × a 16-bit integer is exact in float32, whose division
    is then accurate enough to round as exact arithmetic would. Gives facts of the values, and remarks.
    """
    low, high = _range(path, stored, modality)
    facts = {"min": low, "max": high, "negative_share": _negative_share(path, stored, modality, low, high)}
    _refuse_bright_air(path, stored, modality, low, high)

    voxels, slope, intercept = stored.voxels, stored.slope, stored.intercept
    if slope > 0 and intercept == 0:
        slope, high = 1.0, float(voxels.max())
    scaled = slope != 1 or intercept != 0
    precision = np.float64 if scaled or voxels.dtype.itemsize > 2 else np.float32
    maximum = precision(high)
    levels = np.zeros(256, np.int64)
    for source, target in zip(grid.view(voxels), out, strict=True):  # slice by slice, to stay in the cache
        if scaled:
            source = np.multiply(source, slope, dtype=np.float64) + intercept
        if source.max() <= 0:
            continue
        values = np.multiply(source, 255, dtype=precision)
        values /= maximum
        np.rint(values, out=values)
        target[...] = np.maximum(values, 0, out=values)
        levels += np.bincount(target[target > 0], minlength=256)
    levels[0] += voxels.size - levels.sum()
    edges = [low, *((np.arange(1, BINS) * (256 // BINS) - 0.5) * facts["max"] / 255).tolist(), facts["max"]]
    facts["histogram"] = {"edges": edges, "counts": levels.reshape(BINS, -1).sum(1).tolist()}
    return facts, _spike(modality, levels)


def _range(path: Path, stored: Stored, modality: str) -> tuple[float, float]:
    """Lowest and highest real value; raises RejectedSubject where there is no image between them."""
    extremes = np.array([stored.voxels.min(), stored.voxels.max()], np.float64)  # NaN if any voxel is
    if not np.isfinite(extremes).all():
        count = np.count_nonzero(~np.isfinite(stored.voxels))
        raise RejectedSubject(path, f"{count} voxels of {modality} are NaN or infinite")
    low, high = sorted((extremes * stored.slope + stored.intercept).tolist())
    if not max(abs(low), abs(high)) < HUGE:
        raise RejectedSubject(path, f"{modality} holds values of {low:.3g} … {high:.3g}: no grey values")
    if not high > 0:
        raise RejectedSubject(path, f"{modality} is nowhere above zero: there is no brain in it")
    if low == high:
        raise RejectedSubject(path, f"every voxel of {modality} is {high:.6g}: there is no image in it")
    return low, high


def _negative_share(path: Path, stored: Stored, modality: str, low: float, high: float) -> float:
    """Share of voxels below 0; raises RejectedSubject where they weigh too much to be cut off."""
    if low >= 0:
        return 0.0
    count, below, above = 0, 0.0, 0.0
    for piece in stored.voxels.T:  # slice by slice, to stay in the cache
        values = np.multiply(piece, stored.slope, dtype=np.float64) + stored.intercept
        negative = np.minimum(values, 0)
        count += np.count_nonzero(negative)
        below -= float(negative.sum())
        above += float(values.sum()) - float(negative.sum())
    share = count / stored.voxels.size
    if below > NEGATIVE_WEIGHT * above:
        raise RejectedSubject(
            path,
            f"{share:.0%} of the voxels of {modality} are negative, in {low:.4g} … {high:.4g}: z-scores, or a range "
            "such as −1 … 1? Intensities are divided by their maximum and what is below 0 is cut. Give the volumes as "
            "they were before normalization, or rescale them so that the background is 0 and all tissue above it",
        )
    return share


def _refuse_bright_air(path: Path, stored: Stored, modality: str, low: float, high: float) -> None:
    corners = stored.voxels[:: max(stored.voxels.shape[0] - 1, 1)]
    corners = corners[:, :: max(corners.shape[1] - 1, 1), :: max(corners.shape[2] - 1, 1)]
    air = float(np.median(corners.astype(np.float64) * stored.slope + stored.intercept))
    if air > CORNERS * high:
        raise RejectedSubject(
            path,
            f"the corners of {modality}, where air is, are at {air:.4g} in {low:.4g} … {high:.4g}: an offset, or "
            "inverted grey? Intensities are divided by their maximum, so the background has to be 0: subtract it",
        )


def _spike(modality: str, levels: np.ndarray) -> list[str]:
    """A remark where few voxels are so bright that the others, divided by the maximum, are dark."""
    brain = levels[1:].sum()
    high = int(np.searchsorted(levels[1:].cumsum(), 0.999 * brain)) + 1
    if high >= SPIKE_SHARE * 255:
        return []
    return [
        f"99.9 % of {modality} lies at or below {high} of 255, as a few voxels are far brighter: nearly all contrast "
        "is lost"
    ]


# --- annotation ------------------------------------------------------------------------------------------------------


def _whole_values(stored: Stored, path: Path) -> np.ndarray:
    """The annotation's values as whole numbers, uint8 where they fit, else int32 [x, y, z]."""
    values = stored.voxels
    if stored.slope != 1 or stored.intercept != 0:
        values = np.multiply(values, stored.slope, dtype=np.float64) + stored.intercept
    if values.dtype.kind in "iu":
        low, high = values.min(), values.max()
        if low >= 0 and high <= 255:
            return values.astype(np.uint8, copy=False)
        fits = (values >= -HIGHEST_LABEL) & (values <= HIGHEST_LABEL)
        whole = np.where(fits, values, 0).astype(np.int32)
    else:
        whole = np.nan_to_num(values).round().clip(-HIGHEST_LABEL, HIGHEST_LABEL).astype(np.int32)
        fits = np.abs(values - whole) < LABEL_ROUNDING  # NaN compares as false, so it is caught here as well
        if not whole.any():  # a slope that shrinks every label towards 0 is no annotation without a tumour
            fits = values == 0
    if not fits.all():
        shown = ", ".join(f"{value:g}" for value in np.unique(values[~fits])[:5])
        raise RejectedSubject(
            path, f"label value {shown} in {np.count_nonzero(~fits)} voxels: labels are whole numbers. Interpolated?"
        )
    return whole.astype(np.uint8) if whole.min() >= 0 and whole.max() <= 255 else whole


def _counted(values: np.ndarray) -> dict[int, int]:
    """Value → voxels that have it, 0 included."""
    in_memory = values.T  # in the order of memory, which is several times faster
    found, counts = np.unique(in_memory[in_memory != 0], return_counts=True)
    counted = {int(value): int(count) for value, count in zip(found, counts, strict=True)}
    return {0: values.size - sum(counted.values())} | counted


def _to_classes(stored: Stored, grid: Grid, subject: Subject) -> tuple[np.ndarray, dict[int, int]]:
    """The annotation as classes 0–3, uint8 [Z, H, W], and how many voxels each class has."""
    values = _whole_values(stored, subject.annotation)
    counts = _counted(values)
    if unknown := [value for value in counts if value not in subject.classes]:
        shown = ", ".join(map(str, unknown[:5])) + (", …" if len(unknown) > 5 else "")
        known = ", ".join(map(str, subject.classes))
        raise RejectedSubject(
            subject.annotation,
            f"unknown label value {shown} in {sum(counts[value] for value in unknown)} voxels; known are {known}. Name "
            "what each value means with labels=…, or mend the annotation",
        )
    table = np.zeros(HIGHEST_LABEL + 1, np.uint8)
    for value, number in subject.classes.items():
        table[value] = number
    classes = np.zeros(grid.shape, np.uint8)
    for source, target in zip(grid.view(values), classes, strict=True):
        if source.any():
            target[...] = table[source]
    of_class = dict.fromkeys(CLASSES.values(), 0)
    for value, count in counts.items():
        of_class[subject.classes[value]] += count
    return classes, of_class
