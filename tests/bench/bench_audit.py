"""Speed of the memorization audit: the exhaustive search against this machine's own matrix-multiply peak, in one run,
and the re-scoring. `python tests/bench/bench_audit.py [--size 64] [--device cpu]`; two threads on a CPU."""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from analysis import neighbours


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Best wall time of a few repeats, after one for warming up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="height and width of the slices [px]")
    parser.add_argument("--queries", type=int, default=1024)
    parser.add_argument("--references", type=int, default=2048)
    parser.add_argument("--per-subject", type=int, default=64, help="reference slices of one subject")
    parser.add_argument("--memory-gib", type=float, default=2.0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(2)
    device = torch.device(options.device)

    n = 2048 if device.type == "cpu" else 8192
    a, b = torch.randn(2, n, n, device=device)
    peak = 2 * n**3 / seconds(lambda: a @ b, device)

    rng = np.random.default_rng(0)
    shape = (4, options.size, options.size)
    queries = rng.integers(0, 256, (options.queries, *shape), np.uint8)
    references = rng.integers(0, 256, (options.references, *shape), np.uint8)
    kept = min(neighbours.CANDIDATES + options.per_subject, len(references))  # enough to leave any subject out
    plan = neighbours.Plan.of(shape, options.memory_gib, kept=kept)

    def search() -> None:
        for start in range(0, len(queries), plan.queries):
            chunk = queries[start : start + plan.queries]
            neighbours._search(chunk, references, kept, plan.references, device, False)

    # 4 modalities and a mask; sums and differences over half the slice: both orientations for the arithmetic of one
    arithmetic = 2 * len(queries) * len(references) * 5 * options.size**2
    duration = seconds(search, device)
    print(f"matrix multiply, float32, {n}³: {peak / 1e9:.0f} GFLOP/s")
    print(
        f"exhaustive search, {len(queries)} × {len(references)} slices of {options.size} px: {duration:.2f} s, "
        f"{arithmetic / duration / 1e9:.0f} GFLOP/s = {arithmetic / duration / peak:.0%} of it; "
        f"{2 * len(queries) * len(references) / duration / 1e6:.2f} million comparisons/s"
    )

    few = queries[:16]
    rows = np.sort(rng.integers(0, len(references), (len(few), 2 * neighbours.CANDIDATES)), 1)

    def rescore() -> None:
        for start in range(0, len(few), plan.rescored):
            part = slice(start, start + plan.rescored)
            neighbours._rescore(few[part], references, rows[part], neighbours.CANDIDATES, neighbours.MAX_SHIFT, device)

    print(f"re-scoring: {2 * seconds(rescore, device) / len(few) * 1e3:.0f} ms a slice, nearest and second subject")


if __name__ == "__main__":
    main()
