"""Trainings of a generator on some of the patients, and those that stop where copying begins."""

import shutil
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from benchmark.data.slices import SliceSet
from benchmark.errors import UserError
from benchmark.parsing import parse
from benchmark.stages import fingerprint, pull, train_generator
from benchmark.tracking.session import Session
from benchmark.training.cohort import trained_on
from generators.diffusion import Diffusion


@pytest.fixture
def work(prepared, tmp_path, monkeypatch):
    """A folder where what a training needs is done; and its configuration with some keys."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)

    def configured(**keys):
        given = {"preset": "smoke", "work_dir": str(tmp_path / "work"), "model": "diffusion", "judge_images": "16"}
        return parse("train_generator", {**given, **{key: str(value) for key, value in keys.items()}})

    return configured


def train(config):
    return pull("train_generator", config, Session.begin(config.common.work_dir))


def test_the_patients_are_part_of_the_fingerprint(work):
    marks = [fingerprint("train_generator", work(**keys)) for keys in ({}, {"subjects": 2}, {"subjects": 3})]
    assert len(set(marks)) == 3


def test_an_interrupted_training_on_some_patients_ends_in_the_same_weights(work, tmp_path, monkeypatch):
    config = work(subjects=3, checkpoint_seconds=0)
    whole = train(config)
    weights = load_file(whole.path / "weights.safetensors")
    (stored,) = (tmp_path / "work/prepare").glob("*/images.npy")
    slices = SliceSet.open(stored.parent)
    rows = trained_on(config, slices)
    assert whole.headline["training_slices"] == len(rows) < len(slices.rows("train"))

    shutil.rmtree(whole.path)
    step, seen_images = Diffusion.train_step, []

    def interrupted(model, images, seen):
        if seen == 40:
            raise KeyboardInterrupt
        seen_images.append(images[:, :4].numpy())
        return step(model, images, seen)

    with monkeypatch.context() as patch:
        patch.setattr(Diffusion, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    known = {image.tobytes() for image in slices.images[rows]}
    bytes_seen = np.rint((np.concatenate(seen_images) + 1) * 127.5).astype(np.uint8)
    assert {image.tobytes() for image in bytes_seen} <= known
    again = load_file(train(config).path / "weights.safetensors")
    assert weights.keys() == again.keys()
    assert all(np.array_equal(weights[key], again[key]) for key in weights)


def planted(monkeypatch, p_values, dice):
    """Snapshots measure these, one after the other."""
    of_snapshot, of_judge = iter(p_values), iter(dice)
    zeros = {"kernel_distance": 0.0, "kernel_floor": 0.0, "memorized_share": 0.0, "copied_share": 0.0}
    monkeypatch.setattr(
        train_generator, "Monitor", lambda *_: lambda images: {**zeros, "copied_p_value": next(of_snapshot)}
    )
    monkeypatch.setattr(train_generator, "judge", lambda *_: next(of_judge))
    monkeypatch.setattr(train_generator, "judge_of_real", lambda *_: 0.9)


KEYS = {"images": 64, "snapshots": 4, "keep_snapshots": True}


def test_copying_stops_a_training_which_keeps_the_best_before_it(work, monkeypatch):
    config = work(**KEYS, stop_when_copied=True)
    planted(monkeypatch, [1, 0.02, 0.0125], [0.3, 0.2, 0.8])  # 0.02 is above 5 % over four snapshots, 0.0125 is not
    stopped = train(config)
    assert (stopped.headline["images"], stopped.headline["kept_at_images"]) == (48, 16)
    assert (stopped.headline["stopped"], stopped.headline["copies_from_images"]) == (True, 48)
    curve = pd.read_csv(stopped.path / "curve.csv")
    assert list(curve["seen"][curve["kept"]]) == list(curve["seen"][curve["kept_if_stopped"]]) == [16]
    assert list(curve["copies"]) == [False, False, True]
    planted(monkeypatch, [], [])
    assert train(config).reused

    planted(monkeypatch, [1, 0.02, 0.0125, 1], [0.3, 0.2, 0.8, 0.1])
    whole = train(work(**KEYS))
    assert (whole.headline["images"], whole.headline["kept_at_images"], whole.headline["stopped"]) == (64, 48, False)
    curve = pd.read_csv(whole.path / "curve.csv")
    assert list(curve["seen"][curve["kept_if_stopped"]]) == [16]  # told without stopping
    before = [load_file(result.path / "snapshots/000000032.safetensors") for result in (stopped, whole)]
    assert all(np.array_equal(before[0][key], before[1][key]) for key in before[0])


def test_a_finished_training_whose_kept_snapshot_was_deleted_trains_anew(work, monkeypatch, caplog):
    config = work(**KEYS)
    planted(monkeypatch, [1] * 4, [0.3, 0.2, 0.8, 0.1])
    path = train(config).path
    weights = (path / "weights.safetensors").read_bytes()
    for name in ("000000016.npz", "000000016.safetensors"):
        (path / "snapshots" / name).unlink()
        planted(monkeypatch, [1] * 4, [0.3, 0.2, 0.8, 0.1])
        assert not train(config).reused
        assert f"{name} is missing: the training goes back" in caplog.text
        assert (path / "snapshots" / name).is_file()
        assert (path / "weights.safetensors").read_bytes() == weights
    (path / "weights.safetensors").unlink()
    planted(monkeypatch, [], [])  # nothing is trained
    assert train(config).headline["kept_at_images"] == 48
    assert (path / "weights.safetensors").read_bytes() == weights


def test_a_training_whose_first_snapshot_copies_keeps_nothing_and_says_so(work, monkeypatch):
    planted(monkeypatch, [0.0], [0.3])
    with pytest.raises(UserError, match="copies training slices at its first snapshot already"):
        train(work(**KEYS, stop_when_copied=True))


def test_a_single_patient_cannot_be_copied_as_far_as_one_can_tell():
    config = SimpleNamespace(train_generator=SimpleNamespace(snapshots=4))
    assert not train_generator.copies(config, {"memorized_share": 1.0})
