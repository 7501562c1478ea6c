"""Random transformations of training images: mirroring, small affine ones, and adaptive discriminator augmentation
(training GANs with limited data, Karras et al. 2020, arXiv 2006.06676; sections refer to it)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from generators import parallel
from generators.base import is_due
from generators.resample import downsample, upsample

INTERVAL = 4  # minibatches between two adjustments of p (Section 3)
SHIFT = 0.125  # largest whole-pixel, and standard deviation of a fractional, translation; canvas widths (Appendix B)
SCALE = 0.2 * math.log(2)  # standard deviation of the logarithm of a scale (Appendix B)
BRIGHTNESS, CONTRAST = 0.2, 0.5 * math.log(2)  # standard deviations of an offset and of a factor's log (Appendix B)
TURN, STRETCH, MOVE = math.radians(5), math.log(1.05), 0.03  # most that a head is turned, scaled, moved; canvas widths
BACKGROUND = -1.0  # what lies outside of an image: air, and no annotation
MODALITIES = 4  # channels that come first; what follows are the annotation's planes

# Daubechies' 12-tap symlet, as a filter of unit DC gain. It is orthogonal to its own shifts by two samples, so that
# going to twice the rate and back returns every sample as it was (Appendix B).
_TAPS = [
    [0.015404109327, 0.003490712084, -0.117990111148, -0.048311742586],
    [0.491055941927, 0.787641141030, 0.337929421728, -0.072637522786],
    [-0.021060292512, 0.044724901771, 0.001767711864, -0.007800708325],
]
SYMLET = torch.tensor(_TAPS).flatten() / math.sqrt(2)
CENTRE = (SYMLET * torch.arange(12)).sum().item()  # the symlet is not quite symmetric: its delay in samples


def mirror(images: Tensor) -> Tensor:
    """Each image [C, H, W] of a batch flipped left–right with probability one half."""
    flip = parallel.rand(len(images)) < 0.5
    return torch.where(flip.to(images.device)[:, None, None, None], images.flip(3), images)


def small_transforms(batch: int) -> Tensor:
    """Matrices [batch, 3, 3] as of `random_transforms`: turned by up to 5°, scaled by up to 5 %, moved by up to 3 %."""
    angle, size, x, y = (2 * parallel.share(torch.rand(4, parallel.total(batch)), 1) - 1).unbind()
    scale = (STRETCH * size).exp()
    return rotation(TURN * angle) @ scaling(scale, scale) @ translation(MOVE * x, MOVE * y)


def warp_annotated(images: Tensor, transforms: Tensor) -> Tensor:
    """images [B, C, H, H] in [-1, 1] sampled where transforms [B, 3, 3] say; the annotation's planes, behind the
    modalities, at the nearest pixel, so that their codes stay what they are."""
    theta = transforms[:, :2].to(images) * torch.tensor([1.0, 1.0, 2.0], device=images.device)  # in half canvas widths
    annotation = images[:, MODALITIES:] - BACKGROUND
    grid = F.affine_grid(theta, list(annotation.shape), align_corners=False)
    annotation = F.grid_sample(annotation, grid, mode="nearest", align_corners=False) + BACKGROUND
    return torch.cat([warp(images[:, :MODALITIES], transforms).clamp(-1, 1), annotation], 1)


def small_affine(images: Tensor, share: float) -> Tensor:
    """Each image [C, H, H] of a batch, with probability `share`, through a small affine transformation of its own."""
    chosen = (parallel.rand(len(images)) < share).to(images.device)
    warped = warp_annotated(images, small_transforms(len(images)).to(images.device))
    return torch.where(chosen[:, None, None, None], warped, images)


class AdaptiveAugmentation:
    """What the discriminator sees of images [B, C, H, H], each transformation with a probability p that follows r_t.

    r_t = E[sign D(real)] is 0 for a discriminator that guesses and 1 for one that knows its training images by heart.
    p rises while r_t lies above `target` and falls below it, fast enough to go from 0 to 1 in `images` images
    (Section 3). Below about 0.8 the transformations do not leak into what is generated (Section 2.2). Scores that are
    no logits are to be centred first, see `centred`.
    """

    def __init__(self, target: float, images: float, quarter_turns: bool) -> None:
        self.target, self.images, self.quarter_turns = target, images, quarter_turns
        self.p = 0.0
        self.signs, self.count = torch.zeros(()), 0  # of the real logits since the last adjustment: sum, number

    def __call__(self, images: Tensor) -> Tensor:
        """Each image transformed afresh, all its channels by one geometry; differentiable twice."""
        if self.p == 0:
            return images
        transforms = random_transforms(len(images), images.shape[2], self.p, self.quarter_turns)
        moved = (transforms != torch.eye(3)).flatten(1).any(1).nonzero().squeeze(1)
        if len(moved):  # at a small p they are few, and resampling is what costs
            rows = moved.to(images.device)
            images = images.index_copy(0, rows, warp(images[rows], transforms[moved].to(images.device)))
        return random_intensity(images, self.p)

    def update(self, real: Tensor, seen: int) -> None:
        """Takes the logits [B] of a batch of real images; adjusts p at every fourth one."""
        self.signs = self.signs.to(real.device) + parallel.summed(real.detach().sign().sum())
        self.count += parallel.total(len(real))
        if is_due(seen, len(real), INTERVAL):
            step = self.count / self.images
            overfits = self.signs.item() / self.count > self.target  # eq. 1, r_t
            self.p = min(max(self.p + (step if overfits else -step), 0.0), 1.0)
            self.signs, self.count = torch.zeros(()), 0

    def state_dict(self) -> dict:
        return {"p": self.p, "signs": self.signs, "count": self.count}

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""
        self.p, self.signs, self.count = state["p"], state["signs"], state["count"]


def centred(real: Tensor, fake: Tensor) -> Tensor:
    """A Wasserstein critic's scores [B] of real images, less the midpoint between the means of real [B] and fake [B].

    Logits are positive where an image is more likely real than not, but such scores have no zero: any constant may be
    added to all of them. The midpoint stands in for it, as it is where two equally wide distributions are equally
    likely; so r_t keeps its meaning, 0 for a critic that guesses and 1 for one that tells all apart. Means of this very
    batch, and not running ones, because that constant drifts from step to step.
    """
    return real - parallel.mean((real.detach().mean() + fake.detach().mean()) / 2)


def sometimes(values: Tensor, neutral: float, p: float) -> Tensor:
    """values [B], each replaced by `neutral` with probability 1 − p."""
    return torch.where(parallel.rand(len(values)) < p, values, neutral)


def scaling(x: Tensor, y: Tensor) -> Tensor:
    """Homogeneous matrices [B, 3, 3] that scale by x [B] and y [B]."""
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], 1))


def rotation(angle: Tensor) -> Tensor:
    """Homogeneous matrices [B, 3, 3] that rotate by angle [B], in radians."""
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], 1).unflatten(1, (3, 3))


def translation(x: Tensor, y: Tensor) -> Tensor:
    """Homogeneous matrices [B, 3, 3] that move by x [B] and y [B]."""
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return torch.stack([one, zero, x, zero, one, y, zero, zero, one], 1).unflatten(1, (3, 3))


def random_transforms(batch: int, size: int, p: float, quarter_turns: bool) -> Tensor:
    """Where to sample each image: matrices [B, 3, 3] from a point of the result to one of the image of `size` pixels.

    Points are (x, y, 1) in canvas widths from the middle. The paper's pixel blitting and geometric transformations in
    its order and with its distributions (Appendix B); each is as likely as its inverse, which is what is drawn.
    Quarter turns are the paper's, but no brain is scanned lying on its side.
    """

    def lognormal() -> Tensor:
        return sometimes((SCALE * parallel.randn(batch)).exp(), 1, p)

    def angle() -> Tensor:  # of two rotations at least one happens with probability p
        return sometimes((2 * parallel.rand(batch) - 1) * math.pi, 0, 1 - math.sqrt(1 - p))

    one = torch.ones(batch)
    transforms = scaling(sometimes(2.0 * parallel.randint(0, 2, batch) - 1, 1, p), one)
    if quarter_turns:
        transforms = transforms @ rotation(sometimes(parallel.randint(0, 4, batch) * (math.pi / 2), 0, p))
    move = parallel.rand(batch) < p
    pixels = SHIFT * size * (2 * parallel.share(torch.rand(2, parallel.total(batch)), 1) - 1)
    x, y = (move * pixels.round() / size).unbind()
    transforms = transforms @ translation(x, y)
    scale = lognormal()
    transforms = transforms @ scaling(scale, scale) @ rotation(angle())
    scale = lognormal()
    transforms = transforms @ scaling(scale, 1 / scale) @ rotation(angle())
    move = parallel.rand(batch) < p
    x, y = (move * SHIFT * parallel.share(torch.randn(2, parallel.total(batch)), 1)).unbind()
    return transforms @ translation(x, y)


def warp(images: Tensor, transforms: Tensor) -> Tensor:
    """images [B, C, H, H] sampled where transforms [B, 3, 3] say: bilinearly at twice their rate (Appendix B)."""
    size, kernel = images.shape[2], SYMLET.to(images)
    images = (images - BACKGROUND).contiguous(memory_format=torch.channels_last)
    fine = upsample(images, 2 * kernel, 2)
    last, middle = fine.shape[2] - 1, size - 1 + CENTRE
    position = (torch.arange(last + 1, device=images.device, dtype=images.dtype) - middle) / (2 * size)
    y, x = torch.meshgrid(position, position, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], 2).flatten(0, 1) @ transforms[:, :2].mT.to(images)  # [B, N², 2]
    grid = (points * (2 * size) + middle) * (2 / last) - 1
    fine = F.grid_sample(fine, grid.unflatten(1, x.shape), align_corners=True)
    return downsample(fine, kernel, 2) + BACKGROUND


def random_intensity(images: Tensor, p: float) -> Tensor:
    """Brightness and contrast of each image [C, H, W], but for the annotation's planes behind its modalities."""
    offset = sometimes(BRIGHTNESS * parallel.randn(len(images)), 0, p)
    factor = sometimes((CONTRAST * parallel.randn(len(images))).exp(), 1, p)
    offset, factor = (value.to(images.device)[:, None, None, None] for value in (offset, factor))
    return torch.cat([(images[:, :MODALITIES] + offset) * factor, images[:, MODALITIES:]], 1)
