"""MLflow, and nothing else imports it: runs, fingerprints, reuse, lineage."""

import hashlib
import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # a table has dozens of runs

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Run, RunStatus
from mlflow.exceptions import MlflowException

from benchmark.errors import UserError

EXPERIMENT = "stand-in"
FLUSH_SECONDS = 10  # metrics wait this long at most: one write for many keeps tracking far below 2 % of training

log = logging.getLogger(__name__)


def fingerprint(stage: str, settings: Mapping[str, Any], parents: Mapping[str, str], schema: int) -> str:
    """sha256 over what determines a stage's result: its settings, its parents' fingerprints, its schema version."""
    content = {"stage": stage, "settings": settings, "parents": parents, "schema": schema}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def connect() -> None:
    """Makes store and experiment ready, before anything that may run beside this process writes to them.

    MLFLOW_TRACKING_URI where set, else sqlite:///mlflow.db in this folder; MLFLOW_EXPERIMENT_ID or _NAME where set (by
    `mlflow run`, for example), else the experiment "stand-in". Raises UserError where the store cannot be reached.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri("sqlite:///mlflow.db")
        os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///mlflow.db"
    try:
        if "MLFLOW_EXPERIMENT_ID" not in os.environ:
            mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT))
        _experiments()
    except MlflowException as error:
        raise UserError(f"tracking store {mlflow.get_tracking_uri()} cannot be used: {error}") from error


def _experiments() -> list[str]:
    return [experiment.experiment_id for experiment in mlflow.MlflowClient().search_experiments()]


def finished_run(fingerprint: str) -> Run | None:
    """The newest FINISHED run of this fingerprint in any experiment of the store, or None."""
    return _newest(fingerprint, "FINISHED")


def _newest(fingerprint: str, status: str) -> Run | None:
    runs = mlflow.MlflowClient().search_runs(
        _experiments(),
        f"tags.fingerprint = '{fingerprint}' and attributes.status = '{status}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return runs[0] if runs else None


def close_abandoned(fingerprint: str) -> None:
    """Ends runs of this fingerprint that still say RUNNING; call it only while holding the stage folder's lock."""
    while (run := _newest(fingerprint, "RUNNING")) is not None:
        mlflow.MlflowClient().set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.KILLED))


def commit() -> str:
    """The checkout's git commit, with '-dirty' where tracked files differ; 'unknown' outside a checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True)
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return "unknown" if head.returncode else head.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


class StageRun:
    """One MLflow run while it is open. Metrics are buffered and written together."""

    def __init__(self, run: Run) -> None:
        self.run_id = run.info.run_id
        self._client = mlflow.MlflowClient()
        self._pending: list[Metric] = []
        self._flushed = time.monotonic()
        self._curves: set[str] = set()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Configuration, under 'cfg.'; nested sections are dotted."""
        mlflow.log_params({f"cfg.{key}": value for key, value in _flat(params)}, run_id=self.run_id)

    def log_summary(self, headline: Mapping[str, Any]) -> None:
        """The headline's numbers, nested ones dotted, as metrics; what has a curve of its own keeps that."""
        numbers = {key: value for key, value in _flat(headline) if isinstance(value, int | float)}
        self.log_metrics({key: value for key, value in numbers.items() if key not in self._curves})

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        self._curves |= metrics.keys()
        now = int(time.time() * 1000)
        self._pending += [Metric(key, float(value), now, step) for key, value in metrics.items()]
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        for start in range(0, len(self._pending), 1000):  # the server's limit for one batch
            self._client.log_batch(self.run_id, metrics=self._pending[start : start + 1000])
        self._pending.clear()
        self._flushed = time.monotonic()

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        for key, value in tags.items():
            self._client.set_tag(self.run_id, key, value)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """A file, or a folder with everything in it."""
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), folder or path.name)
        else:
            self._client.log_artifact(self.run_id, str(path), folder)

    def log_dataset(self, name: str, digest: str, path: Path, context: str) -> None:
        """Records that this run read a set of slices."""
        dataset = Dataset(name=name, digest=digest[:16], source_type="local", source=json.dumps({"uri": str(path)}))
        self._client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])


@contextmanager
def open_run(name: str, tags: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[StageRun]:
    """A run nested under the one that is open, if any; the outermost takes over the run that `mlflow run` made.

    FINISHED is set last, after everything else is written; an exception ends it as FAILED, an interrupt as KILLED.
    """
    nested = mlflow.active_run() is not None
    words = {key: str(value) for key, value in {"mlflow.runName": name, **tags}.items()}
    run = StageRun(mlflow.start_run(run_name=name, nested=nested, tags=words))
    try:
        run.log_params(params)
        yield run
        run.flush()
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        try:
            run.flush()
            run.set_tags({"error": f"{type(error).__name__}: {error}"[:5000]})
            mlflow.end_run(RunStatus.to_string(RunStatus.KILLED if interrupted else RunStatus.FAILED))
        except MlflowException as second:  # the first error is the one to tell
            log.warning("run %s could not be closed: %s", run.run_id, second)
        raise
    mlflow.end_run(RunStatus.to_string(RunStatus.FINISHED))


def adopt_reused(stage: str, original: str) -> None:
    """Marks the run that `mlflow run` made for a call that had nothing to do, so that searches can leave it out."""
    if "MLFLOW_RUN_ID" in os.environ:
        note = f"Nothing to do: run {original} holds the result."
        with mlflow.start_run(tags={"reused_from": original, "stage": stage, "mlflow.note.content": note}):
            pass


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
