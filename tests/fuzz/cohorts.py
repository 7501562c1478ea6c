"""Family 1: a cohort of four subjects, one file of one of them damaged.

The damaged subject is set aside or read right; the other three come out unchanged, always.
"""

import csv
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.fuzz import harness, nifti_files, nifti_headers, nifti_voxels
from tests.fuzz.harness import Case, Ended, WrongValueError
from tests.fuzz.subjects import ASIDE, EITHER, LAYOUTS, NAMES, SAME, Victim, write_cohort

MUTATORS: list[Callable[[Victim], str]] = harness.mutators_of(nifti_headers, nifti_voxels, nifti_files)


@dataclass(frozen=True)
class Base:
    """Undamaged cohorts, and what comes of them."""

    folders: dict[str, Path]
    expected: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]


def call_for(data: Path) -> list[str]:
    keys = {"preset": "smoke", "data": str(data), "work_dir": "work", "workers": "1"}
    return ["prepare", *(word for key, value in keys.items() for word in (f"--{key}", value))]


def prepare(root: Path) -> Base:
    """Writes the undamaged cohorts below `root`, and reads each once."""
    folders, expected = {}, {}
    for number, layout in enumerate(LAYOUTS):
        folders[layout] = root / f"cohort{number}"
        write_cohort(folders[layout], layout)
        work = root / f"read{number}"
        work.mkdir()
        ended = harness.in_child(call_for(folders[layout]), work)
        assert ended.code == 0, ended.output
        expected[layout] = harness.by_subject(harness.only_folder(work / "work" / "prepare"))
        assert sorted(expected[layout]) == sorted(NAMES), (layout, sorted(expected[layout]))
    return Base(folders, expected)


def draw(base: Base, folder: Path, rng: np.random.Generator) -> Victim:
    """A copy of a cohort, and one of its files."""
    layout = LAYOUTS[rng.integers(len(LAYOUTS))]
    data = folder / "data"
    shutil.copytree(base.folders[layout], data)
    subject = NAMES[rng.integers(len(NAMES))]
    files = sorted(path for path in data.rglob("*.nii*") if path.name.startswith(subject))
    return Victim(data, files[rng.integers(len(files))], subject, layout, rng)


def make_case(base: Base, folder: Path, rng: np.random.Generator, mutator: Callable[[Victim], str]) -> Case:
    victim = draw(base, folder, rng)
    promise = mutator(victim)
    expected = base.expected[victim.layout]

    def holds(ended: Ended) -> str:
        if ended.code:
            raise WrongValueError(f"the whole cohort is refused: {harness.message(ended)[:400]}")
        out = harness.only_folder(folder / "work" / "prepare")
        found = harness.by_subject(out)
        for name in NAMES:
            if name != victim.subject and not (name in found and harness.same(found[name], expected[name])):
                raise WrongValueError(f"{name}, which was not damaged, is {'changed' if name in found else 'gone'}")
        with (out / "rejected.csv").open(encoding="utf-8", newline="") as file:
            reasons = {row["subject"]: row["reason"] for row in csv.DictReader(file)}
        if victim.subject not in found:
            if extra := set(found) - set(NAMES):
                raise WrongValueError(f"read as another subject, {extra}")
            if not reasons.get(victim.subject):
                raise WrongValueError(f"{victim.subject} is gone without a reason; set aside: {reasons}")
            if promise == SAME:
                raise WrongValueError(f"set aside, though it is sound: {reasons[victim.subject]}")
            return "set aside"
        if promise == ASIDE:
            raise WrongValueError(f"{victim.path.name} was read, though it cannot be used")
        equal = harness.same(found[victim.subject], expected[victim.subject])
        if promise in (SAME, EITHER) and not equal:
            raise WrongValueError(f"{victim.path.name} was read as something else than it holds")
        return "read right" if equal else "read"

    return Case(call_for(victim.folder), holds)
