"""The training subjects that a part of a slice, its modalities in another order, or half of its signal come from.

Of a slice that is not one patient's as a whole, the search of `neighbours` sees too little. Three kinds are searched
here as the slices lie, as is and mirrored left–right, averaged to few pixels, over all training slices:

half : the mean over modalities of |r| inside one part of the picture (a half, a quarter, the centre), of the part in
    which one subject stands out most;
swap : the mean over the slice's modalities of |r| with whichever of the reference's modalities fits best;
pair : the multiple correlation of the slice with two subjects at once, as of the mean of both.

r is Pearson's correlation of what lies inside the brain, without its rim, as in `alignment`.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from analysis.alignment import best_rows, brains, unit
from analysis.neighbours import Rows, masked

SIDE = 16  # px
SLACK = 0.005  # ε: likenesses nearer to 1 than that are all the same
PAIRED = 24  # subjects of whose best slices all pairs are tried


class Mixtures:
    """Training slices, prepared for `nearest`. 25 kB of memory a slice."""

    def __init__(self, images: np.ndarray | Rows, codes: np.ndarray, device: torch.device, chunk: int = 256) -> None:
        """images uint8 [N, C, H, W]; codes [N]: subjects 0 … S − 1."""
        self.device, self.codes = device, torch.from_numpy(np.asarray(codes, np.int64)).to(device)
        starts = range(0, len(images), chunk)
        values = torch.cat([_small(np.asarray(images[s : s + chunk]), device) for s in starts])
        self.whole = unit(_centred(values)).flatten(2).permute(1, 2, 0).contiguous()  # [C, P, N]
        self.parts = [unit(_centred(values[part])).flatten(2).permute(1, 2, 0).contiguous() for part in _parts()]
        self.vectors = torch.cat([_whole(np.asarray(images[s : s + chunk]), device) for s in starts])

    def nearest(self, images: np.ndarray) -> dict[str, tuple[Tensor, Tensor]]:
        """By kind: likeness [M, 2] to the nearest subject and to the nearest other, and the first one's row [M]."""
        a = _small(images, self.device)
        a = torch.stack([a, a.flip(-1)])  # as is, mirrored
        halves = []  # each by itself: where two subjects have a half each, neither stands out from the other over all
        for part, references in zip(_parts(), self.parts, strict=True):
            queries = unit(_centred(a[(slice(None), *part)])).flatten(3).permute(2, 0, 1, 3)  # [C, 2, M, P]
            r = (queries.flatten(1, 2) @ references).abs_().mean(0)
            halves.append(self._first(r.unflatten(0, (2, -1)).amax(0)))
        swap = 0
        for modality in unit(_centred(a)).unbind(2):
            swap = swap + (modality.flatten(2).flatten(0, 1) @ self.whole).abs_().amax(0)
        swap = (swap / images.shape[1]).unflatten(0, (2, -1)).amax(0)
        return {"half": clearest(halves), "swap": self._first(swap), "pair": self._pairs(images)}

    def _first(self, likeness: Tensor) -> tuple[Tensor, Tensor]:
        rows = best_rows(likeness, self.codes, 2)
        return likeness.gather(1, rows), rows[:, 0]

    def _pairs(self, images: np.ndarray) -> tuple[Tensor, Tensor]:
        """R² = (r₁² + r₂² − 2 r₁ r₂ g) / (1 − g²) of the best pair, g their correlation, and of the best pair without
        the subjects of that one."""
        found = []
        for queries in (images, np.ascontiguousarray(images[..., ::-1])):
            r = _whole(queries, self.device) @ self.vectors.T
            rows = best_rows(r, self.codes, PAIRED)
            r, chosen = r.gather(1, rows), self.vectors[rows]
            g = chosen @ chosen.transpose(1, 2)
            square = r.square()[:, :, None] + r.square()[:, None] - 2 * r[:, :, None] * r[:, None] * g
            explained = square / (1 - g.square()).clamp(min=1e-2)
            explained.diagonal(dim1=1, dim2=2).copy_(r.square())
            K = rows.shape[1]
            best = explained.flatten(1).argmax(1)
            one, two = best // K, best % K
            taken = torch.arange(K, device=r.device)
            taken = (taken == one[:, None]) | (taken == two[:, None])
            others = explained.masked_fill(taken[:, :, None] | taken[:, None], 0).flatten(1).amax(1)
            nearer = torch.where(r.gather(1, one[:, None]) >= r.gather(1, two[:, None]), one[:, None], two[:, None])
            likeness = torch.stack([explained.flatten(1).amax(1), others], 1).clamp(0, 1)
            found.append((likeness, rows.gather(1, nearer)[:, 0]))
        (plain, row), (mirrored, other_row) = found
        better = mirrored[:, 0] > plain[:, 0]
        return torch.where(better[:, None], mirrored, plain), torch.where(better, other_row, row)


def clearest(found: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Of several searches, likeness [M, 2] and row [M] each, for every slice the one with most evidence."""
    likeness, rows = (torch.stack(each) for each in zip(*found, strict=True))
    best = evidence(likeness).argmax(0), torch.arange(likeness.shape[1], device=likeness.device)
    return likeness[best], rows[best]


def evidence(likeness: Tensor) -> Tensor:
    """log (1 − l₂ + ε) / (1 − l₁ + ε) [...] from the likenesses l₁ ≥ l₂ [..., 2] to two subjects."""
    away = (1 - likeness).clamp(min=0) + SLACK
    return (away[..., 1] / away[..., 0]).log()


def _small(images: np.ndarray, device: torch.device) -> Tensor:
    """Values inside the brain, zero outside, and the brain as last channel, averaged to [N, C + 1, SIDE, SIDE]."""
    values, mask = brains(images, None, device)
    return F.adaptive_avg_pool2d(torch.cat([values * mask, mask], 1), SIDE)


def vectors(images: np.ndarray | Rows, device: torch.device) -> Tensor:
    """Values inside the brain, averaged to few pixels [N, C·SIDE²]."""
    values, _ = masked(images, device)
    return F.adaptive_avg_pool2d(values, SIDE).flatten(1)


def _whole(images: np.ndarray, device: torch.device) -> Tensor:
    """`vectors` of mean zero and unit norm, with their outlines: those are averaged, too."""
    values = vectors(images, device)
    return F.normalize(values - values.mean(1, keepdim=True))


def _parts() -> list[tuple[slice, ...]]:
    """Halves, quarters and the centre, without the pixels beside a cut, where what the rest is changes the rim."""
    every, first, second = slice(None), slice(None, SIDE // 2 - 1), slice(SIDE // 2 + 1, None)
    centre = slice(SIDE // 5, SIDE - SIDE // 5)
    halves = [(every, first), (every, second), (first, every), (second, every)]
    quarters = [(y, x) for y in (first, second) for x in (first, second)]
    return [(every, every, *part) for part in (*halves, *quarters, (centre, centre))]


def _centred(values: Tensor) -> Tensor:
    """From `_small` or a part of it [..., C + 1, H, W], less the mean inside the brain [..., C, H, W]."""
    values, brain = values[..., :-1, :, :], values[..., -1:, :, :]
    mean = values.sum((-2, -1), keepdim=True) / brain.sum((-2, -1), keepdim=True).clamp(min=1)
    return values - mean * brain
