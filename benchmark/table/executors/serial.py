"""What every executor offers, and the plainest one: this process, one job after another."""

import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from benchmark.config import Benchmark
from benchmark.errors import UserError, was_interrupted
from benchmark.files import disk_fault
from benchmark.stages import TRAININGS, Failure, Outcome, pull, tags_of
from benchmark.table.cells import Job
from benchmark.tracking.session import Session
from benchmark.tracking.store import Store
from benchmark.training import precision
from benchmark.training.devices import pick_device, warn_where_busy

GRACE = 15  # for interrupted runs to say that they were [s]

Results = dict[str, Outcome]


class Executor(Protocol):
    """Entered as a context manager before the first job runs."""

    here: bool  # whether this machine does the work
    width: int  # how many jobs run at once
    threads: int  # torch's, of each
    running: Mapping[str, float]  # since when jobs run, by fingerprint, as far as it is known [time.monotonic()]

    def run(self, left: list[Job], results: Results, session: Session) -> Iterator[tuple[Job, Outcome]]:
        """Each job with its outcome, as jobs end; `left` lists parents first, `results` holds the outcomes of jobs that
        are done, by fingerprint, and is given every new one."""
        ...


def attempt(job: Job, parents: Mapping[str, Outcome], session: Session) -> Outcome:
    """The job's result; its failure where a parent failed, or where it raises whatever error but a disk's: that is
    every job's, and none could say how it ended."""
    for parent in parents.values():
        if isinstance(parent, Failure):
            return Failure(job.stage, parent.reason, job.folder)
    try:
        return pull(job.stage, job.config, session, inputs=parents)
    except UserError as error:
        if disk_fault(error):
            raise
        return Failure(job.stage, str(error), job.folder)
    except Exception as error:
        if disk_fault(error) or was_interrupted(error):
            raise
        return Failure(job.stage, f"{type(error).__name__}: {error}", job.folder, traceback.format_exc())


def parents_of(job: Job, results: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """Outcomes of the jobs that this one needs, by what its stage calls them."""
    return {name: results[digest] for name, digest in job.parents.items()}


def warn_of_mismatch(left: list[Job]) -> None:
    """Says which of the trainings among these jobs are slow in their precision on this machine."""
    if trainings := [job for job in left if job.stage in TRAININGS]:
        precision.warn_of_mismatch(trainings[0].config, (tags_of(job.stage, job.config)["model"] for job in trainings))


class Serial(AbstractContextManager):
    """One job after another, in this process, whose team helps with trainings."""

    here = True
    width = 1
    running: Mapping[str, float] = {}

    def __init__(self, settings: Benchmark, store: Store) -> None:
        self.threads = torch.get_num_threads()

    def __exit__(self, *_: Any) -> None: ...

    def run(self, left: list[Job], results: Results, session: Session) -> Iterator[tuple[Job, Outcome]]:
        if trainings := [job for job in left if job.stage in TRAININGS]:
            warn_where_busy(pick_device(trainings[0].config.common.device))
        warn_of_mismatch(left)
        for job in left:
            results[job.fingerprint] = attempt(job, parents_of(job, results), session)
            yield job, results[job.fingerprint]
