"""A cohort's subjects through worker processes: first what their annotations mean, then their slices."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from benchmark.cores import end_with_parent
from benchmark.data import labels
from benchmark.data.cohorts import Cohort, RejectedSubject, Rejection, Subject, shown
from benchmark.data.nifti import inspect_annotation
from benchmark.data.slicing import BRAIN_SHARE, T1_THRESHOLD, Frame, SubjectSlices, slice_subject
from benchmark.errors import UserError


class Workers:
    """The processes that read subjects; one alone is this process itself. A context manager that ends them."""

    def __init__(self, count: int) -> None:
        self.count = count
        # Spawned, because forking a process that has threads (torch, MLflow) can hang.
        self._pool = ProcessPoolExecutor(count, get_context("spawn"), _begin) if count > 1 else None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def results(self, function: Callable, tasks: Sequence[tuple]) -> Iterator[Callable[[], Any]]:
        """For each task a call that gives function(*task), or raises what it raised. Whoever closes this early finds
        that no worker does any of it anymore."""
        if not self._pool:
            yield from (partial(function, *task) for task in tasks)
            return
        futures = [self._pool.submit(function, *task) for task in tasks]
        try:
            yield from (future.result for future in futures)
        finally:
            wait([future for future in futures if not future.cancel()])


def _begin() -> None:
    """In a worker process, before its first subject."""
    end_with_parent()
    threadpool_limits(1)


ALONE = Workers(1)


@dataclass(frozen=True)
class Understood:
    """A cohort whose subjects know what the values of their annotations mean."""

    cohort: Cohort  # subjects with `classes`; those whose annotation cannot be read are among its rejections
    convention: labels.Convention
    values: dict[str, dict[int, int]]  # subject → value in its annotation → voxels
    warnings: list[str]  # for people


def understand(cohort: Cohort, wanted: str = "auto", workers: Workers = ALONE) -> Understood:
    """Reads every annotation once and decides for the whole cohort what their values mean: see `labels.decide`.

    Raises UserError where that cannot be told. Where no annotation can be read, no subject is left.
    """
    found, rejections, warnings = {}, list(cohort.rejections), []
    tasks = [(subject,) for subject in cohort.subjects]
    for (subject,), result in _outcomes(cohort, inspect_annotation, tasks, workers):
        if isinstance(result, Rejection):
            rejections.append(result)
        else:
            found[subject.name] = result
    unplaced = [name for name, annotation in found.items() if annotation.unplaced]
    if unplaced and len(unplaced) == len(found):
        warnings.append(
            "the affine of every annotation is the identity, as programs write it that know none: right and left are "
            "taken as NIfTI then has them; see on the cohort card that they are right"
        )
        unplaced = []
    by_name = {subject.name: subject for subject in cohort.subjects}
    for name in unplaced:  # beside others with a header, these have lost theirs
        del found[name]
        reason = "its affine is the identity, others' are not: a lost header? Left cannot be told from right"
        rejections.append(Rejection(name, shown(by_name[name].annotation, cohort.folder), reason))

    values = {name: annotation.values for name, annotation in found.items()}
    given = next((subject.classes for subject in cohort.subjects if subject.classes), None)
    convention = labels.decide(cohort.layout, values, wanted, given) if values else labels.Convention("unknown", {})
    subjects = [replace(by_name[name], classes=convention.classes) for name in values]
    if convention.note:
        warnings.append(convention.note)
    return Understood(replace(cohort, subjects=subjects, rejections=rejections), convention, values, warnings)


def slice_all(
    cohort: Cohort, subjects: Sequence[Subject], every: Sequence[bool], scratch: Path, frame: Frame, workers: Workers
) -> Iterator[tuple[Subject, Path, SubjectSlices | Rejection]]:
    """Subjects, the folder of each one's slices, and what is known of them, in their order."""
    scratch.mkdir()
    tasks = [
        (subject, scratch / str(number), frame, wanted)
        for number, (subject, wanted) in enumerate(zip(subjects, every, strict=True))
    ]
    for (subject, folder, *_), outcome in _outcomes(cohort, slice_subject, tasks, workers):
        yield subject, folder, outcome


def why_unusable(cohort: Cohort, subject: Subject, slices: SubjectSlices, digests: dict[str, str]) -> Rejection | None:
    """Why a subject that was read cannot be used, or None; `digests` {of the images: subject} gains this one."""
    first = digests.setdefault(slices.digest, subject.name)
    if first != subject.name:
        return Rejection(subject.name, shown(subject.images[0], cohort.folder), f"same images as {first}")
    if not slices.kept.any():
        reason = f"no slice has T1 above {T1_THRESHOLD} of 255 in more than {BRAIN_SHARE:.0%} of 256 × 256 mm"
        return Rejection(subject.name, shown(subject.images[0], cohort.folder), reason)
    return None


def _outcomes(
    cohort: Cohort, function: Callable, tasks: Sequence[tuple], workers: Workers
) -> Iterator[tuple[tuple, Any | Rejection]]:
    """Each task, whose first part is the subject, and what function(*task) gives, or why the subject is set aside."""
    done = 0
    try:
        with closing(workers.results(function, tasks)) as results:
            for task, result in zip(tasks, results, strict=True):
                yield task, _outcome(cohort, task[0], result)
                done += 1
    except BrokenProcessPool as error:
        # Which of the subjects being read it was, the pool does not say.
        reading = " or ".join(task[0].name for task in tasks[done : done + workers.count + 1])
        raise UserError(
            f"a worker process died while reading {reading}. Mostly the machine is out of memory: use fewer than "
            f"{workers.count} workers; with workers=1 the subject shows itself"
        ) from error


def _outcome(cohort: Cohort, subject: Subject, result: Callable[[], Any]) -> Any | Rejection:
    try:
        return result()
    except RejectedSubject as rejected:
        return Rejection(subject.name, shown(rejected.file, cohort.folder), rejected.reason)
    except BrokenProcessPool:
        raise
    except Exception as error:
        error.add_note(f"while reading subject {subject.name}")
        raise
