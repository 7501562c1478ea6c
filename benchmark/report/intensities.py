"""The cohort card's histograms: intensities as they are stored, and as they are used."""

import numpy as np

from benchmark.data.cohorts import MODALITIES
from benchmark.data.slices import SliceSet

SAMPLED = 600  # slices, of all subjects together, for 8-bit histograms and mean pictures; at least one of each
BINS = 32
SIDE = 128  # px of those slices, about: of larger ones every n-th pixel is taken
PICTURE = 64  # px of a mean picture, about


def own_ranges(subjects: list[dict]) -> dict[str, np.ndarray]:
    """Per modality, shares [subjects, bins] of the values as stored, over each subject's own range."""
    return {
        modality: np.stack([_own_range(subject["modalities"][modality]["histogram"]) for subject in subjects])
        for modality in MODALITIES
    }


def _own_range(histogram: dict) -> np.ndarray:
    """Shares [bins] without the bin that holds 0, which is nearly all background."""
    counts, edges = np.array(histogram["counts"], float), np.array(histogram["edges"], float)
    counts[(edges[:-1] <= 0) & (edges[1:] > 0)] = 0
    return counts / counts.sum() if counts.any() else np.full(len(counts), np.nan)


def as_used(slices: SliceSet, names: list[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What a few evenly spaced slices of each subject hold.

    Returns, per modality, shares [subjects, BINS] of the 8-bit values above 0, and mean T1 slices [subjects, S, S].
    """
    each = int(np.clip(SAMPLED // len(names), 1, 8))
    step = max(1, slices.images.shape[-1] // SIDE)
    rows_of = slices.index.groupby("subject").indices
    shares = np.full((len(MODALITIES), len(names), BINS), np.nan)
    pictures = []
    for number, name in enumerate(names):
        rows = rows_of[name]
        middles = (np.arange(each) + 0.5) * len(rows) / each
        images = slices.images[np.unique(rows[middles.astype(int)])][..., ::step, ::step]
        for modality, values in enumerate(images.swapaxes(0, 1)):
            counts = np.bincount(values.ravel(), minlength=256)
            counts[0] = 0
            if counts.any():
                shares[modality, number] = counts.reshape(BINS, -1).sum(axis=1) / counts.sum()
        pictures.append(_shrunk(images[:, 0].mean(axis=0, dtype=np.float32)))
    return dict(zip(MODALITIES, shares, strict=True)), np.stack(pictures)


def _shrunk(picture: np.ndarray) -> np.ndarray:
    """Means of square blocks of [S, S]: about PICTURE on a side, S itself where it is smaller."""
    block = max(1, len(picture) // PICTURE)
    side = len(picture) // block
    return picture[: side * block, : side * block].reshape(side, block, side, block).mean(axis=(1, 3))
