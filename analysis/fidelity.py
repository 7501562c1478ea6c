"""How like the real images synthetic ones are, and how varied (PROTOCOL, section 5).

Distances compare features, float [N, D], as a network gives them: not standardized, as in the papers. A number means
something beside its floor, the same number for held-out real images.

Slices of a patient are alike, synthetic slices are not: as many slices of few patients lie further from the reference
than as many independent ones, and any set beats such a floor. So a *draw* takes one slice of each of n people, as many
of the synthetic set, of the reference and of the held-out patients; whatever depends on n then does so alike. Where the
set's people are new people of the same kind, its draw and the floor's have the same distribution, for every measure.
One draw of few people tells little, so numbers are means over many draws.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from analysis.neighbours import SSIM_WINDOW, Rows, gaussian_band, masked
from analysis.statistics import counted

DRAWS = 100
NEIGHBOURS = 5  # k of precision, recall, density and coverage
SAMPLES_PER_NEIGHBOUR = 4  # at the least: with fewer, balls to the k-th neighbour hold most of the set
SAMPLES_PER_FEATURE = 10  # of the Fréchet distance: at N = D + 1 it is 15 times what it is at N = 1,000
PAIRS = 500  # of slices whose MS-SSIM is averaged: of random images its mean is then known to about 0.005
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of MS-SSIM, finest first: Wang et al. 2003
MIN_GENERATORS = 4  # fewer: "n too small"; of 3, chance alone gives a perfect correlation in 1 of 3 cases
CHUNK = 512  # rows of a matrix of all pairs that are held at once


class TooFewSamples(ValueError):
    """A measure is not defined for so few samples."""


# ---- draws of people -----------------------------------------------------------------------------------------------


def equal_draws(people: Sequence[np.ndarray], most: int, seed: int, draws: int = DRAWS) -> list[np.ndarray]:
    """Row numbers [draws, n] of each set, one slice of each of n people: as many as the set with fewest has, or `most`.

    people: of each set, whose each of its slices is [N]. Where a set has more than n people, other ones are drawn each
    time; which slice of a person is drawn each time anew. A set's draws depend on n, but not on the other sets.
    """
    known = [np.unique(names, return_counts=True)[1] for names in people]
    count, found = min(most, *map(len, known)), []
    for number, (names, slices) in enumerate(zip(people, known, strict=True)):
        rng = np.random.default_rng([seed, number])
        by_person, first = np.argsort(names, kind="stable"), np.cumsum(slices) - slices
        chosen = np.stack([rng.choice(len(slices), count, replace=False) for _ in range(draws)])
        found.append(by_person[first[chosen] + rng.integers(slices[chosen])])
    return found


@dataclass(frozen=True)
class Drawn:
    """Features [N, D] of some slices, and which rows of them each draw has [draws, n]."""

    features: np.ndarray
    rows: np.ndarray

    def __iter__(self) -> Iterator[np.ndarray]:
        """The features [n, D] of each draw."""
        return (self.features[rows] for rows in self.rows)


def compare(synthetic: Drawn, reference: Drawn, floor: Drawn) -> dict[str, dict]:
    """All measures: `values` of synthetic and `floor` of held-out real, both against the reference, means over draws.

    Returns values, floor, their standard deviations over draws values_sd and floor_sd, and reasons, each by measure:
    frechet, kernel, precision, recall, density, coverage. A measure that needs more samples is None and has its reason.
    The Fréchet distance is that of the reference's leading principal components, as many as n allows: their number is
    `components`, `explained` the share of the reference's variance that they hold. Raises ValueError where draws are
    not equally many of equally many.
    """
    if not synthetic.rows.shape == reference.rows.shape == floor.rows.shape:
        shapes = ", ".join(f"{len(each.rows)} of {each.rows.shape[1]}" for each in (synthetic, reference, floor))
        raise ValueError(f"draws that differ in number or size cannot be compared: {shapes} (see equal_draws)")
    axes, explained = _principal_axes(reference, max(synthetic.rows.shape[1] // SAMPLES_PER_FEATURE, 1))
    measures = {
        ("frechet",): lambda a, b: [frechet_distance(a @ axes, b @ axes)],
        ("kernel",): lambda a, b: [kernel_distance(a, b)],
        ("precision", "recall", "density", "coverage"): precision_recall_density_coverage,
    }
    result = {part: {} for part in ("values", "values_sd", "floor", "floor_sd", "reasons")}
    for part, drawn in (("values", synthetic), ("floor", floor)):
        for names, measure in measures.items():
            mean = spread = [None] * len(names)
            try:
                numbers = np.array([measure(a, b) for a, b in zip(drawn, reference, strict=True)])
                mean, spread = numbers.mean(0).tolist(), numbers.std(0, ddof=1).tolist()
            except TooFewSamples as error:
                result["reasons"] |= dict.fromkeys(names, str(error))
            result[part] |= zip(names, mean, strict=True)
            result[f"{part}_sd"] |= zip(names, spread, strict=True)
    return {**result, "components": axes.shape[1], "explained": explained}


def _principal_axes(reference: Drawn, most: int) -> tuple[np.ndarray, float]:
    """The reference's leading principal axes [D, most or D], and the share of its variance along them."""
    drawn = reference.features[np.unique(reference.rows)].astype(np.float64)
    _, deviations, axes = np.linalg.svd(drawn - drawn.mean(0), full_matrices=False)
    variances = deviations**2
    return axes[:most].T, float(variances[:most].sum() / max(variances.sum(), np.finfo(float).tiny))


# ---- distances of distributions ------------------------------------------------------------------------------------


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance |µ_a − µ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½) of the Gaussians with these moments.

    In float64. Biased upwards in finite samples, the more the fewer samples a feature has: compare equally many. Dowson
    & Landau 1982; as a measure of generated images: Heusel et al. 2017, eq. 6. Raises TooFewSamples for fewer than 10
    samples a feature.
    """
    least = SAMPLES_PER_FEATURE * a.shape[-1]
    a, b = _comparable(a, b, least, f"the Fréchet distance of {counted(a.shape[-1], 'feature')}")
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
    lower. Raises TooFewSamples for fewer than 4 k, ValueError for features that differ in number or are not finite.
    """
    a, b = _comparable(features, reference, SAMPLES_PER_NEIGHBOUR * k, f"a ball to the nearest neighbour no. {k}")
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


def random_pairs(draws: np.ndarray, seed: int, count: int = PAIRS) -> np.ndarray:
    """Pairs [count, 2] of different columns of a row of draws [draws, n], so of slices of two people: two slices of one
    patient are alike in any set. Raises TooFewSamples where draws have a single person."""
    total, people = draws.shape
    if people < 2:
        raise TooFewSamples("pairs need slices of two people; there is one")
    rng = np.random.default_rng(seed)
    draw, first = np.arange(count) % total, rng.integers(people, size=count)
    second = (first + rng.integers(1, people, size=count)) % people
    return np.stack([draws[draw, first], draws[draw, second]], axis=1)


def brain_width(images: np.ndarray | Rows) -> float:
    """Diameter of a disc as large as the median brain of slices uint8 [N, C, H, W], in pixels."""
    starts = range(0, len(images), 64)
    areas = torch.cat([masked(images[start : start + 64], torch.device("cpu"))[1].sum((1, 2)) for start in starts])
    return float(2 * np.sqrt(np.median(areas.numpy()) / np.pi))


def scales(width: float) -> int:
    """How many scales MS-SSIM has: the paper's 5, as long as a brain of this width [px] fills a window on each."""
    return int(np.clip(np.log2(max(width, 1) / SSIM_WINDOW) + 1, 1, len(SCALE_WEIGHTS)))


def ms_ssim(images: np.ndarray, pairs: np.ndarray, levels: int, device: str | torch.device = "cpu") -> np.ndarray:
    """Mean multi-scale structural similarity of pairs of slices, one number per channel, [C]: lower is more varied.

    images: uint8 [N, C, H, W], a memory map welcome; pairs: rows [P, 2]; levels: see `scales`. Wang, Simoncelli & Bovik
    2003, eq. 7, with the weights of the finest `levels` scales normalized to sum 1; as a measure of diversity: Odena et
    al. 2017. Maps are averaged inside the brains, the union of both: black is like black, so that a wide border would
    make any two slices alike. Two slices without brain are equal.
    """
    total = np.zeros(images.shape[1])
    for start in range(0, len(pairs), 64):
        rows = pairs[start : start + 64]
        (a, mask_a), (b, mask_b) = (masked(images[rows[:, side]], torch.device(device)) for side in (0, 1))
        a, b, brain = _at_the_corner(a, b, (mask_a | mask_b)[:, None], 2 ** (levels - 1))
        total += _ms_ssim(a, b, brain, levels).double().sum(0).cpu().numpy()
    return total / len(pairs)


def _at_the_corner(a: Tensor, b: Tensor, brain: Tensor, multiple: int) -> tuple[Tensor, Tensor, Tensor]:
    """Both slices [P, C, H, W] and the brain, bool [P, 1, H, W], each pair moved until its brain begins in the first
    row and column, on a canvas that halves: however wide the border, the same pixels make one of a coarser scale."""
    places = []
    for across in (3, 2):  # whether a row has brain, then whether a column has
        has = brain.any(across)[:, 0].byte()
        first, last = has.argmax(1), has.shape[1] - has.flip(1).argmax(1)
        size = -(-int((last - first).max()) // multiple) * multiple
        places.append(first[:, None] + torch.arange(size, device=a.device))
    y, x = places
    everything = F.pad(torch.cat([a, b, brain.float()], 1), (0, x.shape[1], 0, y.shape[1]))
    pair = torch.arange(len(a), device=a.device)[:, None, None]
    moved = everything.movedim(1, -1)[pair, y[:, :, None], x[:, None]].movedim(-1, 1)
    return tuple(moved.split([a.shape[1], a.shape[1], 1], 1))


def _ms_ssim(a: Tensor, b: Tensor, brain: Tensor, levels: int) -> Tensor:
    """[P, C], of slices that are black outside the brain, as everything around them is."""
    weights = torch.tensor(SCALE_WEIGHTS[:levels], device=a.device)
    empty, result = brain.sum((1, 2, 3)) == 0, torch.ones(a.shape[:2], device=a.device)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    for level, weight in enumerate(weights / weights.sum()):
        mean_a, mean_b, squares, product = (_blurred(part) for part in (a, b, a * a + b * b, a * b))
        both = mean_a.square() + mean_b.square()
        similarity = (2 * (product - mean_a * mean_b) + c2) / (squares - both + c2)  # contrast and structure
        if level == levels - 1:
            similarity = similarity * (2 * mean_a * mean_b + c1) / (both + c1)  # and luminance
        mean = (similarity * brain).sum((2, 3)) / brain.sum((2, 3)).clamp(min=torch.finfo(brain.dtype).tiny)
        result = result * mean.clamp(min=0) ** weight
        a, b, brain = (F.avg_pool2d(part, 2) if level < levels - 1 else part for part in (a, b, brain))
    return torch.where(empty[:, None], 1.0, result)


def _blurred(images: Tensor) -> Tensor:
    """Under SSIM's Gaussian window, black around."""
    down, right = (gaussian_band(size, images.device) for size in images.shape[2:])
    return down @ (images @ right)


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
