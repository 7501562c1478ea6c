"""A training's clock, and the running means of its losses."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from benchmark.training.checkpoints import Progress

REPAIRED = "repaired_gradients"  # 1 at a step whose gradients had to be made finite
MOST_REPAIRED = 0.5  # share of the steps between two points of the curve; beyond, the training has diverged


class NotFinite(Exception):
    """A loss is infinite or not a number, or gradients keep being so; says which, and at which step."""


class Meter:
    """Counts steps, seconds and losses into a training's `progress`, so that a checkpoint has them all."""

    def __init__(self, progress: Progress, batch_size: int) -> None:
        self._progress, self._batch_size = progress, batch_size
        self._started = time.monotonic() - progress.seconds  # had it run from then on without a pause
        self._read = progress.seen, progress.seconds  # when `means` was last called
        self._pending: list[tuple[int, dict[str, Tensor]]] = []  # losses that are still on the device

    def step(self, losses: dict[str, Tensor]) -> None:
        """Counts a step; does not wait for the device to finish it."""
        self._pending.append((self._progress.seen, losses))
        self._progress.seen += self._batch_size
        self._progress.seconds = time.monotonic() - self._started

    def settle(self) -> None:
        """Fetches the losses of all steps so far, so that nothing is reported or saved before they are known to be
        finite. Raises NotFinite."""
        progress = self._progress
        for seen, losses in self._pending:
            for key, value in losses.items():
                number = float(value)
                if not math.isfinite(number):
                    raise NotFinite(f"'{key}' is {number} at {seen:,} images (step {seen // self._batch_size:,})")
                progress.loss_sums[key] = progress.loss_sums.get(key, 0.0) + number
                progress.loss_counts[key] = progress.loss_counts.get(key, 0) + 1
        self._pending.clear()
        progress.seconds = time.monotonic() - self._started  # the device has caught up

    def means(self) -> dict[str, float]:
        """Mean losses and images per second since the last call. Raises NotFinite."""
        self.settle()
        progress, (seen, seconds) = self._progress, self._read
        losses = {key: value / progress.loss_counts[key] for key, value in progress.loss_sums.items()}
        progress.loss_sums, progress.loss_counts = {}, {}
        if (share := losses.get(REPAIRED, 0.0)) > MOST_REPAIRED:
            raise NotFinite(f"gradients were not finite in {share:.0%} of the steps before {progress.seen:,} images")
        self._read = progress.seen, progress.seconds
        return {**losses, "images_per_second": (progress.seen - seen) / (progress.seconds - seconds)}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within, the clock stands still: what is done there is not training. Raises NotFinite before."""
        self.settle()
        began = time.monotonic()
        yield
        self._started += time.monotonic() - began
