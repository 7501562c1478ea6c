"""Cost of the fidelity measures, features and slices at hand; and whether an honest set beats the floor fairly often.
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
        pairs = fidelity.random_pairs(np.arange(len(images))[None], seed=0, count=64)
        levels = fidelity.scales(size)
        fidelity.ms_ssim(images, pairs[:8], levels)
        took = seconds(fidelity.ms_ssim, images, pairs, levels) * fidelity.PAIRS / len(pairs)
        print(f"ms_ssim, {fidelity.PAIRS} pairs of {size} px, four modalities: {took:.1f} s")

    print("\nHow often a set of new people beats the floor of held-out people, 12 slices each, in 200 cohorts [%]")
    print("| held-out people | by | Fréchet | kernel | precision | recall | density | coverage |\n|" + " --- |" * 8)
    for people in (6, 26, 56):
        beats = {how: pd.DataFrame([trial(rng, people, how) for _ in range(200)]) for how in ("people", "slices")}
        for how, table in beats.items():
            print(f"| {people} | {how} | {' | '.join(cell(table[name]) for name in table)} |")


def trial(rng: np.random.Generator, held_out: int, how: str) -> dict[str, float | None]:
    """Whether an honest set beats the floor in a cohort whose people differ twice as much as their slices: drawn one
    slice a person, or as many slices of each set as the held-out people have."""
    sets = [(1000, 1), (128, 12), (held_out, 12)]
    features = [
        np.repeat(rng.normal(size=(people, 8)), slices, 0) + rng.normal(0, 0.5, (people * slices, 8))
        for people, slices in sets
    ]
    if how == "people":
        whose = [np.repeat(np.arange(people), slices) for people, slices in sets]
        draws = fidelity.equal_draws(whose, 1000, int(rng.integers(2**31)), draws=20)
    else:
        draws = [rng.choice(len(each), 12 * held_out, replace=False)[None].repeat(2, 0) for each in features]
    result = fidelity.compare(*map(fidelity.Drawn, features, draws))
    values, floor, sign = result["values"], result["floor"], {"frechet": -1, "kernel": -1}
    return {
        name: None if value is None else float(np.heaviside(sign.get(name, 1) * (value - floor[name]), 0.5))
        for name, value in values.items()
    }


def cell(beats: pd.Series) -> str:
    return "–" if beats.isna().all() else f"{100 * beats.astype(float).mean():.0f}"


if __name__ == "__main__":
    main()
