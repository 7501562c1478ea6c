"""What an experiment's "Views" menu offers from the start: searches with their columns, as MLflow's pages save them.

A saved view is a tag of the experiment, as MLflow 3 writes it. A version that does not read it changes nothing else.
Its key stands in the address, too: /#/experiments/ID/runs?viewStateShareKey=KEY
"""

import base64
import json
import zlib
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment

KIND = {"mlflow.experimentKind": "custom_model_development"}  # else pages for language models come first
OFFERED = "stand-in.views"
MADE = {"createdAt": 1, "updatedAt": 1}  # in the order of their names, then
TAG = "mlflow.sharedViewState."
RISKS = ("memorized_share", "copied_share")


STATE = {  # MLflow's own defaults: a view without one of them is not applied
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "datasetsFilter": [],
    "modelVersionFilter": "All Runs",
    "columnOrder": [],
    "columnWidths": {},
    "runsHiddenMode": "FIRST_10_RUNS",
    "viewMaximized": False,
    "runListHidden": False,
    "isAccordionReordered": False,
    "useGroupedValuesInCharts": True,
    "hideEmptyCharts": True,
    "groupBy": None,
    "groupsExpanded": {},
    "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
}


def _view(name: str, search: str, sort: str, columns: list[str], **more: Any) -> dict[str, Any]:
    order = {"orderByKey": sort.removeprefix("-"), "orderByAsc": not sort.startswith("-")}
    return {"name": name, "state": {**STATE, "searchFilter": search, **order, "selectedColumns": columns, **more}}


def _metrics(*names: str) -> list[str]:
    return [f"metrics.`{name}`" for name in names]


def _tags(*names: str) -> list[str]:
    return [f"tags.`{name}`" for name in names]


GENERATORS = [
    *_metrics("kept_judge_dice", "kept_kernel_distance", *(f"kept_{name}" for name in RISKS), "seconds"),
    *_tags("model", "seed", "cohort"),
    "attributes.`Models`",
]
VIEWS = {
    "cells": _view(
        "Cells: kept, risked, paid",
        "tags.stage = 'cell'",
        "-metrics.`ratio`",
        [*_metrics("ratio", "ratio_low", "ratio_high", *RISKS, "attack_auc", "train_seconds"), *_tags("cohort")],
    ),
    "generators": _view(
        "Compare all generators", "tags.stage = 'train_generator'", "-metrics.`kept_judge_dice`", GENERATORS
    ),
    "seeds": _view(
        "Each generator over its seeds",
        "tags.stage = 'train_generator'",
        "-metrics.`kept_judge_dice`",
        GENERATORS,
        groupBy={"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "model"}]},
    ),
    "failed": _view(
        "All failed", "attributes.status = 'FAILED'", "tags.`stage`", _tags("error", "stage", "model", "arm")
    ),
}


def offer(client: MlflowClient, experiment: Experiment) -> None:
    """Gives the experiment these, once: a view that somebody changed or deleted stays so."""
    if OFFERED in experiment.tags:
        return
    wanted = KIND | {
        f"{TAG}{key}": json.dumps(MADE | view | {"state": _packed(view["state"])}) for key, view in VIEWS.items()
    }
    for key, value in {**wanted, OFFERED: "true"}.items():
        client.set_experiment_tag(experiment.experiment_id, key, value)


def _packed(state: dict[str, Any]) -> str:
    return f"deflate;{base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()}"
