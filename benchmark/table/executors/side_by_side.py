"""Jobs side by side in processes of this machine: small networks gain little from a second thread, tables much."""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import RLock
from typing import Any

from benchmark import progress
from benchmark.config import Benchmark
from benchmark.cores import cores, end_with_parent
from benchmark.errors import UserError, was_interrupted
from benchmark.files import disk_fault
from benchmark.stages import Failure, Outcome
from benchmark.table.cells import Job
from benchmark.table.executors.serial import GRACE, Results, attempt, parents_of, warn_of_mismatch
from benchmark.tracking.session import Session
from benchmark.tracking.store import Store

SPAWN = get_context("spawn")  # forking a process that has threads (torch, MLflow) can hang


class SideBySide(AbstractContextManager):
    """As many jobs at once as there are cores for the threads of each, by default one: numbers then do not depend on
    the machine's number of cores. A job starts as soon as those that it needs have ended and a process is free, in the
    order of the plan.

    A process that is killed, as the system does where memory runs out, fails its job, and another takes its place. All
    end when this process does, however that ends.
    """

    here = True

    def __init__(self, settings: Benchmark, store: Store) -> None:
        self.threads = settings.cpus_per_cell or 1
        self.width = self.at_once(settings)
        self._store, self._screen = store, SPAWN.RLock()
        self._idle: list[Worker] = []
        self._busy: dict[Worker, Job] = {}

    @staticmethod
    def at_once(settings: Benchmark) -> int:
        return max(1, cores() // (settings.cpus_per_cell or 1))

    @property
    def running(self) -> Mapping[str, float]:
        return {job.fingerprint: worker.since for worker, job in self._busy.items()}

    def __exit__(self, *_: Any) -> None:
        for worker in self._idle:
            worker.dismiss()

    def run(self, left: list[Job], results: Results, session: Session) -> Iterator[tuple[Job, Outcome]]:
        warn_of_mismatch(left)
        waiting = {job.fingerprint: job for job in left}  # parents first
        try:
            while waiting or self._busy:
                self._start(waiting, results, session)
                heard = wait([worker.pipe for worker in self._busy])
                for worker in [worker for worker in self._busy if worker.pipe in heard]:
                    job = self._busy[worker]
                    outcome = worker.outcome(job)
                    del self._busy[worker]
                    if worker.process.is_alive():
                        self._idle.append(worker)
                    results[job.fingerprint] = outcome
                    yield job, outcome
        finally:  # interrupted, or a job met a fault of the disk
            for worker in self._busy:
                worker.process.terminate()
            for worker in self._busy:
                worker.dismiss()
            self._busy.clear()

    def _start(self, waiting: dict[str, Job], results: Results, session: Session) -> None:
        """Hands out jobs whose parents have ended, as long as there are both such jobs and processes."""
        self._idle = [worker for worker in self._idle if worker.process.is_alive()]
        ready = (job for job in waiting.values() if results.keys() >= set(job.parents.values()))
        for job in list(ready):
            if len(self._busy) == self.width:
                return
            worker = self._idle.pop() if self._idle else self._hire(session)
            worker.begin(job, parents_of(job, results))
            self._busy[worker] = waiting.pop(job.fingerprint)

    def _hire(self, session: Session) -> "Worker":
        rows = {worker.row for worker in (*self._busy, *self._idle)}
        row = next(row for row in range(1, self.width + 1) if row not in rows)
        return Worker(row, self.threads, self._screen, self._store, session.parent_run)


class Worker:
    """A process that does one job after another; its progress bars have a row of the terminal."""

    def __init__(self, row: int, threads: int, screen: RLock, store: Store, parent_run: str | None) -> None:
        self.row, self.since = row, 0.0
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_serve, args=(theirs, row, screen, store, parent_run))
        with _environment(OMP_NUM_THREADS=str(threads)):  # read when torch is loaded
            self.process.start()
        theirs.close()

    def begin(self, job: Job, parents: Mapping[str, Outcome]) -> None:
        self.since = time.monotonic()
        self.pipe.send((job, parents))

    def outcome(self, job: Job) -> Outcome:
        """What came of the job that it was given. Raises UserError for a fault of the disk."""
        try:
            answer = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.dismiss()
            return Failure(job.stage, _why_ended(self.process.exitcode), job.folder)
        if isinstance(answer, UserError):
            raise answer
        return answer

    def dismiss(self) -> None:
        """Waits until the process has ended: at once where it has no job, soon where it was interrupted."""
        self.pipe.close()
        self.process.join(GRACE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _why_ended(exitcode: int | None) -> str:
    if exitcode == -signal.SIGKILL:
        return (
            "its process was killed, most likely by the system for want of memory; give cpus_per_cell=2 or more, and "
            "fewer run at once"
        )
    return f"its process ended ({exitcode})"


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Within, a process that starts finds these variables."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key)
            if value is not None:
                os.environ[key] = value


def _serve(pipe: Connection, row: int, screen: RLock, store: Store, parent_run: str | None) -> None:
    """In the process: jobs as they come through the pipe, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all of us; the first one tells
    signal.signal(signal.SIGTERM, _interrupt)
    end_with_parent()
    progress.log_on_screen()
    progress.share_screen(row, screen)
    session = Session(store, parent_run=parent_run)
    try:
        while True:
            pipe.send(_answer(*pipe.recv(), session))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return


def _answer(job: Job, parents: Mapping[str, Outcome], session: Session) -> Outcome | UserError:
    """The job's outcome, or the fault of the disk that it met."""
    try:
        return attempt(job, parents, session)
    except UserError as error:
        return error
    except Exception as error:
        if was_interrupted(error):
            raise KeyboardInterrupt from error
        if (fault := disk_fault(error)) is None:
            raise
        return UserError(fault)


def _interrupt(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: a run says meanwhile that it was interrupted
    raise KeyboardInterrupt
