"""A trained generator → a synthetic SliceSet."""

from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from benchmark import training
from benchmark.config import Config
from benchmark.data.slices import SliceSet, SliceWriter, from_network
from benchmark.progress import progress_bar
from benchmark.stages.pictures import save_sheet
from benchmark.stages.train_generator import create
from benchmark.tracking import StageRun

SCHEMA = 1
BATCH = 32  # fixed, so that a set's bytes never depend on where a run was killed
PREVIEW = 16  # slices that travel to the tracking server


def settings(config: Config) -> dict:
    return config.sample.model_dump(mode="json")


def needs(config: Config) -> dict:
    return {"prepare": ("prepare", config), "train_generator": ("train_generator", config)}


def tags(config: Config) -> dict:
    return {"model": config.train_generator.model, "cohort": config.prepare.data, "seed": config.sample.seed}


def run(config: Config, inputs: dict, folder: Path, tracked: StageRun) -> dict:
    own, name = config.sample, config.train_generator.model
    real = SliceSet.open(inputs["prepare"].path)
    model = create(config, real)
    model.load_weights(load_file(inputs["train_generator"].path / "weights.safetensors"))
    model.to(training.pick_device(config.common.device))

    spacing = np.median(list(real.meta["spacing"].values()), axis=0).tolist()
    meta = {
        "kind": "synthetic",
        "cohort": real.meta["cohort"],
        "simulated": real.meta["simulated"],
        "generator": name,
        "spacing": {name: spacing},
    }
    (folder / "meta.json").unlink(missing_ok=True)  # complete, but its run was killed before it could say so
    with (
        SliceWriter(folder, real.meta["image_size"], meta, resume=True) as writer,
        progress_bar(own.samples, f"sample {name}", "img", writer.count) as bar,
    ):
        while writer.count < own.samples:
            numbers = range(writer.count, min(writer.count + BATCH, own.samples))
            seeds = [own.seed * 10**9 + number for number in numbers]
            images, labels, off_code = from_network(model.sample(seeds).cpu())
            writer.append(
                images.numpy(),
                labels.numpy(),
                subject=name,
                seed=seeds,
                z=-1,
                split="synthetic",
                off_code=off_code.tolist(),
            )
            bar.update(len(numbers))

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
