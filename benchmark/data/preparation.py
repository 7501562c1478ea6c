"""Cohort → SliceSet: subjects in parallel processes, what is wrong set aside, duplicates found, splits assigned."""

import csv
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmark.data import splits
from benchmark.data.cohorts import Cohort, RejectedSubject, Rejection, Subject, shown
from benchmark.data.slices import SliceWriter
from benchmark.data.slicing import BRAIN_SHARE, T1_THRESHOLD, SubjectSlices, slice_subject
from benchmark.errors import UserError

Progress = Callable[[int, int, str], None]  # subjects read so far, subjects in all, the name of the last one


@dataclass(frozen=True)
class PreparationResult:
    """What came of a cohort."""

    subjects: dict[str, int]  # per split
    slices: dict[str, int]  # per split, of the main set
    rejections: list[Rejection]  # as in rejected.csv
    warnings: list[str]  # for people


def prepare(
    cohort: Cohort,
    out: Path,
    *,
    image_size: int,
    split_file: Path | None = None,
    seed: int = 0,
    test_share: float = 0.15,
    validation_share: float = 0.1,
    workers: int = 1,
    strict: bool = False,
    simulated: bool = False,
    progress: Progress | None = None,
) -> PreparationResult:
    """Writes `out` (slices with enough brain), `out/volumes` (all of validation and test) and `out/rejected.csv`.

    Neither the number of workers nor their timing changes a byte. Memory does not grow with the cohort: a worker
    leaves a subject's slices in a folder inside `out` until they are appended.

    Raises UserError where `strict` and a subject had to be set aside, nothing usable is left, the splits cannot be
    assigned, or a worker process dies: `out` then has no set that opens, but rejected.csv if reading came to its end.
    """
    out = Path(out)
    names = [subject.name for subject in cohort.subjects]
    assign = partial(
        splits.assign, split_file=split_file, seed=seed, test_share=test_share, validation_share=validation_share
    )
    warnings = [
        f"{split_file} names {name}, which is not in the cohort"
        for name in splits.absent([*names, *(rejection.subject for rejection in cohort.rejections)], split_file)
    ]
    # A first assignment, before hours of reading, refuses a bad split file and says whose every slice will be wanted.
    # Subjects that reading sets aside may shift it at its boundaries.
    likely = assign(names) if len(names) >= splits.MINIMUM else {}
    every = [likely.get(name) in ("validation", "test") for name in names]

    meta = {"kind": "real", "cohort": cohort.name, "simulated": simulated}
    rejections, digests = list(cohort.rejections), {}
    usable: dict[str, Subject] = {}
    kept: dict[str, int] = {}  # slices of the main set
    whole: dict[str, tuple[Path, SubjectSlices]] = {}  # subjects whose every slice waits in a folder
    with (
        scratch_folder(out / "subjects.partial") as scratch,
        SliceWriter(out, image_size, {**meta, "spacing": {}}) as main,  # closed last: when it opens, `volumes` does
        SliceWriter(out / "volumes", image_size, {**meta, "spacing": {}}) as volumes,
    ):
        with closing(slice_all(cohort, cohort.subjects, every, scratch / "first", image_size, workers)) as sliced:
            for done, (subject, folder, result) in enumerate(sliced, 1):
                if isinstance(result, SubjectSlices):
                    result = useless(cohort, subject, result, digests) or result
                if isinstance(result, Rejection):
                    rejections.append(result)
                else:
                    usable[subject.name], kept[subject.name] = subject, int(result.kept.sum())
                    _append(main, subject.name, folder, result, slice(None) if result.kept.all() else result.kept)
                    if result.cut:
                        warnings.append(f"{subject.name}: {result.cut} voxels above 0 lie outside the field of view")
                    if every[done - 1]:
                        whole[subject.name] = folder, result
                if subject.name not in whole:
                    shutil.rmtree(folder)
                if progress:
                    progress(done, len(names), subject.name)

        rejections.sort(key=lambda rejection: rejection.subject)
        write_rejected(out / "rejected.csv", rejections)
        _refuse(cohort, rejections, nothing_left=not usable, strict=strict)

        split = assign(list(usable))
        main.assign_splits(split)
        evaluated = [name for name in usable if split[name] in ("validation", "test")]
        missed = [usable[name] for name in evaluated if name not in whole]
        for subject, folder, result in slice_all(
            cohort, missed, [True] * len(missed), scratch / "missed", image_size, workers
        ):
            if isinstance(result, Rejection):
                raise UserError(f"{subject.name}: {result.file} changed while the cohort was read: {result.reason}")
            whole[subject.name] = folder, result
        for name in evaluated:
            _append(volumes, name, *whole[name], slice(None), split[name])

    slices = Counter()
    for name in usable:
        slices[split[name]] += kept[name]
    return PreparationResult(dict(Counter(split.values())), dict(slices), rejections, warnings)


def slice_all(
    cohort: Cohort, subjects: Sequence[Subject], every: Sequence[bool], scratch: Path, image_size: int, workers: int
) -> Iterator[tuple[Subject, Path, SubjectSlices | Rejection]]:
    """Subjects, the folder of each one's slices, and what is known of them, in their order."""
    scratch.mkdir()
    tasks = [
        (subject, scratch / str(number), image_size, wanted)
        for number, (subject, wanted) in enumerate(zip(subjects, every, strict=True))
    ]
    pool = None
    try:
        if workers == 1:
            results = [partial(slice_subject, *task) for task in tasks]
        else:
            # Spawned, because forking a process that has threads (torch, MLflow) can hang.
            pool = ProcessPoolExecutor(workers, get_context("spawn"), threadpool_limits, (1,))
            results = [pool.submit(slice_subject, *task).result for task in tasks]
        for (subject, folder, *_), result in zip(tasks, results, strict=True):
            try:
                outcome = result()
            except RejectedSubject as rejected:
                outcome = Rejection(subject.name, shown(rejected.file, cohort.folder), rejected.reason)
            except BrokenProcessPool as error:
                # Which of the subjects being read it was, the pool does not say.
                reading = [task[0].name for task in tasks if task[1].exists() and not (task[1] / "labels.npy").exists()]
                raise UserError(
                    f"a worker process died while reading {' or '.join(reading or [subject.name])}. Mostly the machine "
                    f"is out of memory: use fewer than {workers} workers; with workers=1 the subject shows itself"
                ) from error
            except Exception as error:
                error.add_note(f"while reading subject {subject.name}")
                raise
            yield subject, folder, outcome
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def useless(cohort: Cohort, subject: Subject, slices: SubjectSlices, digests: dict[str, str]) -> Rejection | None:
    """Why a readable subject is of no use, if so; enters it into the images seen so far."""
    first = digests.setdefault(slices.digest, subject.name)
    if first != subject.name:
        return Rejection(subject.name, shown(subject.images[0], cohort.folder), f"same images as {first}")
    if not slices.kept.any():
        reason = f"no slice has T1 above {T1_THRESHOLD} of 255 in more than {BRAIN_SHARE:.0%} of its pixels"
        return Rejection(subject.name, shown(subject.images[0], cohort.folder), reason)
    return None


def _append(
    writer: SliceWriter, name: str, folder: Path, slices: SubjectSlices, rows: np.ndarray | slice, split: str = "train"
) -> None:
    images, labels = (
        np.load(folder / file, mmap_mode="r", allow_pickle=False)[rows] for file in ("images.npy", "labels.npy")
    )
    writer.append(images, labels, subject=name, z=slices.z[rows].tolist(), split=split)
    writer.meta["spacing"][name] = slices.spacing


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that goes at the end, and at the next start where a killed process left it."""
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
        rows.writerows(astuple(rejection) for rejection in rejections)


def _refuse(cohort: Cohort, rejections: Sequence[Rejection], *, nothing_left: bool, strict: bool) -> None:
    if nothing_left:
        reasons = Counter(rejection.reason for rejection in rejections).most_common()
        raise UserError(
            f"{cohort.folder}: nothing usable is left of {len(rejections)} subject(s). "
            + "; ".join(f"{count} × {reason}" for reason, count in reasons)
        )
    if strict and rejections:
        listed = "".join(f"\n  {rejection.subject}: {rejection.file}: {rejection.reason}" for rejection in rejections)
        raise UserError(f"{cohort.folder}: {len(rejections)} subject(s) cannot be used, and strict is set:{listed}")
