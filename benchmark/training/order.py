"""What a training sees, and in which order: all of it a function of seed and images seen, nothing of it kept."""

import hashlib
from dataclasses import dataclass

import numpy as np

from benchmark.data.slices import SliceSet


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


def drawn(items: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A random share of items, at least one; with the same seed, a smaller share lies within a larger one."""
    order = np.random.default_rng(mix(seed, 1)).permutation(len(items))
    return items[order[: max(1, round(share * len(items)))]]


@dataclass(frozen=True)
class Phase:
    """Slices that are trained on from `start` images seen on: some rows of each of several sets, laid end to end."""

    start: int
    parts: list[tuple[SliceSet, np.ndarray]]  # a set, and its rows

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self.parts)

    def batch(self, seen: int, size: int, seed: int, share: slice) -> tuple[np.ndarray, np.ndarray]:
        """This process's share of the batch of `size` slices that starts at `seen` images seen.

        Images uint8 [B, C, H, W] and labels uint8 [B, H, W]. Only what is in the share is read.
        """
        return self._read(shuffled_rows(len(self), seen - self.start, size, seed)[share])

    def _read(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first_set = self.parts[0][0]
        images = np.empty((len(positions), *first_set.images.shape[1:]), np.uint8)
        labels = np.empty((len(positions), *first_set.labels.shape[1:]), np.uint8)
        first = 0
        for slices, rows in self.parts:
            here = (positions >= first) & (positions < first + len(rows))
            chosen = rows[positions[here] - first]
            images[here], labels[here] = slices.images[chosen], slices.labels[chosen]
            first += len(rows)
        return images, labels


def phase_at(phases: list[Phase], seen: int) -> Phase:
    """The one that a training is in after so many images."""
    return next(phase for phase in reversed(phases) if phase.start <= seen)
