"""Training and sampling speed of every registered generator at 64×64×5, batch 16, on this machine.

    python tests/bench/bench_generators.py [NAME ...] [--threads 2] [--repeats 5] [--device cpu]

Images/s are medians over steps; training counts the lazy regularization steps at their share. The cost of a training
step and of a batch of samples is broken down into convolution, resampling (depthwise convolutions with fixed filters)
and the rest, and its arithmetic is set against the rate of a large float32 matrix product. At the end, training times
over StyleGAN2's, of steps taken in turns, so that a busy machine slows both alike.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import generators
from generators.base import Generator

BATCH, CHANNELS, SIZE, INTERVAL = 16, 5, 64, 16
# The comparison's widths, at full resolution; a generator that is not named runs with its defaults.
WIDTHS = {"channel_base": 2048, "channel_max": 64}
GROWN = {"stable_images": 0, "fade_images": 1}  # long before the first step that is timed
CONFIG = {
    "progressive_gan": {**WIDTHS, **GROWN},
    "stylegan1": {**WIDTHS, **GROWN, "r1_interval": INTERVAL},
    "stylegan2": {**WIDTHS, "r1_interval": INTERVAL},
    "stylegan3": {**WIDTHS, "r1_interval": INTERVAL},
    "diffusion": {"precision": "fp32"},
}
GROWING = ("progressive_gan", "stylegan1")
# What `python -m benchmark` sets: without it glibc returns every large block to the kernel and faults it in again.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "67108864",
}


def wall_time(call: Callable[[], object], device: torch.device) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def seconds(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median wall time of a call, after one that is not counted."""
    return statistics.median([wall_time(call, device) for _ in range(repeats + 1)][1:])


def matmul_peak(repeats: int, device: torch.device) -> float:
    """Float32 operations a second of a 2048 × 2048 matrix product."""
    a = torch.randn(2048, 2048, device=device)
    return 2 * 2048**3 / seconds(lambda: a @ a, repeats, device)


def breakdown(call: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Shares of a call's time, by kind of operation."""
    activities = [ProfilerActivity.CUDA] if device.type == "cuda" else []
    with profile(activities=[ProfilerActivity.CPU, *activities], record_shapes=True) as profiler:
        call()
    spent = {"convolution": 0.0, "resampling": 0.0, "rest": 0.0}
    for event in profiler.key_averages(group_by_input_shape=True):
        own = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        kind = "rest"
        if "conv" in event.key and event.key.startswith("aten::"):
            weight = event.input_shapes[2 if "backward" in event.key else 1]
            kind = "resampling" if len(weight) == 4 and weight[0] > 1 and weight[1] == 1 else "convolution"
        spent[kind] += own
    total = sum(spent.values())
    return {kind: own / total for kind, own in spent.items()}


def create(name: str, device: torch.device) -> tuple[Generator, Tensor]:
    """A generator, and a batch to train it on."""
    torch.manual_seed(0)
    model = generators.create(name, CHANNELS, SIZE, **CONFIG.get(name, {})).to(device)
    return model, torch.rand(BATCH, CHANNELS, SIZE, SIZE, device=device) * 2 - 1


def step_time(model: Generator, images: Tensor, measure: Callable[[Callable[[], object]], float]) -> float:
    """Seconds of a training step, lazy regularizers at their share; path length's is due twice as often as R1's."""
    ordinary, half_interval, regularized = (
        measure(lambda step=step: model.train_step(images, BATCH * step))
        for step in (INTERVAL + 1, INTERVAL // 2, INTERVAL)
    )
    return ordinary + (half_interval + regularized - 2 * ordinary) / INTERVAL


def report(name: str, repeats: int, device: torch.device, peak: float) -> None:
    model, images = create(name, device)

    def ordinary() -> None:
        model.train_step(images, BATCH * (INTERVAL + 1))

    def sample() -> None:
        model.sample(range(BATCH))

    step = step_time(model, images, lambda call: seconds(call, repeats, device))
    sampling = seconds(sample, repeats, device)
    for label, call, duration in (("training", ordinary, step), ("sampling", sample, sampling)):
        with FlopCounterMode(display=False) as counter:
            call()
        shares = breakdown(call, device)
        print(
            f"{name:<16} {label:<9} {BATCH / duration:8.2f}   "
            + "  ".join(f"{shares[kind]:11.0%}" for kind in ("convolution", "resampling", "rest"))
            + f"  {counter.get_total_flops() / BATCH / 1e9:12.1f}"
            + f"  {counter.get_total_flops() / duration / peak:7.0%}",
            flush=True,
        )


def compare(names: list[str], repeats: int, device: torch.device) -> None:
    """Prints the median of each generator's training time over that of StyleGAN2's step beside it."""
    made = {name: create(name, device) for name in ("stylegan2", *names)}
    times = [
        {name: step_time(model, images, lambda call: wall_time(call, device)) for name, (model, images) in made.items()}
        for _ in range(repeats + 1)
    ]
    for name in names:
        ratio = statistics.median(turn[name] / turn["stylegan2"] for turn in times[1:])
        print(f"{name:<16} training time over StyleGAN2's: {ratio:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=generators.names(), metavar="NAME")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    peak = matmul_peak(arguments.repeats, arguments.device)
    print(
        f"torch {torch.__version__}, {arguments.device}, {arguments.threads} threads; {SIZE}×{SIZE}×{CHANNELS}, ",
        end="",
    )
    print(f"batch {BATCH}, fp32; matrix product {peak / 1e9:.0f} GFLOP/s")
    print(f"{'generator':<16} {'':<9} images/s   convolution   resampling         rest  GFLOP/image  of peak")
    for name in arguments.names:
        report(name, arguments.repeats, arguments.device, peak)
    compare([name for name in arguments.names if name in GROWING], arguments.repeats, arguments.device)


if __name__ == "__main__":
    if sys.platform == "linux" and not ALLOCATOR.keys() & os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    main()
