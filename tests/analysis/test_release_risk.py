"""The card's words, from numbers made by hand."""

import pandas as pd
import pytest

from analysis.limits import LEFT_OUT, Limits, Verdict, judge_images, judge_weights
from analysis.release_risk import (
    ATTACKED,
    PLAIN,
    attack_row,
    copies_row,
    images_row,
    not_tried_row,
    of_100,
    unsettled,
    use_row,
    weights_row,
    worst_kept_row,
    worst_row,
)


def verdict(auc=0.58, interval=(0.44, 0.71), band=(0.28, 0.72), held_out=26, p=0.2, **changes):
    """An attack's verdict with a control of 0.5, so that the risk is 2 AUC − 1."""
    return {
        "auc": auc,
        "auc_interval": list(interval),
        "true_positives": 0.07,
        "true_positives_by_chance": 0.04,
        "p_adjusted": p,
        "control": {"auc": 0.5, "auc_band": list(band)},
        "risk": 2 * auc - 1,
        "risk_interval": [2 * bound - 1 for bound in interval],
        "members": 128,
        "held_out": held_out,
        "canaries": {},
    } | changes


def attack(critic="denoiser", linked=None, reasons=None, **verdicts):
    return {"attacks": verdicts, "linked": linked, "critic": critic, "reasons": reasons or {}} | {
        "patients": {"canaries": 0}
    }


def words(row):
    return " ".join([row.finding, *row.words])


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0"), (0.002, "fewer than 1"), (0.01, "1"), (0.584, "58"), (0.997, "more than 99"), (1, "100")],
)
def test_shares_are_told_of_a_hundred_and_none_and_all_are_just_that(share, text):
    assert of_100(share) == text


def test_an_attack_stands_beside_its_interval_its_control_and_its_risk():
    row = attack_row("Singling out", [attack(ratio=verdict())])
    assert "named in 58 of 100 pairs" in row.finding
    assert "95 % interval 44 to 71; control, by chance, 28 to 72" in words(row)
    assert "of 100 pairs that the control loses, the attack wins 16 (none to 42)" in words(row)
    assert "While accusing none of 26 outsiders wrongly, the attacker recognises 7 of 100 patients (by chance 4)" in (
        words(row)
    )
    assert (row.status, row.verdict) == ("open", "Not found, but up to 42 of 100 not ruled out")
    assert "risk 0.16 [−0.12, 0.42]" in row.numbers
    assert (row.scale.value, list(row.scale.interval), row.scale.control) == (0.58, [0.44, 0.71], [0.28, 0.72])


def test_what_was_found_is_said_and_what_is_all_but_ruled_out_is_good():
    assert attack_row("Inference", [attack(attribute=verdict(p=0.049))]).verdict == "Found"
    large = verdict(auc=0.51, interval=(0.48, 0.54))
    row = attack_row("Inference", [attack(attribute=large)])
    assert (row.status, row.verdict) == ("good", "Not found, but up to 8 of 100 not ruled out")


def test_with_a_hundred_outsiders_one_may_be_accused():
    assert "accusing at most 1 of 150 outsiders" in words(
        attack_row("Singling out", [attack(ratio=verdict(held_out=150))])
    )


def test_of_several_sets_the_worst_decides():
    sets = [attack(link=verdict(auc=auc, p=0.3)) for auc in (0.5, 0.66, 0.6)]
    row = attack_row("Linkability", sets)
    assert "in 66 of 100 pairs" in row.finding
    assert "one of 3 sets, which have 50 to 66" in words(row)


def test_of_several_sets_one_on_which_something_was_found_is_shown():
    sets = [attack(link=verdict(auc=auc, p=p)) for auc, p in ((0.645, 0.02), (0.649, 0.08), (0.6, 0.3))]
    row = attack_row("Linkability", sets)
    assert row.verdict == "Found"  # on one of them is enough
    assert "p 0.02" in row.numbers
    assert "which have 60 to 65" in words(row)
    audits = [audit(share, p) for share, p in ((0.05, 0.2), (0.04, 0.01))]
    copies = copies_row(audits, None)
    assert copies.verdict == "More than by chance"
    assert "Of 100 synthetic slices 4 look" in copies.finding
    assert "one of 2 sets, which have 4 to 5" in words(copies)
    assert "p 0.010" in copies.numbers


def test_linked_parts_are_told_of_patients_and_of_outsiders():
    linked = {"members": 0.9, "held_out": 0.6, "by_chance": 1 / 12}
    row = attack_row("Linkability", [attack(link=verdict(), linked=linked)])
    assert "the parts of 90 of 100 patients are brought together, and of 60 of 100 outsiders (by guessing 8)" in (
        words(row)
    )


def test_the_attack_beside_other_people_speaks_where_there_are_any():
    both = attack(ratio=verdict(auc=0.6), distance=verdict(auc=0.9))
    assert "60 of 100" in attack_row("Singling out", [both]).finding
    assert "90 of 100" in attack_row("Singling out", [attack(distance=verdict(auc=0.9))]).finding


@pytest.mark.parametrize(
    ("title", "key"), [("Singling out", "membership"), ("Linkability", "linkage"), ("Inference", "attribute")]
)
def test_without_a_verdict_stands_the_reason(title, key):
    row = attack_row(title, [attack(reasons={key: "1 members and 0 held-out patients"})])
    assert (row.status, row.verdict, row.numbers) == ("none", "Not judged", "")
    assert "There is no verdict: 1 members and 0 held-out patients." in words(row)
    assert "the attack was not run" in words(attack_row(title, []))


def test_a_control_that_never_fails_leaves_no_risk():
    row = attack_row("Inference", [attack(attribute=verdict(risk=None, risk_interval=[None, None]))])
    assert "Risk: none can be told" in words(row)
    assert "risk not defined" in row.numbers
    assert row.status == "open"


def test_patients_shown_on_purpose_tell_whether_the_attack_sees():
    shown = {"4": {"auc": 0.7, "patients": 5}, "16": {"auc": 0.97, "patients": 6}}
    row = attack_row("Singling out", [attack(ratio=verdict(canaries=shown))])
    assert "For 6 patients shown 16 times on purpose, whom a sound attack finds, it is 97 of 100 pairs" in words(row)


def limit(name, value, most, passed, about="images", **keys):
    return Verdict(name, value, most, passed, about, **keys)


def test_images_are_judged_by_their_limits():
    kept = [limit("share copied", 0.01, 0.05, True), limit("number of held-out patients", 26, 10, True, least=True)]
    row = images_row(kept)
    assert (row.status, row.verdict) == ("good", "Within all 2 limits")
    assert row.numbers == "share copied is 0.01, at most 0.05 is allowed; outsiders: 26 (at least 10)"
    row = images_row([*kept, limit("AUC", 0.81, 0.72, False), limit("AUC of link", None, 0.72, None, reason="no time")])
    assert (row.status, row.verdict) == ("bad", "Outside 2 of 4 limits")
    assert "AUC is 0.81, at most 0.72 is allowed" in words(row)
    assert "not judged (no time): AUC of link." in words(row)
    assert "What could not be judged counts as not kept" in words(row)
    assert "before and after the filter" in words(images_row([*kept, limit(LEFT_OUT, 0.0, 0.1, True)]))
    assert images_row([]).status == "none"


def test_limits_are_told_in_plain_words():
    rates = {kind: {"copied": {"tau99": 1.0}} for kind in ("exact", "mirrored", "blurred")}
    found = {"copied_share": {"tau95": 0.02, "tau99": 0.12}, "honest_share": {"tau95": 0.08, "tau99": 0.025}}
    found |= {"controls": rates, "n_null_subjects": 26}
    attacks = attack(link=verdict(interval=(0.8, 0.9), p=0.00002), reasons={"membership": "no time"})
    limits = Limits(auc=0.72)
    every = [*judge_images(found, attacks, attacks, 0.0, limits), *judge_weights(found, attacks, limits)]
    row = images_row([each for each in every if each.about == "images"])
    text = words(row)
    assert "slices that look like copies, to a strict eye: 12 of 100 (at most 2.5)" in text
    assert "chance as good as joining parts of a scan: less than 0.01 of 100 times (at least 5)" in text
    assert "pairs won by joining parts of a scan, at the worst: 90 of 100 (at most 72)" in text
    unknown = (
        "not judged (no time): chance as good as closeness to the set, pairs won by closeness to the set, at the worst"
    )
    assert unknown in text
    assert "lenient" not in text
    assert {each.name for each in every} == PLAIN.keys()


@pytest.mark.parametrize("name", ["distance", "ratio", "attribute", "link"])
@pytest.mark.parametrize("p", [1e-9, 0.02, 0.05, 0.0501, 0.9])
@pytest.mark.parametrize("most", [None, 1.0])
def test_images_are_never_within_all_limits_above_something_found(name, p, most):
    """Whatever the interval: a wide one around an AUC that cannot be chance is found all the same."""
    audited = audit() | {"honest_share": {"tau95": 1, "tau99": 1}, "n_null_subjects": 26}
    audited["controls"] |= {kind: {"copied": {"tau99": 1.0}} for kind in ("exact", "mirrored", "blurred")}
    wide = {"interval": (0.45, 0.999), "band": (0.0, 1.0)}
    verdicts = {each: verdict(p=0.9, **wide) for each in ("distance", "ratio", "attribute", "link")}
    if name == "distance":  # the row shows it where there is no other
        del verdicts["ratio"]
    found = attack(**verdicts | {name: verdict(p=p, **wide)}, reasons={"ratio": "no time"})
    judged = [each for each in judge_images(audited, found, found, None, Limits(auc=most)) if each.value is not None]
    rows = [attack_row(title, [found]) for title in ATTACKED]
    shows = "Found" in {row.verdict for row in rows}
    assert shows is (p <= 0.05)
    assert (images_row(judged).status == "good") is not shows


def test_weights_are_judged_apart_from_images():
    row = weights_row([], [attack(white_box=verdict(auc=0.77))], included=True)
    assert row.title == "May these weights leave?"
    assert "77 of 100 pairs" in row.finding
    assert "They are in this package." in words(row)
    failing = [limit("AUC of white_box", 0.8, 0.7, False, "weights")]
    row = weights_row(failing, [attack(white_box=verdict(auc=0.77, p=0.5))], included=False)
    assert (row.status, row.verdict) == ("bad", "Outside 1 of 1 limit")
    assert "77 of 100 pairs" in words(row)
    assert "They are not in this package." in words(row)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (attack("discriminator", white_box=verdict(auc=0.93)), "the discriminator, which is not released"),
        (attack(None, reasons={"white_box": "the set was sent alone"}), "the set was sent alone"),
    ],
)
def test_weights_that_nobody_attacked_as_they_leave_are_not_judged(found, reason):
    row = weights_row([], [found], included=None)
    assert (row.status, row.verdict) == ("none", "Not judged")
    assert reason in words(row)
    assert "93" not in words(row)
    assert "package" not in words(row)
    limited = weights_row([limit("AUC of white_box", None, 0.7, None, "weights", reason=reason)], [found], None)
    assert limited.status == "bad"
    assert words(limited).count(reason) == 1


def audit(share=0.02, p=0.4, rates=None, n_null=499):
    rates = {"exact": 1.0, "turned 15°": 0.3} if rates is None else rates
    controls = {kind: {"copied": {"tau99": rate}} for kind, rate in rates.items()}
    controls |= {kind: {"copied": {"tau99": 0.0}} for kind in ("held_out", "blurred_strangers")}
    return {
        "copied_share": {"tau95": 0.06, "tau99": share},
        "copied_interval": {"tau99": [0.01, 0.04]},
        "copied_p_value": {"tau95": 0.01, "tau99": p},
        "controls": controls,
        "n_synthetic": 800,
        "n_null": n_null,
    }


def test_copies_planted_found_and_removed():
    row = copies_row([audit()], {"nearer than τ99": 12, "nearest to a patient at risk": 1, "other": 0})
    assert row.finding == "Of 100 synthetic slices 2 look like copies; without copying about 1 would"
    assert "(95 % interval 1 to 4)" in words(row)
    assert "of 2 kinds, 1 are found at least 8 times in 10" in words(row)
    assert "Removed from the set: 13 slices (12 nearer than τ99, 1 nearest to a patient at risk)." in words(row)
    assert "so that few are left says little" in words(row)
    assert "exact 100 %, turned 15° 30 %" in row.numbers
    assert "held_out" not in row.numbers
    assert (row.status, row.verdict) == ("open", "No more than by chance, but blind to 1 kind")
    assert "without copying about 4 would" in copies_row([audit(n_null=24)], None).finding  # 1 of 25


def test_copies_of_several_sets_the_worst_share_and_the_fewest_found():
    sets = [audit(rates={"exact": 1.0}), audit(0.2, 0.001, rates={"exact": 0.9})]
    row = copies_row(sets, None)
    assert (row.status, row.verdict) == ("bad", "More than by chance")
    assert "slices 20 look like copies" in row.finding
    assert "one of 2 sets, which have 2 to 20" in words(row)
    assert "exact 90 %" in row.numbers
    assert copies_row(sets[:1], None).status == "good"


def test_copies_cannot_be_told_of_a_single_patient_or_without_an_audit():
    single = audit() | {"copied_share": {"tau95": None, "tau99": None}}
    assert "one training patient" in words(copies_row([single], None))
    assert copies_row([single], None).verdict == copies_row([], {}).verdict == "Not judged"
    assert "Nothing was removed" in words(copies_row([], None))


def test_the_worst_patient_stands_beside_what_chance_gives():
    row = worst_row("Patient 1", 13, 480, 0, 239)
    assert row.finding == "13 of the set’s 480 slices look like copies of Patient 1."
    assert "Of 239 slices of outsiders none stand out" in words(row)
    assert "so about 2 of the set’s would by chance" in words(row)  # 480 × 1 / 240
    row = worst_row("Patient 1", 0, 480, 5, 239)
    assert row.verdict == "Nobody stands out"
    assert "so it stays in the house" in words(row)


def test_strangers_learn_no_number_of_the_worst_patient():
    for stands_out, status in ((True, "open"), (False, "good")):
        row = worst_kept_row(stands_out)
        assert row.status == status
        assert not [char for char in f"{row.verdict}{words(row)}{row.numbers}" if char.isdigit()]
        assert "picture" not in row.verdict
        assert not row.pictured


def test_of_a_sent_set_only_what_was_found_counts():
    calm, found = (attack_row("Singling out", [attack(ratio=verdict(p=p))]) for p in (0.5, 0.001))
    assert (unsettled(calm).status, unsettled(calm).verdict) == ("open", "Nothing found, which settles nothing")
    assert unsettled(found) == found
    nobody = attack_row("Singling out", [])
    assert unsettled(nobody) == nobody


def ratios(**changes):
    row = {"generator": "diffusion", "arm": "synthetic", "segmenter": "unet", "augmentation": "on", "region": "mean"}
    row |= {
        "ratio": 0.84,
        "dice": 0.63,
        "dice_real": 0.75,
        "low": 0.78,
        "high": 0.9,
        "subjects": 26,
        "seeds": 3,
        "reason": "",
    } | {"generator_seeds": 3}
    row |= {"passes_0.80": True, "passes_0.90": False, "passes_0.95": False}
    return row | changes


def test_use_is_told_by_the_worst_setting():
    rows = [ratios(), ratios(augmentation="off", ratio=0.81, low=0.7, high=0.93, **{"passes_0.80": False})]
    row = use_row(pd.DataFrame([*rows, ratios(arm="both", ratio=0.2), ratios(region="ET", ratio=0.1)]))
    assert row.finding == "Of the Dice that real images teach, these alone teach 81 %"
    assert "95 % interval 70 to 93; 26 test patients, 3 trainings, U-Net, the worst of 2 settings" in words(row)
    assert (row.status, row.verdict) == ("open", "Margin of 80 % not passed")
    assert use_row(pd.DataFrame(rows[:1])).verdict == "Margin of 80 % passed"


def test_a_share_of_hardly_anything_is_called_so_and_both_dice_stand_there():
    row = use_row(pd.DataFrame([ratios(ratio=1.46, dice=0.025, dice_real=0.017)]))
    assert "this share says nothing" in words(row)
    assert "ratio 1.460 = 0.025 / 0.017" in row.numbers
    assert "says nothing" not in words(use_row(pd.DataFrame([ratios()])))


def test_use_that_is_not_known_says_why():
    nan = float("nan")
    few = ratios(low=nan, high=nan, reason="n too small", **{"passes_0.80": pd.NA})
    assert "No margin can be judged: n too small." in words(use_row(pd.DataFrame([few])))
    assert "There is no number: nothing finished." in words(
        use_row(pd.DataFrame([ratios(ratio=nan, reason="nothing finished")]))
    )
    for nothing in (pd.DataFrame(), pd.DataFrame([ratios(arm="both")])):
        assert use_row(nothing).verdict == "Not measured"


def test_a_setting_without_a_number_is_not_forgotten():
    nan = float("nan")
    lost = ratios(augmentation="off", ratio=nan, low=nan, high=nan, reason="seed 2 is missing")
    row = use_row(pd.DataFrame([ratios(), lost]))
    assert row.verdict == "No verdict"
    assert "seed 2 is missing" in words(row)


def test_attacks_on_weights_are_named_as_missing_where_there_were_none():
    assert "weights" in words(not_tried_row(weights=False))
    assert "weights" not in words(not_tried_row(weights=True))


@pytest.mark.parametrize(("generator_seeds", "said"), [(1, True), (0, True), (3, False)])
def test_use_says_where_all_trainings_share_one_set(generator_seeds, said):
    row = use_row(pd.DataFrame([ratios(generator_seeds=generator_seeds)]))
    assert ("All trainings learned from one set" in words(row)) is said
