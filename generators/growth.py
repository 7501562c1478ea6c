"""Progressive growing (Karras et al. 2018, arXiv 1710.10196, Section 2): GANs that begin with small images.

How far a GAN has grown is one number, its level: at level 5 it makes and judges images of 2⁵ pixels a side, at 5.3
images of 2⁶ pixels, of whose finest detail 30 % are faded in. The level is a function of the images seen.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from generators.adversarial import GAN, GANConfig, lazy_adam
from generators.augmentation import mirror


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


class GrowingGAN(GAN):
    """A GAN that grows: all but its networks and its losses.

    `Network` makes a generator with a buffer `level`, the level at which it was last trained, and `Judge` a
    discriminator (images, level) → scores [B]; both take (channels, resolution, config), and their images at a level
    have 2^⌈level⌉ pixels a side.
    """

    Network: ClassVar[type[nn.Module]]
    Judge: ClassVar[type[nn.Module]]
    name: ClassVar[str]
    first: ClassVar[int]  # level at which training starts
    config: GrowthConfig

    def __init__(self, channels: int, resolution: int, config: GrowthConfig) -> None:
        if resolution not in (16, 32, 64, 128, 256, 512, 1024):
            raise ValueError(f"{self.name} makes images of 16, 32, 64, ... 1024 pixels a side, not {resolution}")
        generator, discriminator = (make(channels, resolution, config) for make in (self.Network, self.Judge))
        super().__init__(channels, resolution, config, generator, discriminator)
        for name, network in self.networks.items():
            self.optimizers[name] = lazy_adam(network.parameters(), config.learning_rate, None)

    @abstractmethod
    def fakes(self, count: int, level: float) -> Tensor:
        """Images of the generator for fresh noise from torch's global random state."""

    @abstractmethod
    def generator_loss(self, fake: Tensor) -> Tensor:
        """Loss of the scores [B] of generated images."""

    @abstractmethod
    def discriminator_losses(
        self, discriminate: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, seen: int
    ) -> dict[str, Tensor]:
        """`loss_discriminator`, which is trained on, and what else is worth a look, of real and generated images."""

    def train_step(self, images: Tensor, seen: int) -> dict[str, Tensor]:
        """One discriminator and one generator step at the level of `seen`.

        Losses: loss_generator and what `discriminator_losses` lists; gradient_norm_generator and
        gradient_norm_discriminator; `level`, how far the networks have grown.
        """
        config, generator, discriminator = self.config, self.networks["generator"], self.networks["discriminator"]
        level = level_at(seen, self.first, int(math.log2(self.resolution)), config)
        generator.level.fill_(level)
        batch = len(images)
        if config.mirror:
            images = mirror(images)

        def discriminate(x: Tensor) -> Tensor:
            return discriminator(x, level)

        fake, real = self.fakes(batch, level), grown(images, level)  # the same images train both networks
        losses = self.discriminator_step(self.discriminator_losses(discriminate, real, fake.detach(), seen))
        losses |= self.generator_step(lambda: self.generator_loss(discriminate(fake)))
        return self.finish(losses | {"level": torch.tensor(level)}, batch, seen)

    @torch.no_grad()
    def sample(self, seeds: Sequence[int]) -> Tensor:
        images = self.sampled(seeds, float(self.ema["generator"].level))
        return up(images, self.resolution // images.shape[2]).clamp(-1, 1)

    @abstractmethod
    def sampled(self, seeds: Sequence[int], level: float) -> Tensor:
        """Images of the averaged generator; image i depends on seeds[i] alone."""
