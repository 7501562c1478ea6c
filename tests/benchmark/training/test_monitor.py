"""What a snapshot measures, of samples whose answer is known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from benchmark.training.monitor import COLUMNS, Monitor

SIZE = 32


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(20, 255, (60, 4, SIZE, SIZE)).astype(np.uint8)


@pytest.fixture(scope="module")
def monitor(images):
    """Forty slices of four training patients, twenty of two validation patients; features are a few pixels."""
    split = np.repeat(["train", "validation"], [40, 20])
    real = SimpleNamespace(
        images=images,
        index=pd.DataFrame({"patient": [f"{name} {i // 10}" for i, name in enumerate(split)]}),
        rows=lambda name: np.flatnonzero(split == name),
    )
    extractor = SimpleNamespace(device=torch.device("cpu"), features=lambda batch: batch[:, :, 3, 4])
    return Monitor(extractor, real, real.rows("train"))


def test_copies_of_training_slices_are_memorized_and_copied(monitor, images):
    found = monitor(images[:20])
    assert (found["memorized_share"], found["copied_share"]) == (1, 1)
    assert found.keys() < set(COLUMNS)


def test_validation_slices_themselves_are_as_near_as_can_be_and_are_nobody_s_copies(monitor, images):
    found, training = monitor(images[40:]), monitor(images[:20])
    assert found["kernel_distance"] < min(0, found["kernel_floor"])  # unbiased: below 0 for the very same slices
    assert found["memorized_share"] <= 0.05
    assert training["kernel_distance"] > found["kernel_distance"]
    assert training["kernel_floor"] == found["kernel_floor"]
