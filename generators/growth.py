"""Progressive growing (Karras et al. 2018, arXiv 1710.10196, Section 2): GANs that begin with small images.

How far a GAN has grown is one number, its level: at level 5 it makes and judges images of 2⁵ pixels a side, at 5.3
images of 2⁶ pixels, of whose finest detail 30 % are faded in. The level is a function of the images seen.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from generators.adversarial import GANConfig


class GrowthConfig(GANConfig):
    """What may be chosen about any GAN that grows; defaults are the papers'."""

    stable_images: int = Field(800_000, ge=0, description="training at each resolution before the next [images]")
    fade_images: int = Field(800_000, ge=1, description="length over which a resolution is faded in [images]")
    learning_rate: float = Field(0.001, gt=0, le=1, description="Adam's step, both networks [per step]")


def level_at(seen: int, first: int, last: int, config: GrowthConfig) -> float:
    """Level after `seen` images: stable at `first`, then a fade and a stable phase for each level up to `last`."""
    phase, within = divmod(seen - config.stable_images, config.fade_images + config.stable_images)
    return min(first + max(phase + min(within / config.fade_images, 1.0), 0.0), float(last))


def up(images: Tensor, factor: int = 2) -> Tensor:
    """Nearest-neighbour upsampling of [B, C, H, W]."""
    return F.interpolate(images, scale_factor=factor) if factor > 1 else images


def down(images: Tensor, factor: int = 2) -> Tensor:
    """Average pooling of [B, C, H, W], the inverse of `up` on its results."""
    return F.avg_pool2d(images, factor) if factor > 1 else images


def fade(before: Callable[[], Tensor], after: Tensor, level: float) -> Tensor:
    """(1 − α) before + α after within a fade, else `after` alone (Figure 2); α is the level's fraction."""
    alpha = level % 1
    return torch.lerp(before(), after, alpha) if alpha else after


def grown(images: Tensor, level: float) -> Tensor:
    """Training images of full resolution at a level: of 2^⌈level⌉ pixels, faded like the generator's (Figure 2)."""
    images = down(images, images.shape[2] >> math.ceil(level))
    return fade(lambda: up(down(images)), images, level)


def check_size(resolution: int, name: str) -> None:
    """Raises ValueError for images that a growing network cannot make."""
    if resolution not in (16, 32, 64, 128, 256, 512, 1024):
        raise ValueError(f"{name} makes images of 16, 32, 64, ... 1024 pixels a side, not {resolution}")
