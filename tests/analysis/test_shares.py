import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import shares


def test_threshold_is_exceeded_by_the_share_it_names():
    null = np.random.default_rng(0).permutation(np.arange(1, 100.0))
    assert shares.threshold(null, 0.95) == pytest.approx(95)  # rank 95 of 99: 1 − 95/100 above
    assert shares.threshold(null, 0.99) == pytest.approx(99)
    assert shares.threshold(null[:30], 0.99) == null[:30].max()


def test_p_value_tends_to_the_binomial_test():
    p = shares.p_value(25 / 300, 300, 200_000, 0.05)
    assert p == pytest.approx(stats.binomtest(25, 300, 0.05, alternative="greater").pvalue, rel=0.02)


def test_p_value_counts_rankings_when_the_null_is_small():
    # With 19 null values the threshold is their largest. All orders of 19 + 2 values are equally likely.
    one, both = (shares.p_value(hits / 2, 2, 19, 0.05) for hits in (1, 2))
    assert one == pytest.approx(2 / 21)
    assert both == pytest.approx(2 / (21 * 20))


def test_repeated_slices_count_once():
    rng, names = np.random.default_rng(0), np.repeat(np.arange(40), 25)
    assert 36 < shares.effective_size(np.repeat(rng.random(40), 25), names) < 41  # 25 say the same
    assert shares.effective_size(rng.random(1000), names) > 500
    assert shares.effective_size(rng.random(1000), np.zeros(1000)) == 1


@pytest.mark.parametrize("level", [0.95, 0.99])
def test_false_positives_with_several_slices_a_subject(level):
    rng, trials, positive, share, noisy = np.random.default_rng(0), 200, 0, 0.0, 0
    names = np.repeat(np.arange(30), 10)
    expected = shares.expected_above(len(names), level)
    for _ in range(trials):
        null = rng.normal(size=30)[names] + rng.normal(size=300)
        above = (rng.normal(0, np.sqrt(2), 500) > shares.threshold(null, level)).mean()
        n_null = shares.effective_size(null, names)
        positive += shares.p_value(above, 500, n_null, expected) <= 0.05
        noisy += above > shares.honest_share(500, n_null, expected)
        share += above / trials
    assert positive / trials < 0.1  # 0.05 and three standard errors; with tau taken as known it would be 0.29
    assert noisy <= positive
    assert share == pytest.approx(1 - level, abs=0.01)


def test_the_share_that_honest_sets_exceed_counts_rankings():
    # One of two new values above the largest of 19: 2/21 of all orders. Both: 2/(21·20), so 1 in 20 exceed 0, not 0.5.
    assert shares.honest_share(2, 19, 0.05) == 0.5


def test_intervals_resample_people_of_the_set_and_of_the_null(monkeypatch):
    monkeypatch.setattr(shares, "RESAMPLED", 100)
    rng, covered, trials = np.random.default_rng(0), 0, 40
    names, null_names = np.repeat(np.arange(25), 8), np.repeat(np.arange(40), 8)

    def drawn(names):
        return (rng.normal(size=len(set(names)))[names] + rng.normal(size=len(names))) / np.sqrt(2)

    for _ in range(trials):
        low, high = shares.resampled_interval(drawn(names), names, drawn(null_names), null_names, 0.8, rng)
        covered += low <= 0.2 <= high
    assert covered / trials > 0.85  # 0.95 less three standard errors


def test_an_interval_of_equal_people_has_no_width_but_the_null_s():
    values, null = np.tile([0.0, 2.0], 10), np.tile([0.0, 1.0], 10)
    people, rng = np.repeat(np.arange(10), 2), np.random.default_rng(0)
    assert shares.resampled_interval(values, people, null, people, 0.95, rng) == [0.5, 0.5]


def test_cross_fitting_by_hand():
    null, subjects = np.array([1.0, 2, 3, 10]), np.array(["a", "a", "b", "b"])
    assert shares.cross_fitted_rate(null, subjects, 0.95) == 0.5  # 3 and 10 above 2; 1 and 2 not above 10
    assert shares.cross_fitted_rate(null[:2], subjects[:2], 0.95) is None


def test_patients_by_hand():
    found = pd.Series(["a", "a", "b", "c"])
    patients = shares.patients_behind(found, np.array([True, True, False, True]), 5, 0.1)
    assert (patients["count"], patients["share"]) == (2, 0.4)
    assert patients["count_by_chance"] == pytest.approx(1 - 0.95**4 + 2 * (1 - 0.975**4))
