"""How fast the study's full table is analysed, and whether its intervals and tests keep their promises.

python tests/bench/bench_statistics.py [speed]
python tests/bench/bench_statistics.py calibration [trials]
"""

import sys
import time
from itertools import product
from multiprocessing import Pool

import numpy as np
import pandas as pd
from scipy import stats

from analysis import statistics
from analysis.long_table import Scores

REGIONS = ("NCR", "ED", "ET", "WT", "TC", "mean")
GENERATORS = ("progressive_gan", "stylegan1", "stylegan2", "stylegan3", "diffusion")
# Subjects, seeds, and the standard deviation of a training's own level of Dice: 0.0075 is the order of the study's,
# 0.02 that of short trainings.
DESIGNS = (
    *((56, seeds, 0.0075) for seeds in (10, 5, 3, 1)),
    *((56, seeds, 0.02) for seeds in (10, 5, 3, 1)),
    *((20, seeds, 0.0075) for seeds in (10, 5, 3)),
    *((10, seeds, 0.0075) for seeds in (10, 3)),
    (6, 10, 0.0075),
)
ARM_SD, NOISE_SD = 0.05, 0.03  # patient × arm, patient × seed


def full_table(subjects: int = 56, seeds: int = 10) -> pd.DataFrame:
    """2 cohorts × 2 segmenters × (5 generators × 2 arms + real) × 2 augmentations × seeds × subjects × 6 regions."""
    rng = np.random.default_rng(0)
    arms = [("none", "real"), *product(GENERATORS, ("synthetic", "both"))]
    cells = pd.DataFrame(
        [
            (cohort, generator, arm, segmenter, augmentation, seed, f"subject{subject:03d}", region)
            for cohort, (generator, arm), segmenter, augmentation, seed, subject, region in product(
                ("brats2020", "brats2021"),
                arms,
                ("unet", "swin"),
                ("on", "off"),
                range(seeds),
                range(subjects),
                REGIONS,
            )
        ],
        columns=["cohort", "generator", "arm", "segmenter", "augmentation", "seed", "subject", "region"],
    )
    return cells.assign(real_subjects=1.0, synthetic_share=1.0, metric="dice", value=rng.beta(5, 2, len(cells)))


def speed() -> None:
    table = full_table()
    print(f"{len(table):,} Dice rows")
    functions = (statistics.ratios, statistics.paired_tests, statistics.ranks, statistics.rank_tests)
    total, rows = 0.0, dict.fromkeys(functions, 0)
    for _, part in table.groupby("cohort"):
        start = time.perf_counter()
        scores = Scores(part)
        for function in functions:
            rows[function] += len(function(scores))
        total += time.perf_counter() - start
    print(", ".join(f"{function.__name__} {count} rows" for function, count in rows.items()))
    print(f"{'full table':14s} {total:17.2f} s")


def matrix(rng: np.random.Generator, patients: np.ndarray, ratio: float, seeds: int, seed_sd: float) -> np.ndarray:
    """Dice [seeds, subjects] whose expectation over everything is ratio · E[patient], exactly: nothing is clipped."""
    n = len(patients)
    own = rng.normal(0, ARM_SD, n)
    level = rng.normal(0, seed_sd, (seeds, 1))
    return ratio * patients + own + level + rng.normal(0, NOISE_SD, (seeds, n))


def trial(arguments: tuple[int, int, int, float]) -> list[float]:
    """One simulated study: did the interval cover, and which tests of a true null came out significant."""
    index, n, seeds, seed_sd = arguments
    rng = np.random.default_rng([index, n, seeds])
    patients = rng.beta(3.2, 1.2, n)  # mean 0.73, skewed to low Dice like patients with small tumours
    margin = statistics.MARGINS[1]
    arm, real = (matrix(rng, patients, ratio, seeds, seed_sd) for ratio in (margin, 1.0))
    row = statistics._ratio(arm, real, 2_000, index)

    def wilcoxon(seed_sd: float) -> float:
        difference = np.subtract(*(matrix(rng, patients, 1.0, seeds, seed_sd).mean(0) for _ in range(2)))
        return statistics._paired_test(difference)["p"] < statistics.ALPHA

    def ranks(seed_sd: float) -> float:
        dice = [[matrix(rng, patients, 1.0, seeds, seed_sd).mean(0) for _ in range(3)] for _ in range(5)]
        rank = stats.rankdata(-np.round(dice, 9), axis=0)
        return statistics._sign_flip_p(rank[0].mean(0) - rank[1].mean(0), 2_000, index) < statistics.ALPHA

    return [
        row["low"] <= margin <= row["high"],
        row["lower_bound"] > margin,
        wilcoxon(0.0),
        wilcoxon(seed_sd),
        ranks(0.0),
        ranks(seed_sd),
    ]


def calibration(trials: int) -> None:
    """The rows of `analysis.statistics.CALIBRATION`, in per cent."""
    print(f"{trials} trials; standard error {100 * np.sqrt(0.05 * 0.95 / trials):.2f} points")
    print(", ".join(statistics.CALIBRATION.columns))
    with Pool() as pool:
        for design in DESIGNS:
            rates = np.mean(pool.map(trial, [(i, *design) for i in range(trials)], chunksize=50), axis=0)
            print(f"{(*design, *(round(100 * float(rate), 1) for rate in rates))},", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] in ([], ["speed"]):
        speed()
    elif sys.argv[1:2] == ["calibration"]:
        calibration(int(sys.argv[2]) if len(sys.argv) > 2 else 4_000)
    else:
        sys.exit(__doc__)
