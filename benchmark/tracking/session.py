"""What one call works with, handed from function to function: the store, the team, the run that is open."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlflow.entities import Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from benchmark.errors import GivenUp, UserError, was_interrupted
from benchmark.names import for_mlflow, for_store
from benchmark.tracking.delivery import deliver_left
from benchmark.tracking.journal import SUFFIX
from benchmark.tracking.runs import StageRun
from benchmark.tracking.store import Store, connect
from benchmark.training.processes import Team

GRACE = 10  # for the end of a run that was interrupted: a cluster that stops a job soon kills it [s]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """The store that runs are logged to, the team that helps with trainings, the run that new ones are nested under.

    `given_run` is the id of the run that `mlflow run` made for this call: the outermost run takes it over.
    """

    store: Store
    team: Team = field(default_factory=Team)
    parent_run: str | None = None
    given_run: str | None = None

    @classmethod
    def begin(cls, work_dir: Path, team: Team | None = None) -> "Session":
        """Connects to the store. Raises UserError as `connect` does.

        Takes MLFLOW_RUN_ID out of the environment: no other call, and no process that this one starts, has that run.
        """
        store = connect(work_dir)
        return cls(store, team or Team(), given_run=os.environ.pop("MLFLOW_RUN_ID", None) or None)

    def within(self, run: StageRun) -> "Session":
        """The same, for what is nested under this run."""
        return replace(self, parent_run=run.run_id, given_run=None)

    @contextmanager
    def open_run(self, name: str, tags: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[StageRun]:
        """A run nested under the session's parent, if it has one.

        FINISHED is set last, after everything else is delivered; an exception ends it as FAILED, an interrupt or a
        training that was given up as KILLED.
        Raises UserError where the store stays away, or does not take what was logged.
        """
        run = StageRun(self.store, self.store.patiently(lambda: self._begin_run(for_store(name), tags)))
        try:
            run.log_params(params)
            yield run
        except BaseException as error:
            run.set_tags({"error": f"{type(error).__name__}: {error}"[:5000]})
            try:
                interrupted = was_interrupted(error)
                killed = interrupted or isinstance(error, GivenUp)
                run.end("KILLED" if killed else "FAILED", GRACE if interrupted else None)
            except UserError as second:  # the first error is the one to tell
                log.warning("%s", second)
            raise
        run.end("FINISHED")

    def _begin_run(self, name: str, tags: Mapping[str, Any]) -> str:
        """The id of a run that says RUNNING: the one that `mlflow run` made for this call, or a new one."""
        client = self.store.client
        parent = {"mlflow.parentRunId": self.parent_run} if self.parent_run else {}
        all_tags = {"mlflow.runName": name, **parent, **tags}
        told = {for_mlflow(key): for_store(str(value)) for key, value in all_tags.items()}
        if self.given_run:
            client.update_run(self.given_run, "RUNNING", name)
            client.log_batch(self.given_run, tags=[RunTag(key, value) for key, value in told.items()])
            return self.given_run
        if "fingerprint" in told and (made := self._running_here(told["fingerprint"])):
            return made[0].info.run_id  # made by a try whose answer was lost
        return client.create_run(self.store.experiment, tags=resolve_tags(told), run_name=name).info.run_id

    def _running_here(self, fingerprint: str) -> list[Run]:
        """Those of this work folder: a team may run one stage in several at once."""
        running, here = self.store.search(fingerprint, "RUNNING"), for_store(str(self.store.work_dir))
        return [run for run in running if Path(run.data.tags.get("path", "")).is_relative_to(here)]

    def close_abandoned(self, fingerprint: str) -> None:
        """Ends this work folder's runs that still say RUNNING; call it only while holding the stage folder's lock.

        What such a run left in its journal is delivered first: one that had finished, and only could not say so, is
        then FINISHED. Raises UserError where the store refuses a journal.
        """
        store = self.store
        for run in store.patiently(lambda: self._running_here(fingerprint)):
            path = store.journals / f"{run.info.run_id}{SUFFIX}"
            try:
                if path.is_file():
                    store.patiently(lambda path=path: deliver_left(store, path))
                else:
                    store.patiently(lambda run=run: store.client.set_terminated(run.info.run_id, "KILLED"))
            except (MlflowException, OSError) as error:
                raise UserError(
                    f"{path}: an earlier run of this stage left it, and it cannot be delivered: {error}\n"
                    "Put that right, or delete the file to give up what it holds."
                ) from error

    def adopt_reused(self, stage: str, original: str) -> None:
        """Marks the run that `mlflow run` made for a call that had nothing to do, so that searches can leave it out."""
        if self.given_run is None:
            return
        note = f"Nothing to do: run {original} holds the result."
        tags = {"reused_from": original, "stage": stage, "mlflow.note.content": note}
        client, entries = self.store.client, [RunTag(key, value) for key, value in tags.items()]
        self.store.patiently(lambda: client.log_batch(self.given_run, tags=entries))
        self.store.patiently(lambda: client.set_terminated(self.given_run, "FINISHED"))
