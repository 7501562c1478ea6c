"""Slices of training subjects → a generator's weights.

Kept are those of the snapshot closest to validation subjects, of the snapshots in the second half of training.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

import generators
from benchmark.config import Config
from benchmark.data.slices import SliceSet, from_network, to_network
from benchmark.parsing import resolve_model
from benchmark.report.sheets import save_sheet
from benchmark.stages import call_helpers, extractor
from benchmark.stages.monitor import COLUMNS, Monitor
from benchmark.stages.prepare import cohort_name
from benchmark.tracking.runs import StageRun
from benchmark.training import checkpoints, devices, loop, processes
from generators.base import Generator

SCHEMA = 2
SHOWN = 8  # samples of a snapshot's sheet
SAMPLE_BATCH = 32  # fixed, so that a set's bytes never depend on where a run was killed


def settings(config: Config) -> dict:
    name = config.train_generator.model
    own = config.train_generator.model_dump(mode="json", exclude={"checkpoint_seconds"})
    return {**own, name: resolve_model(config, name)}


def needs(config: Config) -> dict:
    return {"prepare": ("prepare", config), "extractor": extractor.need(config)}


def tags(config: Config) -> dict:
    return {"model": config.train_generator.model, "cohort": cohort_name(config), "seed": config.train_generator.seed}


def run(config: Config, inputs: dict, folder: Path, tracked: StageRun) -> dict:
    own = config.train_generator
    device = devices.pick_device(config.common.device)
    slices = SliceSet.open(inputs["prepare"].path)
    monitor = Monitor(config, slices, inputs["extractor"].path, device)
    model, *work = setup(config, slices, device)

    def snapshot(seen: int) -> dict[str, float]:
        """Always the same seeds, so that sheets of one training show the same brains as they improve."""
        seeds = range(own.snapshot_samples)
        batches = [draw(model, seeds[start : start + SAMPLE_BATCH]) for start in seeds[::SAMPLE_BATCH]]
        images, labels, off_code = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        sheet = save_sheet(images[:SHOWN], labels[:SHOWN], folder / "snapshots" / f"{seen:09d}.png")
        tracked.log_artifact(sheet, "snapshots")
        return {**monitor(images), "off_code_share": float(off_code.mean())}

    call_helpers("train_generator", config, inputs, folder)
    progress = loop.train(
        model,
        *work,
        folder,
        name=own.model,
        on_metrics=tracked.log_metrics,
        on_snapshot=snapshot,
        score=lambda metrics: -metrics["kernel_distance"],
        keep_from=own.images // 2,  # early on, no feature tells what is still shapeless reliably from what is not
        advice=loop.advice(own.model, model.config),
    )
    weights = folder / "weights.safetensors"
    checkpoints.save_weights(load_file(folder / "best.safetensors"), weights)
    tracked.log_artifact(weights, "checkpoints")
    curve = _curve(progress)
    curve.to_csv(folder / "curve.csv", index=False)
    tracked.log_artifact(folder / "curve.csv")
    (kept,) = curve[curve["kept"]].to_dict("records")
    return {
        **progress.cost(device),
        "kept_at_images": progress.best_seen,
        **{f"kept_{name}": kept[name] for name in COLUMNS if pd.notna(kept[name])},
        "training_slices": len(slices.rows("train")),
        "parameters": sum(p.numel() for network in model.networks.values() for p in network.parameters()),
    }


def assist(config: Config, inputs: dict, folder: Path) -> None:
    """A helper's part of `run`."""
    slices = SliceSet.open(inputs["prepare"].path)
    loop.assist(*setup(config, slices, devices.pick_device(config.common.device)), folder)


def setup(config: Config, slices: SliceSet, device: torch.device) -> tuple[Generator, Callable, Callable, loop.Budget]:
    """What training takes in any process: model, read, to_batch, budget."""
    own = config.train_generator
    rows = slices.rows("train")
    torch.manual_seed(loop.mix(own.seed, 0))
    model = create(config, slices).to(device)
    processes.check_share(own.batch_size, model.share_multiple)

    def read(seen: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = rows[loop.shuffled_rows(len(rows), seen, own.batch_size, own.seed)[processes.share()]]
        return torch.from_numpy(slices.images[chosen]), torch.from_numpy(slices.labels[chosen])

    def to_batch(batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor]:
        images, labels = batch
        return (to_network(images.to(device), labels.to(device)),)

    budget = loop.Budget(own.images, own.batch_size, own.seed, own.snapshots, own.checkpoint_seconds)
    return model, read, to_batch, budget


def _curve(progress: loop.Progress) -> pd.DataFrame:
    """A row per snapshot: images seen, what was measured, whether its weights were kept."""
    rows = [{"seen": seen, **metrics} for seen, metrics in progress.history if "kernel_distance" in metrics]
    curve = pd.DataFrame(rows, columns=["seen", *COLUMNS])
    return curve.assign(kept=curve["seen"] == progress.best_seen)


def draw(model: Generator, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples of these seeds: images uint8 [N, 4, H, W], labels uint8 [N, H, W], off_code float32 [N]."""
    images, labels, off_code = from_network(model.sample(seeds).cpu())
    return images.numpy(), labels.numpy(), off_code.numpy()


def create(config: Config, slices: SliceSet) -> Generator:
    """The configured generator, freshly initialized, for slices of this size: four modalities and the annotation."""
    name = config.train_generator.model
    return generators.create(name, 5, slices.meta["image_size"], **resolve_model(config, name))
