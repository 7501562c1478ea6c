"""The training subjects most similar to every slice in any pose and contrast, and after a small smooth deformation.

A copy that was turned, zoomed, stretched, moved, mirrored, bent or recoloured is a copy still, and the search of
`neighbours` misses it. Here every slice is seen in a frame of its own, centred on its brain and as wide as its brain
needs. What remains of a pose is a turn and a mirror, and of these all are searched: in polar coordinates a turn is a
shift along the angle, and the correlations at all shifts are one product of Fourier transforms (Casasent & Psaltis,
Applied Optics 15:1795, 1976). The best slice of each of the best subjects is then aligned with Gauss–Newton steps on
the squared differences of the standardised slices: affine first (Lucas & Kanade, IJCAI 1981, in the inverse form of
Baker & Matthews, IJCV 56:221, 2004, whose Hessian needs the reference alone), then, for the best of these, with a few
cosines along each axis (Ashburner & Friston, Human Brain Mapping 7:254, 1999).

Likeness is the mean over modalities of |r|, so that inverted contrast counts as much as any other, r being Pearson's
correlation of what lies inside the brain, without its rim: there partial volume outweighs anatomy. With the annotation
in place of the brain, the same search compares lesions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from analysis.neighbours import COARSE, Rows, masked

REACH = 1.3  # half width of a frame, in radii of a disc of the mask's area
RIM = 0.03  # of the width: what is cut off a brain, all around
MARGIN = 0.02  # of the width: what a lesion is widened by
LEAST = 0.003  # of the slice's area: smaller lesions identify nobody
RADII, ANGLES = 12, 64  # of the polar grid
SUBJECTS, BENT = 8, 4  # per query: subjects whose best slice is aligned, and how many of them with a deformation too
STEPS = 8  # Gauss–Newton steps of each kind
COSINES = 6  # along each axis
STIFFNESS = 1e-3, 1e-4  # of the deformation, per squared order, and of the affine part: relative to the Hessian's trace
Mask = Callable[[np.ndarray, np.ndarray | None, torch.device], tuple[Tensor, Tensor]]


def brains(images: np.ndarray, labels: np.ndarray | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Slices uint8 [N, C, H, W] → values float32 and the brain without its rim, float32 [N, 1, h, w], 64 px or a bit
    more where they are larger."""
    values, mask = masked(images, device)
    values, mask = _coarse(values, mask[:, None].float())
    rim = max(1, round(RIM * mask.shape[-1]))
    return values, -F.max_pool2d(-mask, 2 * rim + 1, 1, rim)


def lesions(images: np.ndarray, labels: np.ndarray | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """The same for what is annotated, a little widened; labels uint8 [N, 1, H, W]."""
    values, _ = masked(images, device)
    annotated = torch.from_numpy(np.array(labels)).to(device) > 0
    values, mask = _coarse(values, annotated.float())
    mask = mask * (mask.mean((1, 2, 3), keepdim=True) >= LEAST)
    margin = max(1, round(MARGIN * mask.shape[-1]))
    return values, F.max_pool2d(mask, 2 * margin + 1, 1, margin)


def _coarse(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    pool = max(1, min(values.shape[2:]) // COARSE)
    return F.avg_pool2d(values, pool), (F.avg_pool2d(mask, pool) >= 0.5).float()


@dataclass
class Framed:
    """Slices standardised inside their masks (mean zero, zero outside) [N, C, h, w], and where their frames lie:
    centre x, y and half width [N, 3], in units of grid_sample."""

    values: Tensor
    frame: Tensor

    @classmethod
    def of(cls, values: Tensor, mask: Tensor) -> "Framed":
        size = mask.sum((2, 3), keepdim=True)
        area = size.clamp(min=1)
        values = (values - (values * mask).sum((2, 3), keepdim=True) / area) * mask
        height, width = mask.shape[2:]
        y, x = ((2 * torch.arange(n, device=mask.device) + 1) / n - 1 for n in (height, width))
        centre = [(mask.sum(2) * x).sum(2, keepdim=True), (mask.sum(3) * y).sum(2, keepdim=True)]
        half = REACH * (area / math.pi).sqrt() * 2 / width
        return cls(values, torch.cat([*[c / area[..., 0] for c in centre], half[..., 0]], 2)[:, 0])

    def at(self, points: Tensor) -> Tensor:
        """Values [N, C, A, B] at points [A, B, 2] or [N, A, B, 2] of every frame, from −1 to 1 along x and y."""
        grid = self.frame[:, None, None, :2] + self.frame[:, None, None, 2:] * points
        return F.grid_sample(self.values, grid, align_corners=False)

    def spectra(self) -> Tensor:
        """Polar slices' transforms along the angle, complex [C, frequency, N, radius], each slice of unit norm."""
        radius = (torch.arange(RADII, device=self.frame.device) + 0.5) / RADII * 1.15 / REACH
        angle = torch.arange(ANGLES, device=self.frame.device) * 2 * math.pi / ANGLES
        points = torch.stack([radius[:, None] * angle.cos(), radius[:, None] * angle.sin()], -1)
        smooth = F.avg_pool2d(F.avg_pool2d(self.values, 3, 1, 1), 3, 1, 1)  # forgives what is no turn
        polar = Framed(smooth, self.frame).at(points) * radius[:, None].sqrt()  # pixels at r cover an area ∝ r
        return torch.fft.rfft(unit(polar), dim=3).permute(1, 3, 0, 2).contiguous()


def unit(values: Tensor) -> Tensor:
    """Pictures [..., H, W], each of unit norm; one without signal stays as it is, near zero."""
    return values / values.square().sum((-2, -1), keepdim=True).sqrt().clamp(min=1e-3)


def turned(queries: Tensor, references: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From `Framed.spectra` of both: the largest mean |r| over turns and mirror [M, N], its turn in radians, and
    whether it is mirrored."""
    frequency = torch.arange(queries.shape[1], device=queries.device)[:, None, None]
    mirrored = queries.conj() * torch.exp(-1j * math.pi * frequency)  # the spectrum of y(π − angle)
    found = []
    for spectra in (queries, mirrored):
        product = spectra @ references.conj().transpose(2, 3)  # Σ over radii: a shift theorem at every frequency
        likeness = torch.fft.irfft(product.movedim(1, 3), n=ANGLES, dim=3).abs().mean(0)
        found.append(likeness.max(2))
    flip = found[1].values > found[0].values
    angle = torch.where(flip, found[1].indices, found[0].indices) * (2 * math.pi / ANGLES)
    return torch.maximum(found[0].values, found[1].values), angle, flip


class Poses:
    """Training slices, prepared for `nearest`. 13 kB of memory a slice."""

    def __init__(
        self,
        images: np.ndarray | Rows,
        codes: np.ndarray,
        labels: np.ndarray | Rows | None,
        mask: Mask,
        device: torch.device,
        chunk: int = 256,
    ) -> None:
        """images uint8 [N, C, H, W], codes [N]: subjects, 0 … S − 1; labels uint8 [N, 1, H, W] for lesions."""
        self.images, self.labels, self.mask, self.device = images, labels, mask, device
        self.codes = torch.from_numpy(np.asarray(codes, np.int64)).to(device)
        starts = range(0, len(images), chunk)
        self.spectra = torch.cat([self._framed(np.arange(s, min(s + chunk, len(images)))).spectra() for s in starts], 2)
        self.side = int(np.clip(round(0.625 * images.shape[-1]), 16, 40))

    def _framed(self, rows: np.ndarray) -> Framed:
        labels = None if self.labels is None else np.asarray(self.labels[rows])
        return Framed.of(*self.mask(np.asarray(self.images[rows]), labels, self.device))

    def nearest(self, images: np.ndarray, labels: np.ndarray | None, *, bend: bool) -> list[tuple[Tensor, Tensor]]:
        """Likeness [M, K] and rows [M, K] of the best slices of K subjects after affine alignment, and, where `bend`,
        of the best of these after a deformation as well. A slice without mask gets likeness 0."""
        queries = Framed.of(*self.mask(images, labels, self.device))
        rows, angle, flip = self._candidates(queries.spectra())
        M, K = rows.shape
        points = _points(self.side, self.device)
        references = self._framed(rows.flatten().cpu().numpy()).at(points).unflatten(0, (M, K))
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).unflatten(2, (2, 2))
        turn = torch.where(flip[..., None, None], turn * turn.new_tensor([[-1.0], [1.0]]), turn)
        affine, cosines, orders = _basis(points)
        still = torch.zeros(M, K, self.side**2, 2, device=self.device)
        loose = torch.full((3,), STIFFNESS[1], device=self.device)
        likeness, moved = _aligned(queries, references, turn, affine, loose, still)
        found = [(likeness, rows)]
        if bend:
            best = torch.arange(M, device=self.device)[:, None], likeness.topk(min(BENT, K), 1).indices
            both, stiff = torch.cat([affine, cosines]), torch.cat([loose, STIFFNESS[0] * orders])
            likeness, _ = _aligned(queries, references[best], turn[best], both, stiff, moved[best])
            found.append((likeness, rows[best]))
        return found

    def _candidates(self, spectra: Tensor, chunk: int = 1024) -> tuple[Tensor, Tensor, Tensor]:
        """Of each of the best subjects the best row [M, K], its turn and mirror."""
        parts = [turned(spectra, self.spectra[:, :, s : s + chunk]) for s in range(0, len(self.codes), chunk)]
        likeness, angle, flip = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        rows = best_rows(likeness, self.codes, SUBJECTS)
        return rows, angle.gather(1, rows), flip.gather(1, rows)


def best_rows(likeness: Tensor, codes: Tensor, subjects: int) -> Tensor:
    """The most similar row of each of the most similar subjects [M, K], from all likenesses [M, N]."""
    M, S = len(likeness), int(codes.max()) + 1
    highest = likeness.new_full((M, S), -1.0).scatter_reduce(1, codes.expand_as(likeness), likeness, "amax")
    rows = []
    for subject in highest.topk(min(subjects, S), 1).indices.T:
        theirs = codes == subject[:, None]
        rows.append(likeness.masked_fill(~theirs, -2.0).argmax(1))
    return torch.stack(rows, 1)


def _points(side: int, device: torch.device) -> Tensor:
    axis = (2 * torch.arange(side, device=device) + 1) / side - 1
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)


def _basis(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """1, x, y [3, P]; products of cosines [K, P] and their squared orders [K]."""
    x, y = points.flatten(0, 1).T
    order = torch.arange(COSINES, device=x.device)[:, None]
    along_x, along_y = (torch.cos(math.pi * order * (axis + 1) / 2) for axis in (x, y))
    cosines = (along_x[:, None] * along_y).flatten(0, 1)[1:]
    return torch.stack([torch.ones_like(x), x, y]), cosines, (order**2 + order.T**2).flatten()[1:].float()


def _aligned(
    queries: Framed, references: Tensor, turn: Tensor, basis: Tensor, stiffness: Tensor, moved: Tensor
) -> tuple[Tensor, Tensor]:
    """The largest likeness [M, K] on the way of Gauss–Newton steps, and the displacement [M, K, P, 2] that gave it.

    The reference [M, K, C, side, side] at p is compared with the query at turn (p + u(p)), u = moved + θ·basis. Where
    they agree, the query's gradient along p is the reference's: it stands in for it, and one Hessian serves all steps.
    """
    M, K, _, side, _ = references.shape
    points = _points(side, references.device).flatten(0, 1)
    b = unit(references)
    right, down = torch.zeros_like(b), torch.zeros_like(b)
    right[..., 1:-1] = (b[..., 2:] - b[..., :-2]) * (side / 4)  # per unit of the frame
    down[..., 1:-1, :] = (b[..., 2:, :] - b[..., :-2, :]) * (side / 4)
    b, right, down = b.flatten(3), right.flatten(3), down.flatten(3)

    def products(one: Tensor, other: Tensor) -> Tensor:
        return (basis * (one * other).sum(2)[:, :, None]) @ basis.T

    cross = products(right, down)
    blocks = [[products(right, right), cross], [cross, products(down, down)]]
    hessian = torch.cat([torch.cat(row, 3) for row in blocks], 2)
    size = (right.square() + down.square()).sum((2, 3)) / 2
    penalty = torch.cat([stiffness, stiffness]) * size.clamp(min=1e-6)[..., None]
    factor = torch.linalg.cholesky(hessian + torch.diag_embed(penalty))
    start, theta = moved, torch.zeros_like(penalty)
    best, kept = torch.full((M, K), -1.0, device=b.device), moved
    for step in range(STEPS + 1):
        where = (points + moved) @ turn.transpose(2, 3)
        a = unit(queries.at(where).transpose(1, 2)[..., None])[..., 0]  # [M, K, C, P]
        correlations = (a * b).sum(3)
        likeness = correlations.abs().mean(2)
        better = likeness > best
        best, kept = torch.where(better, likeness, best), torch.where(better[..., None, None], moved, kept)
        if step < STEPS:
            difference = a * correlations.sign()[..., None] - b
            slope = [(difference * gradient).sum(2) @ basis.T for gradient in (right, down)]
            slope = torch.cat(slope, 2) + penalty * theta
            theta = theta - torch.cholesky_solve(slope[..., None], factor)[..., 0]
            moved = start + (theta.unflatten(2, (2, -1)) @ basis).transpose(2, 3)
    return best, kept
