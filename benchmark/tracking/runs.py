"""A run while it is open, and what tells one result from another.

What a run logs goes to its journal on disk, and from there, on a thread of its own, to the store. So a tracking server
that is away costs neither training time nor a metric; `sync` delivers what is left when it stays away for longer.
"""

import hashlib
import json
import logging
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.files import content_hash, disk_fault
from benchmark.names import for_store
from benchmark.tracking.delivery import deliver
from benchmark.tracking.journal import SUFFIX, Journal
from benchmark.tracking.store import FIRST_PAUSE, Store, refused

FLUSH_SECONDS = 10  # metrics wait this long at most: one write for many keeps tracking far below 2 % of training
DIGEST, DATASET_MOST = 16, 500  # characters of a data set's digest, and at most of its name
REFUSALS = 3  # tries at an entry that the store refuses (two runs that add one data set at once collide, for example)

log = logging.getLogger(__name__)


def fingerprint(stage: str, settings: Mapping[str, Any], parents: Mapping[str, str], schema: int) -> str:
    """sha256 over what determines a stage's result: its settings, its parents' fingerprints, its schema version."""
    content = {"stage": stage, "settings": settings, "parents": parents, "schema": schema}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


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


class StageRun:
    """One MLflow run while it is open. Every call writes to the run's journal and returns; a thread delivers it."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.run_id = run_id
        self._store = store
        self._journal = Journal(store.journals / f"{run_id}{SUFFIX}", create=True)
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
        self.log_metrics(self._numbers(headline))

    def _numbers(self, headline: Mapping[str, Any]) -> dict[str, float]:
        numbers = {key: value for key, value in _flat(headline) if isinstance(value, int | float)}
        return {key: value for key, value in numbers.items() if key not in self._curves}

    def log_model(
        self, name: str, kind: str, files: Iterable[tuple[Path, str | None]], params: Mapping[str, Any], **tags: Any
    ) -> None:
        """What this run trained, as a logged model: each file with its folder in it. Ready once `end_model` says so."""
        told = {
            "params": {key: str(value) for key, value in _flat(params)},
            "tags": {key: str(value) for key, value in tags.items()},
        }
        self._journal.append("model", {"name": name, "type": kind, **told})
        self._journal.append("model file", *({**_facts(path), "folder": folder} for path, folder in files))

    def log_scores(self, headline: Mapping[str, Any], source_run: str, dataset: tuple[str, str]) -> None:
        """A headline that speaks of the model that another run, or this one, made or read, as `log_summary` logs it;
        dataset: name and digest of what it was measured on."""
        numbers, now, (name, digest) = self._numbers(headline), _now(), dataset
        self._curves |= numbers.keys()
        points = [[key, float(value), now, 0] for key, value in numbers.items()]
        scores = {
            "source_run": source_run,
            "points": points,
            "name": for_store(name, DATASET_MOST),
            "digest": digest[:DIGEST],
        }
        self._journal.append("model scores", scores)

    def log_model_read(self, source_run: str) -> None:
        """Records that this run reads the model that another one made, or read."""
        self._journal.append("model read", source_run)

    def end_model(self, name: str, metric: str, says: str) -> None:
        """The model is ready; the best of those of this registered name, by this metric, is its champion. `says` tells
        people that rule."""
        self._journal.append("model end", {"name": name, "metric": metric, "says": says})

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
            self._journal.append("artifact", {**_facts(path), "folder": folder})

    def log_dataset(self, name: str, digest: str, path: Path, context: str) -> None:
        """Records that this run read a set of slices."""
        source = {"source_type": "local", "source": json.dumps({"uri": str(path)})}
        facts = {"name": for_store(name, DATASET_MOST), "digest": digest[:DIGEST], **source}
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
        store, pause, refusals = self._store, FLUSH_SECONDS, 0
        with closing(self._journal):
            while True:
                self._wake.wait(pause)
                self._wake.clear()
                ending = self._ending.is_set()
                try:
                    deliver(store, self._journal)
                except Exception as error:  # told here and by end(); the journal keeps what it kept
                    pause = FIRST_PAUSE if self._failure is None else min(2 * pause, FLUSH_SECONDS)
                    if refused(error):
                        store.is_back()
                        refusals += 1
                        if refusals == 1:
                            log.warning("tracking store %s refuses what a run logged: %s", store, error)
                        patient = refusals < REFUSALS
                    elif disk_fault(error):  # no progress can be noted; waiting for the store would not help
                        patient = False
                    else:
                        store.is_away(error)
                        patient = not ending or store.may_wait()
                    self._failure = error
                    if ending and not patient:
                        return
                else:
                    self._failure, pause, refusals = None, FLUSH_SECONDS, 0
                    if ending:
                        self._journal.remove()
                        return


def _facts(path: Path) -> dict[str, Any]:
    """What tells whether a file is still the one that was logged."""
    return {"path": str(path.absolute()), "size": path.stat().st_size, "sha256": content_hash(path)}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
