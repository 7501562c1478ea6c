"""Trainings of every built-in model that take a moment each."""

from operator import itemgetter

import numpy as np
import torch

import generators
import segmenters
from benchmark.training.loop import Budget, Training, train

RESOLUTION, BATCH = 16, 8
GROWING = {"channel_base": 64, "channel_max": 4, "z_dim": 8, "stable_images": 4}
TINY = {
    "progressive_gan": {**GROWING, "fade_images": 36},
    "stylegan1": {**GROWING, "fade_images": 76, "w_dim": 8, "mapping_layers": 2},
    "stylegan2": {"channel_base": 64, "channel_max": 4, "z_dim": 8, "w_dim": 8, "mapping_layers": 2},
    "stylegan3": {"channel_base": 64, "channel_max": 4, "z_dim": 8, "w_dim": 8},
    "diffusion": {"widths": (8, 16), "sampling_steps": 2},
    "unet": {"widths": (4, 8, 8)},
    "swin": {
        "width": 4,
        "depths": (1, 1, 1, 1),
        "heads": (1, 1, 1, 1),
        "window": 2,
        "decoder_width": 4,
        "auxiliary_width": 4,
    },
}


def create(name):
    torch.manual_seed(0)
    if name in segmenters.names():
        return segmenters.create(name, 4, 4, RESOLUTION, images=96, **TINY[name])
    return generators.create(name, 5, RESOLUTION, **TINY[name])


def read(seen):
    return np.random.default_rng(seen).random((BATCH, 5, RESOLUTION, RESOLUTION), np.float32) * 2 - 1


def generator_batch(images):
    return (torch.from_numpy(images),)


def segmenter_batch(images):
    return torch.from_numpy(images[:, :4]), torch.from_numpy((images[:, 4] > 0.5).astype(np.int64))


def budget(images=96, snapshots=4, checkpoint_seconds=0.0, **more):
    return Budget(images, BATCH, 5, snapshots, checkpoint_seconds, **more)


def training(name, budget, read=read, advice=""):
    to_batch = segmenter_batch if name in segmenters.names() else generator_batch
    return Training(name, create(name), read, to_batch, budget, advice)


def run(training, folder, on_snapshot=lambda seen: {"score": float(seen == 48)}, **more):
    """Trains; returns the progress, and the curve as it was reported."""
    curve = []
    progress = train(
        training,
        folder,
        on_metrics=lambda metrics, seen: curve.append((seen, dict(metrics))),
        on_snapshot=on_snapshot,
        score=itemgetter("score"),
        **more,
    )
    return progress, curve
