"""Which subject trains, validates or tests: from the study's published file, a CSV, or a seed.

A patient, with all scans, is always in one split only. Random choices rank patients by a hash of (seed, name), so that
they depend on neither order nor platform, and setting one aside moves at most the patients next to a boundary.
"""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.io

from benchmark.errors import UserError

Split = Literal["train", "validation", "test"]

STUDY_TEST_SUBJECTS = 56  # the last 56 names of the study's permutation: PROTOCOL, section 1
MINIMUM = 3  # one patient for each split
_ALIASES = {"train": "train", "training": "train", "validation": "validation", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class _Entry:
    """A row of a split file."""

    name: str
    split: Split
    where: str  # in words
    patient: str = ""  # empty where the file has no such column


def assign(
    patients: Mapping[str, str],
    split_file: Path | None,
    seed: int,
    test_share: float = 0.15,
    validation_share: float = 0.1,
) -> dict[str, Split]:
    """The split of every subject, each split with at least one patient. `patients`: {subject: whose scan it is}.

    With a `split_file` (the study's .mat, or a .csv with the columns subject and split) the seed only chooses
    validation patients, `validation_share` of the training ones, and only where the file names none.

    Raises UserError for fewer than three patients, shares that leave nothing for training, and a file that cannot be
    understood, contradicts itself, leaves out a subject, puts a patient into two splits, or leaves a split empty.
    """
    if not (0 < test_share < 1 and 0 < validation_share < 1 and test_share + validation_share < 1):
        raise UserError(
            f"test_share {test_share} and validation_share {validation_share} must be above 0 and together below 1"
        )
    everybody = set(patients.values())
    if len(everybody) < MINIMUM:
        who = "" if len(everybody) == len(patients) else f" of {len(everybody)} patient(s)"
        raise UserError(
            f"{len(patients)} usable subject(s){who}: at least {MINIMUM} patients are needed, for training, "
            "validation and test"
        )
    if split_file is None:
        test_count = min(max(1, round(test_share * len(everybody))), len(everybody) - 2)
        split = dict.fromkeys(everybody, "train") | dict.fromkeys(_ranked(everybody, seed)[:test_count], "test")
    else:
        split = _split_of_patients(patients, split_file)

    if "validation" not in split.values():
        training = _ranked((patient for patient in everybody if split[patient] == "train"), seed)
        count = max(1, round(validation_share * len(training if split_file else everybody)))
        split |= dict.fromkeys(training[: max(min(count, len(training) - 1), 0)], "validation")
    for part in ("train", "validation", "test"):
        if part not in split.values():
            raise UserError(f"{split_file or 'the split'} leaves no usable subject for {part}")
    return {subject: split[patient] for subject, patient in patients.items()}


def absent(subjects: Iterable[str], split_file: Path | None) -> list[str]:
    """Names that the split file has and the cohort has not."""
    return _match(subjects, split_file)[1] if split_file else []


def declared_patients(subjects: Iterable[str], split_file: Path | None) -> dict[str, str]:
    """{subject: patient} from the column `patient` of a split CSV; empty where there is none.

    Raises UserError where the file cannot be understood, or names two patients for a subject.
    """
    entries = _match(subjects, split_file)[0] if split_file else {}
    return {subject: entry.patient for subject, entry in entries.items() if entry.patient}


def _ranked(patients: Iterable[str], seed: int) -> list[str]:
    return sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).digest())


def _split_of_patients(patients: Mapping[str, str], split_file: Path) -> dict[str, Split]:
    named, _ = _match(patients, split_file)
    if missing := [subject for subject in patients if subject not in named]:
        raise UserError(
            f"{split_file} does not name {len(missing)} subject(s) of the cohort: {_listed(missing)}. "
            "Add them, or take them out of the cohort's folder"
        )
    first: dict[str, str] = {}
    for subject, patient in patients.items():
        other, entry = named[first.setdefault(patient, subject)], named[subject]
        if other.split != entry.split:
            remedy = (
                "keep one"
                if entry.patient
                else "put both into one; if they are different people, say so in a column patient of a CSV"
            )
            raise UserError(
                f"{split_file}: {first[patient]} ({other.where}, {other.split}) and {subject} ({entry.where}, "
                f"{entry.split}) are scans of one patient, {patient}, in two splits: {remedy}"
            )
    return {patient: named[subject].split for patient, subject in first.items()}


def _match(subjects: Iterable[str], split_file: Path) -> tuple[dict[str, _Entry], list[str]]:
    """The row of each subject that the file names, and the names that are no subject's.

    A name is a subject's when it equals the subject's, as it stands or less a path, .nii(.gz) or a modality's ending.
    """
    subjects, matched, unmatched = set(subjects), {}, []
    for entry in _read(Path(split_file)):
        file = re.sub(r"\.nii(\.gz)?$", "", re.split(r"[/\\]", entry.name)[-1])
        case = re.sub(r"(_(t1|t1ce|t2|flair|seg)|-(t1n|t1c|t2w|t2f|seg))$", "", file)
        subject = next((form for form in (entry.name, file, case) if form in subjects), None)
        if subject is None:
            unmatched.append(entry.name)
            continue
        before = matched.setdefault(subject, entry)
        if before.split != entry.split:
            raise UserError(f"{split_file} puts {subject} into both {before.split} and {entry.split}: keep one")
        if before.patient != entry.patient:
            raise UserError(
                f"{split_file} says that {subject} is a scan of {before.patient} ({before.where}) and of "
                f"{entry.patient} ({entry.where}): keep one"
            )
    return matched, unmatched


def _read(path: Path) -> list[_Entry]:
    if not path.is_file():
        raise UserError(f"split file {path} does not exist")
    if path.suffix.lower() == ".mat":
        names = _read_mat(path)
        if len(names) <= STUDY_TEST_SUBJECTS:
            raise UserError(
                f"{path} has {len(names)} names; the last {STUDY_TEST_SUBJECTS} are the test set, so none would train"
            )
        training = len(names) - STUDY_TEST_SUBJECTS
        return [
            _Entry(name, "train" if place <= training else "test", f"name {place}")
            for place, name in enumerate(names, 1)
        ]
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


def _read_csv(path: Path) -> list[_Entry]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or ()
            if not {"subject", "split"} <= set(columns):
                raise UserError(f"{path}: the columns subject and split are needed; found {reader.fieldnames}")
            if twice := [name for name in ("subject", "split", "patient") if Counter(columns)[name] > 1]:
                raise UserError(f"{path} has the column {twice[0]} more than once: keep one")
            rows = [
                (reader.line_num, *((row.get(key) or "").strip() for key in ("subject", "split", "patient")))
                for row in reader
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no readable CSV file: {error}") from error
    for line, subject, split, patient in rows:
        if not subject or split.lower() not in _ALIASES:
            raise UserError(
                f"{path}, line {line}: subject {subject!r}, split {split!r}; "
                "expected a name and train, validation or test"
            )
        if "patient" in columns and not patient:
            raise UserError(
                f"{path}, line {line}: {subject} has no patient. Name one in every line (for somebody with a "
                "single scan, any name that nobody else has), or leave the column away"
            )
    return [_Entry(subject, _ALIASES[split.lower()], f"line {line}", patient) for line, subject, split, patient in rows]


def _listed(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
