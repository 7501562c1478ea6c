"""A trained segmenter → scores of real test subjects, on their whole volumes, in millimetres.

Predicted are slices like those of training, with enough brain; all others count as predicted without tumour, so tumour
there is missed. On nearly empty slices networks invent tumours: on the phantom that cost 0.07 Dice, where 1 % of the
tumour lay in such slices.
"""

from typing import Any

import numpy as np
import pandas as pd

from analysis.scores import subject_scores
from analysis.text import csv_frame
from benchmark.config import Config, Need
from benchmark.data import synthetic
from benchmark.data.slices import SliceSet
from benchmark.progress import progress_bar
from benchmark.stages import Headline, RunningTask, Settings, train_segmenter
from benchmark.training.devices import pick_device
from benchmark.training.models import load_segmenter, predict

SCHEMA = 4  # 4: a row says which training of a generator is behind it


def settings(config: Config) -> Settings:
    return {}


def needs(config: Config) -> dict[str, Need]:
    return {"prepare": Need("prepare", config), "train_segmenter": Need("train_segmenter", config)}


def tags(config: Config) -> dict[str, Any]:
    return train_segmenter.tags(config)


def _generator_seed(config: Config) -> int | None:
    """Of the synthetic set's generator, the first of an ensemble; None where there is no set, or one made elsewhere."""
    keys = config.train_segmenter
    return None if keys.train_on == "real" else synthetic.seed_of(config, keys.synthetic).get("seed")


def run(task: RunningTask) -> Headline:
    config, folder, tracked = task.config, task.folder, task.tracked
    shown = SliceSet.open(task.folders["prepare"]).index.set_index(["subject", "z"]).index
    volumes = SliceSet.open(task.folders["prepare"] / "volumes")
    model = load_segmenter(config, volumes.meta["image_size"], task.folders["train_segmenter"])
    model.to(pick_device(config.common.device))

    cell = tags(config)
    columns = {
        "cohort": cell["cohort"],
        "generator": cell["generator"],
        "arm": config.train_segmenter.train_on,
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
