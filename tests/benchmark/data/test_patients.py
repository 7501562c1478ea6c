import json

import numpy as np
import pytest

from analysis import memorization
from benchmark.data.anatomy import likeness, thumbnail
from benchmark.data.cohorts import find
from benchmark.data.patients import grouping, likeness_warnings, look_alikes, named_patient, patients_of
from benchmark.data.preparation import prepare
from benchmark.data.slices import SliceSet, SliceWriter
from benchmark.errors import UserError

# --- names ---

SCANS = {
    "BraTS-GLI-00001": ["BraTS-GLI-00001-100", "BraTS-GLI-00001-101", "x/BraTS-GLI-00001-000/t"],
    "BraTS-SSA-00012": ["BraTS-SSA-00012-000", "BraTS-SSA-00012-001"],
    "BraTS-MEN-RT-0100": ["BraTS-MEN-RT-0100-1", "BraTS-MEN-RT-0100-2"],
    "BraTS-PED-00003": ["BraTS-PED-00003-000", "BraTS-PED-00003-001"],
    "UPENN-GBM-00001": ["UPENN-GBM-00001_11", "UPENN-GBM-00001_21"],
    "UCSF-PDGM-0004": [
        "UCSF-PDGM-0004",
        "UCSF-PDGM-0004_FU003d",
        "UCSF-PDGM-0004_FU007d_nifti",
        "UCSF-PDGM-0004_nifti",
    ],
    "UCSD-PTGBM-0002": ["UCSD-PTGBM-0002_01", "UCSD-PTGBM-0002_02"],
    "RHUH-0001": ["RHUH-0001_0", "RHUH-0001/2/RHUH-0001_2"],
    "TCGA-02-0003": ["TCGA-02-0003_1997.06.08", "TCGA-02-0003_1998.01.02"],
    "sub-01": ["sub-01_ses-02", "sub-01/ses-03/anat", "sub-01_ses-pre_run-1"],
    "Patient-001": ["Patient-001/week-000-1", "Patient-001_week-044"],
    "PatientID_0003": ["PatientID_0003_Timepoint_1", "PatientID_0003_Timepoint_2_brain", "PatientID_0003"],
    "case7": ["case7_time01", "case7_tp2", "case7_ses-1", "case7_followup", "case7-baseline", "case7/visit3/images"],
}


@pytest.mark.parametrize(("patient", "scans"), SCANS.items())
def test_scans_of_one_person_are_grouped_by_the_names_of_collections(patient, scans):
    assert {named_patient(scan) for scan in scans} == {patient}
    assert set(patients_of(scans).values()) == {patient}
    assert named_patient(patient) == patient


@pytest.mark.parametrize(
    "names",
    [
        ["BraTS20_Training_001", "BraTS20_Training_002", "BraTS20_Training_010"],
        ["BraTS2021_00001", "BraTS2021_00002", "BraTS2021_00011"],
        ["case_001", "case_002"],
        ["phantom-0001", "phantom-0002", "Phantom_0001"],
        ["BRATS_001", "BRATS_002"],
        ["BraTS-GLI-00001-000", "BraTS-GLI-00011-000", "BraTS-MET-00001-000"],
        ["UPENN-GBM-00001_11", "UPENN-GBM-00011_11"],
        ["TCGA-02-0003_1997.06.08", "TCGA-02-0033_1997.06.08"],
        ["sub-01_ses-1", "sub-011_ses-1", "siteA/sub-01/ses-1", "siteB/sub-01/ses-1"],
        ["Hospital_time1", "Hospital_time2"],  # no number: perhaps the names of places
        ["site/week-01", "site/week-02"],
        ["s_pre", "s_post"],
        ["p1_t1", "p1_t2"],  # a modality's name is no time
        ["W39_1998.09.19", "W39_1998.09.20"],
        ["lifetime-01", "lifetime-02"],
        ["", "-", "é", "a\nb"],
    ],
)
def test_other_people_are_never_merged(names):
    assert patients_of(names) == {name: name for name in names}


def test_a_single_scan_keeps_its_name():
    """So that a cohort without second scans is split as before there were patients."""
    found = patients_of(["BraTS-GLI-00001-000", "BraTS-GLI-00002-000", "BraTS-GLI-00002-001"])
    assert found["BraTS-GLI-00001-000"] == "BraTS-GLI-00001-000"
    assert found["BraTS-GLI-00002-000"] == found["BraTS-GLI-00002-001"] == "BraTS-GLI-00002"


def test_identifiers_that_differ_in_case_alone_are_one_patient_s_called_as_the_first():
    found = patients_of(["UPENN-GBM-00001_11", "upenn-gbm-00001_21", "upenn-gbm-00002_11", "case7", "Case7_time02"])
    assert list(found.values()) == ["UPENN-GBM-00001", "UPENN-GBM-00001", "upenn-gbm-00002_11", "case7", "case7"]


def test_what_is_declared_overrides_names():
    scans = ["BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "a", "b"]
    declared = {"BraTS-GLI-00001-000": "P1", "BraTS-GLI-00001-001": "P2", "a": "P3", "b": "P3"}
    assert patients_of(scans, declared) == declared


def test_what_was_grouped_is_said():
    found = patients_of(["BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "s1"])
    assert grouping(found, "their names") == (
        "3 subjects are scans of 2 patients, grouped by their names: BraTS-GLI-00001 (2 scans)"
    )
    assert grouping(patients_of(["s1", "s2"]), "their names") is None


# --- anatomy ---


def blobs(rng: np.random.Generator, count: int = 60) -> np.ndarray:
    """A person: brightness over (z, y, x) in mm about the centre."""
    return np.column_stack([rng.uniform(-60, 60, (count, 3)), rng.uniform(-1, 1, count), rng.uniform(8, 16, count)])


def scan(person: np.ndarray, shape, spacing, shift=(0, 0, 0), gain=1.0) -> np.ndarray:
    """uint8 [4, Z, H, W]: an ellipsoid's brain with the person's blobs, all four modalities alike."""
    axes = [(np.arange(n) - (n - 1) / 2) * size - move for n, size, move in zip(shape, spacing, shift, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    grey = np.full(shape, 100.0)
    for centre_z, centre_y, centre_x, height, width in person:
        grey += 60 * height * np.exp(
            -((z - centre_z) ** 2 + (y - centre_y) ** 2 + (x - centre_x) ** 2) / (2 * width**2)
        )  # fmt: skip
    brain = (z / 60) ** 2 + (y / (80 + 6 * person[0, 3])) ** 2 + (x / (65 + 6 * person[1, 3])) ** 2 < 1
    return np.repeat((np.clip(gain * grey, 20, 255) * brain).astype(np.uint8)[None], 4, axis=0)


def test_a_thumbnail_depends_on_neither_grid_position_nor_gain():
    person = blobs(np.random.default_rng(0))
    reference = thumbnail(scan(person, (40, 60, 60), (4, 4, 4)), (4, 4, 4)).astype(float)
    assert reference.shape == (5, 32, 40, 32)
    # The ellipsoid's volume, 4/3 π a b c, in cells of 125 mm³.
    volume = 4 / 3 * np.pi * 60 * (80 + 6 * person[0, 3]) * (65 + 6 * person[1, 3])
    assert reference[0].sum() / 127 == pytest.approx(volume / 125, rel=0.02)
    for shape, spacing, shift, gain in (
        ((40, 60, 60), (4, 4, 4), (4, -8, 12), 1),  # whole voxels
        ((40, 60, 60), (4, 4, 4), (0, 0, 0), 0.7),
        ((155, 120, 120), (1, 2, 2), (0, 0, 0), 1),
        ((24, 90, 120), (6, 2.5, 2), (0, 0, 0), 1),
    ):
        other = thumbnail(scan(person, shape, spacing, shift, gain), spacing).astype(float)
        assert np.corrcoef(reference.ravel(), other.ravel())[0, 1] > 0.95


def test_likeness_is_the_mean_correlation_of_shape_and_grey_about_the_mean_brain():
    rng = np.random.default_rng(0)
    brains = rng.integers(-127, 128, (6, 5, 32, 40, 32)).astype(np.int8)
    brains[4] = brains[1] // 2 + brains[4] // 2
    rest = brains - brains.mean(0)
    expected = (np.corrcoef(rest[:, 0].reshape(6, -1)) + np.corrcoef(rest[:, 1:].reshape(6, -1))) / 2
    found = likeness(list(brains))
    # Cells have a mean of nearly 0, which a correlation would take away first.
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert found[1, 4] > 0.5


@pytest.mark.parametrize("people", [12, 24])
def test_a_person_under_two_names_is_found_and_nobody_else(people):
    rng = np.random.default_rng(people)
    persons = [blobs(rng) for _ in range(people)]
    images = {f"s{number}": scan(person, (32, 40, 40), (5, 5, 5)) for number, person in enumerate(persons)}
    images["again"] = scan(persons[3], (32, 40, 40), (5, 5, 5), shift=(0, 5, -5), gain=0.8)
    images["second"] = scan(persons[5], (32, 40, 40), (5, 5, 5), shift=(5, 0, 0))
    thumbnails = {name: thumbnail(image, (5, 5, 5)) for name, image in images.items()}
    whose = {name: name for name in images} | {"second": "P", "s5": "P"}  # known to be one person
    ((first, second, alike),) = look_alikes(thumbnails, whose)
    assert (first, second) == ("s3", "again")
    assert 0.57 < alike <= 1
    assert look_alikes({"s0": thumbnails["s0"]}, whose) == []


def test_pairs_in_different_splits_are_named_first_and_long_lists_are_cut():
    split = {"a": "train", "b": "test"} | {f"c{number}": "train" for number in range(40)}
    pairs = [(f"c{number}", f"c{number + 20}", 0.7) for number in range(20)] + [("a", "b", 0.91)]
    apart, together = likeness_warnings(pairs, split)
    assert "DIFFERENT SPLITS" in apart
    assert "a (train) and b (test), 0.91" in apart
    assert "c9 and c29, 0.70; and 10 more pairs" in together
    assert likeness_warnings([], split) == []


# --- through preparation ---

SPACING = (6.0, 6.4, 6.4)


def write_cohort(nifti, folder, names: list[str], scans: int) -> None:
    """People scanned `scans` times in a row, with other noise and gain; a tumour of three shells."""
    rng = np.random.default_rng(0)
    persons = [blobs(rng) for _ in range(len(names) // scans)]
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (24, 32, 32)), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    labels = np.select([radius < 0.1, radius < 0.2, radius < 0.3], [1, 3, 2], 0).astype(np.uint8)
    for number, name in enumerate(names):
        images = scan(persons[number // scans], (24, 32, 32), SPACING, gain=rng.uniform(0.8, 1)).astype(float)
        images = np.where(images > 0, np.clip(images + rng.normal(0, 3, images.shape), 1, 255), 0).astype(np.int16)
        images[:, 0, 0, 0] = 255  # so that grey levels stay as they are
        nifti.save_brats(folder, name, images, labels, style="2023", et=3, spacing=SPACING)


def test_two_time_points_lie_in_one_split_and_are_written_down(tmp_path, nifti):
    names = [f"BraTS-GLI-{patient:05d}-{time}" for patient in range(5) for time in (100, 101)]
    write_cohort(nifti, tmp_path / "cohort", names, 2)
    result = prepare(find(tmp_path / "cohort"), tmp_path / "out", image_size=16)
    assert result.subjects == {"train": 6, "validation": 2, "test": 2}
    assert result.patients == {"train": 3, "validation": 1, "test": 1}
    assert result.grouping.startswith("10 subjects are scans of 5 patients, grouped by their names: BraTS-GLI-00000 (2")
    groups = {f"BraTS-GLI-{patient:05d}": names[2 * patient : 2 * patient + 2] for patient in range(5)}
    assert result.cohort["groups"] == groups
    assert result.cohort["similar"] == []  # known to be the same people
    assert {subject["subject"]: subject["patient"] for subject in result.cohort["subjects"]} == {
        scan: patient for patient, scans in groups.items() for scan in scans
    }
    for opened in (SliceSet.open(tmp_path / "out"), SliceSet.open(tmp_path / "out" / "volumes")):
        assert (opened.index["patient"] == opened.index["subject"].str[:-4]).all()
        assert (opened.index.groupby("patient")["split"].nunique() == 1).all()


def test_one_person_under_two_names_is_warned_of_with_the_splits(tmp_path, nifti):
    names = [f"s{number:02d}" for number in range(24)]
    write_cohort(nifti, tmp_path / "cohort", names, 2)
    result = prepare(find(tmp_path / "cohort"), tmp_path / "out", image_size=16)
    pairs = {(a, b) for a, b, _ in result.cohort["similar"]}
    assert pairs == {(names[number], names[number + 1]) for number in range(0, 24, 2)}
    split = dict(SliceSet.open(tmp_path / "out").index[["subject", "split"]].itertuples(index=False))
    apart = next((a, b) for a, b, _ in result.cohort["similar"] if split[a] != split[b])
    assert "DIFFERENT SPLITS" in result.warnings[0]
    assert f"{apart[0]} ({split[apart[0]]}) and {apart[1]} ({split[apart[1]]})" in result.warnings[0]
    assert result.grouping is None
    assert json.loads(json.dumps(result.cohort["similar"])) == [list(pair) for pair in result.cohort["similar"]]


def test_a_column_patient_groups_what_names_do_not_and_parts_what_they_do(tmp_path, nifti):
    names = ["a", "b", "UPENN-GBM-00001_11", "UPENN-GBM-00001_21", "c", "d"]
    write_cohort(nifti, tmp_path / "cohort", names, 1)
    rows = ["a,train,P1", "b,train,P1", "UPENN-GBM-00001_11,train,P2", "UPENN-GBM-00001_21,test,P3", "c,val,P4"]
    path = tmp_path / "s.csv"
    path.write_text("\n".join(["subject,split,patient", *rows, "d,test,P5"]))
    result = prepare(find(tmp_path / "cohort"), tmp_path / "out", image_size=16, split_file=path)
    assert result.patients == {"train": 2, "validation": 1, "test": 2}
    assert result.cohort["groups"]["P1"] == ["a", "b"]
    assert "6 subjects are scans of 5 patients, grouped by the column patient of " in result.grouping
    path.write_text("\n".join(["subject,split", *(row.rsplit(",", 1)[0] for row in rows), "d,test"]))
    with pytest.raises(UserError, match=r"_11 \(line 4, train\) and .*_21 \(line 5, test\) are scans of one"):
        prepare(find(tmp_path / "cohort"), tmp_path / "refused", image_size=16, split_file=path)


def test_copies_of_patients_are_seen_only_where_the_null_holds_other_patients(tmp_path, nifti):
    """The measurement behind all this: with scans split one by one, held-out scans are themselves copies of training
    patients, and a set of noisy copies looks innocent beside them."""
    shares = {}
    for name, style in (("by scan", "s{:02d}{}"), ("by patient", "UCSD-PTGBM-{:04d}_{}")):
        names = [style.format(patient, time) for patient in range(12) for time in ("01", "02")]
        write_cohort(nifti, tmp_path / name, names, 2)
        prepare(find(tmp_path / name), tmp_path / f"{name} out", image_size=32, test_share=0.25)
        real = SliceSet.open(tmp_path / f"{name} out")
        trained, held_out = real.rows("train"), np.concatenate([real.rows("validation"), real.rows("test")])
        patients = real.index["patient"].to_numpy(str)
        copied = real.images[trained[::6]]
        noise = np.random.default_rng(1).normal(0, 8, copied.shape)
        copies = np.where(copied > 0, np.clip(copied + noise, 1, 255), 0).astype(np.uint8)
        trained, held_out = trained[::2], held_out[::2]
        reference = memorization.Reference(
            real.images[trained], patients[trained], real.images[held_out], patients[held_out]
        )
        shares[name] = reference.shares(copies)["memorized_share"]
    assert shares["by patient"] == 1.0
    assert shares["by scan"] == 0.0


# --- sets without the column ---


def test_a_set_without_the_column_reads_as_one_patient_a_subject(tmp_path):
    meta = {"kind": "real", "cohort": "x", "simulated": False, "spacing": {}}
    images, labels = np.ones((2, 4, 16, 16), np.uint8), np.ones((2, 16, 16), np.uint8)
    with SliceWriter(tmp_path / "without", 16, meta) as writer:
        writer.append(images, labels, subject=["a", "b"], z=0, split="train")
    assert SliceSet.open(tmp_path / "without").index["patient"].tolist() == ["a", "b"]
    for name, whose, message in (
        ("empty", ["p", None], "1 rows have no patient"),
        ("two", ["p", "q"], "subject a is a scan of 2 patients"),
    ):
        with SliceWriter(tmp_path / name, 16, meta) as writer:
            writer.append(images, labels, subject="a", z=0, split="train", patient=whose)
        with pytest.raises(UserError, match=message):
            SliceSet.open(tmp_path / name)
