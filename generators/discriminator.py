"""The residual discriminator of StyleGAN2 (1912.04958), which StyleGAN3 keeps unchanged."""

import itertools
import math

import torch
from torch import Tensor, nn

from generators.adversarial import GANConfig
from generators.layers import LEAKY_GAIN, Conv2d, LeakyConv2d, Linear, leaky_relu
from generators.resample import downsample

BLUR = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8


def minibatch_std(x: Tensor, group: int = 4) -> Tensor:
    """Appends one channel: the features' standard deviation over groups of samples, averaged over features and pixels.

    x [B, C, H, W] → [B, C + 1, H, W] (1710.10196, Section 3). Batches that `group` does not divide form smaller groups.
    """
    B, C, H, W = x.shape
    group = math.gcd(B, group)
    std = x.reshape(group, B // group, C, H, W).var(0, correction=0).add(1e-8).sqrt().mean((1, 2, 3))
    return torch.cat([x, std.repeat(group)[:, None, None, None].expand(B, 1, H, W)], 1)


class ResidualBlock(nn.Module):
    """[B, I, H, W] → [B, O, H/2, W/2] (1912.04958, Figure 7c); the blur before each decimation is [1, 3, 3, 1]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = 1 / math.sqrt(2)  # Section 4.1: the sum of two has twice the variance
        self.conv1 = LeakyConv2d(inputs, inputs, 3, pad=1)
        self.conv2 = LeakyConv2d(inputs, outputs, 3, stride=2, gain=LEAKY_GAIN * half)
        self.skip = Conv2d(inputs, outputs, 1, bias=False, gain=half)
        self.register_buffer("blur", BLUR, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.skip(downsample(x, self.blur, 2, pad=1))
        return skip.add_(self.conv2(downsample(self.conv1(x), self.blur, 1, pad=2)))


class Discriminator(nn.Module):
    """Images [B, channels, resolution, resolution] → realness logits [B], float32.

    The configured precision is that of all blocks but the last, which sees 4 × 4 pixels.
    """

    def __init__(self, channels: int, resolution: int, config: GANConfig) -> None:
        super().__init__()
        widths = [config.maps(i) for i in range(int(math.log2(resolution)), 1, -1)]
        self.dtype = config.dtype
        self.from_image = LeakyConv2d(channels, widths[0], 1)
        self.blocks = nn.Sequential(*(ResidualBlock(i, o) for i, o in itertools.pairwise(widths)))
        self.conv = LeakyConv2d(widths[-1] + 1, widths[-1], 3, pad=1)
        self.hidden = Linear(widths[-1] * 4 * 4, widths[-1])
        self.logit = Linear(widths[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        x = images.to(self.dtype, memory_format=torch.channels_last)
        x = self.blocks(self.from_image(x)).to(self.conv.weight.dtype)
        x = self.conv(minibatch_std(x))
        return self.logit(leaky_relu(self.hidden(x.flatten(1)))).squeeze(1)
