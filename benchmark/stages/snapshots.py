"""Every snapshot of a generator's training, measured by test subjects: what it copies, how like the real it is.

The training itself measures by validation subjects, for these may choose a snapshot. Samples are the very same ones.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.attacks import membership
from analysis.attacks_statistics import auc
from analysis.neighbours import Rows
from analysis.progress import progress_bar
from benchmark.config import Config, Need
from benchmark.data.slices import SliceSet
from benchmark.stages import Headline, RunningTask, Settings
from benchmark.training.cohort import trained_on
from benchmark.training.devices import pick_device
from benchmark.training.judge import judge
from benchmark.training.models import extractor_config, load_segmenter
from benchmark.training.monitor import Monitor

SCHEMA = 1
FILE = "snapshots.csv"
COLUMNS = [
    f"test_{name}"
    for name in (
        "kernel_distance",
        "kernel_floor",
        "memorized_share",
        "copied_share",
        "copied_p_value",
        "membership_auc",
        "dice",
    )
]


def settings(config: Config) -> Settings:
    return {}  # everything is the training's


def needs(config: Config) -> dict[str, Need]:
    extractor = Need("train_segmenter", extractor_config(config))
    training = Need("train_generator", config.replace({"train_generator.keep_snapshots": True}))
    return {"prepare": Need("prepare", config), "extractor": extractor, "train_generator": training}


def tags(config: Config) -> dict[str, Any]:
    keys = config.train_generator
    subjects = {} if keys.subjects is None else {"subjects": keys.subjects}
    return {"model": keys.model, "cohort": config.prepare.cohort, "seed": keys.seed, **subjects}


def run(task: RunningTask) -> Headline:
    """Writes snapshots.csv: the training's curve.csv, and beside it, under test_…, memorized_share, copied_share,
    copied_p_value, kernel_distance, kernel_floor and membership_auc by test subjects; and test_dice, of the judge's
    U-Net, of the last snapshot and of those that are kept, or would be if copying stopped the training."""
    config, folder, trained_in = task.config, task.folder, task.folders["train_generator"]
    device = pick_device(config.common.device)
    slices = SliceSet.open(task.folders["prepare"])
    extractor = load_segmenter(extractor_config(config), slices.meta["image_size"], task.folders["extractor"])
    rows = trained_on(config, slices)
    monitor = Monitor(extractor.to(device), slices, rows, "test")
    curve = pd.read_csv(trained_in / "curve.csv")

    def measure(seen: int, *, judged: bool) -> dict[str, float]:
        with np.load(trained_in / "snapshots" / f"{seen:09d}.npz", allow_pickle=False) as samples:
            images, labels = samples["images"], samples["labels"]
        found = monitor(images) | {"membership_auc": membership_auc(images, slices, rows, device)}
        if judged:
            found["dice"] = judge(config, images, labels, np.arange(len(images)), slices, device, "test")
        return {f"test_{name}": value for name, value in found.items()}

    measured = []
    with progress_bar(len(curve), f"measure {config.train_generator.model}", "snapshot") as bar:
        for snapshot in curve.itertuples():
            kept = snapshot.kept or snapshot.kept_if_stopped or snapshot.Index == curve.index[-1]
            measured.append(measure(snapshot.seen, judged=kept))
            task.tracked.log_metrics(measured[-1], snapshot.seen)
            bar.update(1)
    table = curve.join(pd.DataFrame(measured, columns=COLUMNS))
    table.to_csv(folder / FILE, index=False)
    task.tracked.log_artifact(folder / FILE)
    return {"snapshots": len(table), "test_patients": slices.index["patient"][slices.rows("test")].nunique()}


def membership_auc(images: np.ndarray, real: SliceSet, rows: np.ndarray, device: torch.device) -> float:
    """How well samples uint8 [N, 4, H, W] alone tell patients who were trained on (rows) from test patients: AUC of the
    black-box attack, calibrated by validation slices; 0.5 by chance."""
    patients, test = real.index["patient"].to_numpy(str), real.rows("test")
    people = membership(
        images,
        Rows(real.images, rows),
        patients[rows],
        Rows(real.images, test),
        patients[test],
        reference=Rows(real.images, real.rows("validation")),
        device=device,
    )
    member = people["member"].to_numpy(bool)
    return auc(people["ratio"].to_numpy()[member], people["ratio"].to_numpy()[~member])
