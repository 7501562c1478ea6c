"""Intervals of crossed means against analysis of variance by statsmodels, limits known by hand, and simulation."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from analysis import crossed


@pytest.fixture
def dice():
    rng = np.random.default_rng(3)
    patients = rng.beta(5, 2, 9)
    return [ratio * patients + rng.normal(0, 0.03, (seeds, 9)) for ratio, seeds in ((0.9, 3), (1.0, 4))]


def mean_squares(matrix: np.ndarray) -> dict[str, float]:
    cells = [(str(seed), str(subject), value) for (seed, subject), value in np.ndenumerate(matrix)]
    table = anova_lm(ols("dice ~ seed + subject", pd.DataFrame(cells, columns=["seed", "subject", "dice"])).fit())
    return {"seed": table.loc["seed", "mean_sq"], "subject": table.loc["subject", "mean_sq"]} | {
        "residual": table.loc["Residual", "mean_sq"]
    }


def test_the_variance_of_a_mean_is_that_of_a_two_way_analysis_of_variance(dice):
    """(MS_subject + MS_seed − MS_residual) / (S K), with Satterthwaite's degrees of freedom."""
    for matrix in dice:
        matrix = matrix + np.linspace(0, 0.2, len(matrix))[:, None]  # seeds that differ by more than the residual
        S, K = matrix.shape
        square = mean_squares(matrix)
        estimate = crossed.mean(matrix)
        assert square["seed"] > square["residual"]
        assert estimate.variance == pytest.approx((square["subject"] + square["seed"] - square["residual"]) / (S * K))
        taken = square["subject"] ** 2 / (K - 1) + square["seed"] ** 2 / (S - 1)
        assert estimate.df == pytest.approx((estimate.variance * S * K) ** 2 / taken)


def test_the_ratio_by_its_formula(dice):
    """PROTOCOL, section 3, term by term."""
    arm, real = dice
    M, D, K = arm.mean(), real.mean(), arm.shape[1]
    subjects = np.var(arm.mean(0) / M - real.mean(0) / D, ddof=1) / K
    seeds, taken = 0.0, subjects**2 / (K - 1)
    for matrix, mean in ((arm, M), (real, D)):
        S, square = len(matrix), mean_squares(matrix)
        seeds += max(square["seed"] - square["residual"], 0) / (S * K * mean**2)
        taken += (square["seed"] / (S * K * mean**2)) ** 2 / (S - 1)
    estimate = crossed.ratio(arm, real)
    assert estimate.value == pytest.approx(M / D)
    assert estimate.variance == pytest.approx((M / D) ** 2 * (subjects + seeds))
    assert estimate.df == pytest.approx((subjects + seeds) ** 2 / taken)


def test_interval_bound_and_p_belong_together(dice):
    for estimate in (crossed.ratio(*dice), crossed.difference(*dice)):
        low, high = estimate.interval()
        assert estimate.p_differs(low) == pytest.approx(0.05)
        assert estimate.p_differs(high) == pytest.approx(0.05)
        assert estimate.p_above(estimate.lower_bound()) == pytest.approx(0.05)


def test_subjects_are_paired():
    """An arm that keeps exactly 0.9 of every patient has no uncertainty from patients, whatever they are."""
    patients = np.random.default_rng(0).beta(2, 2, 12) * np.ones((2, 1))
    assert crossed.ratio(0.9 * patients, patients).interval() == pytest.approx((0.9, 0.9), abs=1e-9)
    assert crossed.difference(patients - 0.1, patients).interval() == pytest.approx((-0.1, -0.1), abs=1e-9)


def test_with_the_same_seeds_over_and_over_the_difference_is_a_paired_t_test(dice):
    """No variance between seeds and none within: what is left is one number for each subject."""
    arm, real = (np.repeat(matrix[:1], 2, axis=0) for matrix in dice)
    expected = stats.ttest_rel(arm[0], real[0])
    assert crossed.difference(arm, real).p_differs() == pytest.approx(expected.pvalue)


def test_nothing_that_varies_is_certain():
    same = np.full((3, 8), 0.7)
    assert crossed.difference(same, same).p_differs() == 1
    assert crossed.difference(same, same + 0.1).p_differs() == 0
    assert crossed.ratio(same, same).interval() == (1, 1)


@pytest.mark.parametrize("seeds", [2, 3])
def test_intervals_cover_the_truth_as_often_as_they_promise_with_few_seeds(seeds):
    """The seeds' level differs by 0.02: the percentile bootstrap of seeds and subjects covers 83 % with two."""
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(1000):
        patients = rng.beta(5, 2, 30)
        arm, real = (
            ratio * patients
            + rng.normal(0, 0.04, 30)
            + rng.normal(0, 0.02, (seeds, 1))
            + rng.normal(0, 0.03, (seeds, 30))
            for ratio in (0.9, 1.0)
        )
        low, high = crossed.ratio(arm, real).interval()
        covered += low <= 0.9 <= high
    assert 930 <= covered <= 975  # 95 %, three standard errors of 0.7 points about it


@pytest.mark.parametrize(
    ("shape", "reason"), [((1, 30), "not known with one training"), ((3, 5), "n too small"), ((2, 6), "")]
)
def test_one_training_or_few_subjects_give_no_interval(shape, reason):
    assert crossed.why_unknown(np.zeros(shape), np.zeros((3, shape[1]))) == reason
