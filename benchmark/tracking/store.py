"""The tracking store: reached once, asked for finished runs, waited for when it is away."""

import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # a table has dozens of runs
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # tried again here, where training does not wait

import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from requests import HTTPError
from sqlalchemy.exc import SQLAlchemyError

from benchmark.errors import UserError
from benchmark.files import locked
from benchmark.tracking import views

EXPERIMENT = "stand-in"
DEFAULT_STORE = "sqlite:///mlflow.db"
FIRST_PAUSE = 0.5  # before the second try [s]; doubles up to LONGEST_PAUSE
LONGEST_PAUSE = 10
PATIENCE = 600  # how long, in all, one absence of the store may hold up the end of a run or the start of one [s]
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
LOCKED_SECONDS = 20  # that another program may hold a SQLite store at the start

T = TypeVar("T")
log = logging.getLogger(__name__)


class Store:
    """A store that was reached: its address, the experiment of new runs, and whether it is away.

    Journals of runs lie in work_dir/tracking. One absence is waited for once, PATIENCE seconds in all.
    """

    def __init__(self, uri: str, experiment: str, work_dir: Path) -> None:
        self.uri, self.experiment = uri, experiment
        self.work_dir = work_dir.resolve()
        self._away = False
        self._deadline: float | None = None

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    @property
    def journals(self) -> Path:
        return self.work_dir / "tracking"

    def __str__(self) -> str:
        return _without_password(self.uri)

    def experiments(self) -> list[str]:
        return [experiment.experiment_id for experiment in self.client.search_experiments()]

    def search(self, fingerprint: str, status: str) -> list[Run]:
        """Newest first, of any experiment."""
        query = f"tags.fingerprint = '{fingerprint}' and attributes.status = '{status}'"
        return self.client.search_runs(self.experiments(), query, order_by=["attributes.start_time DESC"])

    def finished_run(self, fingerprint: str) -> Run | None:
        """The newest FINISHED run of this fingerprint, or None."""
        runs = self.patiently(lambda: self.search(fingerprint, "FINISHED"))
        return runs[0] if runs else None

    def finished_runs(self, tags: Mapping[str, str], most: int) -> dict[str, dict[str, float]]:
        """Metrics of FINISHED runs with these tags, by run id, the newest first, `most` at most."""
        plain = {
            key: value for key, value in tags.items() if not re.search(r"['\"\\%]", value)
        }  # what a query can quote
        query = " and ".join([*(f"tags.`{key}` = '{value}'" for key, value in plain.items()), "status = 'FINISHED'"])
        order = ["attributes.start_time DESC"]
        runs = self.patiently(lambda: self.client.search_runs(self.experiments(), query, order_by=order))
        alike = [run for run in runs if all(run.data.tags.get(key) == value for key, value in tags.items())]
        return {run.info.run_id: run.data.metrics for run in alike[:most]}

    def is_away(self, error: Exception) -> None:
        if not self._away:
            log.warning("tracking store %s is away; what runs log is kept in %s: %s", self, self.journals, error)
        self._away = True

    def is_back(self) -> None:
        if self._away:
            log.warning("tracking store %s is back", self)
        self._away, self._deadline = False, None

    def may_wait(self) -> bool:
        if self._deadline is None:
            self._deadline = time.monotonic() + PATIENCE
            log.warning("waiting for the tracking store, for %.0f s at most", PATIENCE)
        return time.monotonic() < self._deadline

    def patiently(self, call: Callable[[], T]) -> T:
        """The call's result; waits for a store that is away. Raises UserError when PATIENCE is over."""
        pause = FIRST_PAUSE
        while True:
            try:
                result = call()
            except (MlflowException, HTTPError) as error:
                if refused(error):
                    self.is_back()
                    raise
                self.is_away(error)
                if not self.may_wait():
                    raise UserError(
                        f"tracking store {self} has been away for too long: {error}\n"
                        "Nothing is lost: once it is back, the same command goes on where this one stopped."
                    ) from error
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self.is_back()
                return result


def refused(error: Exception) -> bool:
    """Whether the store answered, and said no. All else may pass: no answer, a server that fails, a locked database."""
    match error:
        case MlflowException():
            status = error.get_http_status_code()
        case HTTPError():  # from an upload
            status = error.response.status_code
        case _:
            return False
    return 400 <= status < 500 and status not in (408, 429)


# --- reaching it ----------------------------------------------------------------------------------------------------


def connect(work_dir: Path) -> Store:
    """Makes store and experiment ready, before anything that may run beside this process writes to them.

    MLFLOW_TRACKING_URI where set, else sqlite:///mlflow.db in this folder; MLFLOW_EXPERIMENT_ID or _NAME where set (by
    `mlflow run`, for example), else the experiment "stand-in". Raises UserError where the store cannot be reached, or
    holds no such experiment or run: at once, for nothing is lost yet.
    """
    uri = _address()
    work_dir.mkdir(parents=True, exist_ok=True)
    with locked(work_dir / "connect.lock"), _usable(uri):  # two processes that meet an empty store both migrate it
        _create_whole(uri)
        _try_database(uri)
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
        store = Store(uri, _experiment(client, _without_password(uri)), work_dir)
        _check_given_run(client, _without_password(uri))
        views.offer(client, client.get_experiment(store.experiment))
    return store


def existing_store(work_dir: Path) -> Store | None:
    """The store, to read from, if there is one; makes none. Raises UserError where it cannot be reached."""
    uri = _address()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return None
    store = Store(uri, "", work_dir)
    with _usable(uri):
        store.experiments()
    return store


def _address() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE


def _without_password(uri: str) -> str:
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", uri)


@contextmanager
def _usable(uri: str) -> Iterator[None]:
    """Raises UserError, one sentence, where the store cannot be used."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, ImportError, OSError, ValueError) as error:
        reason = _without_password(str(error).strip().partition("\n")[0])
        name = "MLFLOW_TRACKING_URI: " if os.environ.get("MLFLOW_TRACKING_URI") else ""
        raise UserError(f"{name}tracking store {_without_password(uri)} cannot be used: {reason}") from error


def _create_whole(uri: str) -> None:
    """Makes a SQLite store that is not there yet beside its place, and links it there when it is whole.

    MLflow makes one in dozens of steps; cut short in their midst by a kill, it could never be used again.
    """
    if re.split(r"[+:]", uri)[0] != "sqlite":
        return
    url = sqlalchemy.make_url(uri)
    if not url.database or url.database == ":memory:" or os.path.lexists(url.database):
        return
    path = Path(url.database)
    partial = path.with_name(f"{path.name}.{uuid4().hex[:8]}.partial")
    aside = url.set(database=str(partial)).render_as_string(hide_password=False)
    try:
        _try_database(aside)
        MlflowClient(aside).search_experiments(max_results=1)
        try:
            os.link(partial, path)
        except FileExistsError:
            log.info("%s: another process was quicker, and its store may hold runs by now", path)
        except OSError:  # a drive that knows no links
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _try_database(uri: str) -> None:
    """Raises where a database takes no connection, or no writer: MLflow would try for minutes before it said so."""
    if re.split(r"[+:]", uri)[0] not in DATABASES:
        return
    url = sqlalchemy.make_url(uri)
    if url.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(url.database or ":memory:", timeout=LOCKED_SECONDS)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
    else:
        engine = sqlalchemy.create_engine(url)
        engine.connect().close()
        engine.dispose()


def _experiment(client: MlflowClient, where: str) -> str:
    """The id of the experiment that the environment names, or of our own, made where it is missing."""
    if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        try:
            found = client.get_experiment(given) if len(given) < 19 else None  # a database's integers end there
        except MlflowException as error:
            if not refused(error):
                raise
            found = None
        if found is None or found.lifecycle_stage != "active":
            raise UserError(
                f"MLFLOW_EXPERIMENT_ID: tracking store {where} has {'no' if found is None else 'deleted its'} "
                f"experiment {given!r}: unset the variable, or give the id of one that is there"
            )
        return given
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # made by another machine, a moment ago
                raise
            found = client.get_experiment_by_name(name)
    if found.lifecycle_stage != "active":
        raise UserError(
            f"MLFLOW_EXPERIMENT_NAME: the experiment {name!r} of tracking store {where} was deleted: give another "
            f"name, or restore it with `mlflow experiments restore --experiment-id {found.experiment_id}`"
        )
    return found.experiment_id


def _check_given_run(client: MlflowClient, where: str) -> None:
    if given := os.environ.get("MLFLOW_RUN_ID"):
        try:
            there = client.get_run(given).info.lifecycle_stage == "active"
        except MlflowException as error:
            if not refused(error):
                raise
            there = False
        if not there:
            raise UserError(f"MLFLOW_RUN_ID: tracking store {where} has no run {given!r}: unset the variable")
