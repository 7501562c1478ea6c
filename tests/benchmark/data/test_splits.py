import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from benchmark.data import splits
from benchmark.data.splits import absent, declared_patients
from benchmark.errors import UserError

SPLITS = {"train", "validation", "test"}


def assign(subjects, *settings, **more):
    """Of subjects that are each a patient of their own; of scans where `subjects` is {scan: patient}."""
    patients = subjects if isinstance(subjects, dict) else {subject: subject for subject in subjects}
    return splits.assign(patients, *settings, **more)


def names(count: int) -> list[str]:
    return [f"BraTS20_Training_{number:03d}" for number in range(1, count + 1)]


def save_mat(path: Path, listed: list[str], variable: str = "subjects", field: str = "name", **others) -> None:
    """A struct array as MATLAB's dir() makes it."""
    structs = np.zeros(len(listed), [(field, object), ("folder", object), ("bytes", object)])
    structs[field], structs["folder"], structs["bytes"] = listed, "D:\\BraTS", 4096.0
    scipy.io.savemat(path, {variable: structs.reshape(-1, 1), **others})


def save_csv(path: Path, rows: list[tuple[str, str]], head: str = "subject,split") -> Path:
    path.write_text("\n".join([head, *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return path


# --- by seed ---


@pytest.mark.parametrize("count", [3, 4, 5, 10, 57, 369])
def test_every_subject_is_in_one_split_and_every_split_has_its_share(count):
    for seed in range(20):
        split = assign(names(count), None, seed)
        assert list(split) == names(count)
        counts = Counter(split.values())
        assert set(counts) == SPLITS
        assert counts["test"] == max(1, round(0.15 * count))
        assert counts["validation"] == max(1, round(0.1 * count))


def test_a_large_share_still_leaves_a_subject_for_each():
    for count in range(3, 12):
        assert set(assign(names(count), None, 0, test_share=0.5, validation_share=0.45).values()) == SPLITS


def test_the_split_depends_on_the_seed_and_not_on_the_order():
    subjects = names(50)
    assert assign(subjects, None, 7) == assign(subjects[::-1], None, 7)
    assert len({tuple(assign(subjects, None, seed).values()) for seed in range(10)}) == 10


def test_subjects_are_chosen_evenly_over_seeds():
    tested = Counter()
    for seed in range(400):
        tested.update(name for name, split in assign(names(20), None, seed).items() if split == "test")
    # 400 draws at 0.15: mean 60, standard deviation 7.1
    assert all(60 - 4 * 7.1 < tested[name] < 60 + 4 * 7.1 for name in names(20))


def test_setting_a_subject_aside_moves_few_others():
    subjects = names(100)
    for seed in range(20):
        before, after = assign(subjects, None, seed), assign(subjects[1:], None, seed)
        assert sum(before[name] != after[name] for name in after) <= 2


def test_too_few_subjects_and_impossible_shares_are_refused():
    with pytest.raises(UserError, match=r"2 usable subject.*at least 3"):
        assign(names(2), None, 0)
    for shares in ((0, 0.1), (0.1, 0), (0.6, 0.4), (1.5, 0.1)):
        with pytest.raises(UserError, match="together below 1"):
            assign(names(10), None, 0, *shares)


# --- the study's file ---


@pytest.mark.parametrize(
    "written_as", ["{}", "{}.nii.gz", "{}_t1.nii", "{}_flair.nii.gz", "MICCAI/{}", "D:\\x\\{}.nii"]
)
def test_the_last_56_of_the_studys_file_are_the_test_set(tmp_path, written_as):
    permuted = list(np.random.default_rng(0).permutation(names(369)))
    save_mat(tmp_path / "split.mat", [written_as.format(name) for name in permuted])
    split = assign(names(369), tmp_path / "split.mat", seed=3)
    assert {name for name, part in split.items() if part == "test"} == set(permuted[-56:])
    assert Counter(split.values()) == {"test": 56, "validation": 31, "train": 282}
    other = assign(names(369), tmp_path / "split.mat", seed=4)
    assert {name for name in other if other[name] == "test"} == set(permuted[-56:])
    assert other != split


def test_the_struct_array_may_have_another_name(tmp_path):
    save_mat(tmp_path / "split.mat", names(60), variable="permuted_subjects", seed=4.0)
    split = assign(names(60), tmp_path / "split.mat", seed=0)
    assert Counter(split.values()) == {"test": 56, "train": 3, "validation": 1}


def test_matlab_files_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "split.mat"
    save_mat(path, names(60), field="id")
    with pytest.raises(UserError, match=r"field `name`; found subjects"):
        assign(names(60), path, 0)
    save_mat(path, names(56))
    with pytest.raises(UserError, match="56 names"):
        assign(names(56), path, 0)
    path.write_bytes(b"no MATLAB file at all" * 20)
    with pytest.raises(UserError, match="no readable MATLAB file"):
        assign(names(60), path, 0)
    save_mat(path, [*names(60), names(60)[0]])  # first and last
    with pytest.raises(UserError, match="puts BraTS20_Training_001 into both train and test"):
        assign(names(60), path, 0)


def test_matching_is_exact(tmp_path):
    """No subject is found by a part of its name."""
    path = save_csv(tmp_path / "s.csv", [("sub-1", "train"), ("sub-10", "test"), ("sub-2", "validation")])
    assert assign(["sub-1", "sub-10", "sub-2"], path, 0) == {"sub-1": "train", "sub-10": "test", "sub-2": "validation"}
    with pytest.raises(UserError, match=r"does not name 1 subject.*: sub-100"):
        assign(["sub-1", "sub-10", "sub-2", "sub-100"], path, 0)


# --- CSV ---


def test_csv_is_followed_and_validation_is_drawn_only_where_it_names_none(tmp_path):
    rows = list(zip(names(20), ["train"] * 12 + ["val"] * 3 + ["Test"] * 5, strict=True))
    split = assign(names(20), save_csv(tmp_path / "s.csv", rows), 0)
    assert Counter(split.values()) == {"train": 12, "validation": 3, "test": 5}
    assert [split[name] for name, _ in rows[12:15]] == ["validation"] * 3

    path = save_csv(tmp_path / "s.csv", [(name, part.replace("val", "training")) for name, part in rows])
    for seed in range(10):
        split = assign(names(20), path, seed, validation_share=0.2)
        assert Counter(split.values()) == {"train": 12, "validation": 3, "test": 5}
        assert {name for name in split if split[name] == "test"} == set(names(20)[15:])


def test_csv_from_a_spreadsheet_is_read(tmp_path):
    """Byte order mark, further columns, quotes, spaces."""
    path = save_csv(tmp_path / "s.csv", [('"a, b"', "x", " train "), ("ü", "", "val"), ("<i>", "", "test")],
                    head="\ufeffsubject,note,split")  # fmt: skip
    assert assign(["a, b", "ü", "<i>"], path, 0) == {"a, b": "train", "ü": "validation", "<i>": "test"}


@pytest.mark.parametrize(
    ("rows", "head", "message"),
    [
        ([("a", "train"), ("a", "test")], "subject,split", "puts a into both train and test"),
        ([("a", "train"), ("b", "dev")], "subject,split", r"s\.csv, line 3: subject 'b', split 'dev'"),
        ([("a", "train"), ("", "test")], "subject,split", "line 3"),
        ([("a", "train")], "name,split", r"columns subject and split are needed; found \['name', 'split'\]"),
        ([("a", "train"), ("b", "train")], "subject,split", "does not name 1 subject.*: c"),
        ([("a", "train"), ("b", "train"), ("c", "train")], "subject,split", "leaves no usable subject for test"),
        ([("a", "train"), ("b", "test"), ("c", "test")], "subject,split", "leaves no usable subject for validation"),
        ([("a", "val"), ("b", "test"), ("c", "test")], "subject,split", "leaves no usable subject for train"),
    ],
)
def test_csv_that_does_not_fit_is_refused(tmp_path, rows, head, message):
    with pytest.raises(UserError, match=message):
        assign(["a", "b", "c"], save_csv(tmp_path / "s.csv", rows, head), 0)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        assign(names(5), tmp_path / "s.csv", 0)
    (tmp_path / "s.xlsx").touch()
    with pytest.raises(UserError, match=r"a \.mat of the study or a \.csv"):
        assign(names(5), tmp_path / "s.xlsx", 0)
    (tmp_path / "s.csv").write_bytes(b"subject,split\n\xff\xfe,train\n")
    with pytest.raises(UserError, match="no readable CSV"):
        assign(names(5), tmp_path / "s.csv", 0)


def test_names_without_a_subject_are_listed(tmp_path):
    path = save_csv(tmp_path / "s.csv", [*((name, "train") for name in names(4)), ("gone", "test")])
    assert absent(names(4), path) == ["gone"]
    assert absent(names(4), None) == []


# --- patients with several scans ---


def scans(patients: int, each: int) -> dict[str, str]:
    return {f"p{number:03d}-{scan}": f"p{number:03d}" for number in range(patients) for scan in range(each)}


@pytest.mark.parametrize("count", [3, 5, 40])
def test_all_scans_of_a_patient_are_in_one_split_and_shares_count_patients(count):
    for seed in range(20):
        split = assign(scans(count, 3), None, seed)
        assert list(split) == list(scans(count, 3))
        by_patient = {(scans(count, 3)[scan], part) for scan, part in split.items()}
        assert len(by_patient) == count
        counts = Counter(part for _, part in by_patient)
        assert (counts["test"], counts["validation"]) == (max(1, round(0.15 * count)), max(1, round(0.1 * count)))


def test_further_scans_move_no_patient():
    """A patient goes where one with a single scan of that name would."""
    one = assign(sorted(set(scans(30, 2).values())), None, 5)
    many = assign(scans(30, 2) | {"p003-9": "p003"}, None, 5)
    assert {scan: one[scan[:4]] for scan in many} == many


def test_the_split_of_single_scans_is_that_of_earlier_versions():
    """Worked out by hand from the hash of "seed:name": three of 20 test, two validate."""
    ranked = sorted(names(20), key=lambda name: hashlib.sha256(f"4:{name}".encode()).hexdigest())
    split = assign(names(20), None, 4)
    assert {name for name in split if split[name] == "test"} == set(ranked[:3])
    assert {name for name in split if split[name] == "validation"} == set(ranked[3:5])


def test_three_patients_are_needed_not_three_scans():
    with pytest.raises(UserError, match=r"4 usable subject\(s\) of 2 patient\(s\): at least 3 patients"):
        assign(scans(2, 2), None, 0)
    assert Counter(assign(scans(3, 2), None, 0).values()) == {"train": 2, "validation": 2, "test": 2}


def test_validation_is_drawn_by_patient_where_a_file_names_none(tmp_path):
    patients = scans(10, 2)
    path = save_csv(tmp_path / "s.csv", [(scan, "test" if scan < "p003" else "train") for scan in patients])
    for seed in range(10):
        split = assign(patients, path, seed, validation_share=0.3)
        drawn = {patients[scan] for scan in split if split[scan] == "validation"}
        assert len(drawn) == 2  # 0.3 of seven
        assert Counter(split.values()) == {"train": 10, "validation": 4, "test": 6}


def test_a_file_that_splits_a_patient_is_refused_with_both_names_and_lines(tmp_path):
    patients = {"a-1": "a", "b": "b", "c": "c", "a-2": "a"}
    path = save_csv(tmp_path / "s.csv", [("a-1", "train"), ("b", "val"), ("c", "test"), ("a-2", "test")])
    found = r"a-1 \(line 2, train\) and a-2 \(line 5, test\) are scans of one patient, a, in two splits"
    with pytest.raises(UserError, match=f"{found}.*column patient"):
        assign(patients, path, 0)
    save_mat(tmp_path / "s.mat", ["a-1", *names(55), "a-2"])
    others = dict(zip(names(55), names(55), strict=True))
    with pytest.raises(UserError, match=r"a-1 \(name 1, train\) and a-2 \(name 57, test\)"):
        assign({"a-1": "a", "a-2": "a", **others}, tmp_path / "s.mat", 0)


def test_the_column_patient_is_read(tmp_path):
    rows = [("a", "train", "P1"), ("MICCAI/b.nii.gz", "train", " P1 "), ("c", "val", "P2"), ("gone", "test", "P3")]
    path = save_csv(tmp_path / "s.csv", rows, "subject,split,patient")
    assert declared_patients(["a", "b", "c"], path) == {"a": "P1", "b": "P1", "c": "P2"}
    assert declared_patients(["a"], None) == {}
    assert declared_patients(["a"], save_csv(path, [("a", "train")])) == {}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "train", "P1"), ("b", "train", "")], r"line 3: b has no patient"),
        ([("a", "train", "P1"), ("a.nii", "train", "P2")], r"a is a scan of P1 \(line 2\) and of P2 \(line 3\)"),
    ],
)
def test_a_column_patient_that_contradicts_itself_is_refused(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        declared_patients(["a", "b"], save_csv(tmp_path / "s.csv", rows, "subject,split,patient"))


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    path = save_csv(tmp_path / "s.csv", [("a", "train", "P1", "P2")], "subject,split,patient,patient")
    with pytest.raises(UserError, match="column patient more than once"):
        declared_patients(["a"], path)
