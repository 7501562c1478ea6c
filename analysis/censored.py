"""A straight line through values of which brackets alone are known: interval-censored normal regression.

Value i lies between low[i] and high[i], −∞ or ∞ where a side is open, and is normal with mean a + b x[i] and standard
deviation σ, so that its likelihood is Φ((high − a − b x) / σ) − Φ((low − a − b x) / σ). In 1/σ, a/σ and b/σ the
logarithm of that is concave (Burridge, J R Stat Soc B 43:41, 1981): Newton's steps that end have found the maximum.
"""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats
from scipy.special import log_ndtr

STEEPEST = 100.0  # a slope beyond has no bound


@dataclass(frozen=True)
class Line:
    """intercept + slope · x; low, high: the slope's 95 % interval, None where it has no end."""

    slope: float
    intercept: float
    low: float | None
    high: float | None


def line(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> Line | None:
    """The most likely line through brackets low..high [n] at x [n], at least three of them closed above; None where the
    likelihood has no maximum: it goes on rising as the line grows steeper.

    Interval: the slopes b whose profile likelihood l(b) has 2 (max l − l(b)) ≤ n log(1 + t² / (n − 2)), with Student's
    0.975 quantile t of n − 2 degrees of freedom and n counting the brackets closed above: of values known exactly, that
    is the interval of least squares. Where lines run through all brackets these are equally likely, with σ = 0: the
    slope is the middle of theirs.
    """
    at, middle = x.mean(), np.concatenate([low, high])
    middle = middle[np.isfinite(middle)].mean()
    x, low, high = x - at, low - middle, high - middle

    def profile(slope: float) -> float:
        return _most_likely(np.ones((len(x), 1)), low - slope * x, high - slope * x)[0]

    through = _through_all(x, low, high)
    if through is None:
        best, (intercept, slope) = _most_likely(np.stack([np.ones_like(x), x], 1), low, high)
    else:
        slope = sum(through) / 2
        best, intercept = profile(slope), ((low - slope * x).max() + (high - slope * x).min()) / 2
    if abs(slope) > STEEPEST or best - max(profile(-STEEPEST), profile(STEEPEST)) < 1e-3:
        return None
    n = int(np.isfinite(high).sum())
    allowed = n / 2 * np.log1p(stats.t.ppf(0.975, n - 2) ** 2 / (n - 2))
    ends = [_end(lambda b: best - profile(b) - allowed, slope, sign) for sign in (-1, 1)]
    bounds = ends if None not in ends else [None, None]
    return Line(float(slope), float(intercept + middle - slope * at), *bounds)


def _end(gap, slope: float, sign: int) -> float | None:
    """Where the gap, negative at the slope, is zero on one side of it."""
    step = 0.1
    while gap(slope + sign * step) < 0:
        if step > STEEPEST:
            return None
        step *= 2
    return float(optimize.brentq(gap, slope + sign * step / 2 * (step > 0.1), slope + sign * step, xtol=1e-6))


def _through_all(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[float, float] | None:
    """The least and the greatest slope of the lines that run through every bracket; None where none does."""
    design = np.stack([np.ones_like(x), x], 1)
    sides, limits = np.concatenate([design, -design]), np.concatenate([high, -low])
    closed, found = np.isfinite(limits), []
    for sign in (1, -1):
        bounds = [(None, None), (-2 * STEEPEST, 2 * STEEPEST)]
        solved = optimize.linprog([0, sign], sides[closed], limits[closed], bounds=bounds)
        if not solved.success:
            return None
        found.append(float(solved.x[1]))
    return found[0], found[1]


def _most_likely(design: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[float, np.ndarray]:
    """The greatest log-likelihood, and its coefficients of the design [n, k]."""
    closed = np.concatenate([low[np.isfinite(low)], high[np.isfinite(high)]])
    scale = max(closed.std(), 0.1)  # of a first guess, 1/σ = 1 in its units
    ends = []
    for end in (low, high):  # an open one is nowhere near, whatever σ is
        known = np.isfinite(end)
        ends.append((known, np.column_stack([np.where(known, end, 0) / scale, -design]), np.where(known, 0, end)))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """−log-likelihood, its gradient and Hessian."""
        (_, from_low, _), (_, from_high, _) = ends
        z = [rows @ parameters + away for _, rows, away in ends]
        logarithm = _log_between(*z)
        z = [np.where(known, value, 0) for value, (known, _, _) in zip(z, ends, strict=True)]
        lower, upper = (
            np.where(known, np.exp(-(value**2) / 2 - np.log(2 * np.pi) / 2 - logarithm), 0)
            for value, (known, _, _) in zip(z, ends, strict=True)
        )
        each = upper[:, None] * from_high - lower[:, None] * from_low
        curved = (from_high.T * (upper * z[1])) @ from_high - (from_low.T * (lower * z[0])) @ from_low
        return -logarithm.sum(), -each.sum(0), curved + each.T @ each

    at = np.array([1.0, *np.zeros(design.shape[1])])
    value, gradient, hessian = loss(at)
    for _ in range(200):  # Newton's steps, halved until they pay
        step = np.linalg.solve(hessian + 1e-9 * np.eye(len(at)), gradient)
        if gradient @ step < 1e-10:
            break
        for size in 0.5 ** np.arange(50):
            if at[0] > size * step[0] and (tried := loss(at - size * step))[0] < value:
                break
        else:  # no better than rounding allows
            break
        at, (value, gradient, hessian) = at - size * step, tried
    return -float(value), scale * at[1:] / at[0]


def _log_between(below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """log(Φ(above) − Φ(below)), in the tail where it does not cancel."""
    flipped = below > 0
    below, above = np.where(flipped, -above, below), np.where(flipped, -below, above)
    top = log_ndtr(above)
    return top + np.log(-np.expm1(log_ndtr(below) - top))
