"""Who runs the table's jobs: this process, one after another, or the workers of a Ray cluster."""

import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from benchmark.config import Benchmark
from benchmark.errors import UserError, was_interrupted
from benchmark.files import disk_fault
from benchmark.stages import TRAININGS, Failure, Outcome, pull, tags_of
from benchmark.table.cells import Job
from benchmark.tracking.session import Session
from benchmark.tracking.store import Store
from benchmark.training import precision, processes
from benchmark.training.devices import pick_device, warn_where_busy

RETRIES = 5  # lost nodes and killed workers that one job survives
GRACE = 15  # for interrupted runs to say that they were [s]

log = logging.getLogger(__name__)

Results = dict[str, Outcome]
Answer = TypeVar("Answer")


class Executor(Protocol):
    """Entered as a context manager before the first job runs."""

    width: int  # how many jobs run at once

    def run(self, left: list[Job], results: Results, session: Session) -> Iterator[tuple[Job, Outcome]]:
        """Each job with its outcome, as jobs end; `left` lists parents first, `results` holds the outcomes of jobs that
        are done, by fingerprint, and is given every new one."""
        ...


def _attempt(job: Job, parents: Mapping[str, Outcome], session: Session) -> Outcome:
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


class Serial(AbstractContextManager):
    """One job after another, in this process, whose team helps with trainings."""

    width = 1

    def __init__(self, settings: Benchmark, store: Store) -> None: ...

    def __exit__(self, *_: Any) -> None: ...

    def run(self, left: list[Job], results: Results, session: Session) -> Iterator[tuple[Job, Outcome]]:
        if trainings := [job for job in left if job.stage in TRAININGS]:
            warn_where_busy(pick_device(trainings[0].config.common.device))
            precision.warn_of_mismatch(
                trainings[0].config, (tags_of(job.stage, job.config)["model"] for job in trainings)
            )
        for job in left:
            parents = {name: results[digest] for name, digest in job.parents.items()}
            results[job.fingerprint] = _attempt(job, parents, session)
            yield job, results[job.fingerprint]


class OnRay(AbstractContextManager):
    """Each job is a task of a Ray cluster that is handed references to its parents' outcomes: Ray starts it after them.

    Workers work in this folder, which every node sees at the same path, with this process's tracking store and number
    of threads: with another number, torch adds in another order, and weights differ in their last bits.

    Ray runs a task whose node or worker is lost again elsewhere, at most RETRIES times. It goes on from the job's last
    checkpoint: the lock on the job's folder went with the process that held it. What our own code raises is a result,
    FAILED with its reason, so it is not run again.

    Raises UserError where Ray is not installed, the cluster cannot be reached, several machines would share SQLite, or
    torchrun has started this process.
    """

    def __init__(self, settings: Benchmark, store: Store) -> None:
        if processes.world() > 1:
            raise UserError(
                "executor: 'ray' hands each stage to one process, torchrun shares one training among several; "
                "start the table without torchrun, or with executor=serial"
            )
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that starts here tells nobody
        os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))  # without end, if Ray is left to itself
        if (
            settings.address == "local"
        ):  # keeps to the loopback interface; Ray does so by itself on the systems it names
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        else:
            os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")  # tries, each of 40 s; Ray's default is 20
        try:
            import ray  # only now: it reads its settings when it is imported
        except ModuleNotFoundError as error:
            raise UserError("executor=ray needs Ray, which is not installed: pip install ray") from error
        self._ray = ray
        options = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.WARNING}
        on_stop = signal.getsignal(signal.SIGTERM)
        with ExitStack() as stack:
            stack.enter_context(redirect_stdout(sys.stderr))  # Ray tells of lost nodes on stdout, where results stand
            try:
                ray.init(settings.address, **options)
            except (ConnectionError, RuntimeError, ValueError) as error:  # not there, of another version, misspelt
                raise UserError(
                    f"address: the Ray cluster '{settings.address}' cannot be used: {error}\n"
                    "`ray start --head --include-dashboard=false` starts one here, address=local one for this call only"
                ) from error
            stack.callback(ray.shutdown)
            signal.signal(signal.SIGTERM, on_stop)  # Ray put its own in place
            self._settle(settings, store)
            self._close = stack.pop_all().close

    def __exit__(self, *_: Any) -> None:
        self._close()

    def _settle(self, settings: Benchmark, store: Store) -> None:
        """What a job claims, and how many of them the nodes that are there hold."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        if store.uri.startswith("sqlite") and len({node["NodeManagerAddress"] for node in nodes}) > 1:
            raise UserError(
                f"tracking store {store}: several machines cannot share SQLite; start `mlflow server` and give its "
                "address as MLFLOW_TRACKING_URI"
            )
        held = [(node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0)) for node in nodes]
        self.threads = settings.cpus_per_cell or torch.get_num_threads()
        self.gpus = float(any(gpus for _, gpus in held)) if settings.gpus_per_cell is None else settings.gpus_per_cell
        fitting = [min(cpus / self.threads, gpus / self.gpus if self.gpus else cpus) for cpus, gpus in held]
        self.width = max(1, sum(map(int, fitting)))
        if not any(map(int, fitting)):
            log.warning(
                "no node of the Ray cluster has the %d cores and %g GPUs that one job claims: waiting for one; "
                "cpus_per_cell and gpus_per_cell set the claim",
                self.threads,
                self.gpus,
            )

    def run(self, left: list[Job], results: Results, session: Session) -> Iterator[tuple[Job, Outcome]]:
        ray, task = self._ray, self._task(_work)
        place = Place(Path.cwd(), session.store, session.parent_run)
        references: dict[str, Any] = {}  # to outcomes that are still to come, by fingerprint
        for job in left:  # parents first
            known = {digest: results[digest] for digest in job.parents.values() if digest in results}
            awaited = {digest: references[digest] for digest in job.parents.values() if digest in references}
            references[job.fingerprint] = task.remote(job, place, known, [*awaited], *awaited.values())
        running = {references[job.fingerprint]: job for job in left}
        try:
            while running:
                (reference,), _ = ray.wait(list(running), num_returns=1)
                job = running.pop(reference)
                results[job.fingerprint] = self._outcome(reference, job)
                yield job, results[job.fingerprint]
        finally:
            if running:  # interrupted
                for reference in running:
                    ray.cancel(reference)
                ray.wait(list(running), num_returns=len(running), timeout=GRACE)

    def ask(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """The function's answer from a worker like those that jobs get."""
        return self._ray.get(self._task(function).remote(*arguments))

    def _task(self, function: Callable) -> Any:
        options = {"num_cpus": self.threads, "num_gpus": self.gpus, "max_retries": RETRIES}
        return self._ray.remote(function).options(**options, runtime_env={"env_vars": self._environment()})

    def _environment(self) -> dict[str, str]:
        """What has to be set before a worker's libraries load: where our code lies, threads, the allocator."""
        code = filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])
        allocator = {key: value for key, value in os.environ.items() if key.startswith("MALLOC_")}
        return {"PYTHONPATH": os.pathsep.join(code), "OMP_NUM_THREADS": str(self.threads), **allocator}

    def _outcome(self, reference: Any, job: Job) -> Outcome:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:  # lost once too often, or the node lacks our code
            cause = getattr(error, "cause", None) or error
            return Failure(job.stage, f"Ray: {type(cause).__name__}: {cause}", job.folder)


@dataclass(frozen=True)
class Place:
    """Where a worker works. The store's address may hold a password, so Ray's listings must not show it."""

    folder: Path
    store: Store
    parent_run: str


def _work(job: Job, place: Place, known: Mapping[str, Outcome], awaited: list[str], *outcomes: Outcome) -> Outcome:
    """In a worker: the job's outcome, from those of its parents, which were known before or awaited."""
    if not place.folder.is_dir():
        reason = f"{socket.gethostname()} does not see {place.folder}: start in a folder that all nodes share"
        return Failure(job.stage, reason, job.folder)
    os.chdir(place.folder)
    ended = {**known, **dict(zip(awaited, outcomes, strict=True))}
    parents = {name: ended[digest] for name, digest in job.parents.items()}
    return _attempt(job, parents, Session(place.store, parent_run=place.parent_run))


EXECUTORS = {"serial": Serial, "ray": OnRay}


def machine_decides(settings: Benchmark, store: Store, device: str) -> precision.Decision:
    """On precision decides a machine that trains, which a cluster's head, where the table is planned, may not be."""
    if settings.executor == "serial":
        return precision.own(device)
    with OnRay(settings, store) as cluster:
        return cluster.ask(precision.own, device)
