"""Samples of trained generators, in order, made side by side on all devices."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from benchmark.training.models import DRAW_BATCH, draw
from generators.base import Generator


@dataclass(frozen=True)
class Samples:
    """A batch of synthetic slices."""

    seeds: list[int]
    images: np.ndarray  # uint8 [N, 4, H, W]
    labels: np.ndarray  # uint8 [N, H, W]
    off_code: np.ndarray  # float32 [N], see `benchmark.data.annotation`


def sample(members: Sequence[Sequence[Generator]], start: int, stop: int, seed: int, coding: str) -> Iterator[Samples]:
    """Samples start … stop, in order, a batch at a time.

    members: of each generator, a copy on every device; coding: of the annotation, as they draw it. Sample i is of
    generator i mod N, from seed and i alone. Batches are the same wherever the first one starts, if it starts where a
    batch does: a set's bytes never depend on where a run was killed.
    """
    size, devices = DRAW_BATCH * len(members), len(members[0])
    with ThreadPoolExecutor(devices) as pool:
        running: deque[Future[Samples]] = deque()
        for number, first in enumerate(range(start, stop, size)):
            if len(running) == devices:
                yield running.popleft().result()
            seeds = [seed * 10**9 + i for i in range(first, min(first + size, stop))]
            running.append(pool.submit(_mixed, [copies[number % devices] for copies in members], seeds, coding))
        while running:
            yield running.popleft().result()


def _mixed(models: Sequence[Generator], seeds: list[int], coding: str) -> Samples:
    """Samples of these seeds, of the generators in turn."""
    count = len(models)
    parts = [draw(model, seeds[i::count], coding) for i, model in enumerate(models) if i < len(seeds)]
    whole = []
    for arrays in zip(*parts, strict=True):
        mixed = np.empty((len(seeds), *arrays[0].shape[1:]), arrays[0].dtype)
        for i, array in enumerate(arrays):
            mixed[i::count] = array
        whole.append(mixed)
    return Samples(seeds, *whole)
