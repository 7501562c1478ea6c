"""Real and / or synthetic slices → a segmenter's weights, the best ones on real validation subjects; the last ones
beside them where no real image was trained on."""

from operator import itemgetter
from typing import Any

import numpy as np
import torch

from benchmark.config import Config, Need
from benchmark.data import synthetic
from benchmark.data.slices import CLASSES, SliceSet
from benchmark.stages import Headline, RunningTask, Settings, Task, call_helpers, log_model
from benchmark.training import loop, processes
from benchmark.training.checkpoints import save_weights
from benchmark.training.devices import machine, pick_device
from benchmark.training.models import LAST, WEIGHTS, create_segmenter, pooled_dice
from benchmark.training.order import Phase, drawn, mix, phase_at
from benchmark.training.precision import resolve_model
from segmenters.augment import augment
from segmenters.base import Segmenter, normalize

SCHEMA = 5  # 5: of trainings without real images, the last weights are kept, too
SCORE = "validation_dice"


def settings(config: Config) -> Settings:
    keys = config.train_segmenter
    resolved = resolve_model(config, keys.segmenter, images=keys.images)
    content = synthetic.settings_of(config, keys.synthetic) if keys.train_on != "real" else {}
    fixed = keys.model_dump(mode="json", exclude={"synthetic", "checkpoint_seconds"})
    return {**fixed, **shares(config), keys.segmenter: resolved, "synthetic": content}


def shares(config: Config) -> dict[str, float]:
    """Shares of the real training subjects and of the synthetic set; 1 for what the arm does not use."""
    keys = config.train_segmenter
    return {
        "real_subjects": 1.0 if keys.train_on == "synthetic" else keys.real_subjects,
        "synthetic_share": 1.0 if keys.train_on == "real" else keys.synthetic_share,
    }


def needs(config: Config) -> dict[str, Need]:
    keys = config.train_segmenter
    wanted = synthetic.needs_of(config, keys.synthetic) if keys.train_on != "real" else {}
    return {"prepare": Need("prepare", config), **wanted}


def tags(config: Config) -> dict[str, Any]:
    keys = config.train_segmenter
    generator = synthetic.name_of(config, keys.synthetic) if keys.train_on != "real" else "none"
    arm = keys.train_on if generator == "none" else f"{keys.train_on} {generator}"
    parts = [f"{key} {share:g}" for key, share in shares(config).items() if share < 1]
    return {
        "model": keys.segmenter,
        "cohort": config.prepare.cohort,
        "arm": " ".join([arm, *parts]),
        "generator": generator,
        "augmentation": "on" if keys.augment else "off",
        "seed": keys.seed,
    }


def run(task: RunningTask) -> Headline:
    config, folder, tracked = task.config, task.folder, task.tracked
    device, real = pick_device(config.common.device), SliceSet.open(task.folders["prepare"])
    phases, validation = phases_of(task, real), real.rows("validation")
    training = training_of(config, real, phases, device)

    def validate(seen: int) -> dict[str, float]:
        dice = pooled_dice(training.model, real, validation)
        of_class = zip(CLASSES[1:], dice.tolist(), strict=True)
        return {SCORE: float(dice.mean()), **{f"{SCORE}_{name}": value for name, value in of_class}}

    tracked.set_tags(machine(device))
    call_helpers("train_segmenter", task)
    progress = loop.train(
        training,
        folder,
        on_metrics=tracked.log_metrics,
        on_snapshot=validate,
        score=itemgetter(SCORE),
        keep_from=phases[-1].start + 1,  # pretraining alone is never kept, nor a reason to stop
        team=task.team,
        watch=task.watch,
    )
    save_weights(progress.best_weights, folder / WEIGHTS)
    if config.train_segmenter.train_on == "synthetic":  # annotated real patients chose the best
        save_weights(training.model.weights(), folder / LAST)
    log_model("train_segmenter", task, training.model, classes=len(CLASSES))
    return {
        **progress.cost(device),
        "precision": getattr(training.model.config, "precision", "fp32"),  # a model from outside may have no such key
        "training_slices": sum(map(len, phases)),
        "best_validation_dice": progress.best_score,
        "best_at_images": progress.best_seen,
    }


def assist(task: Task) -> None:
    """A helper's part of `run`."""
    device, real = pick_device(task.config.common.device), SliceSet.open(task.folders["prepare"])
    loop.assist(training_of(task.config, real, phases_of(task, real), device), task.folder)


def training_of(config: Config, real: SliceSet, phases: list[Phase], device: torch.device) -> loop.Training[Segmenter]:
    """The configured training, in any of the processes that take part."""
    keys = config.train_segmenter
    torch.manual_seed(mix(keys.seed, 0))
    model = create_segmenter(config, real.meta["image_size"]).to(device)
    processes.check_share(keys.batch_size)

    def read(seen: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = phase_at(phases, seen).batch(seen, keys.batch_size, keys.seed, processes.share())
        return torch.from_numpy(images), torch.from_numpy(labels)

    def to_batch(batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = normalize(batch[0].to(device)), batch[1].to(device).long()
        return augment(images, labels) if keys.augment else (images, labels)

    name, advice = f"{keys.segmenter} {tags(config)['arm']}", loop.advice(keys.segmenter, model.config)
    budget = loop.Budget(
        keys.images, keys.batch_size, keys.seed, keys.snapshots, keys.checkpoint_seconds, keys.patience
    )
    return loop.Training(name, model, read, to_batch, budget, advice)


def phases_of(task: Task, real: SliceSet) -> list[Phase]:
    """What is trained on, in turn.

    Shares are drawn from the training's seed: a smaller share lies within a larger one, and every arm has the same.
    """
    keys, share = task.config.train_segmenter, shares(task.config)
    originals, made = [], []
    if keys.train_on != "synthetic":
        rows = real.rows("train")
        patients = real.index["patient"].to_numpy(str)[rows]
        chosen = drawn(np.unique(patients), share["real_subjects"], keys.seed)
        originals = [(real, rows[np.isin(patients, chosen)])]
    if keys.train_on != "real":
        slices = synthetic.open_synthetic(task.config, keys.synthetic, task.folders)
        made = [(slices, np.sort(drawn(np.arange(len(slices)), share["synthetic_share"], keys.seed)))]
    if keys.train_on == "pretrain":
        half = keys.images // 2 // keys.batch_size * keys.batch_size
        return [Phase(0, made), Phase(half, originals)]
    return [Phase(0, originals + made)]
