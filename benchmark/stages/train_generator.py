"""Slices of training subjects → a generator's weights: those of the snapshot whose samples teach a U-Net most."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from benchmark.config import Config, Need
from benchmark.data.annotation import to_network
from benchmark.data.slices import SliceSet
from benchmark.report.sheets import save_sheet
from benchmark.stages import Headline, RunningTask, Settings, Task, call_helpers
from benchmark.training import loop, processes
from benchmark.training.checkpoints import Progress, save_weights
from benchmark.training.devices import machine, pick_device
from benchmark.training.judge import judge
from benchmark.training.models import WEIGHTS, create_generator, draw, extractor_config, load_segmenter
from benchmark.training.monitor import COLUMNS, Monitor
from benchmark.training.order import mix, shuffled_rows
from benchmark.training.precision import resolve_model
from generators.base import Generator

SCHEMA = 3
SHOWN = 8  # samples of a snapshot's sheet


def settings(config: Config) -> Settings:
    name = config.train_generator.model
    keys = config.train_generator.model_dump(mode="json", exclude={"checkpoint_seconds"})
    return {**keys, name: resolve_model(config, name)}


def needs(config: Config) -> dict[str, Need]:
    return {"prepare": Need("prepare", config), "extractor": Need("train_segmenter", extractor_config(config))}


def tags(config: Config) -> dict[str, Any]:
    return {"model": config.train_generator.model, "cohort": config.prepare.cohort, "seed": config.train_generator.seed}


def run(task: RunningTask) -> Headline:
    config, folder, tracked = task.config, task.folder, task.tracked
    keys, device = config.train_generator, pick_device(config.common.device)
    slices = SliceSet.open(task.folders["prepare"])
    extractor = load_segmenter(extractor_config(config), slices.meta["image_size"], task.folders["extractor"])
    monitor = Monitor(extractor.to(device), slices)
    judged_real = judge(config, slices.images, slices.labels, slices.rows("train"), slices, device)
    training = training_of(config, slices, device)

    def snapshot(seen: int) -> dict[str, float]:
        """Always the same seeds, so that sheets of one training show the same brains as they improve."""
        images, labels, off_code = draw(training.model, range(keys.snapshot_samples), keys.annotation)
        sheet = save_sheet(images[:SHOWN], labels[:SHOWN], folder / "snapshots" / f"{seen:09d}.png")
        tracked.log_artifact(sheet, "snapshots")
        if keys.keep_snapshots:
            save_weights(training.model.weights(), folder / "snapshots" / f"{seen:09d}.safetensors")
        return {
            "judge_dice": judge(config, images, labels, np.arange(len(images)), slices, device),
            "judge_dice_real": judged_real,
            **monitor(images),
            "off_code_share": float(off_code.mean()),
        }

    tracked.set_tags(machine(device))
    call_helpers("train_generator", task)
    progress = loop.train(
        training,
        folder,
        on_metrics=tracked.log_metrics,
        on_snapshot=snapshot,
        score=_score,
        team=task.team,
        watch=task.watch,
    )
    save_weights(load_file(folder / "best.safetensors"), folder / WEIGHTS)
    curve = _curve(progress)
    curve.to_csv(folder / "curve.csv", index=False)
    tracked.log_artifact(folder / WEIGHTS, "checkpoints")
    tracked.log_artifact(folder / "curve.csv")
    (kept,) = curve[curve["kept"]].to_dict("records")
    return {
        **progress.cost(device),
        "precision": getattr(training.model.config, "precision", "fp32"),  # a model from outside may have no such key
        "kept_at_images": progress.best_seen,
        **{f"kept_{name}": kept[name] for name in COLUMNS if pd.notna(kept[name])},
        "training_slices": len(slices.rows("train")),
        "parameters": sum(p.numel() for network in training.model.networks.values() for p in network.parameters()),
    }


def assist(task: Task) -> None:
    """A helper's part of `run`."""
    slices = SliceSet.open(task.folders["prepare"])
    loop.assist(training_of(task.config, slices, pick_device(task.config.common.device)), task.folder)


def training_of(config: Config, slices: SliceSet, device: torch.device) -> loop.Training[Generator]:
    """The configured training, in any of the processes that take part."""
    keys, rows = config.train_generator, slices.rows("train")
    torch.manual_seed(mix(keys.seed, 0))
    model = create_generator(config, slices.meta["image_size"], len(rows)).to(device)
    processes.check_share(keys.batch_size, model.share_multiple)

    def read(seen: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = rows[shuffled_rows(len(rows), seen, keys.batch_size, keys.seed)[processes.share()]]
        return torch.from_numpy(slices.images[chosen]), torch.from_numpy(slices.labels[chosen])

    def to_batch(batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor]:
        images, labels = batch
        return (to_network(images.to(device), labels.to(device), keys.annotation),)

    budget = loop.Budget(keys.images, keys.batch_size, keys.seed, keys.snapshots, keys.checkpoint_seconds)
    return loop.Training(keys.model, model, read, to_batch, budget, loop.advice(keys.model, model.config))


def _score(metrics: loop.Metrics) -> float:
    """The judge's Dice; of snapshots that teach nothing at all, the closest to validation subjects scores highest."""
    return metrics["judge_dice"] or -metrics["kernel_distance"]


def _curve(progress: Progress) -> pd.DataFrame:
    """A row per snapshot: images seen, what was measured, whether its weights were kept."""
    rows = [{"seen": seen, **metrics} for seen, metrics in progress.history if "kernel_distance" in metrics]
    curve = pd.DataFrame(rows, columns=["seen", *COLUMNS])
    return curve.assign(kept=curve["seen"] == progress.best_seen)
