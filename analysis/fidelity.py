"""How like the real images synthetic ones are, and how varied (PROTOCOL, section 5).

Distances compare features, float [N, D], as a network gives them: not standardized, as in the papers. A number means
something beside its floor, the same number for as many held-out real images. The floor is not what independent draws
of one distribution would give: slices of a patient are alike, and the network has seen the reference.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from monai.metrics.regression import compute_ms_ssim
from scipy import stats

NEIGHBOURS = 5  # k of precision, recall, density and coverage
PAIRS = 500  # of slices whose MS-SSIM is averaged: of random images its mean is then known to about 0.005
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of MS-SSIM, finest first: Wang et al. 2003
MIN_GENERATORS = 4  # fewer: "n too small"; of 3, chance alone gives a perfect correlation in 1 of 3 cases
CHUNK = 512  # rows of a matrix of all pairs that are held at once


class TooFewSamples(ValueError):
    """A measure is not defined for so few samples."""


def equal_draws(sizes: Sequence[int], most: int, seed: int) -> list[np.ndarray]:
    """Row numbers, ascending, drawn from sets of these sizes: as many from each as the smallest has, `most` at most.

    Fréchet distance and coverage depend on the number of samples, so that only equal numbers can be compared.
    """
    count, rng = min(*sizes, most), np.random.default_rng(seed)
    return [np.sort(rng.choice(size, count, replace=False)) for size in sizes]


def compare(synthetic: np.ndarray, reference: np.ndarray, floor: np.ndarray) -> dict[str, dict]:
    """All measures of features: `values` of synthetic and `floor` of held-out real, both against the reference.

    Returns values, floor and reasons, each by measure: frechet, kernel, precision, recall, density, coverage. A measure
    that needs more samples is None in values and floor, and has its reason.
    Raises ValueError where the three are not equally many.
    """
    if not len(synthetic) == len(reference) == len(floor):
        counts = f"{len(synthetic)} synthetic, {len(reference)} reference and {len(floor)} held-out samples"
        raise ValueError(f"{counts} cannot be compared: draw equally many (see equal_draws)")
    result = {"values": {}, "floor": {}, "reasons": {}}
    for part, features in (("values", synthetic), ("floor", floor)):
        for names, measure in _MEASURES.items():
            try:
                numbers = measure(features, reference)
            except TooFewSamples as error:
                numbers = [None] * len(names)
                result["reasons"] |= dict.fromkeys(names, str(error))
            result[part] |= zip(names, numbers, strict=True)
    return result


# ---- distances of distributions ------------------------------------------------------------------------------------


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance |µ_a − µ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½) of the Gaussians with these moments.

    In float64. Biased upwards in finite samples: compare equally many. Dowson & Landau 1982; as a measure of generated
    images: Heusel et al. 2017, eq. 6. Raises TooFewSamples where covariances would be singular (N ≤ D).
    """
    a, b = _comparable(a, b, a.shape[-1] + 1, f"the Fréchet distance of {a.shape[-1]} features")
    # With Σ = RᵀR, Σ_a Σ_b has the eigenvalues of M Mᵀ, M = R_a R_bᵀ, so their roots are the singular values of M. This
    # takes no root of rounding errors, which the product's smallest eigenvalues are.
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    shared = np.linalg.norm(root_a @ root_b.T, "nuc")
    squared = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.sum(root_a**2) + np.sum(root_b**2) - 2 * shared
    return float(max(squared, 0.0))


def _covariance_root(a: np.ndarray) -> np.ndarray:
    """R [D, D] with RᵀR the unbiased covariance."""
    return np.linalg.qr(a - a.mean(0), mode="r") / np.sqrt(len(a) - 1)


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared maximum mean discrepancy with the kernel k(x, y) = (x·y / D + 1)³, unbiased, over all pairs.

    It sees means, covariances and skewness, and its expectation does not depend on the number of samples, so that small
    samples will do; where both sets are of one distribution it lies around 0, as often below as above.

    Bińkowski et al., ICLR 2018, section 4; the estimator: Gretton et al., JMLR 13 (2012), eq. 3.
    Raises TooFewSamples for fewer than 2, ValueError for features that differ in number or are not finite.
    """
    a, b = _comparable(a, b, 2, "the kernel distance")
    return float(_mean_kernel(a) + _mean_kernel(b) - 2 * _kernel_sum(a, b) / (len(a) * len(b)))


def _mean_kernel(a: np.ndarray) -> float:
    """Mean of k over all pairs of different samples."""
    itself = ((_squares(a) / a.shape[1] + 1) ** 3).sum()
    return (_kernel_sum(a, a) - itself) / (len(a) * (len(a) - 1))


def _kernel_sum(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of k over all pairs."""
    total = 0.0
    for start in range(0, len(a), CHUNK):
        values = a[start : start + CHUNK] @ b.T / a.shape[1] + 1
        total += np.vdot(values * values, values)
    return total


# ---- nearest neighbours --------------------------------------------------------------------------------------------


def precision_recall_density_coverage(
    features: np.ndarray, reference: np.ndarray, k: int = NEIGHBOURS
) -> tuple[float, float, float, float]:
    """Four answers from balls around samples, each reaching to the sample's k-th neighbour in its own set.

    precision: share of samples inside a ball of the reference. recall: share of the reference inside a ball of the
    samples (both: Kynkäänniemi et al. 2019, eq. 1–2). density: how many balls of the reference a sample is inside,
    over k; may exceed 1. coverage: share of the reference whose ball holds a sample (both: Naeem et al. 2020,
    section 3). Where both are equally many draws of one distribution, density is 1 and coverage 1 − 2^−k on average.

    Balls are closed, so copies always lie inside. Neighbouring slices of one patient make balls small and all four
    lower. Raises TooFewSamples for fewer than k + 1, ValueError for features that differ in number or are not finite.
    """
    a, b = _comparable(features, reference, k + 1, f"a {k}-th nearest neighbour")
    middle = b.mean(0)  # products of centred features round least
    a, b = a - middle, b - middle
    reach_a, reach_b = _squared_reach(a, k), _squared_reach(b, k)
    inside, recalled, covered = np.zeros(len(a), int), np.zeros(len(b), bool), np.zeros(len(b), bool)
    for start in range(0, len(a), CHUNK):
        rows = slice(start, start + CHUNK)
        distances = _squared_distances(a[rows], b)
        in_reference = distances <= reach_b
        inside[rows] = in_reference.sum(1)
        covered |= in_reference.any(0)
        recalled |= (distances <= reach_a[rows, None]).any(0)
    return float((inside > 0).mean()), float(recalled.mean()), float(inside.mean() / k), float(covered.mean())


def _squared_reach(a: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of every sample to its k-th neighbour, [N]."""
    reach = [
        np.partition(_squared_distances(a[start : start + CHUNK], a), k)[:, k]  # the first is the sample itself
        for start in range(0, len(a), CHUNK)
    ]
    # A copy of that neighbour lies on the edge: inside, whatever rounding says.
    return np.concatenate(reach) + 1e-12 * _squares(a).max()


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|x − y|² = |x|² + |y|² − 2 x·y over all pairs, [N_a, N_b]: a matrix product, many times quicker than differences;
    float64 leaves them exact to about 1e-15 of |x|²."""
    return _squares(a)[:, None] + _squares(b) - 2 * (a @ b.T)


_MEASURES = {
    ("frechet",): lambda a, b: [frechet_distance(a, b)],
    ("kernel",): lambda a, b: [kernel_distance(a, b)],
    ("precision", "recall", "density", "coverage"): precision_recall_density_coverage,
}


def _squares(a: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", a, a)


def _comparable(a: np.ndarray, b: np.ndarray, least: int, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64: differences of large sums follow."""
    for features in (a, b):
        if features.ndim != 2 or not np.isfinite(features).all():
            raise ValueError(f"features must be finite and of shape [N, D]; these have shape {list(features.shape)}")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{a.shape[1]} and {b.shape[1]} features cannot be compared: take one extractor for both sets")
    if min(len(a), len(b)) < least:
        raise TooFewSamples(f"{measure} needs at least {least} samples of each set; there are {min(len(a), len(b))}")
    return a.astype(np.float64), b.astype(np.float64)


# ---- similarity of random pairs ------------------------------------------------------------------------------------


def random_pairs(subjects: np.ndarray, seed: int, count: int = PAIRS) -> np.ndarray:
    """Row numbers [count, 2] of slices of different subjects [N]: two slices of one patient are alike in any set.

    Raises TooFewSamples for a single subject.
    """
    _, codes = np.unique(subjects, return_inverse=True)
    if codes.max() == 0:
        raise TooFewSamples(f"pairs need slices of two subjects; all {len(subjects)} are of '{subjects[0]}'")
    rng = np.random.default_rng(seed)
    first = rng.integers(len(codes), size=count)
    return np.array([(row, rng.choice(np.flatnonzero(codes != codes[row]))) for row in first])


def scales(image_size: int) -> int:
    """How many scales MS-SSIM has: the paper's 5 from 256 px on; the coarsest keeps 16 px, its window being 11 px wide.

    Raises ValueError for images below 16 px.
    """
    if image_size < 16:
        raise ValueError(f"MS-SSIM needs images of at least 16 px; these have {image_size}")
    return min(image_size.bit_length() - 4, len(SCALE_WEIGHTS))


def ms_ssim(images: np.ndarray, pairs: np.ndarray, device: str | torch.device = "cpu") -> np.ndarray:
    """Mean multi-scale structural similarity of pairs of slices, one number per channel, [C]: lower is more varied.

    images: uint8 [N, C, H, W], a memory map welcome; pairs: rows [P, 2]. Wang, Simoncelli & Bovik 2003, eq. 7, with the
    weights of `scales(min(H, W))` scales normalized to sum 1, by MONAI; as a measure of diversity: Odena et al. 2017.
    """
    weights = np.array(SCALE_WEIGHTS[: scales(min(images.shape[2:]))])
    weights = (weights / weights.sum()).tolist()
    total = np.zeros(images.shape[1])
    for start in range(0, len(pairs), 64):
        one, other = (
            torch.from_numpy(np.array(images[rows])).to(device).float().flatten(0, 1)[:, None]
            for rows in pairs[start : start + 64].T
        )
        similarity = compute_ms_ssim(one, other, spatial_dims=2, data_range=255, weights=weights)
        total += similarity.cpu().double().view(-1, images.shape[1]).sum(0).numpy()
    return total / len(pairs)


# ---- does fidelity predict the Dice ratio? -------------------------------------------------------------------------


def rank_correlations(fidelity: pd.DataFrame, ratios: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation, over generators, of every fidelity measure with the Dice ratio of an arm.

    fidelity: a row per cohort and generator, a column per measure, missing where not measured. ratios: the table of
    `statistics.ratios`, of which the primary endpoint (region "mean") is taken.
    Returns one row per measure, cohort, segmenter, arm, augmentation: rho (of the numbers as they are: where less is
    better, as in distances, a measure that predicts Dice has a negative rho), p (two-sided, exact: all orders are
    enumerated up to 7 generators, 10,000 drawn beyond), generators (their number), without (names left out for want of
    a number), reason ("" or why rho is missing: "n too small" below 4 generators).
    """
    measures = [column for column in fidelity.columns if column not in ("cohort", "generator")]
    primary = ratios[ratios["region"] == "mean"].merge(fidelity, on=["cohort", "generator"], how="left", validate="m:1")
    rows = []
    for measure in measures:
        for key, cell in primary.groupby(["cohort", "segmenter", "arm", "augmentation"], sort=False):
            known = cell[measure].notna() & cell["ratio"].notna()
            row = {"measure": measure} | dict(zip(("cohort", "segmenter", "arm", "augmentation"), key, strict=True))
            row |= {"generators": int(known.sum()), "without": ", ".join(sorted(cell["generator"][~known]))}
            rows.append(row | _spearman(cell[measure][known].to_numpy(float), cell["ratio"][known].to_numpy(float)))
    columns = ["measure", "cohort", "segmenter", "arm", "augmentation", "rho", "p", "generators", "without", "reason"]
    return pd.DataFrame(rows, columns=columns).astype({"rho": "float64", "p": "float64"})


def _spearman(x: np.ndarray, y: np.ndarray) -> dict:
    if len(x) < MIN_GENERATORS:
        return {"reason": "n too small"}
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return {"reason": "all generators have the same " + ("value" if np.ptp(x) == 0 else "ratio")}
    x, y = (stats.zscore(stats.rankdata(values)) for values in (x, y))
    test = stats.permutation_test(
        (x,),
        lambda permuted, axis: (permuted * y).mean(axis),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=10_000,
        rng=np.random.default_rng(0),
    )
    return {"rho": float(test.statistic), "p": float(test.pvalue), "reason": ""}
