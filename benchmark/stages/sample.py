"""A trained generator, or several of one kind → a synthetic SliceSet."""

import copy
from typing import Any

import numpy as np

from analysis.progress import progress_bar
from benchmark.config import Config, Need
from benchmark.data.slices import SliceSet, SliceWriter
from benchmark.report.sheets import save_sheet
from benchmark.stages import Headline, RunningTask, Settings
from benchmark.training.devices import pick_devices
from benchmark.training.models import load_generator
from benchmark.training.sampling import sample

SCHEMA = 3  # 3: meta.json names the annotation's coding
TRAINING = "train_generator"  # parents' names begin with it, one for each generator of an ensemble
PREVIEW = 16  # slices that travel to the tracking server


def settings(config: Config) -> Settings:
    return config.sample.model_dump(mode="json")


def needs(config: Config) -> dict[str, Need]:
    return {"prepare": Need("prepare", config), **trainings(config)}


def trainings(config: Config) -> dict[str, Need]:
    """Those of the configured generator, or of every member of its ensemble, in their order."""
    first = config.train_generator.seed
    seeds = range(first, first + config.sample.ensemble)
    needed = [Need("train_generator", config.replace({"train_generator.seed": seed})) for seed in seeds]
    return {f"{TRAINING}_{i}": need for i, need in enumerate(needed)}


def tags(config: Config) -> dict[str, Any]:
    return {"model": config.train_generator.model, "cohort": config.prepare.cohort, "seed": config.train_generator.seed}


def run(task: RunningTask) -> Headline:
    config, folder, tracked = task.config, task.folder, task.tracked
    keys, name, coding = config.sample, config.train_generator.model, config.train_generator.annotation
    real = SliceSet.open(task.folders["prepare"])
    size, devices = real.meta["image_size"], pick_devices(config.common.device)
    trained = [load_generator(config, size, task.folders[f"{TRAINING}_{i}"]) for i in range(keys.ensemble)]
    members = [[copy.deepcopy(member).to(device) for device in devices] for member in trained]

    spacing = np.median(list(real.meta["spacing"].values()), axis=0).tolist()
    meta = {
        "kind": "synthetic",
        "cohort": real.meta["cohort"],
        "simulated": real.meta["simulated"],
        "generator": name,
        "ensemble": keys.ensemble,
        "annotation": coding,
        "spacing": {name: spacing},
    }
    (folder / "meta.json").unlink(missing_ok=True)  # complete, but its run was killed before it could say so
    with (
        SliceWriter(folder, size, meta, resume=True) as writer,
        progress_bar(keys.samples, f"sample {name}", "img", writer.count) as bar,
    ):
        for made in sample(members, writer.count, keys.samples, keys.seed, coding):
            off_code = made.off_code.tolist()
            writer.append(
                made.images, made.labels, subject=name, seed=made.seeds, z=-1, split="synthetic", off_code=off_code
            )
            bar.update(len(made.seeds))

    slices = SliceSet.open(folder)
    sheet = save_sheet(slices.images[:8], slices.labels[:8], folder / "samples.png")
    preview = folder / "preview.npz"
    np.savez_compressed(preview, images=slices.images[:PREVIEW], labels=slices.labels[:PREVIEW])
    for path in (sheet, preview):
        tracked.log_artifact(path, "samples")
    return {
        "samples": len(slices),
        "off_code_share": float(slices.index["off_code"].mean()),
        "tumour_share": float((slices.index["tumour_pixels"] > 0).mean()),
    }
