"""Which subjects differ from the others. Medians throughout: what differs cannot hide itself by widening a mean."""

import numpy as np
import pandas as pd

LIMIT = 3.5  # of |modified z|: Iglewicz & Hoaglin, How to detect and handle outliers, 1993
CLEAR = 2 * LIMIT  # for areas between curves, which are never negative and have a long tail without any fault
FEWEST = 5  # subjects; among fewer there are no "others" to differ from
RARE = 0.05  # a class that is absent in more subjects than this share, and in more than one, is often absent
TURNED = 1.3  # 1 - r as a picture lies, over 1 - r turned: at most 0.9 in the phantom, 1.7 where it lies upside down


def modified_z(values: np.ndarray) -> np.ndarray:
    """Distance from the median in units of the scaled median absolute deviation, [n]; zeros for fewer than FEWEST.

    Where more than half of the values are equal that deviation is 0, and the scaled mean absolute deviation stands in.
    """
    if len(values) < FEWEST:
        return np.zeros(len(values))
    distance = values - np.median(values)
    scale = 1.4826 * np.median(np.abs(distance)) or 1.2533 * np.mean(np.abs(distance))
    return distance / scale if scale else np.zeros(len(values))


def unusual_volumes(volumes: pd.DataFrame) -> pd.DataFrame:
    """Subjects whose volume of a class is unlike the others'.

    volumes: mL, subjects as index, a column per class. Returns subject, class, ml, usual_ml (median of those that have
    the class), z (modified, of the log volume; NaN where absent) and why ("absent", "far larger", "far smaller"):
    absent classes first, then by |z|.
    """
    rows = []
    for name, ml in volumes.items():
        present = ml[ml > 0]
        z = pd.Series(modified_z(np.log(present.to_numpy(float))), present.index)
        far = z[z.abs() > LIMIT]
        rows += [
            (subject, name, ml[subject], score, "far larger" if score > 0 else "far smaller")
            for subject, score in far.items()
        ]
        absent = ml.index[ml == 0]
        if len(ml) >= FEWEST and len(absent) <= max(1, RARE * len(ml)):
            rows += [(subject, name, 0.0, np.nan, "absent") for subject in absent]
    found = pd.DataFrame(rows, columns=["subject", "class", "ml", "z", "why"])
    found.insert(3, "usual_ml", found["class"].map(volumes.where(volumes > 0).median()))
    order = found["z"].abs().fillna(np.inf).sort_values(ascending=False, kind="stable").index
    return found.loc[order].reset_index(drop=True)


def unusual_histograms(shares: np.ndarray) -> np.ndarray:
    """Positions of the histograms that clearly lie away from the others, farthest first.

    shares: [n, bins], each summing to 1. Compared is the area between a histogram's cumulative form and the median one.
    """
    if len(shares) < FEWEST:
        return np.array([], int)
    cumulative = shares.cumsum(axis=1)
    z = modified_z(np.abs(cumulative - np.median(cumulative, axis=0)).mean(axis=1))
    far = np.flatnonzero(z > CLEAR)
    return far[np.argsort(-z[far], kind="stable")]


def turned(pictures: np.ndarray) -> np.ndarray:
    """Positions of the pictures that fit the median picture better when turned or flipped, the clearest first.

    pictures: float [n, S, S], a mean axial slice of each subject. Tried are quarter turns and flips, but not left for
    right: a brain is nearly its own mirror image, so nothing here can tell its sides.
    """
    if len(pictures) < FEWEST:
        return np.array([], int)
    usual = np.median(pictures, axis=0)
    as_is = 1 - _correlations(pictures, usual)
    upright = [np.rot90(usual, turns) for turns in (1, 2, 3)]
    others = [*upright, *(turn[:, ::-1] for turn in upright)]
    best = np.min([1 - _correlations(pictures, other) for other in others], axis=0)
    far = np.flatnonzero(as_is > TURNED * best)
    return far[np.argsort(best[far] / as_is[far], kind="stable")]


def _correlations(pictures: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson's, of each picture [n, S, S] with the other [S, S]; 0 for a picture without contrast."""
    flat = pictures.reshape(len(pictures), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    other = other.ravel() - other.mean()
    norms = np.linalg.norm(flat, axis=1) * np.linalg.norm(other)
    return np.divide(flat @ other, norms, out=np.zeros(len(flat)), where=norms > 0)
