"""What a filter leaves out, by tables written by hand."""

import pandas as pd
import pytest

from analysis.selection import COPIED, NEAREST, at_risk, left_out

AUDIT = {"tau95": 0.9, "evidence": {"tau95": 5.0, "tau99": 6.0}}
SLICES = pd.DataFrame(
    [
        ("a", 0.80, "b", 6.5),  # a copy of b
        ("a", 0.85, "a", 1.0),  # nearest to a
        ("a", 0.95, "c", 1.0),  # above τ95 of a, and nearest
        ("a", 0.92, "c", 1.0),  # above τ95 of a
        ("b", 0.99, "a", 5.5),  # points at a above τ95
        ("c", 0.99, "c", 5.5),
    ],
    columns=["training_subject", "similarity", "copied_subject", "evidence"],
)
PEOPLE = pd.DataFrame(
    {
        "patient": ["a", "b", "c", "x", "y"],
        "member": [True, True, True, False, False],
        "distance": [0.9, 0.1, 0.2, 0.5, 0.3],
        "ratio": [0.0, 0.1, 0.1, 0.2, 0.1],
    }
)


def test_at_risk_is_who_exceeds_everybody_nobody_trained_on():
    assert at_risk(PEOPLE) == ["a"]
    assert at_risk(PEOPLE.assign(ratio=[0.0, 0.3, 0.1, 0.2, 0.1])) == ["a", "b"]
    assert at_risk(PEOPLE[["patient", "member"]]) == []


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("all", [""] * 6),
        ("uncopied", [COPIED] + [""] * 5),
        ("safe", [COPIED, "", NEAREST, NEAREST, NEAREST, ""]),
    ],
)
def test_each_rule_leaves_out_what_it_says(keep, expected):
    assert left_out(SLICES, AUDIT, PEOPLE, keep).tolist() == expected


def test_the_nearest_slice_goes_though_it_is_not_close():
    audit = AUDIT | {"tau95": 0.999, "evidence": {"tau95": 9.0, "tau99": 9.0}}
    assert left_out(SLICES, audit, PEOPLE, "safe").tolist() == ["", "", NEAREST, "", "", ""]


def test_a_single_training_patient_leaves_no_evidence():
    lonely = SLICES.drop(columns=["evidence", "copied_subject"]).assign(training_subject="a")
    audit = {"tau95": 0.9, "evidence": {"tau95": None, "tau99": None}}
    assert (left_out(lonely, audit, PEOPLE, "uncopied") == "").all()
    assert (left_out(lonely, audit, PEOPLE, "safe") == NEAREST).sum() == 4


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="known: safe"):
        left_out(SLICES, AUDIT, PEOPLE, "best")
