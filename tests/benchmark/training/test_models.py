"""Models that are asked a batch at a time."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmark.data.annotation import CODINGS
from benchmark.parsing import parse
from benchmark.training import models


class Seen:
    """A stand-in for a network: notes how many it is asked about at once."""

    device = torch.device("cpu")

    def __init__(self, classes=None):
        self.classes, self.batches = classes, []

    def sample(self, seeds):
        self.batches.append(len(seeds))
        return torch.tensor(seeds)[:, None, None, None].expand(-1, 5, 2, 2) * 2 / 255 - 1

    def predict(self, images):
        start = sum(self.batches)
        self.batches.append(len(images))
        classes = torch.from_numpy(self.classes[start : start + len(images)]).long()
        return torch.nn.functional.one_hot(classes, 4).permute(0, 3, 1, 2).float()

    def features(self, images):
        self.batches.append(len(images))
        return images.mean((2, 3))


def test_samples_are_drawn_a_batch_at_a_time_in_the_order_of_their_seeds(monkeypatch):
    monkeypatch.setattr(models, "DRAW_BATCH", 4)
    model = Seen()
    images, labels, off_code = models.draw(model, range(1, 11), "values")
    assert model.batches == [4, 4, 2]
    assert images.dtype == labels.dtype == np.uint8
    assert images.shape == (10, 4, 2, 2)
    assert images[:, 0, 0, 0].tolist() == list(range(1, 11))
    assert not labels.any()  # grey levels of 1 to 10 are nearest to the code of the background
    assert off_code.tolist() == [0.0] * 10


@pytest.mark.parametrize("coding", CODINGS)
def test_a_generator_draws_the_modalities_and_the_annotations_planes(coding):
    config = parse("train_generator", {"preset": "smoke", "model": "progressive_gan", "annotation": coding})
    model = models.create_generator(config, 16)
    assert model.channels == 4 + CODINGS[coding].planes
    images, labels, off_code = models.draw(model, range(3), coding)
    assert images.shape == (3, 4, 16, 16)
    assert labels.shape == (3, 16, 16)
    assert off_code.shape == (3,)


@pytest.mark.parametrize("name", ["progressive_gan", "stylegan1", "stylegan2", "stylegan3"])
def test_gans_augment_small_cohorts_unless_told(name):
    def on(slices, **given):
        given = {f"{name}.{key}": value for key, value in given.items()}
        config = parse("train_generator", {"preset": "smoke", "model": name, **given})
        return models.create_generator(config, 16, slices).config.augmentation

    assert on(29_999)
    assert not on(30_000)
    assert on(30_000, augmentation="true")
    assert not on(29_999, augmentation="false")


def test_pooled_dice_is_that_of_all_pixels_of_the_rows_together(monkeypatch):
    monkeypatch.setattr(models, "PREDICT_BATCH", 3)
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 3, (2, 10, 8, 8)).astype(np.uint8)  # without class 3
    rows = np.array([1, 2, 5, 7, 9])
    model = Seen(predicted[rows])
    slices = SimpleNamespace(images=np.full((10, 4, 8, 8), 99, np.uint8), labels=labels)
    dice = models.pooled_dice(model, slices, rows)
    assert model.batches == [3, 2]
    for k in (1, 2):
        a, b = {*np.flatnonzero(predicted[rows] == k)}, {*np.flatnonzero(labels[rows] == k)}
        assert dice[k - 1] == pytest.approx(2 * len(a & b) / (len(a) + len(b)))
    assert dice[2] == 1  # found nowhere and annotated nowhere


def test_features_are_those_of_normalized_slices(monkeypatch):
    monkeypatch.setattr(models, "PREDICT_BATCH", 2)
    images = np.random.default_rng(0).integers(20, 255, (5, 4, 6, 6)).astype(np.uint8)
    images[:, :, :3] = 0  # no brain there
    model = Seen()
    found = models.features(model, images)
    assert model.batches == [2, 2, 1]
    assert found.shape == (5, 4)
    np.testing.assert_allclose(found, 0, atol=1e-6)  # z-scores over the foreground, zero elsewhere
