"""What the table expects of trainings that this machine has never run."""

import logging

import pytest

from benchmark.parsing import parse
from benchmark.table import probe
from benchmark.table.cells import jobs
from benchmark.table.plan import Durations, Work
from benchmark.table.run import _look_ahead

SMOKE = {"preset": "smoke", "model": "progressive_gan", "device": "cpu", "workers": "1"}
LONG = {"train_generator.images": "4000", "train_segmenter.images": "8000", "samples": "200"}


def test_a_training_that_slows_down_is_seen_at_points_all_over_its_budget(clock):
    seen = []

    def step(at):
        seen.append(at)
        clock[0] += 0.1 + 0.3 * (at >= 600)  # from there on four times as slow

    assert probe._mean_seconds(step, 1000, 8) == pytest.approx((3 * 0.1 + 2 * 0.4) / 5)
    assert all(at % 8 == 0 and at < 1000 for at in seen)
    assert len(seen) == 5 * (1 + 4)


def test_a_slow_model_is_not_looked_at_for_long(clock):
    steps = []

    def step(at):
        steps.append(at)
        clock[0] += 10

    assert probe._mean_seconds(step, 1000, 8) == 10
    assert len(steps) == 5  # one point


def test_what_is_expected_counts_until_its_like_is_measured():
    planned = jobs(parse("benchmark", {**SMOKE, "train_on": "real"}))
    work = {Work.of(job).kind.stage: Work.of(job) for job in planned}
    durations = Durations()
    durations.expect(work["train_generator"], 40)
    durations.expect(work["sample"], 3)
    assert durations.total({work["train_generator"]: 2, work["sample"]: 1, work["audit"]: 1}) == (83, 1)
    images = work["train_generator"].images
    durations.add(work["train_generator"].kind, {"images": images, "seconds": 10, "stage_seconds": 16})
    assert durations.seconds(work["train_generator"]) == pytest.approx(16)  # with its snapshots
    durations.add(work["sample"].kind, {"stage_seconds": 5})
    assert durations.seconds(work["sample"]) == 5


def test_time_left_is_until_the_last_of_jobs_that_run_at_once_and_wait_for_each_other():
    """prepare (10 s) before two trainings: of a U-Net (40), then its evaluation (1), and of a generator (100), then its
    samples (5), of which another U-Net (40), then its evaluation (1), audit (30), fidelity (2) and attack (7)."""
    given = {"preset": "smoke", "model": "diffusion", "train_on": "synthetic"}
    left = [job for job in jobs(parse("benchmark", given)) if "extractor" not in job.title]
    seconds = {"prepare": 10, "train_segmenter": 40, "train_generator": 100, "sample": 5, "evaluate": 1}
    seconds |= {"audit": 30, "fidelity": 2, "attack": 7}
    durations = Durations()
    for job in left:
        durations.expect(Work.of(job), seconds[job.stage])
    assert durations.ahead(left, 1, {}) == (10 + 2 * 41 + 100 + 5 + 30 + 2 + 7, 0)
    assert durations.ahead(left, 2, {}) == (10 + 100 + 5 + 40 + 1, 0)  # audit and the like beside the U-Net
    assert durations.ahead(left, 9, {}) == durations.ahead(left, 2, {})
    later = [job for job in left if job.stage != "prepare"]
    running = {job.fingerprint: 70.0 for job in later if job.stage == "train_generator"}
    beside = 40 + 1 + 30 + 2 + 7  # the U-Net's process goes on so; the other's is free at 76 s
    assert durations.ahead(later, 2, running) == (beside, 0)
    (job,) = [job for job in later if job.stage == "train_generator"]
    assert durations.ahead([job], 2, {job.fingerprint: 250.0}) == (0, 0)  # longer than was expected


def test_trainings_and_samples_of_a_new_machine_are_expected_and_what_steps_cannot_tell_is_not(caplog):
    planned = jobs(parse("benchmark", {**SMOKE, **LONG, "segmenter": "unet,swin", "train_on": "real"}))
    durations = Durations()
    with caplog.at_level(logging.WARNING):
        _look_ahead(planned, durations, 1)
    told = {Work.of(job).kind.stage for job in planned if durations.seconds(Work.of(job))}
    assert told == {"train_generator", "sample", "train_segmenter"}
    assert not caplog.records


def test_a_model_that_cannot_be_made_is_for_its_own_job_to_tell(caplog):
    planned = jobs(parse("benchmark", {**SMOKE, **LONG, "image_size": "24", "train_on": "real"}))
    durations = Durations()
    with caplog.at_level(logging.WARNING):
        _look_ahead(planned, durations, 1)
    assert "progressive_gan makes images of 16, 32, 64" in caplog.text
    told = {Work.of(job).kind.stage for job in planned if durations.seconds(Work.of(job))}
    assert told == {"train_segmenter"}


def test_what_is_done_before_long_is_not_looked_at(monkeypatch):
    for look in ("generator_training", "segmenter_training", "sampling"):
        monkeypatch.setattr(probe, look, lambda config: pytest.fail("a look costs more than this work"))
    assert all(probe.expected(job) is None for job in jobs(parse("benchmark", SMOKE)))
