"""How a set lies is told from its mean image: a cohort of the template's anatomy, turned each way by hand."""

import numpy as np
import pytest

from benchmark.data import phantom
from benchmark.data.foreign.likeness import AS_IS, backgrounds, mean_image, orientation
from benchmark.data.slices import SliceSet, SliceWriter
from benchmark.data.slicing import Frame

GRID = (60, 60, 40)  # as other tests have it: the atlas is made once for all
SIZE = 32
META = {"kind": "real", "cohort": "phantom", "simulated": True, "spacing": {}}

# What was done to slices [..., H, W], row by row and column by column.
DONE = {
    "upside down (turned by 180°)": lambda x: x[..., ::-1, ::-1],
    "upside down (flipped front to back)": lambda x: x[..., ::-1, :],
    "turned by 90° clockwise": lambda x: np.swapaxes(x, -1, -2)[..., ::-1],
    "turned by 90° anticlockwise": lambda x: np.swapaxes(x, -1, -2)[..., ::-1, :],
    "transposed": lambda x: np.swapaxes(x, -1, -2),
    "transposed along the other diagonal": lambda x: np.swapaxes(x[..., ::-1, ::-1], -1, -2),
}


@pytest.fixture(scope="module")
def subjects() -> list[np.ndarray]:
    """uint8 [12, 4, H, W] of each of ten phantom subjects: every slice with a brain of good size, in LPS."""
    found = []
    for number in range(1, 11):
        volumes = phantom.simulate_subject(number, 0, GRID)
        grey = np.stack([volumes[name] for name in ("t1", "t1ce", "t2", "flair")]).astype(float)
        grey = np.rint(255 * grey.clip(0) / grey.max((1, 2, 3), keepdims=True)).astype(np.uint8)
        found.append(np.moveaxis(grey, (0, 1, 2, 3), (1, 3, 2, 0))[8:32:2])
    return found


def means(subjects, chosen) -> np.ndarray:
    return np.concatenate([subjects[number] for number in chosen]).mean(0)


def test_the_phantom_lies_as_slices_do(subjects):
    """Guards the tests below: a nose is in front, where rows begin, or they would show nothing."""
    mean = means(subjects, range(10))
    rows = np.flatnonzero(mean[0].max(1) > 20)
    columns = np.flatnonzero(mean[0].max(0) > 20)
    assert len(rows) > len(columns)  # longer from front to back than wide


@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_set_as_it_is_never_warns(subjects, size):
    rng = np.random.default_rng(size)
    for _ in range(30):
        order = rng.permutation(10)
        found = orientation(means(subjects, order[:size]), means(subjects, order[size:]))
        assert found.name == AS_IS
        assert found.warning() is None
        assert found.turned == found.as_is > 0.9


@pytest.mark.parametrize("name", DONE)
def test_a_turned_set_is_told_with_its_turn(subjects, name):
    rng = np.random.default_rng(0)
    for _ in range(10):
        order = rng.permutation(10)
        found = orientation(DONE[name](means(subjects, order[:4])), means(subjects, order[4:]))
        # Heads are nearly symmetric: which of two mirror images it is can hardly be told.
        assert found.name.split(" (")[0].split(" by")[0].split(" along")[0] in (
            name.split(" (")[0].split(" by")[0].split(" along")[0],
            *(("turned", "transposed") if "90" in name or "transposed" in name else ()),
        )
        assert found.name != AS_IS
        assert found.turned > found.as_is
        assert f"seems to lie {found.name}" in found.warning()


@pytest.mark.parametrize("name", DONE)
def test_the_very_turn_is_named_where_sides_can_be_told(subjects, name):
    mean = means(subjects, range(10))
    assert orientation(DONE[name](mean), mean).name == name
    assert orientation(DONE[name](0.8 * mean + 10), mean).name == name  # scaled otherwise


def test_mirrored_is_said_only_where_it_is_clear(subjects):
    mean = means(subjects, range(10))
    assert orientation(mean[..., ::-1], mean).name == "left and right swapped"
    rng = np.random.default_rng(0)
    for _ in range(30):
        order = rng.permutation(10)
        found = orientation(means(subjects, order[:2])[..., ::-1], means(subjects, order[2:]))
        assert found.name in (AS_IS, "left and right swapped")  # never something else


def test_noise_and_blanks_are_not_turned(subjects):
    mean = means(subjects, range(10))
    for seed in range(20):
        noise = np.random.default_rng(seed).uniform(0, 255, mean.shape)
        assert orientation(noise, mean).name == AS_IS
    assert orientation(np.zeros_like(mean), mean).name == AS_IS
    assert orientation(mean, np.zeros_like(mean)).name == AS_IS


def test_backgrounds_that_are_not_black_are_told(subjects):
    mean = means(subjects, range(10))
    assert backgrounds(mean, mean) == []
    assert backgrounds(mean + 20, mean) == []
    assert backgrounds(mean + 127, mean + 120) == []
    grey = mean.copy()
    grey[2] = 127 + grey[2] / 2
    (text,) = backgrounds(grey, mean)
    assert text.startswith("the background of T2 is 127 of 255, in the cohort 0")


def test_the_mean_is_over_slices_with_enough_brain(tmp_path):
    images = np.zeros((3, 4, SIZE, SIZE), np.uint8)
    images[0, :, 8:24, 8:24] = 100  # a quarter of the slice
    images[1, :, 8:24, 8:24] = 200
    images[2, :, 8:10, 8:24] = 250  # 3 % of it
    with SliceWriter(tmp_path, SIZE, META) as writer:
        writer.append(images, images[:, 0] * 0, subject="a", z=0, split="train")
    opened = SliceSet.open(tmp_path)
    np.testing.assert_array_equal(mean_image(opened, np.arange(3), Frame(SIZE)), images[:2].mean(0))
    np.testing.assert_array_equal(mean_image(opened, np.array([2]), Frame(SIZE)), images[2])
