"""The loop: batches as a function of images seen, sound checkpoints, killed runs that end in the same weights."""

import multiprocessing
import os
import signal
import time
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import generators
import segmenters
from benchmark.training.checkpoints import Checkpoints, Progress
from benchmark.training.devices import pick_device
from benchmark.training.loop import Budget, Diverged, advice, mix, shuffled_rows, train

RESOLUTION = 16
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


def _model(name):
    torch.manual_seed(0)
    if name in segmenters.names():
        return segmenters.create(name, 4, 4, RESOLUTION, images=96, **TINY[name])
    return generators.create(name, 5, RESOLUTION, **TINY[name])


def _read(seen):
    return np.random.default_rng(seen).random((8, 5, RESOLUTION, RESOLUTION), np.float32) * 2 - 1


def _to_batch(name):
    def generator_batch(images):
        return (torch.from_numpy(images),)

    def segmenter_batch(images):
        return torch.from_numpy(images[:, :4]), torch.from_numpy((images[:, 4] > 0.5).astype(np.int64))

    return segmenter_batch if name in segmenters.names() else generator_batch


def _train(name, folder, images=96, checkpoint_seconds=0.0, pause=0.0):
    """Runs in a process of its own where it is to be killed; `pause` gives the killer time to strike."""
    torch.set_num_threads(1)
    model = _model(name)

    def snapshot(seen):
        return {"score": float(seen == 48)}

    def read(seen):
        time.sleep(pause)
        return _read(seen)

    budget = Budget(images=images, batch_size=8, seed=5, snapshots=4, checkpoint_seconds=checkpoint_seconds)
    log = []
    progress = train(
        model,
        read,
        _to_batch(name),
        budget,
        folder,
        name=name,
        on_metrics=lambda metrics, seen: log.append((seen, dict(metrics))),
        on_snapshot=snapshot,
        score=itemgetter("score"),
        advice="",
    )
    return model, progress, log


@pytest.fixture(scope="module")
def processes():
    """Processes that start quickly: forked from a server that has imported torch and the models already."""
    context = multiprocessing.get_context("forkserver")
    built_in = [
        f"generators.{name}" for name in ("progressive_gan", "stylegan1", "stylegan2", "stylegan3", "diffusion")
    ]
    context.set_forkserver_preload(["torch", *built_in, "segmenters.unet", "segmenters.swin"])
    return context


@pytest.mark.parametrize("name", TINY)
def test_a_killed_and_restarted_training_ends_in_the_same_weights(name, tmp_path, processes):
    whole, _, curve = _train(name, tmp_path / "whole")

    folder = tmp_path / "killed"
    for kills, wait in enumerate((0.0, 0.03, 0.011)):  # at the checkpoint, and at two moments after it
        process = processes.Process(target=_train, args=(name, folder), kwargs={"pause": 0.05})
        process.start()
        checkpoints, deadline = folder / "checkpoints", time.monotonic() + 60
        before = {path.name for path in checkpoints.glob("*.pt")}
        while len({path.name for path in checkpoints.glob("*.pt")} - before) < 1:
            assert process.is_alive(), f"training ended before kill {kills}"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        seen = int(Checkpoints(checkpoints).newest().name.partition("-")[0])
        assert 0 < seen < 96

    resumed, progress, resumed_curve = _train(name, folder)
    assert progress.seen == 96
    for key, tensor in whole.weights().items():
        assert torch.equal(tensor, resumed.weights()[key]), key
    best, best_killed = load_file(tmp_path / "whole/best.safetensors"), load_file(folder / "best.safetensors")
    assert all(torch.equal(best[key], best_killed[key]) for key in best)

    def losses(points):
        return [(seen, {k: v for k, v in m.items() if k != "images_per_second"}) for seen, m in points]

    assert losses(curve) == losses(resumed_curve)  # the curve is whole, with no point twice


def test_a_damaged_checkpoint_is_skipped_with_a_warning(tmp_path, caplog):
    _, whole, _ = _train("unet", tmp_path)
    files = sorted((tmp_path / "checkpoints").glob("*.pt"))
    assert len(files) == 2
    damaged = files[-1]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)

    progress = Checkpoints(tmp_path / "checkpoints").restore(_model("unet"))
    assert progress.seen == whole.seen - 8
    assert "damaged" in caplog.text
    assert str(damaged) in caplog.text


def test_a_half_written_checkpoint_counts_for_nothing(tmp_path):
    _train("unet", tmp_path)
    (tmp_path / "checkpoints/writing.partial").write_bytes(b"half")
    assert Checkpoints(tmp_path / "checkpoints").restore(_model("unet")).seen == 96


def test_the_weights_with_the_best_score_are_kept(tmp_path):
    model, progress, _ = _train("unet", tmp_path)
    at_48, _, _ = _train("unet", tmp_path / "short", images=48)
    best = load_file(tmp_path / "best.safetensors")
    assert progress.best_seen == 48
    # The learning-rate schedule belongs to the model (96 images), so 48 images of either training are the same.
    assert all(torch.equal(best[key], value) for key, value in at_48.weights().items())
    assert not all(torch.equal(best[key], value) for key, value in model.weights().items())


def _scored(folder, budget, on_snapshot, **more):
    """A training whose snapshots say what they are worth."""
    return train(
        _model("unet"),
        _read,
        _to_batch("unet"),
        budget,
        folder,
        name="unet",
        on_metrics=lambda metrics, seen: None,
        on_snapshot=on_snapshot,
        score=itemgetter("score"),
        advice="",
        **more,
    )


@pytest.mark.parametrize("stops_between", [False, True])
def test_training_stops_when_its_score_has_not_risen_for_long_enough(tmp_path, stops_between):
    scores = {16: 0.1, 32: 0.5, 48: 0.4, 64: 0.5, 80: 0.9}
    budget = Budget(images=96, batch_size=8, seed=0, snapshots=6, checkpoint_seconds=0, patience=2)

    def run(on_snapshot):
        return _scored(tmp_path, budget, on_snapshot)

    def interrupted(seen):
        if seen == 48:
            raise KeyboardInterrupt
        return {"score": scores[seen]}

    if stops_between:
        with pytest.raises(KeyboardInterrupt):
            run(interrupted)
    progress = run(lambda seen: {"score": scores[seen]})
    assert (progress.seen, progress.best_seen) == (64, 32)
    assert run(lambda seen: pytest.fail("it had stopped")).seen == 64


def test_weights_from_before_a_training_may_keep_any_are_never_kept(tmp_path):
    scores = {16: 0.9, 32: 0.1, 48: 0.3, 64: 0.2, 80: 0.2, 96: 0.2}
    budget = Budget(images=96, batch_size=8, seed=0, snapshots=6, checkpoint_seconds=1e9, patience=2)
    progress = _scored(tmp_path, budget, lambda seen: {"score": scores[seen]}, keep_from=32)
    assert (progress.best_seen, progress.best_score) == (48, 0.3)
    assert progress.seen == 80  # what came before does not count as waiting, either


def test_advice_names_the_model_s_own_keys():
    gan, segmenter = _model("stylegan3"), _model("unet")
    assert advice("stylegan3", gan.config) == (
        "Lower stylegan3.generator_learning_rate (0.0025) and stylegan3.discriminator_learning_rate (0.002)."
    )
    assert advice("unet", segmenter.config) == "Lower unet.learning_rate (0.003), or use unet.precision=fp32."


class _Diverging:
    """A parameter that counts steps; its loss is NaN at the fifth."""

    def __init__(self):
        self.steps = torch.zeros(())

    def train_step(self, images, seen):
        self.steps += 1
        return {"loss": torch.tensor(float("nan") if self.steps == 5 else 1.0)}

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]

    def weights(self):
        return {"steps": self.steps}


class _Lazy(_Diverging):
    """Its loss is the number of the step; every third step it adds a regularizer of 6."""

    def train_step(self, images, seen):
        step = seen // 8
        return {"loss": torch.tensor(float(step))} | ({"penalty": torch.tensor(6.0)} if step % 3 == 0 else {})


def test_a_point_of_the_curve_is_the_mean_over_the_steps_that_report(tmp_path):
    budget = Budget(images=8 * 1200, batch_size=8, seed=0, snapshots=1, checkpoint_seconds=1e9)
    points = []
    train(
        _Lazy(),
        _read,
        lambda images: (torch.from_numpy(images),),
        budget,
        tmp_path,
        name="toy",
        on_metrics=lambda metrics, seen: points.append((seen, metrics)),
        on_snapshot=lambda seen: {"score": 0.0},
        score=itemgetter("score"),
        advice="",
    )
    curve = [(seen, metrics) for seen, metrics in points if "loss" in metrics]
    assert len(curve) == 200
    assert curve[0][0] == 48
    assert curve[0][1]["loss"] == sum(range(6)) / 6
    assert curve[0][1]["penalty"] == 6


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_last_good_checkpoint(tmp_path, checkpoint_seconds):
    budget = Budget(images=80, batch_size=8, seed=0, snapshots=1, checkpoint_seconds=checkpoint_seconds)
    with pytest.raises(Diverged) as stop:
        train(
            _Diverging(),
            _read,
            lambda images: (torch.from_numpy(images),),
            budget,
            tmp_path,
            name="toy",
            on_metrics=lambda metrics, seen: None,
            on_snapshot=lambda seen: {"score": 0.0},
            score=itemgetter("score"),
            advice="Lower toy.learning_rate.",
        )
    assert "Lower toy.learning_rate." in str(stop.value)
    assert "'loss' is nan at 32 images (step 4)" in str(stop.value)
    kept = Checkpoints(tmp_path / "checkpoints").newest()
    assert (str(kept) if kept else "none yet") in str(stop.value)
    assert kept is None or torch.load(kept, weights_only=True)["model"]["steps"] == 4


def test_every_row_comes_once_an_epoch_whatever_the_batch():
    stream = shuffled_rows(10, 0, 40, seed=3)
    for epoch in stream.reshape(4, 10):
        assert sorted(epoch) == list(range(10))
    assert not np.array_equal(stream[:10], stream[10:20])
    pieces = [shuffled_rows(10, start, 8, seed=3) for start in range(0, 40, 8)]
    assert np.array_equal(np.concatenate(pieces), stream)
    assert not np.array_equal(shuffled_rows(10, 0, 40, seed=4), stream)


def test_seeds_are_mixed_without_collisions():
    mixed = {mix(a, b) for a in range(100) for b in range(100)}
    assert len(mixed) == 10_000
    assert all(0 <= value < 2**63 for value in mixed)


def test_a_checkpoint_holds_tensors_and_plain_values_only(tmp_path):
    class Holder(_Diverging):
        def state_dict(self):
            return {"path": Path("x")}

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(Holder(), Progress(seen=8))
    with pytest.raises(Exception, match="weights_only"):
        checkpoints.restore(Holder())


def test_a_gpu_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(Exception, match="device=cpu"):
        pick_device("cuda")
