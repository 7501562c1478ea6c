"""A trained segmenter → scores of real test subjects, on their whole volumes, in millimetres.

Predicted are slices like those of training, with enough brain; all others count as predicted without tumour, so tumour
there is missed. On nearly empty slices networks invent tumours: on the phantom that cost 0.07 Dice, where 1 % of the
tumour lay in such slices.
"""

from typing import Any

import numpy as np
import pandas as pd

from analysis.progress import progress_bar
from analysis.scores import subject_scores
from analysis.text import csv_frame
from benchmark.config import Config, Need
from benchmark.data import synthetic
from benchmark.data.slices import SliceSet
from benchmark.errors import UserError
from benchmark.stages import Headline, RunningTask, Settings, train_segmenter
from benchmark.training.devices import pick_device
from benchmark.training.models import LAST, WEIGHTS, load_segmenter, predict

SCHEMA = 4  # 4: a row says which training of a generator is behind it


def settings(config: Config) -> Settings:
    if config.evaluate.snapshot == "best":
        return {}
    keys = config.train_segmenter
    if keys.train_on != "synthetic":
        raise UserError(
            f"snapshot=last is for train_on=synthetic, which can do without annotated real images; '{keys.train_on}' "
            "has them: give train_on=synthetic, or snapshot=best"
        )
    if keys.patience:
        raise UserError(
            f"snapshot=last needs no annotated real patient, but patience={keys.patience} ends the training by their "
            "Dice: give patience=0"
        )
    return {"snapshot": "last"}


def needs(config: Config) -> dict[str, Need]:
    return {"prepare": Need("prepare", config), "train_segmenter": Need("train_segmenter", config)}


def tags(config: Config) -> dict[str, Any]:
    tags = train_segmenter.tags(config)
    return tags if config.evaluate.snapshot == "best" else {**tags, "arm": f"{tags['arm']} last snapshot"}


def _generator_seed(config: Config) -> int | None:
    """Of the synthetic set's generator, the first of an ensemble; None where there is no set, or one made elsewhere."""
    keys = config.train_segmenter
    return None if keys.train_on == "real" else synthetic.seed_of(config, keys.synthetic).get("seed")


def run(task: RunningTask) -> Headline:
    config, folder, tracked = task.config, task.folder, task.tracked
    shown = SliceSet.open(task.folders["prepare"]).index.set_index(["subject", "z"]).index
    volumes = SliceSet.open(task.folders["prepare"] / "volumes")
    last, trained = config.evaluate.snapshot == "last", task.folders["train_segmenter"]
    model = load_segmenter(config, volumes.meta["image_size"], trained, LAST if last else WEIGHTS)
    model.to(pick_device(config.common.device))

    cell = tags(config)
    columns = {
        "cohort": cell["cohort"],
        "generator": cell["generator"],
        "arm": config.train_segmenter.train_on + "_last" * last,
        "segmenter": cell["model"],
        "augmentation": cell["augmentation"],
        "seed": cell["seed"],
        **train_segmenter.shares(config),
    }
    tests = volumes.index.loc[volumes.rows("test")]
    parts, tumour, overlooked = [], 0, 0
    with progress_bar(tests["subject"].nunique(), f"evaluate {cell['model']} {cell['arm']}", "subject") as bar:
        for subject, rows in tests.groupby("subject", sort=True):
            order = rows.sort_values("z").index.to_numpy()
            asked = pd.MultiIndex.from_frame(volumes.index.loc[order, ["subject", "z"]]).isin(shown)
            predicted = np.zeros_like(volumes.labels[order])
            predicted[asked] = predict(model, volumes.images[order[asked]])
            tumour += volumes.index.loc[order, "tumour_pixels"].sum()
            overlooked += volumes.index.loc[order[~asked], "tumour_pixels"].sum()
            scores = subject_scores(predicted, volumes.labels[order], volumes.meta["spacing"][subject])
            parts.append(scores.assign(patient=rows["patient"].iloc[0], subject=subject, **columns))
            bar.update()
    scores = pd.concat(parts, ignore_index=True)[[*columns, "patient", "subject", "region", "metric", "value", "case"]]
    scores["generator_seed"] = pd.Series(_generator_seed(config), scores.index, "Int64")
    path = folder / "scores.csv"
    csv_frame(scores).to_csv(path, index=False)
    scores.to_parquet(path.with_suffix(".parquet"), index=False)
    tracked.log_artifact(path)

    of_patients = scores.groupby(["metric", "region", "patient"])["value"].mean()
    means = of_patients.groupby(["metric", "region"]).mean()
    return {
        "subjects": len(parts),
        "patients": scores["patient"].nunique(),
        "tumour_in_slices_not_asked_about": float(overlooked / max(tumour, 1)),
        "dice": means["dice", "mean"],
        **{f"{metric}_{region}": value for (metric, region), value in means.items() if region != "mean"},
        "empty_cases": int((scores.loc[scores["metric"] == "dice", "case"] == "one empty").sum()),
    }
