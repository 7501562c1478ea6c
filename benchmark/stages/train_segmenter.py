"""Real and / or synthetic slices → a segmenter's weights, the best ones on real validation subjects."""

from collections.abc import Callable
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import segmenters
from benchmark.config import Config
from benchmark.data.slices import CLASSES, MODALITIES, SliceSet
from benchmark.parsing import resolve_model
from benchmark.stages import call_helpers, synthetic
from benchmark.stages.prepare import cohort_name
from benchmark.tracking.runs import StageRun
from benchmark.training import checkpoints, devices, loop, processes
from segmenters.augment import augment
from segmenters.base import Segmenter, normalize

SCHEMA = 2
PREDICT_BATCH = 64
SCORE = "validation_dice"

Phases = list[tuple[int, list[tuple[SliceSet, np.ndarray]]]]


def settings(config: Config) -> dict:
    own = config.train_segmenter
    resolved = resolve_model(config, own.segmenter, images=own.images)
    content = synthetic.settings_of(config, own.synthetic) if own.train_on != "real" else {}
    keys = own.model_dump(mode="json", exclude={"synthetic", "checkpoint_seconds"})
    return {**keys, **shares(config), own.segmenter: resolved, "synthetic": content}


def shares(config: Config) -> dict[str, float]:
    """Shares of the real training subjects and of the synthetic set; 1 for what the arm does not use."""
    own = config.train_segmenter
    return {
        "real_subjects": 1.0 if own.train_on == "synthetic" else own.real_subjects,
        "synthetic_share": 1.0 if own.train_on == "real" else own.synthetic_share,
    }


def needs(config: Config) -> dict:
    own = config.train_segmenter
    wanted = synthetic.needs_of(config, own.synthetic) if own.train_on != "real" else {}
    return {"prepare": ("prepare", config), **wanted}


def tags(config: Config) -> dict:
    own = config.train_segmenter
    generator = synthetic.name_of(config, own.synthetic) if own.train_on != "real" else "none"
    arm = own.train_on if generator == "none" else f"{own.train_on} {generator}"
    parts = [f"{key} {share:g}" for key, share in shares(config).items() if share < 1]
    return {
        "model": own.segmenter,
        "cohort": cohort_name(config),
        "arm": " ".join([arm, *parts]),
        "generator": generator,
        "augmentation": "on" if own.augment else "off",
        "seed": own.seed,
    }


def run(config: Config, inputs: dict, folder: Path, tracked: StageRun) -> dict:
    own = config.train_segmenter
    device = devices.pick_device(config.common.device)
    real = SliceSet.open(inputs["prepare"].path)
    phases = _phases(config, real, inputs)
    model, *work = setup(config, real, phases, device)
    validation = real.rows("validation")

    def validate(seen: int) -> dict[str, float]:
        dice = pooled_dice(model, real, validation)
        return {SCORE: float(dice.mean()), **dict(zip(_DICE_KEYS, dice.tolist(), strict=True))}

    call_helpers("train_segmenter", config, inputs, folder)
    progress = loop.train(
        model,
        *work,
        folder,
        name=f"{own.segmenter} {tags(config)['arm']}",
        on_metrics=tracked.log_metrics,
        on_snapshot=validate,
        score=itemgetter(SCORE),
        advice=loop.advice(own.segmenter, model.config),
        keep_from=phases[-1][0] + 1,  # pretraining alone is never kept, nor a reason to stop
    )
    weights = folder / "weights.safetensors"
    checkpoints.save_weights(load_file(folder / "best.safetensors"), weights)
    tracked.log_artifact(weights, "checkpoints")
    return {
        **progress.cost(device),
        "training_slices": sum(len(rows) for _, parts in phases for _, rows in parts),
        "best_validation_dice": progress.best_score,
        "best_at_images": progress.best_seen,
    }


def assist(config: Config, inputs: dict, folder: Path) -> None:
    """A helper's part of `run`."""
    real = SliceSet.open(inputs["prepare"].path)
    device = devices.pick_device(config.common.device)
    loop.assist(*setup(config, real, _phases(config, real, inputs), device), folder)


def setup(
    config: Config, real: SliceSet, phases: Phases, device: torch.device
) -> tuple[Segmenter, Callable, Callable, loop.Budget]:
    """What training takes in any process: model, read, to_batch, budget."""
    own = config.train_segmenter
    torch.manual_seed(loop.mix(own.seed, 0))
    model = create(config, real).to(device)
    processes.check_share(own.batch_size)

    def read(seen: int) -> tuple[torch.Tensor, torch.Tensor]:
        start, parts = next(phase for phase in reversed(phases) if phase[0] <= seen)
        count = sum(len(rows) for _, rows in parts)
        chosen = loop.shuffled_rows(count, seen - start, own.batch_size, own.seed)
        return _gather(parts, chosen[processes.share()])

    def to_batch(batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = normalize(batch[0].to(device)), batch[1].to(device).long()
        return augment(images, labels) if own.augment else (images, labels)

    budget = loop.Budget(own.images, own.batch_size, own.seed, own.snapshots, own.checkpoint_seconds, own.patience)
    return model, read, to_batch, budget


def _phases(config: Config, real: SliceSet, inputs: dict) -> Phases:
    """What is trained on from how many images seen on: (first image, [(set, its rows), …]) for each phase.

    Shares are drawn from the training's seed: a smaller share lies within a larger one, and every arm has the same.
    """
    own = config.train_segmenter
    part = shares(config)
    originals, made = [], []
    if own.train_on != "synthetic":
        rows = real.rows("train")
        subjects = real.index["subject"].to_numpy(str)[rows]
        chosen = _drawn(np.unique(subjects), part["real_subjects"], own.seed)
        originals = [(real, rows[np.isin(subjects, chosen)])]
    if own.train_on != "real":
        slices = synthetic.open_synthetic(config, own.synthetic, inputs)
        made = [(slices, np.sort(_drawn(np.arange(len(slices)), part["synthetic_share"], own.seed)))]
    if own.train_on == "pretrain":
        half = own.images // 2 // own.batch_size * own.batch_size
        return [(0, made), (half, originals)]
    return [(0, originals + made)]


def _drawn(items: np.ndarray, share: float, seed: int) -> np.ndarray:
    order = np.random.default_rng(loop.mix(seed, 1)).permutation(len(items))
    return items[order[: max(1, round(share * len(items)))]]


_DICE_KEYS = [f"validation_dice_{name}" for name in CLASSES[1:]]


def create(config: Config, real: SliceSet) -> Segmenter:
    """The configured segmenter, freshly initialized, for slices of this size."""
    own = config.train_segmenter
    settings_ = resolve_model(config, own.segmenter, images=own.images)
    return segmenters.create(own.segmenter, len(MODALITIES), len(CLASSES), real.meta["image_size"], **settings_)


def predict(model: Segmenter, images: np.ndarray) -> np.ndarray:
    """Classes uint8 [N, H, W] of slices uint8 [N, 4, H, W], a batch at a time."""
    batches = (
        model.predict(normalize(torch.from_numpy(images[start : start + PREDICT_BATCH]).to(model.device))).argmax(1)
        for start in range(0, len(images), PREDICT_BATCH)
    )
    return torch.cat([batch.byte().cpu() for batch in batches]).numpy()


def pooled_dice(model: Segmenter, slices: SliceSet, rows: np.ndarray) -> np.ndarray:
    """Dice of NCR, ED and ET, [3], over all the rows' pixels together: a steady number to choose weights by.

    Not the protocol's subject-level Dice, which `evaluate` computes on whole test volumes.
    """
    overlap, total = np.zeros(3), np.zeros(3)
    for start in range(0, len(rows), PREDICT_BATCH):
        chosen = rows[start : start + PREDICT_BATCH]
        predicted, reference = predict(model, slices.images[chosen]), slices.labels[chosen]
        for k in (1, 2, 3):
            overlap[k - 1] += np.sum((predicted == k) & (reference == k))
            total[k - 1] += np.sum(predicted == k) + np.sum(reference == k)
    return np.where(total > 0, 2 * overlap / np.maximum(total, 1), 1.0)


def _gather(parts: list[tuple[SliceSet, np.ndarray]], positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Slices at positions of the parts laid end to end."""
    size = parts[0][0].images.shape[-1]
    images = np.empty((len(positions), len(MODALITIES), size, size), np.uint8)
    labels = np.empty((len(positions), size, size), np.uint8)
    first = 0
    for slices, rows in parts:
        here = (positions >= first) & (positions < first + len(rows))
        chosen = rows[positions[here] - first]
        images[here], labels[here] = slices.images[chosen], slices.labels[chosen]
        first += len(rows)
    return torch.from_numpy(images), torch.from_numpy(labels)
