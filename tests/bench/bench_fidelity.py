"""Cost of the fidelity measures, features and slices at hand; and the bias that makes equal numbers of samples a must.
`python tests/bench/bench_fidelity.py [--samples 10000] [--features 128]`; two threads."""

import argparse
import time

import numpy as np
import pandas as pd
import torch

from analysis import fidelity


def seconds(work, *arguments) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(2)
    rng = np.random.default_rng(0)

    a, b = rng.normal(size=(2, options.samples, options.features)).astype(np.float32)
    measures = (fidelity.frechet_distance, fidelity.kernel_distance, fidelity.precision_recall_density_coverage)
    for measure in measures:
        print(f"{measure.__name__}, {len(a)} against {len(b)} × {options.features}: {seconds(measure, a, b):.2f} s")
    for size in (64, 256):
        images = rng.integers(0, 256, (128, 4, size, size), np.uint8)
        pairs = fidelity.random_pairs(np.arange(len(images)), seed=0, count=64)
        fidelity.ms_ssim(images, pairs[:8])
        took = seconds(fidelity.ms_ssim, images, pairs) * fidelity.PAIRS / len(pairs)
        print(f"ms_ssim, {fidelity.PAIRS} pairs of {size} px, four modalities: {took:.1f} s")

    print(f"\nTwo draws of one normal distribution of {options.features} features, 20 times")
    print("| samples | Fréchet | kernel | precision | recall | density | coverage |\n|" + " --- |" * 7)
    for samples in (options.features + 1, 500, 2000):
        draws = [rng.normal(size=(3, samples, options.features)) for _ in range(20)]
        table = pd.DataFrame([fidelity.compare(*draw)["values"] for draw in draws])
        cells = [f"{table[name].mean():.3g} ± {table[name].std():.1g}" for name in table]
        print(f"| {samples} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
