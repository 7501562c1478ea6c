"""A logged model's files → what `mlflow models serve` asks: seeds in, annotated slices out; slices in, classes out.

It travels with the weights, beside `generators`, `segmenters` and the annotation's coding, and needs nothing else of
this project: https://mlflow.org/docs/latest/ml/traditional-ml/creating-custom-pyfunc (a loader module, no pickle).
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import generators
import segmenters
from benchmark.data.annotation import from_network
from segmenters.base import normalize

BATCH = 32  # slices at once
FACTS = "model.json"


class Sampler:
    """A trained generator."""

    def __init__(self, facts: dict, weights: dict[str, torch.Tensor]) -> None:
        self._coding = facts["annotation"]
        self._model = generators.create(facts["name"], facts["channels"], facts["resolution"], **facts["config"])
        self._model.load_weights(weights)

    def predict(self, seeds: np.ndarray, params: dict | None = None) -> np.ndarray:
        """Seeds [N] → slices uint8 [N, 5, H, W]: T1, T1ce, T2 and FLAIR, then the annotation's classes, 0–3."""
        seeds = np.asarray(seeds).ravel().tolist()
        batches = [self._model.sample(seeds[start : start + BATCH]) for start in range(0, len(seeds), BATCH)]
        images, labels, _ = from_network(torch.cat(batches), self._coding)
        return torch.cat([images, labels[:, None]], dim=1).numpy()


class Predictor:
    """A trained segmenter."""

    def __init__(self, facts: dict, weights: dict[str, torch.Tensor]) -> None:
        channels, classes = facts["channels"], facts["classes"]
        self._model = segmenters.create(facts["name"], channels, classes, facts["resolution"], **facts["config"])
        self._model.load_weights(weights)

    def predict(self, images: np.ndarray, params: dict | None = None) -> np.ndarray:
        """Slices [N, 4, H, W] of 0–255: T1, T1ce, T2 and FLAIR → classes uint8 [N, H, W], 0–3."""
        slices = torch.from_numpy(np.asarray(images, np.uint8))
        batches = [self._model.predict(normalize(part)).argmax(1) for part in slices.split(BATCH)]
        return torch.cat(batches).byte().numpy()


def _load_pyfunc(folder: str) -> Sampler | Predictor:
    """What MLflow calls. folder: holds model.json and weights.safetensors."""
    facts = json.loads((Path(folder) / FACTS).read_text())
    weights = load_file(Path(folder) / "weights.safetensors")
    return Predictor(facts, weights) if "classes" in facts else Sampler(facts, weights)
