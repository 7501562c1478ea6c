"""A critic's gradient penalty with the resampling filters of `generators.resample` and with PyTorch's, in turns.

    python tests/bench/bench_penalty.py [--threads 1] [--repeats 15] [--device cpu]

The penalty is that of a Wasserstein critic, forward and backward, on StyleGAN2's discriminator, batch 8, float32.
Printed are medians, and the same for scores without a penalty, which only need derivatives of first order.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from generators import resample
from generators.discriminator import Discriminator
from generators.stylegan2 import StyleGAN2Config
from generators.wasserstein import gradient_penalty

BATCH, CHANNELS = 8, 7
SIZES = {32: (1024, 32), 64: (2048, 64), 128: (4096, 64)}  # pixels: channel_base, channel_max


class PyTorchs:
    """Stands in for `generators.resample._Filter`."""

    @staticmethod
    def apply(x: Tensor, weight: Tensor, stride: tuple[int, int], edge: tuple[int, int]) -> Tensor:
        return F.conv2d(x, weight.expand(x.shape[1], 1, -1, -1), None, stride, edge, groups=x.shape[1])


def milliseconds(call: Callable[[], Tensor], device: torch.device) -> float:
    """Of computing a number and its gradients."""
    start = time.perf_counter()
    call().backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


def measure(size: int, repeats: int, device: torch.device) -> None:
    torch.manual_seed(0)
    base, most = SIZES[size]
    critic = Discriminator(CHANNELS, size, StyleGAN2Config(channel_base=base, channel_max=most, precision="fp32"))
    critic.to(device)
    real, fake = (torch.rand(2, BATCH, CHANNELS, size, size, device=device) * 2 - 1).unbind()
    calls = {"penalty": lambda: gradient_penalty(critic, real, fake), "no penalty": lambda: critic(real).mean()}
    for name, call in calls.items():
        ours, theirs = [], []
        for _ in range(repeats + 1):  # the first is not counted
            ours.append(milliseconds(call, device))
            with mock.patch.object(resample, "_Filter", PyTorchs):
                theirs.append(milliseconds(call, device))
        faster = statistics.median(b / a for a, b in zip(ours[1:], theirs[1:], strict=True))
        here, there = statistics.median(ours[1:]), statistics.median(theirs[1:])
        print(f"{size:>4} px  {name:<10}  {here:8.1f} ms   PyTorch's {there:8.1f} ms   {faster:.2f} x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for size in SIZES:
        measure(size, arguments.repeats, arguments.device)


if __name__ == "__main__":
    main()
