"""Checkpoints: sound ones are read, damaged ones are skipped, nothing but tensors and plain values is in them."""

from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch

from benchmark.training.checkpoints import Checkpoints, Progress


class Counter:
    """The least that can be trained."""

    def __init__(self, steps=0):
        self.steps = torch.tensor(float(steps))

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


@pytest.fixture
def checkpoints(tmp_path):
    """Of a training of three checkpoints."""
    checkpoints = Checkpoints(tmp_path)
    for steps in (1, 2, 3):
        checkpoints.save(Counter(steps), Progress(seen=8 * steps, loss_sums={"loss": 0.1 * steps}))
    return checkpoints


def test_the_newest_is_restored_whole(checkpoints):
    model = Counter()
    assert checkpoints.restore(model) == Progress(seen=24, loss_sums={"loss": 0.1 * 3})
    assert model.steps == 3


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_skipped_with_a_warning(checkpoints, caplog):
    files = sorted(checkpoints.folder.glob("*.pt"))
    assert len(files) == 2
    damaged = files[-1]
    damage(damaged)

    model = Counter()
    assert checkpoints.restore(model).seen == 16
    assert model.steps == 2
    assert "damaged" in caplog.text
    assert str(damaged) in caplog.text


def test_damaged_checkpoints_do_not_displace_those_that_come_after_them(checkpoints):
    for path in checkpoints.folder.glob("*.pt"):
        damage(path)
    assert checkpoints.restore(Counter()) is None
    checkpoints.save(Counter(1), Progress(seen=8))
    assert checkpoints.restore(Counter()).seen == 8


def test_a_half_written_checkpoint_counts_for_nothing(checkpoints):
    (checkpoints.folder / "writing.partial").write_bytes(b"half")
    assert checkpoints.restore(Counter()).seen == 24


def test_a_checkpoint_holds_tensors_and_plain_values_only(tmp_path):
    class Holder(Counter):
        def state_dict(self):
            return {"path": Path("x")}

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(Holder(), Progress(seen=8))
    with pytest.raises(UnpicklingError, match="weights_only"):
        checkpoints.restore(Holder())


def test_the_best_score_is_the_highest_that_counts_and_never_one_that_is_not_a_number():
    progress, kept = Progress(), []
    for seen, score in ((8, 0.9), (16, 0.2), (24, float("nan")), (32, 0.2), (40, 0.3)):
        progress.seen = seen
        if progress.judge(score, counts=seen > 8):
            kept.append(seen)
    assert kept == [16, 40]
    assert (progress.best_score, progress.best_seen, progress.since_best, progress.snapshots) == (0.3, 40, 0, 5)
