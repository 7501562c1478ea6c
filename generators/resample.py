"""Sampling-rate changes with explicit low-pass filters: design of the filters, and how they are applied.

Samples are cell-centred: resampling by any factor keeps the middle of the canvas where it is. All functions are plain
convolutions, so that they may be differentiated any number of times. Speed comes from never computing on inserted
zeros or on samples that decimation throws away, and from channels-last memory, in which a depthwise convolution
vectorizes over channels.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import signal, special
from torch import Tensor


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
    kernel = kernel.to(x.dtype).expand(x.shape[1], 1, -1)
    x = F.conv_transpose2d(x, kernel.unsqueeze(3), None, (factor, 1), (crop, 0), groups=x.shape[1])
    return F.conv_transpose2d(x, kernel.unsqueeze(2), None, (1, factor), (0, crop), groups=x.shape[1])


def downsample(x: Tensor, kernel: Tensor, factor: int, pad: int = 0) -> Tensor:
    """Convolution of x, zero-padded by `pad` on each edge, with a symmetric `kernel`; every `factor`-th sample is kept.

    x [B, C, H, W] → [B, C, (H + 2·pad − taps) // factor + 1, likewise W]. The kernel is [taps] (applied along both
    axes) or [taps, taps]. A padding of (taps − factor) / 2 gives exactly H / factor samples.
    """
    kernel = kernel.to(x.dtype)
    if kernel.ndim == 2:
        return F.conv2d(x, kernel.expand(x.shape[1], 1, -1, -1), None, factor, pad, groups=x.shape[1])
    kernel = kernel.expand(x.shape[1], 1, -1)
    x = F.conv2d(x, kernel.unsqueeze(2), None, (1, factor), (0, pad), groups=x.shape[1])
    return F.conv2d(x, kernel.unsqueeze(3), None, (factor, 1), (pad, 0), groups=x.shape[1])
