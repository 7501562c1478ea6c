"""How long trainings and sampling will take, from a few steps: for a table on a machine that has run none like them."""

import time
from collections.abc import Callable

import torch

from benchmark.config import Config
from benchmark.data.annotation import to_network
from benchmark.data.slices import CLASSES, MODALITIES
from benchmark.table.cells import Job
from benchmark.training import processes
from benchmark.training.devices import pick_device
from benchmark.training.judge import BATCH as JUDGE_BATCH
from benchmark.training.models import DRAW_BATCH, create_generator, create_segmenter, draw, extractor_config
from generators.adversarial import GAN
from generators.base import Generator
from segmenters.augment import augment
from segmenters.base import normalize

POINTS = 5  # of the budget, evenly spaced, at which a step is timed: networks that grow become slower
STEPS = 4  # timed at each, after one that is not; rarer regularizers are missed, and with them some percent
AT_WORK = 0.2  # probability of augmentation, which costs nothing where a training begins, at 0
ENOUGH = 20.0  # after so long a look at one model, what was seen so far is taken [s]
WORTH_A_LOOK = 20 * POINTS * (STEPS + 1)  # a shorter training is done before long [steps]

Step = Callable[[int], object]  # a training step at so many images seen


def expected(job: Job) -> float | None:
    """Seconds that the job will take, its snapshots included; None where a few steps cannot tell, or would cost more
    than the knowledge is worth."""
    config = job.config
    match job.stage:
        case "train_generator" | "train_segmenter":
            keys = getattr(config, job.stage)
            look = generator_training if job.stage == "train_generator" else segmenter_training
            return look(config) if keys.images >= WORTH_A_LOOK * keys.batch_size else None
        case "sample":
            return sampling(config) if config.sample.samples > 2 * DRAW_BATCH else None
    return None


def generator_training(config: Config) -> float:
    """Seconds that `train_generator` takes, with samples and judge of every snapshot."""
    keys, size, device = config.train_generator, config.prepare.image_size, pick_device(config.common.device)
    images, labels = _slices(keys.batch_size, size)
    batch = to_network(images.to(device), labels.to(device), keys.annotation)
    with processes.alone():
        model = create_generator(config, size).to(device)
        if isinstance(model, GAN):
            model.augmentation.p = AT_WORK
        step = _mean_seconds(lambda seen: _finish(model.train_step(batch, seen)), keys.images, keys.batch_size)
        judge = _segmenter_step(extractor_config(config), JUDGE_BATCH, keys.judge_images)
    drawn = _sample_seconds(model, keys.annotation) * keys.snapshot_samples
    judged = judge / JUDGE_BATCH * keys.judge_images  # of every snapshot, and once of real slices
    return step / keys.batch_size * keys.images + drawn * keys.snapshots + judged * (keys.snapshots + 1)


def sampling(config: Config) -> float:
    """Seconds that `sample` takes."""
    model = create_generator(config, config.prepare.image_size).to(pick_device(config.common.device))
    return _sample_seconds(model, config.train_generator.annotation) * config.sample.samples


def segmenter_training(config: Config) -> float:
    """Seconds that `train_segmenter` takes for the configured segmenter, without its validations."""
    keys = config.train_segmenter
    with processes.alone():
        return _segmenter_step(config, keys.batch_size, keys.images) / keys.batch_size * keys.images


def _sample_seconds(model: Generator, coding: str) -> float:
    """Of one sample, drawn with others."""
    draw(model, range(DRAW_BATCH), coding)
    started = time.monotonic()
    draw(model, range(DRAW_BATCH), coding)
    return (time.monotonic() - started) / DRAW_BATCH


def _segmenter_step(config: Config, batch_size: int, budget: int) -> float:
    """Mean seconds of a training step."""
    size, device = config.prepare.image_size, pick_device(config.common.device)
    images, labels = (array.to(device) for array in _slices(batch_size, size))
    model = create_segmenter(config.replace({"train_segmenter.images": budget}), size).to(device)
    return _mean_seconds(
        lambda seen: _finish(model.train_step(*augment(normalize(images), labels.long()), seen)), budget, batch_size
    )


def _slices(count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise for images uint8 [N, 4, H, W] and labels uint8 [N, H, W]: a step takes as long whatever it sees."""
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, len(MODALITIES), size, size), dtype=torch.uint8, generator=noise)
    return images, torch.randint(len(CLASSES), (count, size, size), dtype=torch.uint8, generator=noise)


def _finish(losses: dict[str, torch.Tensor]) -> None:
    """Waits for the device."""
    for loss in losses.values():
        loss.item()


def _mean_seconds(step: Step, budget: int, batch_size: int) -> float:
    """Of a training's steps, on average over its budget."""
    started, means = time.monotonic(), []
    for point in range(POINTS):
        seen = int(budget * (point + 0.5) / POINTS) // batch_size * batch_size
        step(seen)
        began = time.monotonic()
        for i in range(1, STEPS + 1):
            step(seen + i * batch_size)
        means.append((time.monotonic() - began) / STEPS)
        if time.monotonic() - started > ENOUGH:
            break
    return sum(means) / len(means)
