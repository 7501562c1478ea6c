"""MLflow, and nothing else imports it: runs, fingerprints, reuse, lineage.

What a run logs goes to its journal on disk, and from there, on a thread of its own, to the store. So a tracking server
that is away costs neither training time nor a metric; `sync` delivers what is left when it stays away for longer.
"""

import hashlib
import json
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # a table has dozens of runs
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # tried again here, where training does not wait

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from requests import HTTPError

from benchmark.errors import GivenUp, UserError
from benchmark.files import content_hash, locked
from benchmark.tracking.journal import SUFFIX, Journal

EXPERIMENT = "stand-in"
DEFAULT_STORE = "sqlite:///mlflow.db"
FLUSH_SECONDS = 10  # metrics wait this long at most: one write for many keeps tracking far below 2 % of training
FIRST_PAUSE = 0.5  # before the second try [s]; doubles up to FLUSH_SECONDS
PATIENCE = 600  # how long, in all, one absence of the store may hold up the end of a run or the start of one [s]
GRACE = 10  # the same for a run that was interrupted: a cluster that stops a job soon kills it [s]
REFUSALS = 3  # tries at an entry that the store refuses (two runs that add one data set at once collide, for example)
LIMITS = {"metric": 1000, "param": 100, "tag": 100, "dataset": 1, "artifact": 1, "end": 1}  # MLflow's, for one request

T = TypeVar("T")
log = logging.getLogger(__name__)


def fingerprint(stage: str, settings: Mapping[str, Any], parents: Mapping[str, str], schema: int) -> str:
    """sha256 over what determines a stage's result: its settings, its parents' fingerprints, its schema version."""
    content = {"stage": stage, "settings": settings, "parents": parents, "schema": schema}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


_journals = Path("work/tracking")


def connect(work_dir: Path) -> None:
    """Makes store and experiment ready, before anything that may run beside this process writes to them.

    Journals lie in work_dir/tracking from now on.

    MLFLOW_TRACKING_URI where set, else sqlite:///mlflow.db in this folder; MLFLOW_EXPERIMENT_ID or _NAME where set (by
    `mlflow run`, for example), else the experiment "stand-in". Raises UserError where the store cannot be reached: at
    once, for nothing is lost yet.
    """
    global _journals
    _journals = work_dir.resolve() / "tracking"
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri(DEFAULT_STORE)
        os.environ["MLFLOW_TRACKING_URI"] = DEFAULT_STORE
    work_dir.mkdir(parents=True, exist_ok=True)
    try:
        with locked(work_dir / "connect.lock"):  # two processes that meet an empty store both migrate it
            if "MLFLOW_EXPERIMENT_ID" not in os.environ:
                experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT))
                os.environ["MLFLOW_EXPERIMENT_ID"] = experiment.experiment_id
            _experiments()
    except MlflowException as error:
        raise UserError(f"tracking store {_uri()} cannot be used: {error}") from error


def look() -> bool:
    """Whether there is a store to read; makes none, as connect() would. Raises UserError where it cannot be reached."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return False
    mlflow.set_tracking_uri(uri)
    try:
        _experiments()
    except MlflowException as error:
        raise UserError(f"tracking store {_uri()} cannot be used: {error}") from error
    return True


def _uri() -> str:
    return mlflow.get_tracking_uri()


def _experiments() -> list[str]:
    return [experiment.experiment_id for experiment in mlflow.MlflowClient().search_experiments()]


class _Absence:
    """Whether the store is away, and until when this process waits for it: one absence costs PATIENCE once."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self._deadline: float | None = None

    def begins(self, error: Exception) -> None:
        if self.error is None:
            log.warning("tracking store %s is away; what runs log is kept in %s: %s", _uri(), _journals, error)
        self.error = error

    def ends(self) -> None:
        if self.error is not None:
            log.warning("tracking store %s is back", _uri())
        self.error = self._deadline = None

    def may_wait(self) -> bool:
        if self._deadline is None:
            self._deadline = time.monotonic() + PATIENCE
            log.warning("waiting for the tracking store, for %.0f s at most", PATIENCE)
        return time.monotonic() < self._deadline


_absence = _Absence()


def _refused(error: Exception) -> bool:
    """Whether the store answered, and said no. All else may pass: no answer, a server that fails, a locked database."""
    match error:
        case MlflowException():
            status = error.get_http_status_code()
        case HTTPError():  # from an upload
            status = error.response.status_code
        case _:
            return False
    return 400 <= status < 500 and status not in (408, 429)


def _patiently(call: Callable[[], T]) -> T:
    """The call's result; waits for a store that is away. Raises UserError when PATIENCE is over."""
    pause = FIRST_PAUSE
    while True:
        try:
            result = call()
        except (MlflowException, HTTPError) as error:
            if _refused(error):
                _absence.ends()
                raise
            _absence.begins(error)
            if not _absence.may_wait():
                raise UserError(
                    f"tracking store {_uri()} has been away for too long: {error}\n"
                    "Nothing is lost: once it is back, the same command goes on where this one stopped."
                ) from error
            time.sleep(pause)
            pause = min(2 * pause, FLUSH_SECONDS)
        else:
            _absence.ends()
            return result


def finished_run(fingerprint: str) -> Run | None:
    """The newest FINISHED run of this fingerprint in any experiment of the store, or None."""
    runs = _patiently(lambda: _search(fingerprint, "FINISHED"))
    return runs[0] if runs else None


def finished_runs(tags: Mapping[str, str], most: int) -> dict[str, dict[str, float]]:
    """Metrics of FINISHED runs with these tags, by run id, the newest first, `most` at most."""
    words = [f"tags.{key} = '{value}'" for key, value in tags.items()]
    query = " and ".join([*words, "attributes.status = 'FINISHED'"])
    order = ["attributes.start_time DESC"]
    search = mlflow.MlflowClient().search_runs
    runs = _patiently(lambda: search(_experiments(), query, order_by=order, max_results=most))
    return {run.info.run_id: run.data.metrics for run in runs}


def _search(fingerprint: str, status: str) -> list[Run]:
    """Newest first."""
    query = f"tags.fingerprint = '{fingerprint}' and attributes.status = '{status}'"
    return mlflow.MlflowClient().search_runs(_experiments(), query, order_by=["attributes.start_time DESC"])


def _running_here(fingerprint: str) -> list[Run]:
    """Those of this work folder: a team may run one stage in several at once."""
    here = _journals.parent
    return [run for run in _search(fingerprint, "RUNNING") if Path(run.data.tags.get("path", "")).is_relative_to(here)]


def close_abandoned(fingerprint: str) -> None:
    """Ends this work folder's runs that still say RUNNING; call it only while holding the stage folder's lock.

    What such a run left in its journal is delivered first: one that had finished, and only could not say so, is then
    FINISHED. Raises UserError where the store refuses a journal.
    """
    client = mlflow.MlflowClient()
    for run in _patiently(lambda: _running_here(fingerprint)):
        path = _journals / f"{run.info.run_id}{SUFFIX}"
        try:
            if path.is_file():
                _patiently(lambda path=path: _deliver_left(client, path))
            else:
                _patiently(lambda run=run: client.set_terminated(run.info.run_id, "KILLED"))
        except (MlflowException, OSError) as error:
            raise UserError(
                f"{path}: an earlier run of this stage left it, and it cannot be delivered: {error}\n"
                "Put that right, or delete the file to give up what it holds."
            ) from error


def commit() -> str:
    """The checkout's git commit, with '-dirty' where tracked files differ; 'unknown' outside a checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True)
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return "unknown" if head.returncode else head.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


def _now() -> int:
    return int(time.time() * 1000)


def _deliver(client: mlflow.MlflowClient, journal: Journal) -> None:
    """Sends what the journal holds, in order; a file that is no longer what was logged goes to journal.lost instead."""
    for kind, contents, end in journal.batches(LIMITS):
        if kind == "artifact":
            client.get_run(journal.run_id)  # a store that is away fails here, before a large file is hashed once more
        if kind == "artifact" and (reason := _altered(contents[0])):
            journal.lost.append(reason)
        else:
            _send(client, journal, kind, contents)
        _absence.ends()
        journal.mark_delivered(end)


def _send(client: mlflow.MlflowClient, journal: Journal, kind: str, contents: list[Any]) -> None:
    """One request. Sent twice it does no harm: MLflow knows a metric by key, step, time and value, a data set by name
    and digest; all else is overwritten with itself."""
    match kind:
        case "metric":
            client.log_batch(journal.run_id, metrics=[Metric(*content) for content in contents])
        case "param":
            client.log_batch(journal.run_id, params=[Param(*content) for content in contents])
        case "tag":
            client.log_batch(journal.run_id, tags=[RunTag(*content) for content in dict(contents).items()])
        case "dataset":
            inputs = [DatasetInput(Dataset(**facts), [InputTag(*tag)]) for facts, tag in contents]
            client.log_inputs(journal.run_id, inputs)
        case "artifact":
            client.log_artifact(journal.run_id, contents[0]["path"], contents[0]["folder"])
        case "end":
            status, when = contents[0]
            if journal.lost:
                client.set_tag(journal.run_id, "error", f"artifacts are missing: {'; '.join(journal.lost)}"[:5000])
                status = "FAILED" if status == "FINISHED" else status
            client.set_terminated(journal.run_id, status, when)


def _altered(artifact: Mapping[str, Any]) -> str | None:
    """Why the file is not the one that was logged, or None."""
    path = Path(artifact["path"])
    if not path.is_file():
        return f"{path} is gone since it was logged"
    if path.stat().st_size != artifact["size"] or content_hash(path) != artifact["sha256"]:
        return f"{path} has changed since it was logged"
    return None


def _deliver_left(client: mlflow.MlflowClient, path: Path) -> list[str]:
    """Delivers and removes the journal of a run whose process is gone; returns what was lost.

    A run that never said how it ended was killed, when its journal was last written.
    """
    with closing(Journal(path)) as journal:
        if not journal.ended:
            journal.append("end", ["KILLED", int(path.stat().st_mtime * 1000)])
        _deliver(client, journal)
        journal.remove()
        return journal.lost


def sync(work_dir: Path) -> dict[str, Any]:
    """Delivers what earlier runs in this work folder could not. Raises UserError where the store cannot be reached.

    Returns {"delivered": [run ids], "lost": {run id: [artifacts that changed or went since they were logged]},
    "left": {run id: why its journal stays}}. A run that lost an artifact ends as FAILED, so its stage runs again.
    """
    connect(work_dir)
    client = mlflow.MlflowClient()
    delivered, lost, left = [], {}, {}
    for path in sorted(_journals.glob(f"*{SUFFIX}")):
        run_id = path.stem
        try:
            missing = _deliver_left(client, path)
        except (MlflowException, OSError) as error:
            left[run_id] = str(error)
        else:
            delivered.append(run_id)
            lost |= {run_id: missing} if missing else {}
    return {"delivered": delivered, "lost": lost, "left": left}


class StageRun:
    """One MLflow run while it is open. Every call writes to the run's journal and returns; a thread delivers it."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._journal = Journal(_journals / f"{run_id}{SUFFIX}", create=True)
        self._curves: set[str] = set()
        self._failure: Exception | None = None  # of the last try
        self._ending, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep_delivering, name=f"tracking {run_id}", daemon=True)
        self._thread.start()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Configuration, under 'cfg.'; nested sections are dotted."""
        self._journal.append("param", *([f"cfg.{key}", str(value)] for key, value in _flat(params)))

    def log_summary(self, headline: Mapping[str, Any]) -> None:
        """The headline's numbers, nested ones dotted, as metrics; what has a curve of its own keeps that."""
        numbers = {key: value for key, value in _flat(headline) if isinstance(value, int | float)}
        self.log_metrics({key: value for key, value in numbers.items() if key not in self._curves})

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        self._curves |= metrics.keys()
        now = _now()
        self._journal.append("metric", *([key, float(value), now, step] for key, value in metrics.items()))

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self._journal.append("tag", *([key, str(value)] for key, value in tags.items()))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """A file, or a folder with everything in it; must not change before the run has ended."""
        if path.is_dir():
            inside = folder or path.name
            for child in sorted(path.iterdir()):
                self.log_artifact(child, f"{inside}/{child.name}" if child.is_dir() else inside)
        else:
            facts = {"path": str(path.absolute()), "size": path.stat().st_size, "sha256": content_hash(path)}
            self._journal.append("artifact", {**facts, "folder": folder})

    def log_dataset(self, name: str, digest: str, path: Path, context: str) -> None:
        """Records that this run read a set of slices."""
        source = {"source_type": "local", "source": json.dumps({"uri": str(path)})}
        facts = {"name": name, "digest": digest[:16], **source}
        self._journal.append("dataset", [facts, ["mlflow.data.context", context]])

    def end(self, status: str, patience: float | None = None) -> None:
        """Says last how the run ended, and waits until the store has everything, at most `patience` seconds if given.

        Raises UserError where it does not get it, or not as it was logged.
        """
        self._journal.append("end", [status, _now()])
        self._ending.set()
        self._wake.set()
        self._thread.join(patience)
        if self._journal.path.is_file():
            raise UserError(
                f"run {self.run_id} ended as {status}, but the tracking store does not have all of it yet: "
                f"{self._failure or 'the upload takes long'}\n"
                f"The rest waits in {self._journal.path}: once the store takes it, the same command or "
                "`python -m benchmark sync` delivers it, and a stage that had finished is reused."
            )
        if self._journal.lost:
            raise UserError(f"run {self.run_id}: artifacts could not be uploaded: {'; '.join(self._journal.lost)}")

    def _keep_delivering(self) -> None:
        """The thread: every FLUSH_SECONDS and at the end; after a failure sooner at first, then less and less often."""
        client, pause, refusals = mlflow.MlflowClient(), FLUSH_SECONDS, 0
        with closing(self._journal):
            while True:
                self._wake.wait(pause)
                self._wake.clear()
                ending = self._ending.is_set()
                try:
                    _deliver(client, self._journal)
                except Exception as error:  # told here and by end(); the journal keeps what it kept
                    pause = FIRST_PAUSE if self._failure is None else min(2 * pause, FLUSH_SECONDS)
                    if _refused(error):
                        _absence.ends()
                        refusals += 1
                        if refusals == 1:
                            log.warning("tracking store %s refuses what a run logged: %s", _uri(), error)
                        patient = refusals < REFUSALS
                    else:
                        _absence.begins(error)
                        patient = not ending or _absence.may_wait()
                    self._failure = error
                    if ending and not patient:
                        return
                else:
                    self._failure, pause, refusals = None, FLUSH_SECONDS, 0
                    if ending:
                        self._journal.remove()
                        return


_open_run: ContextVar[str | None] = ContextVar("the open run's id", default=None)


@contextmanager
def open_run(name: str, tags: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[StageRun]:
    """A run nested under the one that is open, if any; the outermost takes over the run that `mlflow run` made.

    FINISHED is set last, after everything else is delivered; an exception ends it as FAILED, an interrupt or a training
    that was given up as KILLED.
    Raises UserError where the store stays away, or does not take what was logged.
    """
    parent = {"mlflow.parentRunId": _open_run.get()} if _open_run.get() else {}
    words = {key: str(value) for key, value in {"mlflow.runName": name, **parent, **tags}.items()}
    run = StageRun(_patiently(lambda: _begin(name, words)))
    outer = _open_run.set(run.run_id)
    try:
        run.log_params(params)
        yield run
    except BaseException as error:
        run.set_tags({"error": f"{type(error).__name__}: {error}"[:5000]})
        try:
            interrupted = isinstance(error, KeyboardInterrupt)
            killed = interrupted or isinstance(error, GivenUp)
            run.end("KILLED" if killed else "FAILED", GRACE if interrupted else None)
        except UserError as second:  # the first error is the one to tell
            log.warning("%s", second)
        raise
    finally:
        _open_run.reset(outer)
    run.end("FINISHED")


@contextmanager
def under(parent_run: str, work_dir: Path) -> Iterator[None]:
    """Runs that open here are nested under a run of another process, which has called connect(); touches no store."""
    global _journals
    _journals = work_dir.resolve() / "tracking"
    os.environ.pop("MLFLOW_RUN_ID", None)  # `mlflow run` made that one for the table
    outer = _open_run.set(parent_run)
    try:
        yield
    finally:
        _open_run.reset(outer)


def _begin(name: str, tags: Mapping[str, str]) -> str:
    """The id of a run that says RUNNING: the one that `mlflow run` made for this process, or a new one."""
    client = mlflow.MlflowClient()
    if given := os.environ.get("MLFLOW_RUN_ID"):
        client.update_run(given, "RUNNING", name)
        client.log_batch(given, tags=[RunTag(key, value) for key, value in tags.items()])
        del os.environ["MLFLOW_RUN_ID"]
        return given
    if "fingerprint" in tags and (made := _running_here(tags["fingerprint"])):  # by a try whose answer was lost
        return made[0].info.run_id
    return client.create_run(os.environ["MLFLOW_EXPERIMENT_ID"], tags=resolve_tags(tags), run_name=name).info.run_id


def adopt_reused(stage: str, original: str) -> None:
    """Marks the run that `mlflow run` made for a call that had nothing to do, so that searches can leave it out."""
    if given := os.environ.pop("MLFLOW_RUN_ID", None):
        note = f"Nothing to do: run {original} holds the result."
        tags = {"reused_from": original, "stage": stage, "mlflow.note.content": note}
        client = mlflow.MlflowClient()
        _patiently(lambda: client.log_batch(given, tags=[RunTag(key, value) for key, value in tags.items()]))
        _patiently(lambda: client.set_terminated(given, "FINISHED"))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
