"""Sampling-rate changes with explicit low-pass filters: design of the filters, and how they are applied.

Samples are cell-centred: resampling by any factor keeps the middle of the canvas where it is. All functions may be
differentiated any number of times. Speed comes from never computing on inserted zeros or on samples that decimation
throws away, from channels-last memory, in which a depthwise convolution vectorizes over channels, and from never asking
for the derivative of a filter, which is fixed.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import signal, special
from torch import Tensor
from torch.autograd import Function

Pair = tuple[int, int]  # vertical, horizontal
SHORT = 4  # taps up to which one pass over both axes is faster than a pass along each, on a CPU


def lowpass(taps: int, cutoff: float, half_width: float, rate: float) -> Tensor:
    """Kaiser-windowed sinc [taps] of unit DC gain: half power near `cutoff`, transition band cutoff ± half_width.

    Frequencies in cycles per canvas, `rate` in samples per canvas. 2106.12423, Appendix C.
    """
    return torch.from_numpy(signal.firwin(taps, cutoff, width=2 * half_width, fs=rate)).float()


def radial_lowpass(taps: int, cutoff: float, half_width: float, rate: float) -> Tensor:
    """Radially symmetric counterpart [taps, taps] of `lowpass`: a jinc under a Kaiser window of the radius
    (Appendix C). `taps` is even.

    So the paper's text. In the authors' code the window is a product of two Kaiser windows, one along each axis, which
    is not quite the same at any angle.
    """
    position = np.arange(taps) - (taps - 1) / 2
    radius = np.hypot(*np.meshgrid(position, position))  # samples; never 0, as taps is even
    beta = signal.kaiser_beta(signal.kaiser_atten(taps, 2 * half_width / (rate / 2)))
    inside = np.clip(1 - (radius / position[-1]) ** 2, 0, None)
    window = np.where(radius <= position[-1], special.i0(beta * np.sqrt(inside)), 0)
    kernel = window * special.j1(2 * np.pi * cutoff * radius / rate) / radius
    return torch.from_numpy(kernel / kernel.sum()).float()


def gaussian(sigma: float) -> Tensor:
    """Gaussian [taps] of unit sum, cut at three standard deviations of `sigma` pixels."""
    radius = int(np.ceil(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma).square())
    return kernel / kernel.sum()


def upsample(x: Tensor, kernel: Tensor, factor: int, crop: int = 0) -> Tensor:
    """Zero insertion by `factor`, full convolution with `kernel` along both axes, `crop` samples off each edge.

    x [B, C, H, W] → [B, C, (H − 1)·factor + taps − 2·crop, likewise W]. A crop of (taps − factor) / 2 gives exactly
    H·factor samples. The kernel needs a DC gain of `factor` to keep the signal's level.
    """
    for weight, stride, edge in _passes(kernel.to(x.dtype), factor, crop):
        sizes = zip(x.shape[2:], stride, edge, weight.shape, strict=True)
        x = _Spread.apply(x, weight, stride, edge, [(n - 1) * s - 2 * e + k for n, s, e, k in sizes])
    return x


def downsample(x: Tensor, kernel: Tensor, factor: int, pad: int = 0) -> Tensor:
    """Convolution of x, zero-padded by `pad` on each edge, with a symmetric `kernel`; every `factor`-th sample is kept.

    x [B, C, H, W] → [B, C, (H + 2·pad − taps) // factor + 1, likewise W]. The kernel is [taps] (applied along both
    axes) or [taps, taps]. A padding of (taps − factor) / 2 gives exactly H / factor samples.
    """
    for weight, stride, edge in _passes(kernel.to(x.dtype), factor, pad):
        x = _Filter.apply(x, weight, stride, edge)
    return x


def _passes(kernel: Tensor, factor: int, edge: int) -> list[tuple[Tensor, Pair, Pair]]:
    """The depthwise convolutions that together apply a kernel: weight [h, w], stride, samples padded (or cropped)."""
    if kernel.ndim == 1 and len(kernel) > SHORT:
        return [(kernel[None], (1, factor), (0, edge)), (kernel[:, None], (factor, 1), (edge, 0))]
    both = kernel if kernel.ndim == 2 else torch.outer(kernel, kernel)
    return [(both, (factor, factor), (edge, edge))]


class _Filter(Function):
    """Depthwise convolution of x [B, C, H, W] with one fixed weight [h, w].

    A convolution of PyTorch's would do, but for its second derivative: that computes the weight's part, needed or not,
    and of a depthwise one map by map, which took a third of the time of a penalty on gradients.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, edge: Pair) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.rest = stride, edge, x.shape[2:]
        maps = x.shape[1]
        return F.conv2d(x, weight.expand(maps, 1, -1, -1), None, stride, edge, groups=maps)

    @staticmethod
    def backward(ctx: Any, y: Tensor) -> tuple[Tensor | None, ...]:
        return _Spread.apply(y, *ctx.saved_tensors, *ctx.rest), None, None, None


class _Spread(Function):
    """The adjoint of `_Filter`: y [B, C, H', W'] → [B, C, *size]. Each is linear, and the other's derivative."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, stride: Pair, edge: Pair, size: Pair) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.rest = stride, edge
        sizes = zip(size, y.shape[2:], stride, edge, weight.shape, strict=True)
        beyond = [n - ((m - 1) * s - 2 * e + k) for n, m, s, e, k in sizes]  # that the last stride did not reach
        maps = y.shape[1]
        return F.conv_transpose2d(y, weight.expand(maps, 1, -1, -1), None, stride, edge, beyond, maps)

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> tuple[Tensor | None, ...]:
        return _Filter.apply(x, *ctx.saved_tensors, *ctx.rest), None, None, None, None
