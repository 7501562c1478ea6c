"""The feature extractor of every fidelity number: the encoder of a U-Net trained on the cohort's real slices.

It has a budget of its own, apart from the table's segmenters: whoever changes those does not train generators anew.
Where both are configured alike, they are one and the same training.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from analysis.neighbours import Rows
from benchmark.config import Config, TrainSegmenter
from benchmark.data.slices import SliceSet
from benchmark.stages import train_segmenter
from segmenters.base import Segmenter, normalize


def configured(config: Config) -> Config:
    """The configuration with which `train_segmenter` trains it: the U-Net's defaults, whatever the preset."""
    return config.model_copy(update={"train_segmenter": TrainSegmenter(**dict(config.extractor)), "models": {}})


def need(config: Config) -> tuple[str, Config]:
    """The stage that trains it."""
    return "train_segmenter", configured(config)


def load(config: Config, real: SliceSet, folder: Path, device: torch.device) -> Segmenter:
    """The extractor that was trained in `folder`, for slices of the cohort's size."""
    model = train_segmenter.create(configured(config), real)
    model.load_weights(load_file(folder / "weights.safetensors"))
    return model.to(device)


def features(model: Segmenter, images: np.ndarray | Rows) -> np.ndarray:
    """Features float32 [N, D] of slices uint8 [N, 4, H, W], read a batch at a time."""
    size = train_segmenter.PREDICT_BATCH
    batches = (torch.from_numpy(np.array(images[start : start + size])) for start in range(0, len(images), size))
    return torch.cat([model.features(normalize(batch.to(model.device))).cpu() for batch in batches]).numpy()
