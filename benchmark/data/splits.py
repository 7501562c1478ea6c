"""Which subject trains, validates or tests: from the study's published file, a CSV, or a seed.

A subject is always in one split only. Random choices rank subjects by a hash of (seed, name), so that they depend on
neither order nor platform, and setting one subject aside moves at most the subjects next to a boundary.
"""

import csv
import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.io

from benchmark.errors import UserError

Split = Literal["train", "validation", "test"]

STUDY_TEST_SUBJECTS = 56  # the last 56 names of the study's permutation: PROTOCOL, section 1
MINIMUM = 3  # one subject for each split
_ALIASES = {"train": "train", "training": "train", "validation": "validation", "val": "validation", "test": "test"}


def assign(
    subjects: Sequence[str],
    split_file: Path | None,
    seed: int,
    test_share: float = 0.15,
    validation_share: float = 0.1,
) -> dict[str, Split]:
    """The split of every subject, each split with at least one.

    With a `split_file` (the study's .mat, or a .csv with the columns subject and split) the seed only chooses
    validation subjects, `validation_share` of the training ones, and only where the file names none.

    Raises UserError for fewer than three subjects, shares that leave nothing for training, and a file that cannot be
    understood, contradicts itself, leaves out a subject, or leaves a split empty.
    """
    if len(set(subjects)) != len(subjects):
        raise ValueError("subject names are not unique")
    if not (0 < test_share < 1 and 0 < validation_share < 1 and test_share + validation_share < 1):
        raise UserError(
            f"test_share {test_share} and validation_share {validation_share} must be above 0 and together below 1"
        )
    if len(subjects) < MINIMUM:
        raise UserError(
            f"{len(subjects)} usable subject(s): at least {MINIMUM} are needed, for training, validation and test"
        )
    if split_file is None:
        test_count = min(max(1, round(test_share * len(subjects))), len(subjects) - 2)
        split = dict.fromkeys(subjects, "train") | dict.fromkeys(_ranked(subjects, seed)[:test_count], "test")
    else:
        named, _ = _match(subjects, split_file)
        if missing := [subject for subject in subjects if subject not in named]:
            raise UserError(
                f"{split_file} does not name {len(missing)} subject(s) of the cohort: {_listed(missing)}. "
                "Add them, or take them out of the cohort's folder"
            )
        split = {subject: named[subject] for subject in subjects}

    if "validation" not in split.values():
        training = _ranked((subject for subject in subjects if split[subject] == "train"), seed)
        count = max(1, round(validation_share * len(training if split_file else subjects)))
        split |= dict.fromkeys(training[: max(min(count, len(training) - 1), 0)], "validation")
    for part in ("train", "validation", "test"):
        if part not in split.values():
            raise UserError(f"{split_file or 'the split'} leaves no usable subject for {part}")
    return split


def absent(subjects: Iterable[str], split_file: Path | None) -> list[str]:
    """Names that the split file has and the cohort has not."""
    return _match(subjects, split_file)[1] if split_file else []


def _ranked(subjects: Iterable[str], seed: int) -> list[str]:
    return sorted(subjects, key=lambda subject: hashlib.sha256(f"{seed}:{subject}".encode()).digest())


def _match(subjects: Iterable[str], split_file: Path) -> tuple[dict[str, Split], list[str]]:
    """Split of each subject that the file names, and the names that are no subject's.

    A name is a subject's when it equals the subject's, as it stands or less a path, .nii(.gz) or a modality's ending.
    """
    subjects, matched, unmatched = set(subjects), {}, []
    for name, split in _read(Path(split_file)):
        file = re.sub(r"\.nii(\.gz)?$", "", re.split(r"[/\\]", name)[-1])
        case = re.sub(r"(_(t1|t1ce|t2|flair|seg)|-(t1n|t1c|t2w|t2f|seg))$", "", file)
        subject = next((form for form in (name, file, case) if form in subjects), None)
        if subject is None:
            unmatched.append(name)
        elif matched.setdefault(subject, split) != split:
            raise UserError(f"{split_file} puts {subject} into both {matched[subject]} and {split}: keep one")
    return matched, unmatched


def _read(path: Path) -> list[tuple[str, Split]]:
    if not path.is_file():
        raise UserError(f"split file {path} does not exist")
    if path.suffix.lower() == ".mat":
        names = _read_mat(path)
        if len(names) <= STUDY_TEST_SUBJECTS:
            raise UserError(
                f"{path} has {len(names)} names; the last {STUDY_TEST_SUBJECTS} are the test set, so none would train"
            )
        training = len(names) - STUDY_TEST_SUBJECTS
        return [(name, "train" if i < training else "test") for i, name in enumerate(names)]
    if path.suffix.lower() == ".csv":
        return _read_csv(path)
    raise UserError(f"split file {path}: give a .mat of the study or a .csv with the columns subject and split")


def _read_mat(path: Path) -> list[str]:
    """The field `name` of the only struct array that has it, as MATLAB's dir() makes it, in its order."""
    try:
        content = scipy.io.loadmat(path, squeeze_me=True)
    except NotImplementedError as error:  # version 7.3 is HDF5
        raise UserError(f"{path} was saved as MATLAB version 7.3: save it again with -v7") from error
    except Exception as error:  # scipy raises whatever a damaged file leads it to
        raise UserError(f"{path} is no readable MATLAB file: {error}") from error
    structs = {
        key: value
        for key, value in content.items()
        if isinstance(value, np.ndarray) and value.dtype.names and "name" in value.dtype.names
    }
    if "subjects" in structs:
        structs = {"subjects": structs["subjects"]}
    if len(structs) != 1:
        found = ", ".join(key for key in content if not key.startswith("__"))
        raise UserError(
            f"{path}: expected one struct array `subjects` with the field `name`; found {found or 'nothing'}"
        )
    (subjects,) = structs.values()
    return [str(name) for name in np.atleast_1d(subjects)["name"] if str(name) not in (".", "..")]


def _read_csv(path: Path) -> list[tuple[str, Split]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"subject", "split"} <= set(reader.fieldnames or ()):
                raise UserError(f"{path}: the columns subject and split are needed; found {reader.fieldnames}")
            rows = [(reader.line_num, row["subject"] or "", row["split"] or "") for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no readable CSV file: {error}") from error
    for line, subject, split in rows:
        if not subject.strip() or split.strip().lower() not in _ALIASES:
            raise UserError(
                f"{path}, line {line}: subject {subject!r}, split {split!r}; "
                "expected a name and train, validation or test"
            )
    return [(subject.strip(), _ALIASES[split.strip().lower()]) for _, subject, split in rows]


def _listed(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
