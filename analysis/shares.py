"""Shares of slices above a threshold that a null sets: thresholds, tests and intervals, with people as clusters."""

import numpy as np
import pandas as pd
from scipy import stats

LEVELS = {"tau95": 0.95, "tau99": 0.99}
CONFIDENCE = 0.95
RESAMPLED = 500  # draws of people for an interval


def threshold(null: np.ndarray, level: float) -> float:
    """The percentile of the null that a further, unrelated slice exceeds with probability 1 − level.

    Of the textbook's percentiles, that is Weibull's, at rank level·(n + 1) (Hyndman & Fan 1996, type 6); the largest
    value when n + 1 < 1 / (1 − level).
    """
    return float(np.quantile(null, level, method="weibull"))


def expected_above(n: int, level: float) -> float:
    """Share of unrelated slices above `threshold` of a null of n: 1 − level, or 1 / (n + 1) where n is too small."""
    return max(1 - level, 1 / (n + 1))


def effective_size(scores: np.ndarray, subjects: np.ndarray) -> float:
    """How many independent slices carry as much information as these, which come several from a subject.

    Korn & Graubard, Survey Methodology 24 (1998): n / deff · (t_{n−1} / t_{S−1})², with deff the variance of a mean
    over S subjects relative to that over independent slices, and the t quantiles for how well S subjects tell it. deff
    is that of the scores' ranks: that of the indicator "above tau" rests on a handful of slices and is too small just
    when tau is (in simulation, 8–18 % false positives at alpha 0.05 instead of 1–7 %). One subject counts as one slice.
    """
    n, (names, cluster) = len(scores), np.unique(subjects, return_inverse=True)
    S, ranks = len(names), stats.rankdata(scores) - (n + 1) / 2
    if S in (1, n) or not ranks.any():
        return float(S)
    deff = S / (S - 1) * (np.bincount(cluster, ranks) ** 2).sum() / (ranks**2).sum()
    degrees = stats.t.ppf(CONFIDENCE, n - 1) / stats.t.ppf(CONFIDENCE, S - 1)
    return max(1.0, n / max(deff, 1.0) * degrees**2)


def p_value(share: float, n: float, n_null: float, expected: float) -> float:
    """Exact one-sided probability of at least this share above the threshold if the generator copies nothing.

    The number above a known threshold is binomial. But the threshold is the r-th of n null values, so an unrelated
    slice exceeds it with a probability that is itself random, Beta(n + 1 − r, r) of mean `expected`, and the number
    above is beta-binomial: exact for any distribution of similarities, and the binomial test where the null is large.
    Subjects are clusters on both sides: n and n_null are the effective sizes of the set and of its null.
    """
    n = int(n + 1e-9)
    return float(_number_above(n, n_null, expected).sf(int(share * n + 1e-9) - 1))


def honest_share(n: float, n_null: float, expected: float) -> float:
    """The share above the threshold that a generator which copies nothing exceeds with probability 0.05 at most."""
    n = int(n + 1e-9)
    cumulative = np.cumsum(_number_above(n, n_null, expected).pmf(np.arange(n + 1)))
    return float(np.searchsorted(cumulative, CONFIDENCE) / n)


def _number_above(n: int, n_null: float, expected: float) -> stats.rv_discrete:
    return stats.betabinom(n, expected * (n_null + 1), (1 - expected) * (n_null + 1))


def resampled_interval(
    values: np.ndarray,
    subjects: np.ndarray,
    null: np.ndarray,
    null_subjects: np.ndarray,
    level: float,
    rng: np.random.Generator,
) -> list[float]:
    """95 % interval of the share of `values` above the threshold of `null`: percentiles over draws with replacement of
    the subjects of both (cluster bootstrap; Davison & Hinkley 1997, section 3.8)."""
    _, cluster = np.unique(subjects, return_inverse=True)
    names, null_cluster = np.unique(null_subjects, return_inverse=True)
    sizes, shares = np.bincount(cluster), []
    for _ in range(RESAMPLED):
        weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)))
        limit = threshold(np.repeat(null, weights[null_cluster]), level)
        weights = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)))
        shares.append(weights @ np.bincount(cluster, values > limit, len(sizes)) / (weights @ sizes))
    return [float(limit) for limit in np.quantile(shares, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])]


def cross_fitted_rate(null: np.ndarray, subjects: np.ndarray, level: float) -> float | None:
    """Share of held-out slices [n] above the threshold of the *other* held-out subjects; None for a single subject."""
    names = np.unique(subjects)
    if len(names) == 1:
        return None
    above = [null[subjects == name] > threshold(null[subjects != name], level) for name in names]
    return float(np.concatenate(above).mean())


def patients_behind(found: pd.Series, above: np.ndarray, subjects: int, expected: float) -> dict:
    """Training subjects `found` [M] for at least one of the slices `above`, and the number by chance: each of M slices
    is above with probability `expected`, and goes to a subject as often as all slices do."""
    count = found[above].nunique()
    drawn = np.unique(found, return_counts=True)[1] / len(found)
    by_chance = (1 - (1 - expected * drawn) ** len(found)).sum()
    return {"count": int(count), "share": count / subjects, "count_by_chance": float(by_chance)}
