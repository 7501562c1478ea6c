"""What journals hold → the tracking store, in order, each entry once."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from benchmark.files import content_hash
from benchmark.names import for_mlflow, for_store
from benchmark.tracking import models
from benchmark.tracking.journal import SUFFIX, Journal
from benchmark.tracking.store import Store, connect

BATCHES = {"metric": 1000, "param": 100, "tag": 100}  # MLflow's limits for one request; all else goes one by one
FILES = ("artifact", "model file")


def deliver(store: Store, journal: Journal) -> None:
    """Sends what the journal holds, in order; a file that is no longer what was logged goes to journal.lost instead."""
    for kind, contents, end in journal.batches(BATCHES):
        if kind in FILES:
            store.client.get_run(
                journal.run_id
            )  # a store that is away fails here, before a large file is hashed once more
        if kind in FILES and (reason := _altered(contents[0])):
            journal.lost.append(reason)
        else:
            _send(store, journal, kind, contents)
        store.is_back()
        journal.mark_delivered(end)


def _send(store: Store, journal: Journal, kind: str, contents: list[Any]) -> None:
    """One request. Sent twice it does no harm: MLflow knows a metric by key, step, time and value, a data set by name
    and digest, a model by the run that made it; all else is overwritten with itself."""
    client = store.client
    match kind:
        case "metric":
            client.log_batch(journal.run_id, metrics=[Metric(for_mlflow(key), *point) for key, *point in contents])
        case "param":
            client.log_batch(journal.run_id, params=[Param(for_mlflow(key), for_store(text)) for key, text in contents])
        case "tag":
            client.log_batch(
                journal.run_id, tags=[RunTag(for_mlflow(key), for_store(text)) for key, text in dict(contents).items()]
            )
        case "dataset":
            inputs = [DatasetInput(Dataset(**facts), [InputTag(*tag)]) for facts, tag in contents]
            client.log_inputs(journal.run_id, inputs)
        case "artifact":
            client.log_artifact(journal.run_id, contents[0]["path"], contents[0]["folder"])
        case "model":
            models.make(client, journal.run_id, contents[0])
        case "model file":
            models.upload(client, journal.run_id, contents[0]["path"], contents[0]["folder"])
        case "model read":
            models.read(client, journal.run_id, contents[0])
        case "model scores":
            models.score(client, journal.run_id, **contents[0])
        case "model end":
            models.finish(client, journal.run_id, contents[0], whole=not journal.lost)
        case "end":
            status, when = contents[0]
            if journal.lost:
                client.set_tag(journal.run_id, "error", for_store(f"artifacts are missing: {'; '.join(journal.lost)}"))
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


def deliver_left(store: Store, path: Path) -> list[str]:
    """Delivers and removes the journal of a run whose process is gone; returns what was lost.

    A run that never said how it ended was killed, when its journal was last written.
    """
    with closing(Journal(path)) as journal:
        if not journal.ended:
            journal.append("end", ["KILLED", int(path.stat().st_mtime * 1000)])
        deliver(store, journal)
        journal.remove()
        return journal.lost


def deliver_abandoned(store: Store) -> dict[str, Any]:
    """Delivers what runs in the store's work folder left whose processes are gone.

    Returns {"delivered": [run ids], "lost": {run id: [artifacts that changed or went since they were logged]},
    "left": {run id: why its journal stays}}. A run that lost an artifact ends as FAILED, so its stage runs again.
    """
    delivered, lost, left = [], {}, {}
    for path in sorted(store.journals.glob(f"*{SUFFIX}")):
        run_id = path.stem
        try:
            missing = deliver_left(store, path)
        except (MlflowException, OSError) as error:
            left[run_id] = str(error)
        else:
            delivered.append(run_id)
            lost |= {run_id: missing} if missing else {}
    return {"delivered": delivered, "lost": lost, "left": left}


def sync(work_dir: Path) -> dict[str, Any]:
    """What `deliver_abandoned` gives, of a work folder. Raises UserError where the store cannot be reached."""
    return deliver_abandoned(connect(work_dir))
