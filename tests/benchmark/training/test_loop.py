"""The loop: killed runs that end in the same weights, kept weights, an end before the budget's, losses that are not
finite."""

import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch
from safetensors.torch import save_file

from benchmark.errors import GivenUp
from benchmark.training.checkpoints import Checkpoints
from benchmark.training.loop import Diverged, Training, advice
from tests.benchmark.training.small import BATCH, TINY, budget, create, generator_batch, read, run, training


def _train(name, folder, images=96, pause=0.0):
    """Runs in a process of its own where it is to be killed; `pause` gives the killer time to strike."""
    torch.set_num_threads(1)

    def slowly(seen):
        time.sleep(pause)
        return read(seen)

    work = training(name, budget(images), slowly)
    return work.model, *run(work, folder)


@pytest.mark.parametrize("name", TINY)
def test_a_killed_and_restarted_training_ends_in_the_same_weights(name, tmp_path):
    whole, whole_progress, curve = _train(name, tmp_path / "whole")

    folder, processes = tmp_path / "killed", multiprocessing.get_context("forkserver")
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
    best, best_killed = whole_progress.best_weights, progress.best_weights
    assert best.keys() == best_killed.keys() == whole.weights().keys()
    assert all(torch.equal(best[key], best_killed[key]) for key in best)

    def losses(points):
        return [
            (seen, {k: v for k, v in m.items() if k not in ("images_per_second", "training_seconds")})
            for seen, m in points
        ]

    assert losses(curve) == losses(resumed_curve)  # the curve is whole, with no point twice


def test_the_weights_with_the_best_score_are_kept(tmp_path):
    model, progress, _ = _train("unet", tmp_path)
    at_48, _, _ = _train("unet", tmp_path / "short", images=48)
    best = progress.best_weights
    assert progress.best_seen == 48
    # The learning-rate schedule belongs to the model (96 images), so 48 images of either training are the same.
    assert all(torch.equal(best[key], value) for key, value in at_48.weights().items())
    assert not all(torch.equal(best[key], value) for key, value in model.weights().items())


@pytest.mark.parametrize("stops_between", [False, True])
def test_training_stops_when_its_score_has_not_risen_for_long_enough(tmp_path, stops_between):
    scores = {16: 0.1, 32: 0.5, 48: 0.4, 64: 0.5, 80: 0.9}

    def attempt(on_snapshot):
        return run(training("unet", budget(snapshots=6, patience=2)), tmp_path, on_snapshot)[0]

    def interrupted(seen):
        if seen == 48:
            raise KeyboardInterrupt
        return {"score": scores[seen]}

    if stops_between:
        with pytest.raises(KeyboardInterrupt):
            attempt(interrupted)
    progress = attempt(lambda seen: {"score": scores[seen]})
    assert (progress.seen, progress.best_seen) == (64, 32)
    assert attempt(lambda seen: pytest.fail("it had stopped")).seen == 64


@pytest.mark.parametrize("stops_between", [False, True])
def test_a_snapshot_that_stops_the_training_is_its_last_and_is_not_kept(tmp_path, stops_between):
    scores = {16: 0.1, 32: 0.2, 48: 0.9}

    def attempt(on_snapshot):
        work = training("unet", budget(snapshots=6))
        return run(work, tmp_path, on_snapshot, stop=lambda metrics: metrics["score"] > 0.5)[0]

    def interrupted(seen):
        if seen == 48:
            raise KeyboardInterrupt
        return {"score": scores[seen]}

    if stops_between:
        with pytest.raises(KeyboardInterrupt):
            attempt(interrupted)
    progress = attempt(lambda seen: {"score": scores[seen]})
    assert (progress.seen, progress.best_seen, progress.stopped) == (48, 32, True)
    assert attempt(lambda seen: pytest.fail("it had stopped")).seen == 48


def test_geometric_snapshots_come_each_1_4_times_as_late_as_the_one_before():
    assert budget(images=6400, snapshots=5, spacing="geometric").snapshot_at == {1600, 2264, 3200, 4528, 6400}
    assert budget(images=64, snapshots=9, spacing="geometric").snapshot_at == {8, 16, 24, 32, 48, 64}  # whole batches


def test_weights_from_before_a_training_may_keep_any_are_never_kept(tmp_path):
    scores = {16: 0.9, 32: 0.1, 48: 0.3, 64: 0.2, 80: 0.2, 96: 0.2}
    work = training("unet", budget(snapshots=6, checkpoint_seconds=1e9, patience=2))
    progress, _ = run(work, tmp_path, lambda seen: {"score": scores[seen]}, keep_from=32)
    assert (progress.best_seen, progress.best_score) == (48, 0.3)
    assert progress.seen == 80  # what came before does not count as waiting, either


def test_who_watches_is_told_every_score_and_ends_the_training_by_raising(tmp_path):
    told, threads = [], threading.active_count()

    def watch(number, score):
        told.append((number, score))
        if number == 2:
            raise GivenUp("seen enough")

    with pytest.raises(GivenUp):
        run(training("unet", budget()), tmp_path, watch=watch)
    assert told == [(1, 0.0), (2, 1.0)]
    assert threading.active_count() == threads  # the thread that reads ahead is gone


def test_who_watches_is_not_told_of_the_snapshot_that_stops_the_training(tmp_path):
    told, scores = [], {16: 0.1, 32: 0.2, 48: 0.9}
    run(
        training("unet", budget(snapshots=6)),
        tmp_path,
        lambda seen: {"score": scores[seen]},
        stop=lambda metrics: metrics["score"] > 0.5,
        watch=lambda number, score: told.append((number, score)),
    )
    assert told == [(1, 0.1), (2, 0.2)]


@pytest.mark.parametrize("again", [0.49, 0.51])
def test_best_weights_agree_with_their_score_where_a_snapshot_is_taken_again_with_another_rounding(tmp_path, again):
    """Killed between the snapshot at 32 images and the next checkpoint."""

    def attempt(scores, watch=None):
        work = _toy(_Lazy(), budget(48, 3))
        return run(work, tmp_path, lambda seen: {"score": scores[seen]}, watch=watch)[0]

    def kill(number, score):
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt({16: 0.5, 32: 0.6}, kill)
    progress = attempt({16: 0.5, 32: again, 48: 0.1})
    assert progress.best_seen == (32 if again > 0.5 else 16)
    assert progress.best_weights["steps"] * BATCH == progress.best_seen


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
def test_a_training_that_lost_a_file_of_a_snapshot_makes_it_again(tmp_path, caplog, checkpoint_seconds):
    def kept(seen):
        return [tmp_path / f"{seen}.kept"]

    def snapshot(seen):
        kept(seen)[0].touch()
        return {"score": float(seen == 16)}

    def attempt():
        return run(_toy(_Lazy(), budget(48, 3, checkpoint_seconds)), tmp_path, snapshot, kept=kept)

    whole, points = attempt()
    for lost in (48, 16):
        kept(lost)[0].unlink()
        progress, again = attempt()
        assert f"{lost}.kept is missing" in caplog.text
        assert kept(lost)[0].is_file()
        assert (progress.seen, progress.best_seen, len(again)) == (48, 16, len(points))
        assert torch.equal(progress.best_weights["steps"], whole.best_weights["steps"])
    newest = Checkpoints(tmp_path / "checkpoints").newest()
    assert newest.name.startswith(f"{48:012d}")  # nothing of what was removed stands in its way


@pytest.mark.parametrize("there", [True, False])
def test_a_training_of_an_earlier_version_has_its_best_weights_in_a_file(tmp_path, caplog, there):
    def attempt(on_snapshot):
        return run(_toy(_Lazy(), budget(48, 3)), tmp_path, on_snapshot)[0]

    progress = attempt(lambda seen: {"score": float(seen == 16)})
    (tmp_path / "checkpoints").rename(tmp_path / "since")
    best, progress.best_weights = progress.best_weights, {}
    model = _Lazy()
    model.steps += 6
    Checkpoints(tmp_path / "checkpoints").save(model, progress)
    if there:
        save_file(best, tmp_path / "best.safetensors")
        assert attempt(lambda seen: pytest.fail("it had ended")).best_weights["steps"] == 2
    else:
        assert attempt(lambda seen: {"score": float(seen == 32)}).best_weights["steps"] == 4
        assert "best.safetensors is missing" in caplog.text


def test_advice_names_the_model_s_own_keys():
    assert advice("stylegan3", create("stylegan3").config) == (
        "Lower stylegan3.generator_learning_rate (0.0025) and stylegan3.discriminator_learning_rate (0.002)."
    )
    in_bf16 = create("unet").config.model_copy(update={"precision": "bf16"})
    assert advice("unet", in_bf16) == ("Lower unet.learning_rate (0.003), or use unet.precision=fp32.")
    assert advice("unet", create("unet").config) == ("Lower unet.learning_rate (0.003).")  # of its own it is fp32


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
        self.steps += 1
        step = seen // BATCH
        return {"loss": torch.tensor(float(step))} | ({"penalty": torch.tensor(6.0)} if step % 3 == 0 else {})


def _toy(model, budget, advice=""):
    return Training("toy", model, read, generator_batch, budget, advice)


def test_a_point_of_the_curve_is_the_mean_over_the_steps_that_report(tmp_path):
    _, points = run(_toy(_Lazy(), budget(BATCH * 1200, snapshots=1, checkpoint_seconds=1e9)), tmp_path)
    curve = [(seen, metrics) for seen, metrics in points if "loss" in metrics]
    assert len(curve) == 200
    assert curve[0][0] == 48
    assert curve[0][1]["loss"] == sum(range(6)) / 6
    assert curve[0][1]["penalty"] == 6


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_last_good_checkpoint(tmp_path, checkpoint_seconds):
    work = _toy(_Diverging(), budget(80, 1, checkpoint_seconds), "Lower toy.learning_rate.")
    with pytest.raises(Diverged) as stop:
        run(work, tmp_path)
    assert "Lower toy.learning_rate." in str(stop.value)
    assert "'loss' is nan at 32 images (step 4)" in str(stop.value)
    kept = Checkpoints(tmp_path / "checkpoints").newest()
    assert (str(kept) if kept else "none yet") in str(stop.value)
    assert kept is None or torch.load(kept, weights_only=True)["model"]["steps"] == 4


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
def test_checkpoints_are_saved_when_they_are_due_and_at_the_end(tmp_path, checkpoint_seconds):
    run(_toy(_Lazy(), budget(80, 2, checkpoint_seconds)), tmp_path)
    saved = sorted(int(path.name.partition("-")[0]) for path in (tmp_path / "checkpoints").glob("*.pt"))
    assert saved == ([72, 80] if checkpoint_seconds == 0 else [80])  # of many, the two newest are kept
