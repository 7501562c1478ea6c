"""Verdicts on scores: against formulas by hand, enumeration and simulation."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import attacks_statistics as judged


def _pairs(members, held_out):
    """AUC by its definition: every pair, ties half."""
    return np.mean([(m > h) + (m == h) / 2 for m in members for h in held_out])


def test_auc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    for m, n in ((1, 4), (7, 5), (30, 6)):
        members, held_out = rng.integers(0, 8, m) + 1.0, rng.integers(0, 8, n) * 1.0  # many ties
        assert judged.auc(members, held_out) == pytest.approx(_pairs(members, held_out))


def test_true_positives_by_hand():
    held_out = np.array([0.1, 0.5, 0.3, 0.2])
    assert judged.true_positives(np.array([0.6, 0.5, 0.4, 0.7]), held_out) == 0.5  # above all four, a tie is not
    many = np.arange(200.0)  # two of 200 may be taken for members: the threshold is the third highest, 197
    assert judged.true_positives(np.array([197, 197.5, 198, 500]), many) == 0.75
    assert [judged.allowed(n) for n in (99, 100, 199, 200)] == [0, 1, 1, 2]


def test_true_positives_by_chance_are_those_of_people_like_the_others():
    rng = np.random.default_rng(0)
    for n in (6, 120):
        found = [judged.true_positives(rng.normal(size=20), rng.normal(size=n)) for _ in range(2000)]
        assert np.mean(found) == pytest.approx(judged.by_chance(n), abs=4 * np.std(found) / np.sqrt(2000))


@pytest.mark.parametrize(("m", "n", "shift"), [(30, 6, 0.0), (30, 6, 1.0), (8, 6, 2.5), (128, 26, 0.5)])
def test_the_interval_of_an_auc_holds_the_truth_in_about_95_of_100(m, n, shift):
    rng, truth, held = np.random.default_rng(1), stats.norm.cdf(shift / np.sqrt(2)), 0
    for _ in range(400):
        value = judged.auc(rng.normal(shift, 1, m), rng.normal(0, 1, n))
        low, high = judged.auc_interval(value, m, n)
        assert 0 <= low <= value <= high <= 1
        held += low <= truth <= high
    assert 0.92 <= held / 400 <= 0.99


def test_the_interval_has_a_width_where_all_or_none_are_told_apart():
    low, high = judged.auc_interval(1.0, 30, 6)
    assert (high, 0.7 < low < 0.9) == (1.0, True)
    assert judged.auc_interval(0.0, 30, 6) == pytest.approx([1 - high, 1 - low])


def test_the_control_of_few_people_is_that_of_all_halves():
    held_out = np.array([0.3, 0.1, 0.9, 0.9, 0.5])
    of_halves, _ = judged.halves(held_out, 0)
    every = []
    for chosen in combinations(range(5), 2):
        half, rest = held_out[list(chosen)], np.delete(held_out, chosen)
        every += [_pairs(half, rest), _pairs(rest, half)]
    assert of_halves.mean() == pytest.approx(0.5)
    assert set(of_halves.round(9)) == set(np.round(every, 9))
    for value in set(every):
        assert (of_halves <= value + 1e-9).mean() == pytest.approx(np.mean(np.array(every) <= value + 1e-9), abs=0.05)


def test_the_control_s_true_positives_are_those_by_chance():
    rng = np.random.default_rng(0)
    _, found = judged.halves(rng.normal(size=26), 0)
    assert found.mean() == pytest.approx(judged.by_chance(13), abs=0.01)


def test_risk_is_what_is_gained_of_what_is_left():
    assert judged.risk(0.8, 0.5) == pytest.approx(0.6)
    assert judged.risk(0.5, 0.5) == 0
    assert judged.risk(0.2, 0.6) == pytest.approx(-1)
    assert judged.risk(1.0, 1.0) is None


def test_the_interval_of_a_share_is_clopper_and_pearson_s():
    for k, n in ((0, 6), (3, 10), (10, 10)):
        found = stats.binomtest(k, n).proportion_ci(method="exact")
        assert judged.share_interval(k, n) == pytest.approx([found.low, found.high])


def test_judged_all_together():
    rng = np.random.default_rng(0)
    scores, member = np.concatenate([rng.normal(2, 1, 30), rng.normal(0, 1, 20)]), np.arange(50) < 30
    shuffled = rng.permutation(50)
    found = judged.judge(scores[shuffled], member[shuffled])
    assert found["auc"] == pytest.approx(_pairs(scores[:30], scores[30:]))
    assert found["risk"] == pytest.approx(2 * found["auc"] - 1)
    assert found["risk_interval"] == pytest.approx([2 * bound - 1 for bound in found["auc_interval"]])
    assert found["true_positives"] == np.mean(scores[:30] > scores[30:].max())
    assert (found["members"], found["held_out"]) == (30, 20)
    assert found["control"]["auc"] == pytest.approx(0.5)
    low, high = found["control"]["auc_band"]
    assert 0.2 < low < 0.5 < high < 0.8 < found["auc"]
    assert found["control"]["p_value"] < 0.01
    assert found["p_value"] < 1e-4


def test_p_values_of_an_attack_that_finds_nothing_are_uniform():
    rng = np.random.default_rng(0)
    found = [judged.judge(rng.normal(size=30), np.arange(30) < 20, seed=i) for i in range(300)]
    for values in ([each["p_value"] for each in found], [each["control"]["p_value"] for each in found]):
        assert np.mean(np.array(values) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
    assert np.mean([each["p_value"] for each in found]) == pytest.approx(0.5, abs=0.06)


def test_too_few_patients_and_scores_that_are_no_number_are_refused():
    with pytest.raises(judged.TooFewPatients, match="7 members and 1 held-out"):
        judged.judge(np.arange(8.0), np.arange(8) < 7)
    with pytest.raises(judged.TooFewPatients, match="0 members"):
        judged.judge(np.arange(8.0), np.zeros(8, bool))
    with pytest.raises(ValueError, match="1 of 8 patients' scores are not finite"):
        judged.judge(np.array([np.nan, *range(7)]), np.arange(8) < 4)


def test_canaries_are_judged_apart_and_p_is_adjusted_for_all_attacks():
    rng = np.random.default_rng(0)
    people = pd.DataFrame({"patient": np.arange(60).astype(str), "member": np.arange(60) < 40, "times": 1})
    people.loc[:9, "times"] = np.repeat([16, 4], 5)
    for strength, name in ((2.0, "strong"), (0.0, "none")):
        people[name] = rng.normal(size=60) + strength * people["member"] * people["times"]
    found, reasons = judged.judge_all(people)
    assert reasons == {}
    held_out, usual = people[~people["member"]], people[people["member"] & (people["times"] == 1)]
    for name in ("strong", "none"):
        assert found[name]["members"] == 30
        assert found[name]["auc"] == pytest.approx(_pairs(usual[name], held_out[name]))
        for times in (4, 16):
            canaries = people.loc[people["times"] == times, name]
            expected = {"auc": pytest.approx(_pairs(canaries, held_out[name])), "patients": 5}
            assert found[name]["canaries"][str(times)].items() >= expected.items()
    assert found["strong"]["canaries"]["16"]["auc"] == 1
    p = {name: each["p_value"] for name, each in found.items()}
    assert p["strong"] < 0.05
    assert found["strong"]["p_adjusted"] == pytest.approx(2 * p["strong"])
    assert found["none"]["p_adjusted"] == pytest.approx(max(p["none"], 2 * p["strong"]))
    few, reasons = judged.judge_all(people.iloc[:41])
    assert few == {}
    assert reasons == dict.fromkeys(
        ("strong", "none"), "30 members and 1 held-out patients; at least 1 and 2 are needed"
    )


def test_linked_shares_by_hand():
    people = pd.DataFrame({"member": [True] * 4 + [False] * 2, "linked": [1, 1, 1, 0.6, 0.5, 0.5]})
    found = judged.linked_shares(people, pool=10)  # more were among the pool than are counted: canaries
    assert found["members"] == pytest.approx(0.9)
    assert (found["held_out"], found["by_chance"]) == (0.5, 0.1)
    assert found["risk"] == pytest.approx(0.8)
    low, high = found["members_interval"]
    assert low < 0.9 < high <= 1
