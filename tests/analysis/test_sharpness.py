import numpy as np
import pytest
from scipy import ndimage

from analysis import sharpness


def test_a_gain_of_one_changes_nothing_and_a_gaussian_s_blurs(patients):
    images = patients(30, 3)[0]
    assert np.array_equal(sharpness.filtered(images, np.ones(sharpness.BANDS)), images)
    frequency = (np.arange(sharpness.BANDS) + 0.5) / (2 * sharpness.BANDS)
    gain = np.exp(-2 * np.pi**2 * frequency**2)  # of a Gaussian of 1 px
    blurred = ndimage.gaussian_filter(images.astype(float), (0, 0, 1, 1), mode="wrap")
    assert sharpness.filtered(images, gain) == pytest.approx(blurred, abs=4)


def test_within_is_black_outside_the_brains_and_as_smooth_inside(patients):
    images = patients(33, 3)[0]
    smooth = ndimage.gaussian_filter(images, (0, 0, 2, 2))
    made, brain = sharpness.within(smooth, images), np.broadcast_to((images > 10).any(1, keepdims=True), images.shape)
    assert (smooth[~brain] > 10).any()
    assert not made[~brain].any()
    assert np.array_equal(made[brain], smooth[brain])


def test_slices_become_as_smooth_as_the_model_and_never_sharper(patients):
    sharp, others = patients(31, 30)[0], patients(32, 30)[0]
    smooth = ndimage.gaussian_filter(others.astype(float), (0, 0, 1, 1)).astype(np.uint8)

    def detail(images):  # share of the variance that a blur takes away
        images = images.astype(float)
        return np.var(images - ndimage.gaussian_filter(images, (0, 0, 1.5, 1.5))) / np.var(images)

    made, gain = sharpness.matched(sharp, smooth)
    assert detail(sharp) > 2 * detail(smooth)
    assert detail(made) == pytest.approx(detail(smooth), rel=0.15)
    assert (np.diff(gain) <= 0).all()
    assert gain[-1] < 0.3
    back, gain = sharpness.matched(smooth, sharp)
    assert gain[:16] == pytest.approx(1, abs=0.1)
    assert np.abs(back.astype(float) - smooth).mean() < 2
