"""Copies of training slices as a generator could make them: the audit's controls, and whose copies they are."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from analysis.neighbours import BRAIN_THRESHOLD, Rows

LEAST_TUMOUR = 16 / 64**2  # of the slice's area: a smaller one is not worth pasting


@dataclass(frozen=True)
class Copies:
    """images uint8 [n, C, H, W], labels uint8 [n, 1, H, W]; rows [n, 1 or 2]: the training slices they come from."""

    images: np.ndarray
    labels: np.ndarray
    rows: np.ndarray


def plant(
    images: np.ndarray | Rows,
    labels: np.ndarray | Rows | None,
    subjects: np.ndarray,
    rows: np.ndarray,
    strangers: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, Copies]:
    """Every kind of copy of the training slices `rows`.

    images uint8 [N, C, H, W], labels uint8 [N, 1, H, W], subjects [N]: all training slices, of which `rows` [n] and
    as many others are read. strangers uint8 [n, C, H, W]: held-out slices that parts are put into. Sizes in pixels
    are those of a slice of 64 px. A kind is left out where it cannot be: without tumours, or with a single subject.
    """
    x = np.asarray(images[rows]).astype(np.float32)
    n, size = len(x), x.shape[-1]
    y = np.zeros((n, size, size), np.uint8) if labels is None else np.asarray(labels[rows])[:, 0]
    sign = rng.choice([-1, 1], (20, n))
    brain = (x > BRAIN_THRESHOLD).any(1, keepdims=True)

    def turned(degrees: float) -> list[np.ndarray]:
        return [_affine(degrees * s, 1, 1) for s in sign[0]]

    def elastic(pixels: float) -> list[np.ndarray]:
        return [_flow(size, pixels * size / 64, rng) for _ in range(n)]

    direction = rng.uniform(0, 2 * np.pi, n)
    step = min(12, round(0.19 * size)) * np.stack([np.sin(direction), np.cos(direction)], 1)
    warps = {
        "turned 5°": turned(5),
        "turned 10°": turned(10),
        "turned 15°": turned(15),
        "zoomed 10 %": [_affine(0, 1.1**s, 1.1**s) for s in sign[1]],
        "stretched": [_affine(0, 1.1**s, 0.95**s) for s in sign[2]],
        "elastic, 2 px": elastic(2),
        "elastic, 3 px": elastic(3),
    }
    made = {
        "exact": (x, y),
        "mirrored": (x[..., ::-1], y[..., ::-1]),
        "shifted 4 px": _moved(x, y, np.tile([0, 4], (n, 1))),
        "shifted 12 px": _moved(x, y, step.round().astype(int)),
        **{kind: _warped(x, y, maps) for kind, maps in warps.items()},
    }
    several = [_affine(10 * s, 1.08**t, 1.08**t) for s, t in sign[3:5].T]
    bent, bent_labels = _warped(x[..., ::-1], y[..., ::-1], several, elastic(1))
    gamma = np.exp(rng.uniform(-0.4, 0.4, (n, x.shape[1], 1, 1)))
    made["mirrored, turned, zoomed, bent, recoloured"] = 255 * (np.clip(bent, 0, 255) / 255) ** gamma, bent_labels

    inverted = x.copy()
    for image, inside in zip(inverted, brain[:, 0], strict=True):
        for modality in rng.permutation(len(image))[:2]:
            image[modality, inside] = 255 - image[modality, inside]
    left, last = np.arange(size) < size // 2, np.arange(x.shape[1])[:, None, None] == x.shape[1] - 1
    quarter = left & left[:, None]
    apart = [_moved(x[:, m : m + 1], y, np.tile(step, (n, 1)))[0] for m, step in enumerate(_apart(x.shape[1], size))]
    others = np.array([rng.choice(np.flatnonzero(subjects != subjects[row])) for row in rows if len(set(subjects)) > 1])
    made |= {
        "blurred": (ndimage.gaussian_filter(x, (0, 0, size / 64, size / 64)), y),
        "5 % noise": (x + brain * rng.normal(0, 0.05 * 255, x.shape), y),
        "gamma 0.8": (255 * (x / 255) ** 0.8, y),
        "two modalities inverted": (inverted, y),
        "modalities swapped": (x[:, ::-1], y),
        "half, the rest a stranger's": (np.where(left, x, strangers), y * left),
        "quarter, the rest a stranger's": (np.where(quarter, x, strangers), y * quarter),
        "one modality, the rest a stranger's": (np.where(last, x, strangers), y),
        "modalities moved apart": (np.concatenate(apart, 1), y),
    }
    copies = {kind: Copies(_bytes(made), where[:, None], rows[:, None]) for kind, (made, where) in made.items()}
    if len(others):
        two, second = np.stack([rows, others], 1), np.asarray(images[others]).astype(np.float32)
        copies["mean of two patients"] = Copies(_bytes((x + second) / 2), y[:, None], two)
        copies["halves of two patients"] = Copies(_bytes(np.where(left, x, second)), (y * left)[:, None], two)
    with_tumour = np.flatnonzero((y > 0).mean((1, 2)) >= LEAST_TUMOUR)
    if len(with_tumour):
        x, y, strangers = x[with_tumour], y[with_tumour], strangers[with_tumour]
        near = ndimage.binary_dilation(y > 0, np.ones((1, 3, 3)), 2).astype(np.float32)
        share = ndimage.gaussian_filter(near, (0, 1, 1))[:, None]
        pasted = share * x + (1 - share) * strangers
        copies["tumour in another brain"] = Copies(_bytes(pasted), y[:, None], rows[with_tumour, None])
        unlabelled = Copies(_bytes(pasted), np.zeros_like(y)[:, None], rows[with_tumour, None])
        copies["tumour in another brain, not annotated"] = unlabelled
    return copies


def _bytes(images: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def _apart(modalities: int, size: int) -> np.ndarray:
    """Whole pixels (down, right) that part modalities [modalities, 2]: each its own way."""
    angle = 2 * np.pi * np.arange(modalities) / modalities
    return (size / 16 * np.stack([np.sin(angle), np.cos(angle)], 1)).round().astype(int)


def _affine(degrees: float, down: float, right: float) -> np.ndarray:
    """Matrix [2, 2] from output to input, for a turn and then a zoom."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[cos, -sin], [sin, cos]]) @ np.diag([1 / down, 1 / right])


def _flow(size: int, pixels: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth displacement [2, size, size] of that root mean square."""
    field = ndimage.gaussian_filter(rng.normal(size=(2, size, size)), (0, size / 9, size / 9))
    return field * pixels / np.sqrt((field**2).sum(0).mean())


def _warped(x: np.ndarray, y: np.ndarray, maps: list, flows: list | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Slices and annotations through matrices [2, 2] about their middle, or through displacements, or through both."""
    size = x.shape[-1]
    grid = np.mgrid[:size, :size] - (size - 1) / 2
    images, labels = np.empty_like(x), np.empty_like(y)
    for number, how in enumerate(maps):
        where = grid + how if how.shape != (2, 2) else np.tensordot(how, grid, 1)
        where = where + (size - 1) / 2 + (0 if flows is None else flows[number])
        images[number] = [ndimage.map_coordinates(channel, where, order=1) for channel in x[number]]
        labels[number] = ndimage.map_coordinates(y[number], where, order=0)
    return images, labels


def _moved(x: np.ndarray, y: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each moved by its whole pixels (down, right); what leaves is lost."""
    moved = [ndimage.shift(image, (0, *step), order=0) for image, step in zip(x, steps, strict=True)]
    return np.stack(moved), np.stack(
        [ndimage.shift(label, step, order=0) for label, step in zip(y, steps, strict=True)]
    )
