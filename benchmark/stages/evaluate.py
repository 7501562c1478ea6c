"""A trained segmenter → scores of real test subjects, on their whole volumes, in millimetres."""

from pathlib import Path

import pandas as pd
from safetensors.torch import load_file

from analysis.scores import subject_scores
from benchmark import training
from benchmark.config import Config
from benchmark.data.slices import SliceSet
from benchmark.progress import progress_bar
from benchmark.stages import train_segmenter
from benchmark.tracking import StageRun

SCHEMA = 2


def settings(config: Config) -> dict:
    return {}


def needs(config: Config) -> dict:
    return {"prepare": ("prepare", config), "train_segmenter": ("train_segmenter", config)}


def tags(config: Config) -> dict:
    return train_segmenter.tags(config)


def run(config: Config, inputs: dict, folder: Path, tracked: StageRun) -> dict:
    volumes = SliceSet.open(inputs["prepare"].path / "volumes")
    model = train_segmenter.create(config, volumes)
    model.load_weights(load_file(inputs["train_segmenter"].path / "weights.safetensors"))
    model.to(training.pick_device(config.common.device))

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
    parts = []
    with progress_bar(tests["subject"].nunique(), f"evaluate {cell['model']} {cell['arm']}", "subject") as bar:
        for subject, rows in tests.groupby("subject", sort=True):
            order = rows.sort_values("z").index.to_numpy()
            predicted = train_segmenter.predict(model, volumes.images[order])
            scores = subject_scores(predicted, volumes.labels[order], volumes.meta["spacing"][subject])
            parts.append(scores.assign(subject=subject, **columns))
            bar.update()
    scores = pd.concat(parts, ignore_index=True)[[*columns, "subject", "region", "metric", "value", "case"]]
    path = folder / "scores.csv"
    scores.to_csv(path, index=False)
    scores.to_parquet(path.with_suffix(".parquet"), index=False)
    tracked.log_artifact(path)

    means = scores.groupby(["metric", "region"])["value"].mean()
    return {
        "subjects": len(parts),
        "dice": means["dice", "mean"],
        **{f"{metric}_{region}": value for (metric, region), value in means.items() if region != "mean"},
        "empty_cases": int((scores.loc[scores["metric"] == "dice", "case"] == "one empty").sum()),
    }
