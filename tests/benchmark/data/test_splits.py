from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from benchmark.data.splits import absent, assign
from benchmark.errors import UserError

SPLITS = {"train", "validation", "test"}


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
    with pytest.raises(ValueError, match="not unique"):
        assign(["a", "a", "b"], None, 0)


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
