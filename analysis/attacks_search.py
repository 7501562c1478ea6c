"""The k most correlated slices of another set, for attacks that look several up; formulas: `analysis.neighbours`."""

import numpy as np
import torch
from torch import Tensor

from analysis.neighbours import Rows, masked

CHUNK = 4096  # references at once, at most


def ranked(
    queries: np.ndarray | Rows,
    references: np.ndarray | Rows,
    k: int,
    *,
    channels: list[int] | None = None,
    device: str | torch.device = "cpu",
    memory_gib: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Correlations float32 [M, k] and rows int64 [M, k] of the k references (all, where they are fewer) that correlate
    best with each query, the best first.

    queries, references: uint8 [M, C, H, W], [N, C, H, W]; channels: those that are compared, which also make the brain
    mask, by default all. The correlation is Pearson's inside the union of both masks, as is: not mirrored, not shifted.
    Of two empty slices, or of one that is constant there, it is 0.
    """
    device = torch.device(device)
    pixels = 4 * (len(channels or range(queries.shape[1])) + 1) * queries.shape[2] * queries.shape[3]
    size = max(1, min(CHUNK, int(memory_gib * 2**30 / 8 / pixels)))
    values, rows = [], []
    for start in range(0, len(queries), size):
        a = _Sums(queries[start : start + size], channels, device)
        best = torch.empty(len(a), 0, device=device)
        found = torch.empty(len(a), 0, dtype=torch.int64, device=device)
        for first in range(0, len(references), size):
            r = a.correlations(_Sums(references[first : first + size], channels, device))
            here = torch.arange(first, first + r.shape[1], device=device).expand_as(r)
            best, found = torch.cat([best, r], 1), torch.cat([found, here], 1)
            best, order = best.topk(min(k, best.shape[1]))
            found = found.gather(1, order)
        values.append(best.cpu().numpy())
        rows.append(found.cpu().numpy())
    return np.concatenate(values), np.concatenate(rows)


def correlation(guess: np.ndarray, images: np.ndarray, channel: int, known: list[int]) -> np.ndarray:
    """Pearson's r [N] of guesses [N, H, W] with a channel of images uint8 [N, C, H, W], inside the brain as the known
    channels show it; 0 where either is constant there."""
    _, mask = masked(images[:, known], torch.device("cpu"))
    mask = mask.numpy()
    area = np.maximum(mask.sum((1, 2)), 1)[:, None, None]
    a, b = (values.astype(float) * mask for values in (guess, images[:, channel]))
    a, b = ((x - x.sum((1, 2))[:, None, None] / area) * mask for x in (a, b))
    spread = np.sqrt((a**2).sum((1, 2)) * (b**2).sum((1, 2)))
    return (a * b).sum((1, 2)) / np.where(spread > 1e-6, spread, np.inf)


class _Sums:
    """Slices in a row each, with zeros outside the brain, and the sums that a correlation needs."""

    def __init__(self, images: np.ndarray | Rows, channels: list[int] | None, device: torch.device) -> None:
        images = np.asarray(images)
        pixels, mask = masked(images if channels is None else images[:, channels], device)
        self.channels = pixels.shape[1]
        self.pixels, self.mask = pixels.flatten(1), mask.flatten(1).float()
        self.sum, self.square, self.area = self.pixels.sum(1), self.pixels.square().sum(1), self.mask.sum(1)

    def __len__(self) -> int:
        return len(self.pixels)

    def correlations(self, other: "_Sums") -> Tensor:
        """Pearson's r [n, m] over the union of the masks of each pair."""
        union = self.area[:, None] + other.area - self.mask @ other.mask.T
        n = (self.channels * union).clamp(min=1)
        product = self.pixels @ other.pixels.T - self.sum[:, None] * other.sum / n
        a = self.square[:, None] - self.sum[:, None].square() / n
        b = other.square - other.sum.square() / n
        valid = (a > 1e-5 * self.square[:, None]) & (b > 1e-5 * other.square)  # else constant, but for rounding
        return torch.where(valid, product / (a * b).clamp(min=1).sqrt(), 0.0).clamp(-1, 1)
