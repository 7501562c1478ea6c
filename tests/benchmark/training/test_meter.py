"""The meter: means and speed between two readings, pauses that do not count, losses that are not finite."""

import pytest
import torch

from benchmark.training.checkpoints import Progress
from benchmark.training.meter import Meter, NotFinite


def losses(value):
    return {"loss": torch.tensor(value)}


def test_speed_and_means_are_those_since_the_last_reading_and_pauses_do_not_count(clock):
    progress = Progress(seen=80, seconds=100.0, loss_sums={"loss": 3.0}, loss_counts={"loss": 1})  # goes on from there
    meter = Meter(progress, 8)
    clock[0] += 2
    meter.step(losses(5.0))
    assert meter.means() == {"loss": 4.0, "images_per_second": 4.0}
    with meter.paused():
        clock[0] += 50
    clock[0] += 4
    meter.step(losses(7.0))
    assert meter.means() == {"loss": 7.0, "images_per_second": 2.0}
    assert (progress.seen, progress.seconds) == (96, 106.0)


def test_what_a_reading_has_not_taken_yet_stands_in_the_progress(clock):
    progress = Progress()
    meter = Meter(progress, 8)
    meter.step(losses(1.0))
    meter.step({**losses(2.0), "penalty": torch.tensor(6.0)})
    meter.settle()
    assert (progress.loss_sums, progress.loss_counts) == ({"loss": 3.0, "penalty": 6.0}, {"loss": 2, "penalty": 1})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named_with_its_step(clock, value):
    meter = Meter(Progress(), 8)
    for loss in (1.0, value, 2.0):
        meter.step(losses(loss))
    with pytest.raises(NotFinite, match=rf"'loss' is {value} at 8 images \(step 1\)"):
        meter.settle()


@pytest.mark.parametrize(("repaired", "diverged"), [(2, False), (3, True)])
def test_gradients_that_keep_being_repaired_end_the_training(clock, repaired, diverged):
    meter = Meter(Progress(), 8)
    for step in range(4):
        meter.step({**losses(1.0), "repaired_gradients": torch.tensor(float(step < repaired))})
    clock[0] += 1
    if diverged:
        with pytest.raises(NotFinite, match="not finite in 75% of the steps before 32 images"):
            meter.means()
    else:
        assert meter.means()["repaired_gradients"] == 0.5
