"""The only training loop: budget in images seen, logging, checkpoints, resume.

The batch at a step and every random number drawn in it are a function of (seed, images seen), so a run that was killed
and is started again repeats nothing, skips nothing, and ends in the same weights.
"""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import UserError
from benchmark.progress import progress_bar
from benchmark.training import processes
from benchmark.training.checkpoints import Checkpoints, Progress, Trainable, save_weights

log = logging.getLogger(__name__)

LOG_POINTS = 200  # points of a training curve


@dataclass(frozen=True)
class Budget:
    """How long and how often; images count what the network has seen, whole batches."""

    images: int
    batch_size: int
    seed: int
    snapshots: int
    checkpoint_seconds: float
    patience: int = 0  # snapshots without a better score before training stops; 0: never

    @property
    def snapshot_at(self) -> set[int]:
        """Images seen at each snapshot; the last is the training's end."""
        return {
            math.ceil(self.images * i / self.snapshots / self.batch_size) * self.batch_size
            for i in range(1, self.snapshots + 1)
        }

    def ended(self, progress: Progress) -> bool:
        """Whether a training that has come this far is over."""
        return progress.seen >= self.images or 0 < self.patience <= progress.since_best


class Diverged(UserError):
    """A loss stopped being a number."""


def advice(name: str, config: Any) -> str:
    """What to lower when a model of this name and configuration has diverged."""
    rates = [f"{name}.{key} ({value:g})" for key, value in dict(config).items() if key.endswith("learning_rate")]
    precise = f", or use {name}.precision=fp32" if getattr(config, "precision", "fp32") != "fp32" else ""
    return f"Lower {' and '.join(rates)}{precise}."


_watchers: list[Callable[[int, float], None]] = []


@contextmanager
def watched(on_score: Callable[[int, float], None]) -> Iterator[None]:
    """Within, on_score(number of the snapshot, score) is called at every snapshot; what it raises ends the training."""
    _watchers.append(on_score)
    try:
        yield
    finally:
        _watchers.remove(on_score)


def mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers; different numbers give unrelated seeds."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def shuffled_rows(count: int, start: int, size: int, seed: int) -> np.ndarray:
    """Positions start … start + size of an endless stream that visits all `count` rows once an epoch, each epoch in its
    own order; a pure function of its arguments."""
    positions = np.arange(start, start + size)
    epochs = positions // count
    orders = {epoch: np.random.default_rng(mix(seed, int(epoch))).permutation(count) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][position % count] for epoch, position in zip(epochs, positions, strict=True)])


def train(
    model: Trainable,
    read: Callable[[int], Any],
    to_batch: Callable[[Any], tuple[Tensor, ...]],
    budget: Budget,
    folder: Path,
    *,
    name: str,
    on_metrics: Callable[[Mapping[str, float], int], None],
    on_snapshot: Callable[[int], Mapping[str, float]],
    score: Callable[[Mapping[str, float]], float],
    advice: str,
    keep_from: int = 0,
) -> Progress:
    """Trains `model` until the budget is seen, going on from the newest sound checkpoint in folder/checkpoints.

    read(seen) fetches the batch that starts at `seen`, in a thread of its own while the step before it runs, so it must
    not touch torch's random state; to_batch(what was read) → train_step's tensors, and may. on_snapshot(seen) returns
    metrics, of which `score` makes one number: the weights where it was highest, from `keep_from` images on, are kept
    in folder/best.safetensors, and training ends early once budget.patience of those in a row have not raised it.
    All metrics, those before a restart included, go to on_metrics(metrics, seen).

    Of several processes (see benchmark.training.processes) the leader is here and the others are in `assist`; the
    batch that each reads is its share.

    Raises Diverged, naming the step, the last good checkpoint and the `advice`, when a loss is not finite.
    """
    checkpoints = Checkpoints(folder / "checkpoints")
    progress = checkpoints.restore(model) or Progress()
    processes.announce(checkpoints.restored)
    for seen, metrics in progress.history:
        on_metrics(metrics, seen)
    log_every = math.ceil(budget.images / LOG_POINTS / budget.batch_size) * budget.batch_size
    snapshot_at = budget.snapshot_at
    pending: list[tuple[int, dict[str, Tensor]]] = []  # losses not yet fetched from the device
    started, resumed_at, saved = time.monotonic(), progress.seconds, time.monotonic()

    def record(metrics: Mapping[str, float]) -> None:
        progress.history.append((progress.seen, dict(metrics)))
        on_metrics(metrics, progress.seen)

    def settle() -> None:
        """Fetches pending losses. Nothing is logged or saved before they are known to be finite."""
        for seen, losses in pending:
            for key, value in losses.items():
                number = float(value)
                if not math.isfinite(number):
                    last = checkpoints.newest() or "none yet"
                    raise Diverged(
                        f"{name}: '{key}' is {number} at {seen:,} images (step {seen // budget.batch_size:,}); "
                        f"last good checkpoint: {last}. {advice}"
                    )
                progress.loss_sums[key] = progress.loss_sums.get(key, 0.0) + number
                progress.loss_counts[key] = progress.loss_counts.get(key, 0) + 1
        pending.clear()

    with (
        progress_bar(budget.images, name, "img", min(progress.seen, budget.images)) as bar,
        ThreadPoolExecutor(1) as reader,
    ):
        upcoming = reader.submit(read, progress.seen)
        logged_seen, logged_at = progress.seen, time.monotonic()
        stopped = processes.agree(budget.ended(progress))
        while not stopped:
            fetched = upcoming.result()
            upcoming = reader.submit(read, progress.seen + budget.batch_size)
            pending.append((progress.seen, _step(model, to_batch, fetched, budget.seed, progress.seen)))
            progress.seen += budget.batch_size
            progress.seconds = resumed_at + time.monotonic() - started
            bar.update(min(budget.batch_size, budget.images - int(bar.n)))
            finished = progress.seen >= budget.images
            if progress.seen % log_every == 0 or finished:
                settle()
                losses = {key: value / progress.loss_counts[key] for key, value in progress.loss_sums.items()}
                speed = (progress.seen - logged_seen) / (time.monotonic() - logged_at)
                record({**losses, "images_per_second": speed})
                progress.loss_sums, progress.loss_counts = {}, {}
                logged_seen, logged_at = progress.seen, time.monotonic()
            if progress.seen in snapshot_at:
                settle()
                paused = time.monotonic()
                with processes.releasing():
                    metrics = on_snapshot(progress.seen)
                    record(metrics)
                    reached = score(metrics)
                    if progress.seen >= keep_from:
                        progress.since_best += 1
                        if reached > progress.best_score:
                            progress.best_score, progress.best_seen, progress.since_best = reached, progress.seen, 0
                            save_weights(model.weights(), folder / "best.safetensors")
                    progress.snapshots += 1
                    for watch in _watchers:
                        watch(progress.snapshots, reached)
                stopped = processes.agree(budget.ended(progress))
                paused = time.monotonic() - paused  # snapshots are not training
                logged_at, started = logged_at + paused, started + paused
            if finished or stopped or time.monotonic() - saved >= budget.checkpoint_seconds:
                settle()
                checkpoints.save(model, progress)
                saved = time.monotonic()
    return progress


def assist(
    model: Trainable,
    read: Callable[[int], Any],
    to_batch: Callable[[Any], tuple[Tensor, ...]],
    budget: Budget,
    folder: Path,
) -> None:
    """What a helper does while the leader is in `train` with the same arguments: its steps, and nothing else."""
    checkpoint = processes.announce()
    progress = Checkpoints(folder / "checkpoints").load(checkpoint, model) if checkpoint else Progress()
    seen, snapshot_at = progress.seen, budget.snapshot_at
    with ThreadPoolExecutor(1) as reader:
        upcoming = reader.submit(read, seen)
        stopped = processes.agree()
        while not stopped:
            fetched = upcoming.result()
            upcoming = reader.submit(read, seen + budget.batch_size)
            _step(model, to_batch, fetched, budget.seed, seen)
            seen += budget.batch_size
            if seen in snapshot_at:
                stopped = processes.agree()


def _step(model: Trainable, to_batch: Callable, fetched: Any, seed: int, seen: int) -> dict[str, Tensor]:
    torch.manual_seed(mix(seed, seen))
    return processes.averaged(model.train_step(*to_batch(fetched), seen))
