"""Logged models of MLflow 3, as deliveries need them: whatever is asked for twice is made once.

A run makes one model at most, and is what tells it from others. A store that knows no logged models (MLflow before 3)
keeps the same files as the run's artifacts, and scores as the run's metrics: `None` stands for the model there.
"""

import json
import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelInput, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from benchmark.names import for_mlflow, for_model, for_store

CHAMPION = "champion"
LOST = "ENDPOINT_NOT_FOUND"  # how a server says that it is older than what it is asked for

log = logging.getLogger(__name__)


def make(client: MlflowClient, run_id: str, facts: Mapping[str, Any]) -> None:
    """The model of this run, unless it is there. facts: name, type, params, tags."""
    run = client.get_run(run_id)
    experiment = run.info.experiment_id
    try:
        made = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
        model = made[0] if made else _create(client, experiment, run_id, facts)
    except (MlflowException, NotImplementedError) as error:
        if not _unknown(error):
            raise
        _warn_once(client.tracking_uri)
        return
    if not (run.outputs and run.outputs.model_outputs):
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])


def _create(client: MlflowClient, experiment: str, run_id: str, facts: Mapping[str, Any]) -> LoggedModel:
    params, tags = (
        {key: for_store(str(value), 250) for key, value in facts[part].items()} for part in ("params", "tags")
    )
    name = for_model(facts["name"])
    return client.create_logged_model(experiment, name, run_id, tags, params, model_type=facts["type"])


def _unknown(error: Exception) -> bool:
    return isinstance(error, NotImplementedError) or getattr(error, "error_code", None) == LOST


@cache
def _warn_once(uri: str) -> None:
    log.warning(
        "the tracking store knows no logged models (they came with MLflow 3): weights go to the artifacts of their runs"
    )


def behind(client: MlflowClient, run_id: str) -> str | None:
    """The id of the model that a run made, or else of the only one that it read, if there is one."""
    run = client.get_run(run_id)
    made = run.outputs.model_outputs if run.outputs else []
    read = run.inputs.model_inputs if run.inputs else []
    ids = {model.model_id for model in made or read}
    return ids.pop() if len(ids) == 1 else None


def upload(client: MlflowClient, run_id: str, path: str, folder: str | None) -> None:
    """One of the model's files, into this folder of it."""
    if model_id := behind(client, run_id):
        client.log_model_artifact(model_id, path, folder)
    else:
        client.log_artifact(run_id, path, f"model/{folder}" if folder else "model")


def score(client: MlflowClient, run_id: str, source_run: str, points: list[list[Any]], name: str, digest: str) -> None:
    """Logs this run's points [key, value, time, step], which speak of the model behind another run, on a data set of
    this name and digest."""
    model_id = behind(client, source_run)
    on = {"model_id": model_id, "dataset_name": name, "dataset_digest": digest} if model_id else {}
    client.log_batch(run_id, [Metric(for_mlflow(key), *point, **on) for key, *point in points])


def read(client: MlflowClient, run_id: str, source_run: str) -> None:
    """Notes that a run reads the model behind another one."""
    if model_id := behind(client, source_run):
        client.log_inputs(run_id, models=[LoggedModelInput(model_id)])


def finish(client: MlflowClient, run_id: str, rule: Mapping[str, str], *, whole: bool) -> None:
    """The run's model is ready, or has failed where it is not whole; then the best of its kind gets its name.

    rule: registered name, metric, higher is better. Compared are READY models with the same tags `registered_name` and
    `cohort_digest`; the first of equals stays.
    """
    if (model_id := behind(client, run_id)) is None:
        return
    client.finalize_logged_model(model_id, "READY" if whole else "FAILED")
    if whole:
        _crown(client, client.get_logged_model(model_id), rule)


def _crown(client: MlflowClient, newest: LoggedModel, rule: Mapping[str, str]) -> None:
    name, metric = rule["name"], rule["metric"]
    alike = " and ".join(
        f"tags.{key} = '{newest.tags[key]}'" for key in ("registered_name", "cohort_digest")
    )  # both hold what can be quoted
    rivals, token = [], None
    while token != "":
        page = client.search_logged_models([newest.experiment_id], alike, page_token=token)
        rivals, token = [*rivals, *page], page.token or ""
    ready = [model for model in rivals if model.status == LoggedModelStatus.READY]
    scores = {model.model_id: point.value for model in ready for point in model.metrics or [] if point.key == metric}
    if not scores:
        return
    first = sorted((model for model in ready if model.model_id in scores), key=lambda model: model.creation_timestamp)
    best = max(first, key=lambda model: scores[model.model_id])
    try:
        client.create_registered_model(name, description=f"@{CHAMPION}: {rule['says']}")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = client.search_model_versions(f"name = '{name}'")
    version = next((version for version in versions if version.run_id == best.source_run_id), None)
    if version is None:
        version = client.create_model_version(name, best.artifact_location, best.source_run_id, model_id=best.model_id)
    registered = json.dumps([{"name": name, "version": version.version}])
    client.set_logged_model_tags(best.model_id, {MLFLOW_MODEL_VERSIONS: registered})  # the page of models shows it
    client.set_registered_model_alias(name, CHAMPION, version.version)
