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
from scipy import special

from analysis import crossed, ranks, statistics
from analysis.long_table import Scores

REGIONS = ("NCR", "ED", "ET", "WT", "TC", "mean")
GENERATORS = ("progressive_gan", "stylegan1", "stylegan2", "stylegan3", "diffusion")
# Model, subjects, seeds, and the standard deviation of a training's own level of Dice: 0.0075 is the order of the
# study's, 0.02 that of short trainings.
SIZES = ((56, 10), (56, 5), (56, 3), (56, 2), (20, 3), (10, 10), (10, 3), (6, 10))
DESIGNS = (
    *(("additive", *size, seed_sd) for seed_sd in (0.0075, 0.02) for size in SIZES),
    *(("harsh", *size, 0.02) for size in SIZES),
    *((model, 56, seeds, 0.0075) for model in ("own generators", "one generator") for seeds in (10, 3)),
)
ARM_SD, NOISE_SD = 0.05, 0.03  # patient × arm, patient × seed
Arms = tuple[np.ndarray, np.ndarray]


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
    functions = (statistics.ratios, statistics.paired_tests, ranks.ranks, ranks.rank_tests)
    total, rows = 0.0, dict.fromkeys(functions, 0)
    for _, part in table.groupby("cohort"):
        start = time.perf_counter()
        scores = Scores(part)
        for function in functions:
            rows[function] += len(function(scores))
        total += time.perf_counter() - start
    print(", ".join(f"{function.__name__} {count} rows" for function, count in rows.items()))
    print(f"{'full table':14s} {total:17.2f} s")


def additive(rng: np.random.Generator, ratio: float, n: int, seeds: int, seed_sd: float) -> Arms:
    """Dice [seeds, subjects] of an arm and of its reference; their means have this ratio: nothing is clipped."""
    patients = rng.beta(3.2, 1.2, n)  # mean 0.73, skewed to low Dice like patients with small tumours

    def arm(ratio: float) -> np.ndarray:
        own, level = rng.normal(0, ARM_SD, n), rng.normal(0, seed_sd, (seeds, 1))
        return ratio * patients + own + level + rng.normal(0, NOISE_SD, (seeds, n))

    return arm(ratio), arm(1.0)


def harsh(rng: np.random.Generator, offset: float, n: int, seeds: int, seed_sd: float) -> Arms:
    """Dice in 0..1: logistic, heavy-tailed trainings (t with 5 degrees of freedom), the arm's twice as variable as its
    reference's; 6 % of the arm's subjects (2 % of the reference's) lose a class in every seed, 3 % (1 %) in one."""
    patients = special.logit(rng.beta(3.2, 1.2, n).clip(0.02, 0.995))

    def arm(offset: float, sd: float, in_all: float, in_one: float) -> np.ndarray:
        level = rng.standard_t(5, (seeds, 1)) / np.sqrt(5 / 3) * sd / 0.15  # expit's slope is about 0.15
        own, noise = rng.normal(0, 0.3, n), rng.normal(0, 0.2, (seeds, n))
        dice = special.expit(patients + offset + own + level + noise)
        lost = (rng.random(n) < in_all) | (rng.random((seeds, n)) < in_one)
        return np.where(lost, dice * 2 / 3, dice)

    return arm(offset, 4 / 3 * seed_sd, 0.06, 0.03), arm(0.0, 2 / 3 * seed_sd, 0.02, 0.01)


def generators(rng: np.random.Generator, own: bool, ratio: float, n: int, seeds: int, seed_sd: float) -> Arms:
    """`additive`, where trainings of the arm's generator differ by 0.02: one for each seed, or one for all."""
    arm, real = additive(rng, ratio, n, seeds, seed_sd)
    return arm + rng.normal(0, 0.02, (seeds if own else 1, 1)), real


MODELS = {
    "additive": additive,
    "harsh": harsh,
    "own generators": lambda rng, *design: generators(rng, True, *design),
    "one generator": lambda rng, *design: generators(rng, False, *design),
}
HARSH_OFFSET = -0.35


def truth(model: str, seed_sd: float) -> float:
    """The ratio that the arm has over all trainings and patients."""
    if model != "harsh":
        return statistics.MARGINS[1]
    arm, real = zip(
        *(harsh(np.random.default_rng(i), HARSH_OFFSET, 1000, 50, seed_sd) for i in range(200)), strict=True
    )
    return np.mean(arm) / np.mean(real)


def trial(arguments: tuple) -> list[float]:
    """One simulated study: did the interval cover, and which tests of a true null came out significant."""
    index, expected, model, n, seeds, seed_sd = arguments
    rng = np.random.default_rng([index, n, seeds])
    estimate = crossed.ratio(*MODELS[model](rng, HARSH_OFFSET if model == "harsh" else expected, n, seeds, seed_sd))
    low, high = estimate.interval()
    equal = MODELS["additive" if model == "harsh" else model](rng, 1.0, n, seeds, seed_sd)
    return [
        low <= expected <= high,
        estimate.lower_bound() > expected,
        crossed.difference(*equal).p_differs() < statistics.ALPHA,
        statistics.wilcoxon((equal[0].mean(0) - equal[1].mean(0)).round(9)) < statistics.ALPHA,
    ]


def calibration(trials: int) -> None:
    """The rows of `analysis.calibration.CALIBRATION`, in per cent."""
    print(f"{trials} trials; standard error {100 * np.sqrt(0.05 * 0.95 / trials):.2f} points")
    with Pool() as pool:
        for design in DESIGNS:
            expected = truth(design[0], design[-1])
            rates = np.mean(pool.map(trial, [(i, expected, *design) for i in range(trials)], chunksize=50), axis=0)
            numbers = ", ".join(f"{100 * rate:.1f}" for rate in rates)
            print(f'        ("{design[0]}", {", ".join(map(str, design[1:]))}, {numbers}),', flush=True)


if __name__ == "__main__":
    if sys.argv[1:] in ([], ["speed"]):
        speed()
    elif sys.argv[1:2] == ["calibration"]:
        calibration(int(sys.argv[2]) if len(sys.argv) > 2 else 4_000)
    else:
        sys.exit(__doc__)
