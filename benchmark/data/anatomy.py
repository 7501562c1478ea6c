"""Whether two scans may show one person: how alike two brains are, coarsely. A hint, not a proof."""

import math
from collections.abc import Sequence

import numpy as np

CELL = 5.0  # mm: coarser cells tell fewer people apart, finer ones ask for a better alignment
BOX = 160, 200, 160  # mm along z, H, W about the brain's centre: what differs in position is the same brain
BRAIN = 10  # of 255: PROTOCOL, section 4
DEVIATIONS = 3.0  # a modality's grey levels are cut this far from their mean: a tumour is not to outweigh the anatomy


def thumbnail(images: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """A brain as int8 [5, 32, 40, 32]: the share of each cell that is brain, and its mean grey in every modality, in
    standard deviations (127 = 1, and = 3). images: uint8 [4, Z, H, W], 0 outside the brain; spacing: mm along z, H, W.
    """
    strides = [max(1, int(CELL / 2 / size)) for size in spacing]  # half a cell is fine enough, and eight times faster
    images = images[(slice(None), *(slice(stride // 2, None, stride) for stride in strides))]
    brain = (images > BRAIN).any(0)
    box, weights = [], []
    for axis, (stride, size, length) in enumerate(zip(strides, spacing, BOX, strict=True)):
        positions = brain.sum(tuple({0, 1, 2} - {axis}))
        edges = np.arange(len(positions) + 1) * stride * size  # mm
        centre = (positions @ (edges[1:] + edges[:-1])) / 2 / max(positions.sum(), 1)
        borders = centre + np.arange(-length / 2, length / 2 + CELL / 2, CELL)
        overlap = np.minimum(edges[1:], borders[1:, None]) - np.maximum(edges[:-1], borders[:-1, None])
        present = np.flatnonzero(positions)
        box.append(slice(*(present[[0, -1]] + (0, 1))) if len(present) else slice(0))  # nothing is summed outside
        weights.append((np.clip(overlap[:, box[-1]], 0, None) / CELL).astype(np.float32))
    brain, images = brain[*box], images[:, *box]
    cells = np.concatenate([brain[None], images * brain], dtype=np.float32)
    planes = weights[0] @ cells.reshape(*cells.shape[:2], math.prod(cells.shape[2:]))
    cells = weights[1] @ planes.reshape(*planes.shape[:2], *cells.shape[2:]) @ weights[2].T
    share, grey = cells[0], cells[1:] / np.maximum(cells[0], 1e-3)
    inside = share > 0.5
    out = np.zeros(cells.shape, np.int8)
    out[0] = np.rint(127 * np.clip(share, 0, 1))
    if inside.any():
        grey = grey[:, inside]
        grey = (grey - grey.mean(1, keepdims=True)) / np.maximum(grey.std(1, keepdims=True), 1e-6)
        out[1:, inside] = np.rint(127 / DEVIATIONS * np.clip(grey, -DEVIATIONS, DEVIATIONS))
    return out


def likeness(thumbnails: Sequence[np.ndarray]) -> np.ndarray:
    """How alike each two of N brains are, -1..1, [N, N]: the mean of two correlations, that of the brain's shape and
    that of its grey levels, both as they differ from the cohort's mean brain."""
    parts = [np.zeros((len(thumbnails), len(thumbnails))) for _ in ("shape", "grey")]
    for plane in range(thumbnails[0].shape[1]):  # never all in float32 at once
        here = np.stack([brain[:, plane] for brain in thumbnails]).astype(np.float32)
        for part, cells in zip(parts, (here[:, :1], here[:, 1:]), strict=True):
            cells = cells.reshape(len(cells), -1)
            cells -= cells.mean(0)
            part += cells @ cells.T
    for part in parts:
        length = np.sqrt(np.maximum(np.diag(part), 1e-9))
        part /= length * length[:, None]
    return (parts[0] + parts[1]) / 2
