"""Which copies the audit finds, whom it accuses though nobody was copied, and what it costs: the calibration table.

PYTHONPATH=. .venv/bin/python tests/bench/bench_copies.py [--copies 100]     # 15 minutes on one core

Phantom of 64 px: 60 people to train on, 50 for the null, 50 strangers. Rates at τ95 / τ99 of `Reference`, which lays
slices one upon the other (memorized, and copied by the margin), and of the combined evidence of the audit. A copy is
found if it is above the threshold for the patient whose it is. The kinds under the line are no controls of the audit.
"""

import argparse
import time

import numpy as np
import torch
from scipy import ndimage

from analysis import sharpness
from analysis.memorization import MEASURE, SUBJECT, Finder, Slices
from analysis.planted import plant
from analysis.shares import LEVELS, resampled_interval
from benchmark.data import phantom, slicing

GRID, SIZE = (60, 60, 39), 64  # voxels of 4 mm are pixels as they are
PEOPLE = {"training": 60, "null": 50, "strangers": 50}


def person(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Slices uint8 [n, 4, 64, 64] with enough brain, and their annotation [n, 1, 64, 64]."""
    volumes = phantom.simulate_subject(number, 0, GRID)
    images = np.stack([volumes[name] for name in phantom.MODALITIES]).astype(np.float32)
    images = np.rint(255 * images / images.max((1, 2, 3), keepdims=True)).astype(np.uint8).transpose(0, 3, 2, 1)
    labels = np.where(volumes["seg"] == 4, 3, volumes["seg"]).astype(np.uint8).transpose(2, 1, 0)[None]
    z = np.flatnonzero(slicing.enough_brain(images[0], SIZE**2))
    return slicing.centre(images, z, SIZE, SIZE), slicing.centre(labels, z, SIZE, SIZE)


def cohort() -> dict[str, Slices]:
    parts, number = {}, 0
    for part, people in PEOPLE.items():
        found = {}
        for _ in range(people):
            number += 1
            found[f"{number}"] = person(number)
        subjects = np.repeat([*found], [len(images) for images, _ in found.values()])
        parts[part] = Slices(
            np.concatenate([images for images, _ in found.values()]), subjects,
            np.concatenate([labels for _, labels in found.values()]),
        )  # fmt: skip
    return parts


def unlisted(images: np.ndarray, strangers: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """More kinds of copies of slices uint8 [n, 4, 64, 64]."""
    x = images.astype(np.float32)
    brain = (x > 10).any(1, keepdims=True)
    field = ndimage.gaussian_filter(rng.normal(size=(len(x), 4, SIZE, SIZE)), (0, 0, 12, 12))
    black = np.where(np.arange(SIZE) < SIZE // 2, x, 0)
    box = x.copy()
    box[:, :, 24:40, 20:34] = 0
    two = strangers.astype(np.float32)
    two[:, [0, 3]] = x[:, [0, 3]]
    kinds = {
        "upside down": x[:, :, ::-1],
        "turned 30° and 10 % noise": ndimage.rotate(x, 30, (2, 3), reshape=False, order=1)
        + brain * rng.normal(0, 25, x.shape),
        "bias field": x * np.exp(field / field.std() * 0.3),
        "half of the resolution": x[:, :, ::2, ::2].repeat(2, 2).repeat(2, 3),
        "median of 3 × 3": ndimage.median_filter(x, (1, 1, 3, 3)),
        "sixteen grey levels, T1 and T2 swapped": (x // 16 * 16)[:, [2, 1, 0, 3]],
        "half, the rest black": black,
        "a hole of 16 × 14 px": box,
        "70 % of it, 30 % a stranger's": 0.7 * x + 0.3 * strangers,
        "T1 and FLAIR, the rest a stranger's": two,
    }
    return {kind: np.clip(np.rint(made), 0, 255).astype(np.uint8) for kind, made in kinds.items()}


def print_rates(kind: str, finder: Finder, found, names: np.ndarray) -> None:
    def rate(above: np.ndarray, question: str) -> float:
        return (above & (found[SUBJECT[question]].to_numpy()[:, None] == names).any(1)).mean()

    before = [rate(finder.reference.memorized(found, level), "memorized") for level in LEVELS]
    margin = [rate(finder.reference.copied(found, level), "memorized") for level in LEVELS]
    after = [rate(finder.above(found, "copied", level), "copied") for level in LEVELS]
    cells = [f"{100 * low:5.0f} / {100 * high:3.0f}" for low, high in (before, margin, after)]
    print(f"| {kind:44s} | {len(found):4d} | {' | '.join(cells)} |", flush=True)


def print_strangers(kind: str, finder: Finder, strangers: Slices, rng: np.random.Generator) -> None:
    found = finder.compare(strangers.images, strangers.labels, kind)
    for question, measure in MEASURE.items():
        for level, at in LEVELS.items():
            share = finder.above(found, question, level).mean()
            values, null = found[measure].to_numpy(), finder.null[measure].to_numpy()
            low, high = resampled_interval(values, strangers.subjects, null, finder.null["subject"].to_numpy(), at, rng)
            print(f"{kind}, {question} at {level}: {100 * share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copies", type=int, default=100, help="of each kind")
    parser.add_argument("--every", type=int, default=1, help="which slices of the null and of the strangers to take")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    training, null, strangers = cohort().values()
    null, strangers = (
        Slices(*(values[:: options.every] for values in (part.images, part.subjects, part.labels)))
        for part in (null, strangers)
    )
    finder = Finder(training, null, device="cpu")

    some = strangers.images[:64], strangers.labels[:64]
    start = time.process_time()
    finder.second.search(*some)
    print(f"second stage: {(time.process_time() - start) / 64 * 1e3:.0f} ms a slice of CPU time, one thread, "
          f"{len(training.images):,} training slices of {SIZE} px; null {len(finder.null):,} slices")  # fmt: skip

    with_tumour = np.flatnonzero((training.labels > 0).any((1, 2, 3)))
    rows = rng.permutation(with_tumour)[: options.copies]
    others = strangers.images[rng.permutation(len(strangers.images))[: len(rows)]]
    print("| kind | n | memorized, as they lie | copied, as they lie | copied, combined |")
    for kind, copies in plant(training.images, training.labels, training.subjects, rows, others, rng).items():
        print_rates(kind, finder, finder.compare(copies.images, copies.labels, kind), training.subjects[copies.rows])
    print("| --- |")
    for kind, images in unlisted(training.images[rows], others, rng).items():
        found = finder.compare(images, training.labels[rows], kind)
        print_rates(kind, finder, found, training.subjects[rows][:, None])

    print_strangers("strangers", finder, strangers, rng)
    blurred = ndimage.gaussian_filter(strangers.images.astype(np.float32), (0, 0, 1, 1)).round().astype(np.uint8)
    blurred = Slices(blurred, strangers.subjects, strangers.labels)
    smooth, gain = sharpness.matched(null.images, blurred.images)
    finder = Finder(training, Slices(smooth, null.subjects, null.labels), device="cpu")
    print_strangers("strangers blurred by 1 px, null as smooth", finder, blurred, rng)
    for kind, copies in plant(training.images, training.labels, training.subjects, rows, others, rng).items():
        if kind in ("exact", "turned 15°", "elastic, 3 px", "tumour in another brain"):
            found = finder.compare(sharpness.filtered(copies.images, gain), copies.labels, kind)
            print_rates(f"{kind}, as smooth", finder, found, training.subjects[copies.rows])


if __name__ == "__main__":
    main()
