"""Means of a table that is crossed, seeds × subjects: intervals and tests that hold with few of either.

A Dice matrix [seeds, subjects] has two sources of chance: another training gives another level (seeds), other patients
give other Dice (subjects). Both are estimated from the rows' and the columns' means; the residual of the two-way table,
which is in both, is taken off once; Satterthwaite's degrees of freedom say how well their sum is known (PROTOCOL,
section 3; Satterthwaite, Biometrics Bulletin 2:110, 1946).
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

MIN_SEEDS, MIN_SUBJECTS = 2, 6  # fewer: no interval, no margin passed or failed, no star
ONE_TRAINING = "not known with one training"
TOO_FEW = "n too small"
ROUNDING = 1e-9  # means that differ by less are equal


@dataclass(frozen=True)
class Estimate:
    """A number, the variance of its estimate, and the degrees of freedom of that variance."""

    value: float
    variance: float
    df: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        reach = stats.t.ppf((1 + level) / 2, self.df) * np.sqrt(self.variance)
        return self.value - reach, self.value + reach

    def lower_bound(self, alpha: float = 0.05) -> float:
        """One-sided: the value lies above with probability 1 − alpha."""
        return self.value - stats.t.ppf(1 - alpha, self.df) * np.sqrt(self.variance)

    def p_above(self, bound: float) -> float:
        """One-sided p of the null that the value is at most `bound`; at alpha it lies at `lower_bound(alpha)`."""
        return float(stats.t.sf(self._t(bound), self.df))

    def p_differs(self, null: float = 0.0) -> float:
        """Two-sided p of the null that the value is `null`."""
        return float(2 * stats.t.sf(abs(self._t(null)), self.df))

    def _t(self, null: float) -> float:
        distance = self.value - null
        if abs(distance) < ROUNDING:
            return 0.0
        if self.variance < ROUNDING**2:  # nothing varies: the difference is certain
            return float(np.copysign(np.inf, distance))
        return distance / np.sqrt(self.variance)


def why_unknown(*matrices: np.ndarray) -> str:
    """Why no interval can be given of Dice [seeds, subjects], or ""."""
    if min(len(dice) for dice in matrices) < MIN_SEEDS:
        return ONE_TRAINING
    return TOO_FEW if matrices[0].shape[1] < MIN_SUBJECTS else ""


def ratio(arm: np.ndarray, real: np.ndarray) -> Estimate:
    """Mean of `arm` over that of `real`, both [seeds, subjects], the same subjects in the same order.

    The ratio R = M / D is linearized: u_k = (m̄_k − R r̄_k) / D carries the subjects, and each arm's seeds its own part.
    An arm that never finds anything has 0 for certain.
    """
    D = real.mean()
    R = arm.mean() / D
    return Estimate(R, *_variance((arm.mean(0) - R * real.mean(0)) / D, (arm / D, R * real / D)))


def difference(arm: np.ndarray, real: np.ndarray) -> Estimate:
    """Mean of `arm` less that of `real`, both [seeds, subjects], the same subjects in the same order."""
    return Estimate(arm.mean() - real.mean(), *_variance(arm.mean(0) - real.mean(0), (arm, real)))


def mean(dice: np.ndarray) -> Estimate:
    """Mean of Dice [seeds, subjects]."""
    return Estimate(dice.mean(), *_variance(dice.mean(0), (dice,)))


def _variance(subjects: np.ndarray, arms: tuple[np.ndarray, ...]) -> tuple[float, float]:
    """Variance of a mean and its degrees of freedom: from `subjects` [K], one number each, and the arms' seeds."""
    K = len(subjects)
    total = subjects.var(ddof=1) / K
    denominator = total**2 / (K - 1)
    for dice in arms:
        S = len(dice)
        seeds = dice.mean(1).var(ddof=1) / S
        residual = dice - dice.mean(0) - dice.mean(1)[:, None] + dice.mean()
        shared = (residual**2).sum() / ((S - 1) * (K - 1)) / (S * K)  # stands in the subjects' part and in the seeds'
        total += max(seeds - shared, 0.0)
        denominator += seeds**2 / (S - 1)
    return float(total), float(total**2 / denominator) if denominator else np.inf
