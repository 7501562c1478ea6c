"""Verdicts, by audits and attacks written by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.attacks_statistics import judge_all
from analysis.limits import Limits, Verdict, judge_images, judge_weights, least_kept, not_kept


def audit(copied=0.02, honest=0.04, found=1.0, patients=20):
    levels = ("tau95", "tau99")
    return {
        "copied_share": dict.fromkeys(levels, copied),
        "honest_share": dict.fromkeys(levels, honest),
        "n_null_subjects": patients,
        "controls": {kind: {"copied": {"tau99": found}} for kind in ("exact", "mirrored", "blurred")}
        | {"turned 15°": {"copied": {"tau99": 0.0}}},
    }


def attack(p=0.2, high=0.7, critic="denoiser", without=(), canaries=0):
    names = [each for each in ("distance", "ratio", "attribute", "link", "white_box") if each not in without]
    verdict = {"auc_interval": [0.4, high], "p_adjusted": p}
    reasons = {"membership": "too few patients"} if without else {}
    found = {"attacks": dict.fromkeys(names, verdict), "critic": critic, "reasons": reasons}
    return found | {"patients": {"canaries": canaries}}


def images(audit=audit(), attack=attack(), whole_attack=attack(), removed=0.1, limits=Limits(), **keys):  # noqa: B008
    return judge_images(audit, attack, whole_attack, removed, limits, **keys)


def test_what_stays_within_every_limit_is_kept():
    kept, weights = images(), judge_weights(audit(), attack(), Limits())
    assert not_kept([*kept, *weights]) == []
    assert {verdict.about for verdict in kept} == {"images"}
    assert {verdict.about for verdict in weights} == {"weights"}
    assert len({verdict.name for verdict in kept}) == len(kept) == 10


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        ({"audit": audit(copied=0.05)}, "share of slices copied at τ99 is 0.05, at most 0.04 is allowed"),
        ({"audit": audit(found=0.7)}, "is 0.7, at least 0.8 is needed"),
        ({"audit": audit(patients=9)}, "number of held-out patients is 9, at least 10 is needed"),
        ({"attack": attack(p=0.01)}, "p of the attack link is 0.01, at least 0.05 is needed"),
        ({"whole_attack": attack(p=0.01)}, "p of the attack link is 0.01, at least 0.05 is needed"),  # filtered away
        ({"whole_attack": attack(canaries=4)}, "patients shown more often on purpose is 4, at most 0 is allowed"),
        ({"removed": 0.2}, "share of the set left out by the filter is 0.2, at most 0.1 is allowed"),
        (
            {"attack": attack(without=["ratio"])},
            "p of the attack ratio is not known, at least 0.05 is needed (too few patients)",
        ),
    ],
)
def test_what_is_outside_is_named_with_its_value(spoiled, said):
    failed = not_kept(images(**spoiled))
    assert failed
    assert any(said in verdict.sentence() for verdict in failed)


def test_limits_that_were_set_count_what_cannot_be_ruled_out():
    failed = not_kept(images(limits=Limits(copied=0.01, auc=0.6)))
    assert [(verdict.value, verdict.limit) for verdict in failed] == [(0.02, 0.01)] * 2 + [(0.7, 0.6)] * 4
    (before,) = {verdict.value for verdict in images(whole_attack=attack(high=0.8), limits=Limits(auc=0.9))[3:10:2]}
    assert before == 0.8  # of the set before and after the filter, the worse


def test_an_attack_that_finds_something_fails_though_little_is_surely_reached():
    """20 members and 10 outsiders: the interval is wide, but p, scipy's Mann–Whitney, is below 0.05."""
    rng = np.random.default_rng(3)
    people = pd.DataFrame({"patient": range(30), "member": np.arange(30) < 20, "times": 1})
    people["distance"] = rng.normal(size=30) + 1.5 * people["member"]
    found, _ = judge_all(people)
    p = stats.mannwhitneyu(
        *(people.loc[people["member"] == m, "distance"] for m in (True, False)), alternative="greater"
    )
    assert p.pvalue < 0.05
    given = attack(without=["ratio", "attribute", "link"]) | {"attacks": found}
    failed = [verdict for verdict in images(attack=given, whole_attack=given) if verdict.passed is False]
    assert [(verdict.name, verdict.value) for verdict in failed] == [
        ("p of the attack distance", pytest.approx(p.pvalue))
    ]
    few = attack(p=0.05)  # which the card calls found
    assert len(not_kept(images(attack=few))) == 4


def test_of_a_sent_set_copies_and_attacks_are_not_judged():
    for verdicts in (images(sent=True), judge_weights(audit(), attack(), Limits(), sent=True)):
        failed = not_kept(verdicts)
        assert {(verdict.value, verdict.passed) for verdict in failed} == {(None, None)}
        assert {verdict.reason for verdict in failed} == {"whom its generator learned from is not known"}
        kept = {verdict.name.split(",")[0] for verdict in verdicts if verdict.passed}
        assert {"number of held-out patients", "share of planted copies found"} <= kept
        assert not [name for name in kept if "copied" in name or "attack" in name]


def test_without_a_filter_no_limit_speaks_of_one():
    assert not [verdict for verdict in images(removed=None) if "filter" in verdict.name]


@pytest.mark.parametrize("least", [False, True])
def test_the_worst_is_unknown_or_farthest_beyond_its_own_limit(least):
    sign = -1 if least else 1
    given = [Verdict("x", sign * v, sign * limit, v <= limit, "images", least) for v, limit in ((5, 9), (3, 2), (8, 6))]
    assert least_kept(given) == given[2]
    assert least_kept(given[:1] * 2 + [Verdict("x", sign * 4, sign * 5, True, "images", least)]).value == sign * 4
    assert least_kept([*given, Verdict("x", None, 1, None, "images", least)]).value is None


def test_weights_of_a_gan_were_not_attacked_by_asking_its_discriminator():
    (failed,) = not_kept(judge_weights(audit(), attack(critic="discriminator"), Limits()))
    assert (failed.value, failed.passed) == (None, None)
    assert "discriminator" in failed.sentence()


def test_a_single_training_patient_leaves_copies_unknown():
    failed = not_kept(images(audit=audit(copied=None, found=None)))
    assert [verdict.passed for verdict in failed] == [None] * 3
