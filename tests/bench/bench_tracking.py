"""What tracking, checkpoints and progress cost, as a share of training time; and what a call with nothing to do costs.

The overhead is timed where it is spent (metrics to the journal, and from there to SQLite on a thread of its own,
checkpoint writes, progress bar) inside one training: two trainings side by side would differ by more than it on a busy
machine. Of the thread only its processor time counts, for that is what the training lacks.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import redirect_stderr
from pathlib import Path
from statistics import median

import numpy as np
import torch

import generators
import segmenters
from benchmark import progress
from benchmark.tracking import runs as tracking
from benchmark.tracking.session import Session
from benchmark.training import checkpoints, loop

SECONDS = 40
RESOLUTION, BATCH = 64, 16
spent: dict[str, float] = defaultdict(float)


def timed(function, name, clock=time.perf_counter):
    def call(*args, **kwargs):
        started = clock()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] += clock() - started

    return call


def overhead(name: str, session: Session, folder: Path, seconds: float) -> None:
    """Trains for about `seconds` with everything switched on and prints what was not training."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.random((BATCH, 5, RESOLUTION, RESOLUTION), np.float32) * 2 - 1)
    if name in segmenters.names():
        model, batch = segmenters.create(name, 4, 4, RESOLUTION), (images[:, :4], (images[:, 4] > 0.5).long())
    else:
        model, batch = generators.create(name, 5, RESOLUTION, **SMALL.get(name, {})), (images,)
    started = time.perf_counter()
    model.train_step(*batch, 0)
    model.train_step(*batch, BATCH)
    per_step = (time.perf_counter() - started) / 2
    budget = loop.Budget(int(seconds / per_step) * BATCH, BATCH, 0, 1, checkpoint_seconds=seconds / 2.5)
    (folder / name).mkdir()
    spent.clear()
    started = time.perf_counter()
    with session.open_run(f"bench {name}", {}, {}) as run:
        loop.train(
            loop.Training(name, model, lambda seen: batch, lambda read: read, budget),
            folder / name,
            on_metrics=timed(run.log_metrics, "journal"),
            on_snapshot=lambda seen: {"quality": 0.0},
            score=lambda metrics: metrics["quality"],
        )
        run.end = timed(run.end, "last delivery")
    wall = time.perf_counter() - started
    parts = ", ".join(f"{part} {100 * seconds / wall:.2f} %" for part, seconds in spent.items())
    print(f"{name:<12} {wall:6.1f} s   {100 * sum(spent.values()) / wall:5.2f} % overhead   ({parts})")


SMALL = {"stylegan3": {"channel_base": 2048, "channel_max": 64}}


def main() -> None:
    checkpoints.Checkpoints.save = timed(checkpoints.Checkpoints.save, "checkpoints")
    tracking.deliver = timed(tracking.deliver, "deliveries", time.thread_time)
    bar = progress.tqdm.update
    progress.tqdm.update = timed(bar, "progress bar")
    root = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        session = Session.begin(Path(folder))
        for name in ("stylegan3", "diffusion", "unet"):
            with redirect_stderr(nowhere):
                overhead(name, session, Path(folder), SECONDS)

        command = [sys.executable, "-m", "benchmark", "prepare", "--preset", "smoke", "--work_dir", folder]
        subprocess.run(command, cwd=root, check=True, capture_output=True)
        for what, call in (
            ("second call of a finished stage", command),
            ("--help", [*command[:4], "--help"]),
        ):
            times = []
            for _ in range(5):
                started = time.perf_counter()
                subprocess.run(call, cwd=root, check=True, capture_output=True)
                times.append(time.perf_counter() - started)
            print(f"{what}: {median(times):.2f} s (median of 5)")


if __name__ == "__main__":
    main()
