"""The study's augmentation of a batch: rotation and scale, then noise, blur, low resolution and gamma.

Rotation, scale and their probabilities are the study's; the rest follows nnU-Net (Isensee et al. 2021, supplementary
note 4), drawn per image and channel. A plane below is one channel of one image, [H, W].
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from segmenters import parallel


def augment(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Random views of normalized images [B, C, H, H], float, with their labels [B, H, H], integer.

    Draws from torch's global random state and works on the tensors' device; the arguments are left as they are.
    Outside the foreground images stay zero, as normalization leaves them.
    """
    batch, device = parallel.total(len(images)), images.device
    angle = _uniform(-30, 30, batch, device) * (torch.rand(batch, device=device) < 0.75)
    scale = 1 + _uniform(-0.1, 0.1, (batch, 2), device) * (torch.rand(batch, 1, device=device) < 0.75)
    images, labels = warp(images, labels, parallel.share(angle), parallel.share(scale))

    foreground = (images != 0).any(1, keepdim=True)
    inside = foreground.expand_as(images)
    height, width = images.shape[2:]

    def each(planes: int, low: float, high: float) -> Tensor:
        return _uniform(low, high, (planes, 1, 1), device)

    for probability, draw, transform in (
        (
            0.15,
            lambda n: (each(n, 0, 0.1), torch.randn(n, height, width, device=device)),
            lambda planes, _, variance, noise: planes + variance.sqrt() * noise,
        ),
        (0.2 * 0.5, lambda n: (each(n, 0.5, 1.5),), lambda planes, _, sigma: blur(planes, sigma)),
        (0.25 * 0.5, lambda n: (each(n, 0.5, 1),), lambda planes, _, zoom: lower_resolution(planes, zoom)),
        (0.15, lambda n: (each(n, 0.7, 1.5),), adjust_gamma),
    ):
        drawn = torch.rand((batch, images.shape[1]), device=device) < probability
        numbers = draw(int(drawn.sum()))
        here = parallel.share(drawn)
        if here.any():
            which = parallel.share((drawn.flatten().cumsum(0) - 1).view_as(drawn))[here]  # of the planes drawn
            changed = transform(images[here], inside[here], *(values[which] for values in numbers))
            images = images.masked_scatter(here[..., None, None], changed)
    return images * foreground, labels


def warp(images: Tensor, labels: Tensor, angle: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Turns by `angle` [B] degrees, counter-clockwise as displayed, after stretching by `scale` [B, 2] (x, y).

    Images bilinear, labels by nearest neighbour; what comes in from outside is zero. Angle 0 and scale 1 is identity.
    """
    cos, sin = torch.deg2rad(angle).cos(), torch.deg2rad(angle).sin()
    # affine_grid maps output to input positions, so this is the inverse: turn back, then shrink
    back = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1) / scale[..., None]
    grid = F.affine_grid(F.pad(back, (0, 1)), [len(images), 1, *images.shape[2:]], align_corners=False)
    moved = ((angle != 0) | (scale != 1).any(1))[:, None, None]
    warped = F.grid_sample(images, grid, mode="bilinear", align_corners=False)
    warped_labels = F.grid_sample(labels[:, None].to(images.dtype), grid, mode="nearest", align_corners=False)[:, 0]
    return torch.where(moved[:, None], warped, images), torch.where(moved, warped_labels.to(labels.dtype), labels)


def blur(planes: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of planes [K, H, W] with standard deviations [K, 1, 1] of at most 1.5 px, borders repeated."""
    radius = 5
    offsets = torch.arange(-radius, radius + 1, device=planes.device)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())  # [K, 1, 2 radius + 1]
    kernel = (kernel / kernel.sum(2, keepdim=True))[:, :, None]  # [K, 1, 1, 2 radius + 1]
    padded = F.pad(planes[None], [radius] * 4, mode="replicate")
    rows = F.conv2d(padded, kernel, groups=len(planes))
    return F.conv2d(rows, kernel.transpose(2, 3), groups=len(planes))[0]


def lower_resolution(planes: Tensor, zoom: Tensor) -> Tensor:
    """Planes [K, H, W] sampled down by zoom [K, 1, 1] in (0, 1] (nearest) and back up to their size (bicubic)."""
    zoom = zoom.view(-1, 1, 1)
    identity, corner = torch.eye(2, device=planes.device), torch.ones(2, 1, device=planes.device)
    size = [len(planes), 1, *planes.shape[1:]]

    def resize(inputs: Tensor, factor: Tensor, mode: str) -> Tensor:  # about the top left corner
        grid = F.affine_grid(torch.cat([identity * factor, corner * (factor - 1)], 2), size, align_corners=False)
        return F.grid_sample(inputs, grid, mode=mode, padding_mode="border", align_corners=False)

    return resize(resize(planes[:, None], 1 / zoom, "nearest"), zoom, "bicubic")[:, 0]


def adjust_gamma(planes: Tensor, mask: Tensor, gamma: Tensor) -> Tensor:
    """Planes [K, H, W] scaled to 0..1, raised to gamma [K, 1, 1], and brought back to their mean and deviation.

    Range, mean and deviation are those inside the mask [K, H, W].
    """
    lowest = planes.masked_fill(~mask, math.inf).amin((1, 2), keepdim=True)
    highest = planes.masked_fill(~mask, -math.inf).amax((1, 2), keepdim=True)
    curved = ((planes - lowest) / (highest - lowest).clamp(min=1e-6)).clamp(0, 1) ** gamma
    count = mask.sum((1, 2), keepdim=True).clamp(min=1)

    def moments(values: Tensor) -> tuple[Tensor, Tensor]:
        mean = (values * mask).sum((1, 2), keepdim=True) / count
        return mean, (((values - mean) * mask).square().sum((1, 2), keepdim=True) / count).sqrt()

    (mean, std), (curved_mean, curved_std) = moments(planes), moments(curved)
    return torch.where(mask, (curved - curved_mean) / curved_std.clamp(min=1e-6) * std + mean, planes)


def _uniform(low: float, high: float, shape: int | tuple[int, ...], device: torch.device) -> Tensor:
    return low + (high - low) * torch.rand(shape, device=device)
