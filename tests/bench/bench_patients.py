"""How well anatomy tells that two scans are one person's, and what a split by scan hides, on the phantom.

PYTHONPATH=. .venv/bin/python tests/bench/bench_patients.py [PEOPLE]     # 400: 6 minutes on one core

Everybody is scanned twice; the second scan has another growth of the tumour ("grown": 0.6 to 2 times its place in the
range of volumes) or another tumour ("other"), and other contrast, coil, noise and skull stripping; it is turned by 1.5°
and moved by 1 mm (standard deviations, about and along each axis). "posed": people differ in pose and size, too, as
in scanner space; "aligned": only in shape, as on an atlas.
"""

import itertools
import sys
import time
from unittest import mock

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation
from threadpoolctl import threadpool_limits

from analysis.memorization import Reference
from benchmark.data import phantom, splits
from benchmark.data.anatomy import likeness, thumbnail
from benchmark.data.patients import look_alikes
from benchmark.data.slicing import Frame, centre, enough_brain, resize_images

GRID = (48, 48, 31)  # voxels of 5 mm
SPACING = (5.0, 5.0, 5.0)
SEED = 6
SIZE, NOISE = 32, 12  # px; of 255, added to the copies


class Still(np.random.Generator):
    """Draws no pose and no size."""

    def normal(self, mean=0, deviation=1, size=None):
        return np.zeros(np.shape(deviation) if size is None else size)


class Grown(np.random.Generator):
    """Draws the same tumour with another volume."""

    factor = 1.0

    def beta(self, a, b):
        return min(1.0, super().beta(a, b) * self.factor)


def scan(number: int, aligned: bool, second: str = "") -> np.ndarray:
    """Images uint8 [4, Z, H, W] of a person's first or second ("grown", "other", "same tumour") scan."""
    anatomy_rng, tumour_rng, scan_rng = np.random.default_rng([SEED, number]).spawn(3)
    later = np.random.default_rng([SEED, number, 77])
    moves = second in ("grown", "other")
    atlas = phantom._atlas(tuple(map(float, phantom.FIELD_OF_VIEW / GRID)))
    with mock.patch.object(phantom, "_field", stripped_by(later) if moves else phantom._field):
        anatomy = phantom._anatomy(Still(anatomy_rng.bit_generator) if aligned else anatomy_rng, GRID, atlas)
    if second == "grown":
        tumour_rng = Grown(tumour_rng.bit_generator)
        tumour_rng.factor = later.uniform(0.6, 2.0)
    if second == "other":
        tumour_rng = later.spawn(1)[0]
    if second:
        scan_rng = later.spawn(1)[0]
    tumour = phantom._tumour(tumour_rng, GRID, atlas, anatomy)
    volumes = phantom._scan(scan_rng, GRID, atlas, anatomy, tumour)
    images = np.stack([volumes[modality] for modality in phantom.MODALITIES]).astype(np.float32)
    if moves:
        images = moved(images, later)
    return np.rint(images * 255 / images.max((1, 2, 3), keepdims=True)).astype(np.uint8).transpose(0, 3, 2, 1)


def stripped_by(rng: np.random.Generator):
    """The phantom's smooth fields, of which the seventh of an anatomy says where skull stripping cuts: from `rng`."""
    field, calls = phantom._field, itertools.count(1)
    return lambda own, *settings: field(rng if next(calls) == 7 else own, *settings)


def moved(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """In another pose."""
    voxel, middle = phantom.FIELD_OF_VIEW / GRID, (np.array(GRID) - 1) / 2
    turn = Rotation.from_euler("xyz", rng.normal(0, 1.5, 3), degrees=True).as_matrix()
    matrix = np.diag(1 / voxel) @ turn @ np.diag(voxel)
    offset = middle - matrix @ middle + rng.normal(0, 1.0, 3) / voxel
    brain = ndimage.affine_transform((images[0] > 0).astype(np.float32), matrix, offset, order=1) > 0.5
    return np.stack([ndimage.affine_transform(image, matrix, offset, order=1) * brain for image in images])


def told_apart(people: int) -> None:
    for aligned in (False, True):
        first = [thumbnail(scan(number, aligned), SPACING) for number in range(1, people + 1)]
        for second in ("grown", "other"):
            again = [thumbnail(scan(number, aligned, second), SPACING) for number in range(1, people + 1)]
            names = [f"{number}{which}" for which in "ab" for number in range(people)]
            start = time.perf_counter()
            found = look_alikes(dict(zip(names, [*first, *again], strict=True)), dict(zip(names, names, strict=True)))
            seconds = time.perf_counter() - start
            true = sum(a[:-1] == b[:-1] for a, b, _ in found)
            alike = likeness([*first, *again])
            others = alike[np.triu_indices(2 * people, 1)][np.subtract(*np.triu_indices(2 * people, 1)[::-1]) != people]
            print(
                f"{'aligned' if aligned else 'posed'}, {second} tumour: {true / people:.1%} of {people} pairs found, "
                f"{len(found) - true} false among {len(others):,}; most alike of different people {others.max():.2f}; "
                f"{seconds:.1f} s",
                flush=True,
            )


def hidden(people: int) -> None:
    """Memorized share of a set of noisy copies of training patients, with scans or patients split."""
    slices, whose, scans = [], [], []
    rows, columns = Frame(SIZE).native(SPACING)
    for number in range(1, people + 1):
        for second in ("", "same tumour"):
            images = scan(number, False, second)
            z = np.flatnonzero(enough_brain(images[0], rows * columns))
            slices.append(resize_images(centre(images, z, rows, columns), SIZE))
            whose += [f"p{number}"] * len(z)
            scans += [f"p{number}{second}"] * len(z)
    images, whose, scans = np.concatenate(slices), np.array(whose), np.array(scans)
    for name, unit in (("scan", scans), ("patient", whose)):
        split = splits.assign(dict(zip(scans, unit, strict=True)), None, 0)
        trained = np.array([split[subject] == "train" for subject in scans])
        noise = np.random.default_rng(0).normal(0, NOISE, images[trained].shape)
        copies = np.where(images[trained] > 0, np.clip(images[trained] + noise, 1, 255), 0).astype(np.uint8)[::10]
        reference = Reference(images[trained], unit[trained], images[~trained], unit[~trained])
        print(f"split by {name}: {len(copies)} noisy copies, {reference.shares(copies)}", flush=True)


if __name__ == "__main__":
    with threadpool_limits(1):
        hidden(40)
        told_apart(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
