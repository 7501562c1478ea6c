"""What the values of annotations mean: decided for a cohort, or asked."""

import pytest

from benchmark.data.labels import CONVENTIONS, absence, absent_classes, check_name, decide, parse_mapping
from benchmark.errors import UserError

NCR, ED, ET = 1, 2, 3


def cohort(*values, name="case_{}"):
    """{subject: {value: voxels}} with 100 voxels of every value that is listed, and 1000 of 0."""
    return {name.format(n): {0: 1000} | dict.fromkeys(found, 100) for n, found in enumerate(values)}


def test_conventions_are_those_of_the_years():
    """Sources: the BraTS challenges' data pages; the Decathlon's dataset.json."""
    assert CONVENTIONS["brats2020"] == {0: 0, 1: NCR, 2: ED, 4: ET}
    assert CONVENTIONS["brats2023"] == {0: 0, 1: NCR, 2: ED, 3: ET}
    assert CONVENTIONS["brats2024"] == {0: 0, 1: NCR, 2: ED, 3: ET, 4: 0}
    assert CONVENTIONS["brats2015"] == {0: 0, 1: NCR, 2: ED, 3: NCR, 4: ET}
    assert CONVENTIONS["brats_ped"] == {0: 0, 1: ET, 2: NCR, 3: NCR, 4: ED}
    assert CONVENTIONS["msd"] == {0: 0, 1: ED, 2: NCR, 3: ET}


@pytest.mark.parametrize(
    ("layout", "values", "name"),
    [
        ("brats2020", cohort((1, 2, 4), (1, 2), ()), "brats2020"),
        ("brats2021", cohort((2,), (2, 4)), "brats2020"),
        ("named", cohort((1, 2, 4), name="UCSF-PDGM-{:04d}"), "brats2020"),
        ("brats2020", cohort((1, 2, 3), (1, 2)), "brats2023"),
        ("brats2023", cohort((1, 2, 3), (1,)), "brats2023"),
        ("brats2023", cohort((1, 2)), "brats2023"),
        ("named", cohort((1, 2, 3), name="BraTS-MET-{:05d}-000"), "brats2023"),
    ],
)
def test_auto_decides_by_the_whole_cohort(layout, values, name):
    convention = decide(layout, values)
    assert (convention.name, convention.classes) == (name, CONVENTIONS[name])


def test_et_3_under_old_names_is_said_aloud():
    assert "2 of 3 have a 3, which is taken for ET" in decide("brats2020", cohort((1, 2, 3), (3,), (1,))).note
    assert decide("brats2023", cohort((1, 2, 3))).note == ""


@pytest.mark.parametrize(
    ("layout", "values", "message"),
    [
        (
            "brats2020",
            cohort((1, 2, 3, 4), (1, 2, 4)),
            r"3 is in 1 subject \(case_0\) and 4 in 2 .*labels=brats2015",
        ),
        ("brats2020", cohort((1, 2, 3), (1, 2, 4), (4,)), r"3 is in 1 .*4 in 2 .*several years.*labels=1:NCR"),
        ("brats2023", cohort((1, 2, 4), (1, 2, 3)), r"4 is in 1 subject \(case_0\) of 2.*labels=brats2024"),
        ("brats2023", cohort((1, 2, 4)), "resection cavity"),
        ("named", cohort((1, 2, 3, 4), name="BraTS-GLI-{:05d}-100"), "labels=brats2024"),
        ("brats2023", cohort((1, 2, 3), name="BraTS-PED-{:05d}-000"), "labels=brats_ped.*labels=brats2023"),
        ("brats2020", cohort((85, 170, 255), (85, 255)), "2 of 2 .*example 85:NCR,170:ED,255:ET"),
        ("brats2020", cohort((255,), (255,), (1,)), "2 of 3 subjects .*1:ED,255:ET"),
        ("msd", cohort((5,), (1, 5)), "2 of 2"),
        ("brats2020", cohort((-1, 1, 2), (-1,)), "does not know"),
        ("brats2020", cohort((), ()), "no voxel of the 2 annotations is anything but 0"),
        ("brats2020", cohort(range(1, 300)), r"case_0: 5, 6, 7, ….*are these files the annotations"),
    ],
)
def test_what_is_ambiguous_is_refused_with_the_question_that_decides(layout, values, message):
    with pytest.raises(UserError, match=message):
        decide(layout, values)


def test_values_that_few_subjects_have_are_left_to_reading():
    assert decide("brats2020", cohort((1, 2, 4), (1, 2, 4), (7,))).name == "brats2020"


def test_a_key_answers_the_question():
    mixed = cohort((1, 2, 3, 4), (1, 2, 3), name="BraTS-GLI-{:05d}-100")
    convention = decide("brats2023", mixed, "brats2024")
    assert convention.classes[4] == 0
    assert convention.note == "the resection cavity, 4, counts as background: 100 voxels in 1 subject(s)"
    assert decide("brats2020", mixed, "brats2015").classes == {0: 0, 1: NCR, 2: ED, 3: NCR, 4: ET}
    assert decide("brats2023", cohort((1, 2, 3, 4), name="BraTS-PED-{}"), "brats_ped").classes[1] == ET
    told = decide("brats2020", cohort((85, 170, 255)), "85:ET,170:background,255:NCR")
    assert told.name == "mapping"
    assert told.classes == {0: 0, 85: ET, 170: 0, 255: NCR}
    assert told.note == "170 counts as background: 100 voxels in 1 subject(s)"
    with pytest.raises(UserError, match=r"brats2020 does not know.*3"):
        decide("brats2020", mixed, "brats2020")


def test_what_the_layout_says_comes_before_values_and_after_the_key():
    given = {0: 0, 1: ED, 2: ET, 4: NCR}
    assert decide("nnunet", cohort((1, 2, 4)), given=given).classes == given
    assert decide("nnunet", cohort((1, 2, 4)), given=given).name == "dataset.json"
    assert decide("msd", cohort((1, 2, 3)), given=CONVENTIONS["msd"]).name == "msd"
    assert decide("nnunet", cohort((1, 2, 4)), "brats2020", given).classes[2] == ED
    with pytest.raises(UserError, match=r"has no dataset\.json"):
        decide("brats2020", cohort((1, 2, 4)), "dataset.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1:NCR,1:ED", "the value 1 is named twice"),
        ("1:NCR,2:oedema", "'2:oedema' is no value and class"),
        ("0:NCR,1:ED", "0 is background"),
        ("1:background", "no value is NCR, ED or ET"),
        ("1:NCR,,2:ED", "'' is no value and class"),
        ("-1:NCR", "'-1:NCR' is no value"),
        ("70000:NCR", "'70000:NCR' is no value"),
        ("brats2022", "'brats2022' is not one of: auto, brats2020"),
    ],
)
def test_keys_that_mean_nothing_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        check_name(text)


def test_mappings_are_read_as_people_write_them():
    assert parse_mapping(" 4:et , 1:ncr,2:ED,3:Background") == {0: 0, 1: NCR, 2: ED, 3: 0, 4: ET}
    for name in ("auto", "brats2020", "dataset.json", "1:NCR"):
        assert check_name(name) == name


def test_classes_that_no_subject_has_are_said_aloud():
    whole = [{"NCR": 3.0, "ED": 0.0, "ET": 0.0}, {"NCR": 0.5, "ED": 0.0, "ET": 0.0}]
    assert absent_classes(whole) == ["ED", "ET"]
    assert absent_classes([*whole, {"NCR": 0.0, "ED": 0.0, "ET": 0.001}]) == ["ED"]
    text = absence(["ED", "ET"], decide("brats2020", cohort((1,))))
    assert text.startswith("no subject has ED or ET. Are these masks of the whole tumour?")
    assert "read as brats2020 (1 NCR, 2 ED, 4 ET)" in text
