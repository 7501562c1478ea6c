"""A trained generator's critic, which a white-box attacker asks about slices."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from benchmark.config import Config
from benchmark.data.annotation import to_network
from benchmark.data.slices import SliceSet
from benchmark.training.checkpoints import Checkpoints
from benchmark.training.models import PREDICT_BATCH, WEIGHTS, create_generator
from benchmark.training.order import mix
from generators.base import Generator


class NoCritic(Exception):
    """There is nothing to ask; the message says why."""


def load_critic(config: Config, image_size: int, folder: Path) -> Generator:
    """The configured generator with the critic that its training in `folder` left: that of the released weights, or
    where these hold none, as a GAN's, the last checkpoint's. Raises NoCritic."""
    model, name = create_generator(config, image_size), config.train_generator.model
    if model.critic is None:
        raise NoCritic(f"{name} has no network that tells training images from others")
    if model.critic not in model.ema and Checkpoints(folder / "checkpoints").restore(model) is None:
        raise NoCritic(
            f"its {model.critic} is in no released weights, and no sound checkpoint is left in {folder.name}"
        )
    model.load_weights(load_file(folder / WEIGHTS))
    return model


def familiarity(model: Generator, slices: SliceSet, rows: np.ndarray, coding: str, seed: int) -> np.ndarray:
    """The critic's scores float64 [N] of these rows, higher where it is surer that it was trained on them.

    coding: of the annotation, as the model was trained with it; seed: with the row, of the noise that it may need.
    """
    scores = []
    for start in range(0, len(rows), PREDICT_BATCH):
        part = rows[start : start + PREDICT_BATCH]
        images, labels = (
            torch.from_numpy(np.array(each[part])).to(model.device) for each in (slices.images, slices.labels)
        )
        seeds = [mix(seed, int(row)) for row in part]
        scores.append(model.familiarity(to_network(images, labels, coding), seeds).double().cpu().numpy())
    return np.concatenate(scores)
