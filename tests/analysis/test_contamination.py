import numpy as np
import pytest

from analysis.contamination import contamination
from analysis.memorization import Slices


@pytest.fixture(scope="module")
def people(patients):
    return {
        "tested": Slices(*patients(60, 20, 2, size=24)),
        "others": Slices(*patients(61, 60, 2, size=24)),
        "strangers": patients(62, 60, size=24)[0],
    }


def test_a_set_that_holds_test_patients_is_told_of(people):
    copies = people["tested"].images[::4]
    made = np.concatenate([copies[..., ::-1], people["strangers"][:40]])
    found = contamination(Slices(made, np.arange(len(made))), people["tested"], people["others"])
    assert found["copied_share"]["tau99"] >= 10 / 50
    assert 10 <= found["copied_patients"]["count"] <= 13
    assert found["copied_p_value"]["tau99"] < 0.01
    assert "of 20 patients" in found["warning"]
    assert "split=FILE" in found["warning"]


def test_a_set_of_strangers_and_one_of_other_patients_copies_are_not_accused(people):
    for made in (people["strangers"], people["others"].images[::3]):
        found = contamination(Slices(made, np.arange(len(made))), people["tested"], people["others"], seed=1)
        assert found["warning"] is None
        assert found["copied_share"]["tau95"] < 0.2


def test_one_person_alone_cannot_be_asked_about(people):
    one = Slices(people["tested"].images[:2], people["tested"].subjects[:2])
    strangers = Slices(people["strangers"], np.arange(60))
    assert contamination(strangers, one, people["others"]) is None
    assert contamination(strangers, people["tested"], one) is None
