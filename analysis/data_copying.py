"""The data-copying statistic C_T of Meehan, Chaudhuri & Dasgupta (AISTATS 2020)."""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import stats
from scipy.cluster import vq

from analysis.neighbours import Rows, masked

MIN_PER_CELL = 20  # of generated and of held-out slices each: below, Mann–Whitney's normal approximation is poor


def data_copying(
    slices: pd.DataFrame,
    null: pd.DataFrame,
    synthetic: np.ndarray | Rows,
    held_out: np.ndarray | Rows,
    training: np.ndarray | Rows,
    seed: int,
) -> float | None:
    """C_T of Meehan, Chaudhuri & Dasgupta (AISTATS 2020): far below 0 copies, far above 0 underfits, else near 0.

    Distance is 1 − similarity. Cells are k-means clusters of the training slices, averaged to 8×8 pixels. It takes
    slices as independent, so several a patient widen its null beyond the standard normal's.
    None where no cell has 20 synthetic and 20 held-out slices.
    """
    cells = int(np.clip(min(len(synthetic), len(held_out)) // (2 * MIN_PER_CELL), 1, min(10, len(training))))
    centres, _ = vq.kmeans2(_thumbnails(training), cells, minit="++", rng=np.random.default_rng(seed), missing="warn")
    cell_q, cell_p = (vq.vq(_thumbnails(images), centres)[0] for images in (synthetic, held_out))
    return c_t(1 - slices["similarity"].to_numpy(), cell_q, 1 - null["similarity"].to_numpy(), cell_p)


def c_t(generated: np.ndarray, cell_q: np.ndarray, test: np.ndarray, cell_p: np.ndarray) -> float | None:
    """C_T from distances to the nearest training sample and the cells they lie in (Meehan et al. 2020, section 3)."""
    scores, weights = [], []
    for cell in np.unique(cell_p):
        q, p = generated[cell_q == cell], test[cell_p == cell]
        if min(len(q), len(p)) < MIN_PER_CELL:
            continue
        u = stats.mannwhitneyu(q, p).statistic  # pairs in which the generated sample is the farther one
        scores.append((u - len(q) * len(p) / 2) / np.sqrt(len(q) * len(p) * (len(q) + len(p) + 1) / 12))
        weights.append(len(p))
    return float(np.average(scores, weights=weights)) if scores else None


def _thumbnails(images: np.ndarray | Rows) -> np.ndarray:
    """Slices averaged to 8×8 pixels inside the brain, float64 [N, C·64]."""
    pieces = [
        F.adaptive_avg_pool2d(masked(images[start : start + 64], torch.device("cpu"))[0], 8).flatten(1)
        for start in range(0, len(images), 64)
    ]
    return torch.cat(pieces).double().numpy()
