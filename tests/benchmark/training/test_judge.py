"""The judge of snapshots, on slices whose annotation can be learned and on slices whose annotation cannot."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmark.parsing import parse
from benchmark.training import judge as module
from benchmark.training.judge import judge, judge_of_real

SIZE = 16


@pytest.fixture(scope="module")
def config():
    return parse("train_generator", {"preset": "smoke", "judge_images": 1600})


@pytest.fixture(scope="module")
def slices():
    """Grey discs, in which one of three squares is brighter, each in another modality and of another class."""
    rng = np.random.default_rng(0)
    images = np.zeros((96, 4, SIZE, SIZE), np.uint8)
    labels = np.zeros((96, SIZE, SIZE), np.uint8)
    images[:, :, 2:14, 2:14] = rng.integers(70, 90, (96, 4, 12, 12))
    for image, label in zip(images, labels, strict=True):
        kind, y, x = rng.integers(3), *rng.integers(3, 9, 2)
        image[kind, y : y + 4, x : x + 4] += 100
        label[y : y + 4, x : x + 4] = kind + 1
    return images, labels


def judged(config, images, labels, slices):
    real = SimpleNamespace(images=slices[0], labels=slices[1], rows=lambda split: np.arange(64, 96))
    assert config.train_generator.judge_images == 1600
    return judge(config, images, labels, np.arange(64), real, torch.device("cpu"))


def test_samples_with_sound_annotations_score_high_and_others_low(config, slices):
    images, labels = slices
    sound = judged(config, images, labels, slices)
    elsewhere = judged(config, images, np.roll(labels, 1, axis=0), slices)  # each annotated as its neighbour
    assert sound > 0.8
    assert elsewhere < sound / 2


def test_it_is_a_function_of_the_samples_whatever_was_drawn_before(config, slices):
    torch.manual_seed(1)
    first = judged(config.replace({"train_generator.judge_images": 1600}), *slices, slices)
    torch.rand(5)
    assert judged(config, *slices, slices) == first


def test_real_slices_are_judged_once_for_what_it_depends_on(config, slices, tmp_path, monkeypatch):
    config = config.replace({"common.work_dir": tmp_path, "train_generator.judge_images": 160})
    real = SimpleNamespace(images=slices[0], labels=slices[1], rows=lambda split: np.arange(64, 96))
    rows, device = np.arange(64), torch.device("cpu")
    expected = judge(config, *slices, rows, real, device)
    assert judge_of_real(config, real, rows, "cohort", device) == expected
    calls = []
    monkeypatch.setattr(module, "judge", lambda *arguments: calls.append(arguments) or 0.5)
    assert judge_of_real(config, real, rows, "cohort", device) == expected
    assert calls == []
    longer = config.replace({"train_generator.judge_images": 320})
    for other in ((config, real, rows[:32], "cohort"), (config, real, rows, "other"), (longer, real, rows, "cohort")):
        assert judge_of_real(*other, device) == 0.5
    assert len(calls) == 3
