"""Slices of training subjects → a generator's weights: those of the snapshot whose samples teach a U-Net most."""

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.onset import ALPHA
from benchmark.config import Config, Need
from benchmark.data.annotation import to_network
from benchmark.data.slices import SliceSet
from benchmark.errors import UserError
from benchmark.files import write_atomically
from benchmark.report.sheets import save_sheet
from benchmark.stages import Headline, RunningTask, Settings, Task, call_helpers, log_model
from benchmark.training import loop, processes
from benchmark.training.canaries import draw_canaries, repeated, write_canaries
from benchmark.training.checkpoints import Progress, save_weights
from benchmark.training.cohort import trained_on
from benchmark.training.devices import machine, pick_device
from benchmark.training.judge import judge, judge_of_real
from benchmark.training.models import WEIGHTS, create_generator, draw, extractor_config, load_segmenter
from benchmark.training.monitor import COLUMNS, Monitor
from benchmark.training.order import mix, shuffled_rows
from benchmark.training.precision import resolve_model
from generators.base import Generator

SCHEMA = 4  # 4: kept snapshots have their samples beside them; the curve tells which copy
SHOWN = 8  # samples of a snapshot's sheet


class CopiedFromStart(UserError):
    """Copying stopped a training at its first snapshot, so nothing could be kept."""


def settings(config: Config) -> Settings:
    name = config.train_generator.model
    keys = config.train_generator.model_dump(mode="json", exclude={"checkpoint_seconds"})
    return {**keys, name: resolve_model(config, name)}


def needs(config: Config) -> dict[str, Need]:
    return {"prepare": Need("prepare", config), "extractor": Need("train_segmenter", extractor_config(config))}


def tags(config: Config) -> dict[str, Any]:
    keys = config.train_generator
    subjects = {} if keys.subjects is None else {"subjects": keys.subjects}
    return {"model": keys.model, "cohort": config.prepare.cohort, "seed": keys.seed, **subjects}


def run(task: RunningTask) -> Headline:
    config, folder, tracked = task.config, task.folder, task.tracked
    keys, device = config.train_generator, pick_device(config.common.device)
    slices = SliceSet.open(task.folders["prepare"])
    extractor = load_segmenter(extractor_config(config), slices.meta["image_size"], task.folders["extractor"])
    rows = trained_on(config, slices)
    monitor = Monitor(extractor.to(device), slices, rows)
    judged_real = judge_of_real(config, slices, rows, task.inputs["extractor"].fingerprint, device)
    training = training_of(config, slices, device)
    write_canaries(canaries_of(config, slices), folder)

    def kept(seen: int) -> tuple[Path, ...]:
        """The weights and the samples of a snapshot."""
        name = folder / "snapshots" / f"{seen:09d}"
        return (name.with_suffix(".safetensors"), name.with_suffix(".npz")) if keys.keep_snapshots else ()

    def snapshot(seen: int) -> dict[str, float]:
        """Always the same seeds, so that sheets of one training show the same brains as they improve."""
        images, labels, off_code = draw(training.model, range(keys.snapshot_samples), keys.annotation)
        sheet = save_sheet(images[:SHOWN], labels[:SHOWN], folder / "snapshots" / f"{seen:09d}.png")
        tracked.log_artifact(sheet, "snapshots")
        if keys.keep_snapshots:
            weights, samples = kept(seen)
            save_weights(training.model.weights(), weights)
            content = io.BytesIO()
            np.savez_compressed(content, images=images, labels=labels)
            write_atomically(samples, content.getvalue())
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
        kept=kept,
        stop=partial(copies, config) if keys.stop_when_copied else None,
        team=task.team,
        watch=task.watch,
    )
    curve = _curve(config, progress)
    if progress.stopped and not curve["kept"].any():
        raise CopiedFromStart(
            f"{keys.model} copies training slices at its first snapshot already, so train_generator.stop_when_copied "
            f"leaves nothing to keep: give more than {keys.snapshots} snapshots, or snapshot_spacing=geometric"
        )
    save_weights(progress.best_weights, folder / WEIGHTS)
    curve.to_csv(folder / "curve.csv", index=False)
    log_model("train_generator", task, training.model, annotation=keys.annotation)
    tracked.log_artifact(folder / "curve.csv")
    (kept,) = curve[curve["kept"]].to_dict("records")
    return {
        **progress.cost(device),
        "precision": getattr(training.model.config, "precision", "fp32"),  # a model from outside may have no such key
        "kept_at_images": progress.best_seen,
        **{f"kept_{name}": kept[name] for name in COLUMNS if pd.notna(kept[name])},
        "copies_from_images": first_copied(curve),
        "stopped": progress.stopped,
        "training_slices": len(rows),
        "parameters": sum(p.numel() for network in training.model.networks.values() for p in network.parameters()),
    }


def assist(task: Task) -> None:
    """A helper's part of `run`."""
    slices = SliceSet.open(task.folders["prepare"])
    loop.assist(training_of(task.config, slices, pick_device(task.config.common.device)), task.folder)


def training_of(config: Config, slices: SliceSet, device: torch.device) -> loop.Training[Generator]:
    """The configured training, in any of the processes that take part."""
    keys, rows = config.train_generator, trained_on(config, slices)
    patients = slices.index["patient"].to_numpy(str)
    shown = repeated(rows, patients[rows], canaries_of(config, slices))
    torch.manual_seed(mix(keys.seed, 0))
    model = create_generator(config, slices.meta["image_size"], len(rows)).to(device)
    processes.check_share(keys.batch_size, model.share_multiple)

    def read(seen: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = shown[shuffled_rows(len(shown), seen, keys.batch_size, keys.seed)[processes.share()]]
        return torch.from_numpy(slices.images[chosen]), torch.from_numpy(slices.labels[chosen])

    def to_batch(batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor]:
        images, labels = batch
        return (to_network(images.to(device), labels.to(device), keys.annotation),)

    budget = loop.Budget(
        keys.images,
        keys.batch_size,
        keys.seed,
        keys.snapshots,
        keys.checkpoint_seconds,
        spacing=keys.snapshot_spacing,
    )
    return loop.Training(keys.model, model, read, to_batch, budget, loop.advice(keys.model, model.config))


def canaries_of(config: Config, slices: SliceSet) -> dict[str, int]:
    """How often each canary is shown. The same for all trainings on the same patients, so that an ensemble has one
    set."""
    patients = slices.index["patient"].to_numpy(str)[trained_on(config, slices)]
    return draw_canaries(patients, config.train_generator.canaries, config.prepare.seed)


def _score(metrics: loop.Metrics) -> float:
    """The judge's Dice; of snapshots that teach nothing at all, the closest to validation subjects scores highest."""
    return metrics["judge_dice"] or -metrics["kernel_distance"]


def copies(config: Config, metrics: loop.Metrics) -> bool:
    """Whether a snapshot copies more training slices than chance gives: by the exact test, at ALPHA over all of the
    training's snapshots (Bonferroni)."""
    p_value = metrics.get("copied_p_value")  # a single training patient has none
    return p_value is not None and p_value <= ALPHA / config.train_generator.snapshots


def _curve(config: Config, progress: Progress) -> pd.DataFrame:
    """A row per snapshot: images seen, what was measured, whether it copies, whether its weights were kept, and whether
    they would have been with `stop_when_copied`, which changes nothing of a training until it ends it."""
    found = [(seen, metrics) for seen, metrics in progress.history if "kernel_distance" in metrics]
    curve = pd.DataFrame([{"seen": seen, **metrics} for seen, metrics in found], columns=["seen", *COLUMNS])
    copied = [copies(config, metrics) for _, metrics in found]
    before = [_score(metrics) for _, metrics in found[: copied.index(True) if True in copied else None]]
    return curve.assign(
        copies=copied,
        kept=curve["seen"] == progress.best_seen,
        kept_if_stopped=curve.index == (int(np.argmax(before)) if before else -1),
    )


def first_copied(curve: pd.DataFrame) -> int | None:
    """Images seen at the first snapshot that copies."""
    seen = curve["seen"][curve["copies"]]
    return int(seen.iloc[0]) if len(seen) else None
