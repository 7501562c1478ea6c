"""Verdicts, by audits and attacks written by hand."""

import pytest

from analysis.limits import Limits, judge_images, judge_weights, not_kept


def audit(copied=0.02, honest=0.04, found=1.0, patients=20):
    levels = ("tau95", "tau99")
    return {
        "copied_share": dict.fromkeys(levels, copied),
        "honest_share": dict.fromkeys(levels, honest),
        "n_null_subjects": patients,
        "controls": {kind: {"copied": {"tau99": found}} for kind in ("exact", "mirrored", "blurred")}
        | {"turned 15°": {"copied": {"tau99": 0.0}}},
    }


def attack(low=0.4, band=0.6, critic="denoiser", without=()):
    names = [each for each in ("distance", "ratio", "attribute", "link", "white_box") if each not in without]
    verdict = {"auc_interval": [low, 0.9], "control": {"auc_band": [1 - band, band]}}
    reasons = {"membership": "too few patients"} if without else {}
    return {"attacks": dict.fromkeys(names, verdict), "critic": critic, "reasons": reasons}


def test_what_stays_within_every_limit_is_kept():
    images, weights = judge_images(audit(), attack(), 0.1, Limits()), judge_weights(audit(), attack(), Limits())
    assert not_kept([*images, *weights]) == []
    assert {verdict.about for verdict in images} == {"images"}
    assert {verdict.about for verdict in weights} == {"weights"}
    assert len({verdict.name for verdict in images}) == len(images) == 9


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        ({"audit": audit(copied=0.05)}, "share of slices copied at τ99 is 0.05, at most 0.04 is allowed"),
        ({"audit": audit(found=0.7)}, "is 0.7, at least 0.8 is needed"),
        ({"audit": audit(patients=9)}, "number of held-out patients is 9, at least 10 is needed"),
        ({"attack": attack(low=0.61)}, r"AUC of the attack link (lower bound) is 0.61, at most 0.6 is allowed"),
        ({"removed": 0.2}, "share of the set left out by the filter is 0.2, at most 0.1 is allowed"),
        (
            {"attack": attack(without=["ratio"])},
            "AUC of the attack ratio (lower bound) is not known, at most 0.5 is allowed (too few patients)",
        ),
    ],
)
def test_what_is_outside_is_named_with_its_value(spoiled, said):
    given = {"audit": audit(), "attack": attack(), "removed": 0.0} | spoiled
    failed = not_kept(judge_images(**given, limits=Limits()))
    assert failed
    assert any(said in verdict.sentence() for verdict in failed)


def test_limits_that_were_set_replace_those_of_chance():
    limits = Limits(copied=0.01, auc=0.3)
    failed = not_kept(judge_images(audit(), attack(), 0.0, limits))
    assert [(verdict.value, verdict.limit) for verdict in failed] == [(0.02, 0.01)] * 2 + [(0.4, 0.3)] * 4


def test_weights_of_a_gan_were_not_attacked_by_asking_its_discriminator():
    (failed,) = not_kept(judge_weights(audit(), attack(critic="discriminator"), Limits()))
    assert (failed.value, failed.passed) == (None, None)
    assert "discriminator" in failed.sentence()


def test_a_single_training_patient_leaves_copies_unknown():
    failed = not_kept(judge_images(audit(copied=None, found=None), attack(), 0.0, Limits()))
    assert [verdict.passed for verdict in failed] == [None] * 3
