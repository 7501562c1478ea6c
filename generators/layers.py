"""Layers that the StyleGAN family shares: equalized learning rate, modulated convolution, mapping network."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators import parallel
from generators.resample import downsample

LEAK = 0.2  # negative slope of leaky ReLU throughout the family
LEAKY_GAIN = math.sqrt(2)  # restores the second moment that leaky ReLU takes away (1502.01852, Section 2.2)


def leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU that keeps unit variance."""
    return F.leaky_relu(x, LEAK) * LEAKY_GAIN


def pixel_norm(x: Tensor) -> Tensor:
    """x [B, C, ...] divided by the root mean square over its channels (1710.10196, Section 4.2)."""
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)  # and not x², which would be another pass over memory
    return x * (norm.square() / x.shape[1] + 1e-8).rsqrt()


class Linear(nn.Module):
    """[..., inputs] → [..., outputs] with equalized learning rate: stored weights have unit variance and are scaled by
    He's constant at run time, so that Adam moves all layers at one speed (1710.10196, Section 4.1)."""

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, learning_rate_scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / learning_rate_scale)
        self.bias = nn.Parameter(torch.full((outputs,), bias / learning_rate_scale))
        self.weight_gain = learning_rate_scale / math.sqrt(inputs)
        self.bias_gain = learning_rate_scale

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)


class Conv2d(nn.Module):
    """`gain` times a convolution with equalized learning rate; computes in the precision of its input."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        pad: int = 0,
        bias: bool = True,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.weight_gain, self.bias_gain = gain / math.sqrt(inputs * kernel**2), gain
        self.stride, self.pad = stride, pad

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else (self.bias * self.bias_gain).to(x.dtype)
        return F.conv2d(x, (self.weight * self.weight_gain).to(x.dtype), bias, self.stride, self.pad)


class LeakyConv2d(Conv2d):
    """`leaky_relu` of a convolution; its gain, a positive factor, commutes with it and costs no pass over the maps."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, pad: int = 0, gain: float = LEAKY_GAIN
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, pad, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(x), LEAK, inplace=True)


class DownConv2d(Conv2d):
    """3 × 3 convolution, average over 2 × 2, *then* bias and `leaky_relu`, [B, I, H, W] → [B, O, H/2, W/2].

    Convolution and average are linear, hence one 4 × 4 convolution of stride 2, whose kernel is the mean of the 3 × 3
    one at four places: the same result with 4/9 of the arithmetic, and nothing else is ever as large as the input.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, gain=LEAKY_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        kernel = F.avg_pool2d(self.weight, 2, stride=1, padding=1) * self.weight_gain
        bias = (self.bias * self.bias_gain).to(x.dtype)
        return F.leaky_relu(F.conv2d(x, kernel.to(x.dtype), bias, stride=2, padding=1), LEAK, inplace=True)


def modulated_conv2d(
    x: Tensor, weight: Tensor, style: Tensor, bias: Tensor, *, demodulate: bool = True, gain: Tensor | float = 1.0
) -> Tensor:
    """Convolution of each x[b] with gain · weight · style[b], plus bias; computes in the precision of x.

    x [B, I, H, W], weight [O, I, k, k] (k odd; zeros keep H × W), style [B, I], bias [O], gain a scalar. With
    `demodulate`, weight · style[b] is first brought to unit norm for each output map. 1912.04958, eqs. 1 and 3, where
    the style scales the input and the demodulation scales the output of one ordinary convolution: the same thing as
    one weight per sample, and several times as fast.
    """
    x = x * (style * gain).to(x.dtype)[:, :, None, None]
    bias, pad = bias.to(x.dtype), weight.shape[2] // 2
    if not demodulate:
        return F.conv2d(x, weight.to(x.dtype), bias, padding=pad)
    norm = (style.square() @ weight.square().sum((2, 3)).T + 1e-8).rsqrt().to(x.dtype)
    x = F.conv2d(x, weight.to(x.dtype), padding=pad)
    return torch.addcmul(bias[:, None, None], x, norm[:, :, None, None])


def upsampling_conv2d(x: Tensor, weight: Tensor, kernel: Tensor) -> Tensor:
    """Upsampling by two with the low-pass `kernel` [4], and a convolution of that with `weight` [O, I, 3, 3].

    x [B, I, H, W] → [B, O, 2H, 2W]. The two linear filters are applied in the other order, as a strided transposed
    convolution (which turns its weight by 180°) and a low-pass of its result: a quarter of the multiplications.
    """
    return downsample(F.conv_transpose2d(x, weight.to(x.dtype).transpose(0, 1), stride=2), kernel, 1, pad=1)


class Mapping(nn.Module):
    """Mapping network z [B, z_dim] → w [B, w_dim], and the running mean of w for truncation (1812.04948, Section 2).

    The mean is what `track` has been told, once a training step: the past keeps a share of `decay` each time, 0.995 in
    the authors' code.
    """

    def __init__(
        self, z_dim: int, w_dim: int, layers: int, learning_rate_scale: float = 0.01, decay: float = 0.995
    ) -> None:
        super().__init__()
        widths = [z_dim] + [w_dim] * layers
        self.layers = nn.ModuleList(
            Linear(i, o, learning_rate_scale=learning_rate_scale) for i, o in itertools.pairwise(widths)
        )
        self.register_buffer("mean", torch.zeros(w_dim))
        self.decay = decay

    def forward(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        w = pixel_norm(z)
        for layer in self.layers:
            w = leaky_relu(layer(w))
        return self.mean.lerp(w, truncation)

    def track(self, w: Tensor) -> None:
        """Moves the mean towards that of w [B, w_dim], the styles of a training step's generated images."""
        self.mean.lerp_(parallel.mean(w.detach().mean(0)), 1 - self.decay)
