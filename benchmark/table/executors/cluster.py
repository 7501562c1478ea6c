"""Jobs on the workers of a Ray cluster."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmark.config import Benchmark
from benchmark.errors import UserError
from benchmark.stages import Failure, Outcome
from benchmark.table.cells import Job
from benchmark.table.executors.serial import GRACE, Results, attempt, parents_of
from benchmark.tracking.session import Session
from benchmark.tracking.store import Store
from benchmark.training import processes

RETRIES = 5  # lost nodes and killed workers that one job survives

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


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

    here = False
    running: Mapping[str, float] = {}  # Ray alone knows

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
        code = filter(None, [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH")])
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
    return attempt(job, parents_of(job, ended), Session(place.store, parent_run=place.parent_run))
