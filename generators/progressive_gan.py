"""Progressive GAN (Karras et al. 2018, arXiv 1710.10196; sections refer to it)."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators import parallel, wasserstein
from generators.adversarial import GAN, lazy_adam
from generators.augmentation import mirror
from generators.base import latents
from generators.discriminator import minibatch_std
from generators.growth import GrowthConfig, check_size, down, fade, grown, level_at, up
from generators.layers import LEAK, Conv2d, DownConv2d, LeakyConv2d, Linear, pixel_norm
from generators.wasserstein import WassersteinConfig

FIRST = 2  # level of the smallest images


class ProgressiveGANConfig(GrowthConfig, WassersteinConfig):
    """What may be chosen about a progressive GAN and its training; defaults are the paper's."""

    search_space: ClassVar = {"learning_rate": (3e-4, 3e-3, "log"), "gradient_penalty": (1.0, 30.0, "log")}


def normalized(x: Tensor) -> Tensor:
    """Leaky ReLU and pixelwise normalization (Section 4.2), which makes a gain in between meaningless."""
    return pixel_norm(F.leaky_relu(x, LEAK, inplace=True))


class UpConv2d(Conv2d):
    """Nearest-neighbour upsampling by two, then a 3 × 3 convolution, [B, I, H, W] → [B, O, 2H, 2W].

    An output pixel sees only 2 × 2 different inputs, so both are one transposed convolution, whose kernel holds the
    sums of the weights that meet the same input: the same result with 4/9 of the arithmetic.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        kernel = F.avg_pool2d(self.weight.flip((2, 3)), 2, stride=1, padding=1) * (4 * self.weight_gain)
        return F.conv_transpose2d(x, kernel.transpose(0, 1).to(x.dtype), bias, stride=2, padding=1)


class ProgressiveBlock(nn.Module):
    """x [B, I, H, W] → [B, O, 2H, 2W] (Table 2, left)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = UpConv2d(inputs, outputs)
        self.conv2 = Conv2d(outputs, outputs, 3, pad=1)

    def forward(self, x: Tensor) -> Tensor:
        return normalized(self.conv2(normalized(self.conv1(x))))


class ProgressiveGenerator(nn.Module):
    """z [B, z_dim] → images [B, channels, 2^⌈level⌉, 2^⌈level⌉], not clamped (Table 2, left)."""

    def __init__(self, channels: int, resolution: int, config: ProgressiveGANConfig) -> None:
        super().__init__()
        self.dtype = config.dtype
        self.register_buffer("level", torch.tensor(2.0))
        levels = range(2, int(math.log2(resolution)) + 1)
        maps = config.maps
        self.input = Conv2d(config.z_dim, maps(2), 4, pad=3)
        self.conv = Conv2d(maps(2), maps(2), 3, pad=1)
        self.blocks = nn.ModuleList(ProgressiveBlock(maps(i - 1), maps(i)) for i in levels[1:])
        self.to_image = nn.ModuleList(Conv2d(maps(i), channels, 1) for i in levels)

    def forward(self, z: Tensor, level: float) -> Tensor:
        z = pixel_norm(z)[:, :, None, None]
        x = normalized(self.input(z.to(self.dtype, memory_format=torch.channels_last)))
        x = before = normalized(self.conv(x))
        top = math.ceil(level) - 2
        for block in self.blocks[:top]:
            before, x = x, block(x)
        image = fade(lambda: up(self.to_image[top - 1](before)), self.to_image[top](x), level)
        return image.float()


class DiscriminatorBlock(nn.Module):
    """x [B, I, H, W] → [B, O, H/2, W/2] (Table 2, right).

    The table has the second convolution, bias and leaky ReLU at full resolution, and averages what comes out. As in the
    authors' published networks, here the average comes before bias and leaky ReLU, so that it and the convolution are
    one: a third fewer multiply-adds, and 0.6 of the time (64 × 64 × 5, forward and backward, with gradient penalty or
    not, on a CPU).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = LeakyConv2d(inputs, inputs, 3, pad=1)
        self.conv2 = DownConv2d(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class GrowingDiscriminator(nn.Module):
    """Images [B, channels, 2^⌈level⌉, 2^⌈level⌉] → scores [B], float32 (Table 2, right)."""

    def __init__(self, channels: int, resolution: int, config: ProgressiveGANConfig) -> None:
        super().__init__()
        self.dtype = config.dtype
        last = int(math.log2(resolution))
        maps = config.maps
        self.from_image = nn.ModuleList(LeakyConv2d(channels, maps(i), 1) for i in range(FIRST, last + 1))
        self.blocks = nn.ModuleList(DiscriminatorBlock(maps(i), maps(i - 1)) for i in range(3, last + 1))
        self.conv1 = LeakyConv2d(maps(2) + 1, maps(2), 3, pad=1)
        self.conv2 = LeakyConv2d(maps(2), maps(2), 4)
        self.score = Linear(maps(2), 1)

    def forward(self, images: Tensor, level: float) -> Tensor:
        images = images.to(self.dtype, memory_format=torch.channels_last)
        top = math.ceil(level)
        x = self.from_image[top - FIRST](images)
        for i in range(top, 2, -1):
            x = self.blocks[i - 3](x)
            if i == top:
                x = fade(lambda: self.from_image[top - 1 - FIRST](down(images)), x, level)
        # Groups of 4 samples rather than the whole minibatch: the statistic means the same on any number of devices.
        x = self.conv2(self.conv1(minibatch_std(x.to(self.conv1.weight.dtype))))
        return self.score(x.flatten(1)).squeeze(1)


class ProgressiveGAN(GAN):
    """Progressive GAN: grows from 4 × 4 pixels, trained as a Wasserstein GAN with gradient penalty (Appendix A.1)."""

    Config = ProgressiveGANConfig
    config: ProgressiveGANConfig

    def __init__(self, channels: int, resolution: int, config: ProgressiveGANConfig) -> None:
        check_size(resolution, "progressive_gan")
        generator = ProgressiveGenerator(channels, resolution, config)
        super().__init__(channels, resolution, config, generator, GrowingDiscriminator(channels, resolution, config))
        for name, network in self.networks.items():
            self.optimizers[name] = lazy_adam(network.parameters(), config.learning_rate, None)

    def train_step(self, images: Tensor, seen: int) -> dict[str, Tensor]:
        """One discriminator and one generator step at the level of `seen`.

        Losses: those of `wasserstein.step`; `level`, how far the networks have grown.
        """
        generator, batch = self.networks["generator"], len(images)
        level = level_at(seen, FIRST, int(math.log2(self.resolution)), self.config)
        generator.level.fill_(level)
        if self.config.mirror:
            images = mirror(images)

        def discriminate(x: Tensor) -> Tensor:
            return self.networks["discriminator"](x, level)

        fake = generator(parallel.randn(batch, self.config.z_dim).to(self.device), level)  # trains both networks
        losses = wasserstein.step(self, discriminate, grown(images, level), fake, seen)
        return self.finish(losses | {"level": torch.tensor(level)}, batch, seen)

    def realness(self, images: Tensor) -> Tensor:
        level = float(self.networks["generator"].level)
        return self.networks["discriminator"](grown(images, level), level)

    @torch.no_grad()
    def sample(self, seeds: Sequence[int]) -> Tensor:
        generator = self.ema["generator"]
        images = generator(latents(seeds, self.config.z_dim).to(self.device), float(generator.level))
        return up(images, self.resolution // images.shape[2]).clamp(-1, 1)
