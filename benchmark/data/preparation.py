"""Cohort → SliceSet: subjects in parallel processes, what is wrong set aside, duplicates found, splits assigned."""

import csv
import itertools
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from analysis.text import csv_cell
from benchmark.data import labels, splits
from benchmark.data.cohorts import Cohort, Rejection, Subject
from benchmark.data.patients import grouped, grouping, likeness_warnings, look_alikes, with_patients
from benchmark.data.reading import Understood, Workers, slice_all, understand, why_unusable
from benchmark.data.slices import SliceWriter
from benchmark.data.slicing import FIELD_OF_VIEW, Frame, SubjectSlices
from benchmark.errors import UserError

REASONS = 5  # in a sentence
EVALUATED = ("validation", "test")  # whose every slice is wanted
Progress = Callable[[int, int, str], None]  # subjects done with so far, subjects in all, the name of the last one


@dataclass(frozen=True)
class PreparationResult:
    """A cohort after preparation: counts, who was set aside, and what to tell people."""

    subjects: dict[str, int]  # per split
    slices: dict[str, int]  # per split, of the main set
    rejections: list[Rejection]  # as in rejected.csv
    warnings: list[str]  # for people
    cohort: dict  # what was read, as cohort.json holds it
    patients: dict[str, int]  # per split
    grouping: str | None  # which subjects are scans of one patient, for people


def prepare(
    cohort: Cohort,
    out: Path,
    *,
    image_size: int,
    field_of_view: float = FIELD_OF_VIEW,
    split_file: Path | None = None,
    seed: int = 0,
    test_share: float = 0.15,
    validation_share: float = 0.1,
    workers: int = 1,
    strict: bool = False,
    simulated: bool = False,
    convention: str = "auto",
    progress: Progress | None = None,
) -> PreparationResult:
    """Writes `out` (slices with enough brain), `out/volumes` (all of validation and test) and `out/rejected.csv`.

    Neither the number of workers nor their timing changes a byte. Memory grows with the cohort by 0.2 MB a subject,
    its thumbnail: a worker leaves a subject's slices in a folder inside `out` until they are appended.

    Raises UserError where `strict` and a subject had to be set aside, nothing usable is left, the splits cannot be
    assigned, it cannot be told what the annotations mean (`convention`: see `labels.decide`), or a worker process dies:
    `out` then has no set that opens, but rejected.csv if reading came to its end.
    """
    out = Path(out)
    names = [subject.name for subject in cohort.subjects]
    declared = splits.declared_patients(names, split_file)
    cohort = with_patients(cohort, declared)
    patients = {subject.name: subject.patient for subject in cohort.subjects}
    assign = partial(
        splits.assign, split_file=split_file, seed=seed, test_share=test_share, validation_share=validation_share
    )
    # A first assignment, before hours of reading, refuses a bad split file and says whose every slice will be wanted.
    # Subjects that reading sets aside may shift it at its boundaries.
    likely = assign(patients) if len({*patients.values()}) >= splits.MINIMUM else {}
    tell = _counting(progress, len(names))
    meta = {"kind": "real", "cohort": cohort.name, "simulated": simulated}
    with Workers(workers) as processes:
        understood = _understand(cohort, convention, processes, tell)
        meta |= {"labels": understood.convention.facts()}
        read = partial(slice_all, understood.cohort, frame=Frame(image_size, field_of_view), workers=processes)
        with (
            scratch_folder(out / "subjects.partial") as scratch,
            SliceWriter(out, image_size, {**meta, "spacing": {}}) as main,  # closed last: when it opens, `volumes` does
            SliceWriter(out / "volumes", image_size, {**meta, "spacing": {}}) as volumes,
        ):
            found = _gather(understood.cohort, likely, main, partial(read, scratch=scratch / "first"), tell)
            write_rejected(out / "rejected.csv", found.rejections)
            _refuse(cohort, found.rejections, nothing_left=not found.usable, strict=strict)
            split = assign({name: patients[name] for name in found.usable})
            main.assign_splits(split)
            _write_volumes(volumes, found, split, partial(read, scratch=scratch / "missed"))
    by = f"the column patient of {split_file}" if declared else "their names"
    return _result(understood, found, split, [*_absent(cohort, split_file), *understood.warnings], by)


def _counting(progress: Progress | None, total: int) -> Callable[[str], None]:
    """Called with the name of each subject that is done with."""
    done = itertools.count(1)

    def tell(name: str) -> None:
        if progress:
            progress(next(done), total, name)

    return tell


def _absent(cohort: Cohort, split_file: Path | None) -> list[str]:
    """For people: names that the split file has and the cohort has not."""
    names = [*(subject.name for subject in cohort.subjects), *(rejection.subject for rejection in cohort.rejections)]
    return [f"{split_file} names {name}, which is not in the cohort" for name in splits.absent(names, split_file)]


def _understand(cohort: Cohort, convention: str, workers: Workers, tell: Callable[[str], None]) -> Understood:
    try:
        understood = understand(cohort, convention, workers)
    except UserError as error:
        raise UserError(f"{cohort.folder}: {error}") from error
    for rejection in understood.cohort.rejections[len(cohort.rejections) :]:
        tell(rejection.subject)
    return understood


@dataclass
class _Found:
    """What reading the subjects has given so far."""

    rejections: list[Rejection]
    usable: dict[str, Subject] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)  # slices of the main set
    facts: dict[str, dict] = field(default_factory=dict)  # of each usable subject, for people
    thumbnails: dict[str, np.ndarray] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    whole: dict[str, tuple[Path, SubjectSlices]] = field(default_factory=dict)  # whose every slice waits in a folder


def _gather(
    cohort: Cohort, likely: Mapping[str, str], main: SliceWriter, read: Callable, tell: Callable[[str], None]
) -> _Found:
    """Reads all subjects: slices with enough brain go to the main set; who cannot be used is set aside."""
    found, digests = _Found(list(cohort.rejections)), {}
    every = [likely.get(subject.name) in EVALUATED for subject in cohort.subjects]
    with closing(read(subjects=cohort.subjects, every=every)) as sliced:
        for (subject, folder, result), whole in zip(sliced, every, strict=True):
            if isinstance(result, SubjectSlices):
                result = why_unusable(cohort, subject, result, digests) or result
            if isinstance(result, Rejection):
                found.rejections.append(result)
            else:
                _keep(found, main, subject, folder, result)
                if whole:
                    found.whole[subject.name] = folder, result
            if subject.name not in found.whole:
                shutil.rmtree(folder)
            tell(subject.name)
    found.rejections.sort(key=lambda rejection: rejection.subject)
    return found


def _keep(found: _Found, main: SliceWriter, subject: Subject, folder: Path, result: SubjectSlices) -> None:
    name = subject.name
    found.usable[name], found.kept[name] = subject, int(result.kept.sum())
    _append(main, subject, folder, result, slice(None) if result.kept.all() else result.kept)
    found.facts[name] = result.facts
    found.thumbnails[name] = np.load(folder / "thumbnail.npy", allow_pickle=False)
    if result.cut:
        found.warnings.append(f"{name}: {result.cut} voxels above 0 lie outside the field of view")
    found.warnings += [f"{name}: {remark}" for remark in result.remarks]


def _write_volumes(volumes: SliceWriter, found: _Found, split: Mapping[str, str], read: Callable) -> None:
    """Every slice of each validation and test subject; those of whom it was not expected are read once more."""
    evaluated = [name for name in found.usable if split[name] in EVALUATED]
    missed = [found.usable[name] for name in evaluated if name not in found.whole]
    for subject, folder, result in read(subjects=missed, every=[True] * len(missed)):
        if isinstance(result, Rejection):
            raise UserError(f"{subject.name}: {result.file} changed while the cohort was read: {result.reason}")
        found.whole[subject.name] = folder, result
    for name in evaluated:
        _append(volumes, found.usable[name], *found.whole[name], slice(None), split[name])


def _result(
    understood: Understood, found: _Found, split: Mapping[str, str], warnings: list[str], grouped_by: str
) -> PreparationResult:
    patients = {name: subject.patient for name, subject in found.usable.items()}
    slices = Counter()
    for name, count in found.kept.items():
        slices[split[name]] += count
    absent = labels.absent_classes([of_subject["class_ml"] for of_subject in found.facts.values()])
    absence = [labels.absence(absent, understood.convention)] if absent else []
    similar = look_alikes(found.thumbnails, patients)
    facts = _facts(understood, found.usable, found.facts, absent)
    return PreparationResult(
        subjects=dict(Counter(split.values())),
        slices=dict(slices),
        rejections=found.rejections,
        warnings=[*likeness_warnings(similar, split), *warnings, *found.warnings, *absence],
        cohort={**facts, "groups": grouped(patients), "similar": similar},
        patients=dict(Counter({patient: split[name] for name, patient in patients.items()}.values())),
        grouping=grouping(patients, grouped_by),
    )


def _facts(understood: Understood, usable: dict[str, Subject], facts: dict[str, dict], absent: list[str]) -> dict:
    """What was read, subject by subject, as cohort.json holds it."""
    return {
        "layout": understood.cohort.layout,
        "labels": understood.convention.facts(),
        "absent_classes": absent,
        "subjects": [
            {
                "subject": name,
                "patient": subject.patient,
                **facts[name],
                "label_values": {str(value): count for value, count in understood.values[name].items() if value},
            }
            for name, subject in usable.items()
        ],
    }


def _append(
    writer: SliceWriter,
    subject: Subject,
    folder: Path,
    slices: SubjectSlices,
    rows: np.ndarray | slice,
    split: str = "train",
) -> None:
    images, labels = (
        np.load(folder / file, mmap_mode="r", allow_pickle=False)[rows] for file in ("images.npy", "labels.npy")
    )
    z = slices.z[rows].tolist()
    writer.append(images, labels, subject=subject.name, patient=subject.patient, z=z, split=split)
    writer.meta["spacing"][subject.name] = slices.spacing


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """An empty folder, removed at the end, or at the next start where a killed process left it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def write_rejected(path: Path, rejections: Sequence[Rejection]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("subject", "file", "reason"))
        rows.writerows(map(csv_cell, astuple(rejection)) for rejection in rejections)


def _refuse(cohort: Cohort, rejections: Sequence[Rejection], *, nothing_left: bool, strict: bool) -> None:
    if nothing_left:
        alike = defaultdict(list)  # reasons that differ only in numbers
        for rejection in rejections:
            alike[re.sub(r"[\d.]+", "", rejection.reason)].append(rejection.reason)
        reasons = sorted(alike.values(), key=len, reverse=True)
        raise UserError(
            f"{cohort.folder}: nothing usable is left of {len(rejections)} subject(s). "
            + "; ".join(f"{len(words)} × {words[0]}" for words in reasons[:REASONS])
            + (f"; and {len(reasons) - REASONS} other reasons: see rejected.csv" if len(reasons) > REASONS else "")
        )
    if strict and rejections:
        listed = "".join(f"\n  {rejection.subject}: {rejection.file}: {rejection.reason}" for rejection in rejections)
        raise UserError(f"{cohort.folder}: {len(rejections)} subject(s) cannot be used, and strict is set:{listed}")
