"""Generators and segmenters as the configuration wants them: made, read back, and asked, a batch at a time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import generators
import segmenters
from analysis.neighbours import Rows
from benchmark.config import Config, TrainSegmenter
from benchmark.data.annotation import CODINGS, from_network
from benchmark.data.slices import CLASSES, MODALITIES, SliceSet
from benchmark.training.precision import resolve_model
from generators.adversarial import SMALL_COHORT, GANConfig
from generators.base import Generator
from segmenters.base import Segmenter, normalize

WEIGHTS = "weights.safetensors"  # in the folder of a finished training
LAST = "last.safetensors"  # those of its last snapshot, where they are asked for, too
DRAW_BATCH = 32  # a sample's last bits depend on it
PREDICT_BATCH = 64


def create_generator(config: Config, image_size: int, slices: int = 0) -> Generator:
    """The configured generator, freshly initialized: of modalities and the annotation's planes, at this size [px].

    slices: how many it will be trained on, which decides where a GAN's `augmentation` is left open.
    """
    name, coding = config.train_generator.model, CODINGS[config.train_generator.annotation]
    resolved = resolve_model(config, name)
    if issubclass(generators.load(name).Config, GANConfig) and resolved["augmentation"] is None:
        resolved["augmentation"] = slices < SMALL_COHORT
    return generators.create(name, len(MODALITIES) + coding.planes, image_size, **resolved)


def load_generator(config: Config, image_size: int, folder: Path) -> Generator:
    """The configured generator, as it was trained in `folder`."""
    model = create_generator(config, image_size)
    model.load_weights(load_file(folder / WEIGHTS))
    return model


def draw(model: Generator, seeds: Sequence[int], coding: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples of these seeds: images uint8 [N, 4, H, W], labels uint8 [N, H, W], off_code float32 [N].

    coding: of the annotation, as the generator was trained with it; off_code: see `benchmark.data.annotation`.
    """
    starts = range(0, len(seeds), DRAW_BATCH)
    batches = [from_network(model.sample(seeds[start : start + DRAW_BATCH]).cpu(), coding) for start in starts]
    images, labels, off_code = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
    return images, labels, off_code


def create_segmenter(config: Config, image_size: int) -> Segmenter:
    """The configured segmenter, freshly initialized, for slices of this size [px]."""
    name, images = config.train_segmenter.segmenter, config.train_segmenter.images
    resolved = resolve_model(config, name, images=images)
    return segmenters.create(name, len(MODALITIES), len(CLASSES), image_size, **resolved)


def load_segmenter(config: Config, image_size: int, folder: Path, weights: str = WEIGHTS) -> Segmenter:
    """The configured segmenter, as it was trained in `folder`."""
    model = create_segmenter(config, image_size)
    model.load_weights(load_file(folder / weights))
    return model


def predict(model: Segmenter, images: np.ndarray) -> np.ndarray:
    """Classes uint8 [N, H, W] of slices uint8 [N, 4, H, W]."""
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


def extractor_config(config: Config) -> Config:
    """The configuration with which `train_segmenter` trains the feature extractor of every fidelity number.

    It is the encoder of a U-Net with its defaults, whatever the preset, trained on the cohort's real slices. Its budget
    is its own, apart from the table's segmenters: whoever changes those does not train generators anew. Where both are
    configured alike, they are one and the same training.
    """
    return config.model_copy(update={"train_segmenter": TrainSegmenter(**dict(config.extractor)), "models": {}})


def features(model: Segmenter, images: np.ndarray | Rows) -> np.ndarray:
    """Features float32 [N, D] of slices uint8 [N, 4, H, W], read a batch at a time."""
    starts = range(0, len(images), PREDICT_BATCH)
    batches = (torch.from_numpy(np.array(images[start : start + PREDICT_BATCH])) for start in starts)
    return torch.cat([model.features(normalize(batch.to(model.device))).cpu() for batch in batches]).numpy()
