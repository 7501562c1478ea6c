import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from generators import logistic
from generators.adversarial import GANConfig
from generators.augmentation import (
    SYMLET,
    AdaptiveAugmentation,
    centred,
    mirror,
    random_intensity,
    random_transforms,
    rotation,
    scaling,
    small_affine,
    small_transforms,
    translation,
    warp,
    warp_annotated,
)
from generators.discriminator import Discriminator


def smooth(size: int, channels: int = 1) -> torch.Tensor:
    """Images [2, channels, size, size] of blurred noise, level at the borders as around a brain."""
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.standard_normal((2, channels, size, size)), (0, 0, 2, 2))
    window = np.hanning(size)
    return torch.from_numpy(4 * noise * np.outer(window, window) - 1).float()


def adaptive(**changes) -> AdaptiveAugmentation:
    return AdaptiveAugmentation(**{"target": 0.6, "images": 1000, "quarter_turns": False} | changes)


def follow(augmentation: AdaptiveAugmentation, positive: int, steps: int) -> list[float]:
    """p over steps with batches of ten real logits, `positive` of them above zero."""
    logits = torch.tensor([2.0] * positive + [-0.5] * (10 - positive))
    history = []
    for step in range(steps):
        augmentation.update(logits, seen=10 * step)
        history.append(augmentation.p)
    return history


def test_mirror_flips_left_right_or_leaves_alone():
    torch.manual_seed(0)
    images = torch.randn(64, 2, 3, 4)
    flipped = 0
    for before, after in zip(images, mirror(images), strict=True):
        flipped += torch.equal(after, before.flip(2))
        assert torch.equal(after, before) or torch.equal(after, before.flip(2))
    assert 16 < flipped < 48


CODES = torch.tensor([0, 51, 102, 204]) / 127.5 - 1  # background, NCR, ED, ET in the range of images


def test_small_transforms_are_small():
    torch.manual_seed(0)
    matrices = small_transforms(5000).double()
    scale = torch.linalg.det(matrices).sqrt()
    angle = torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0]).rad2deg()
    moved = torch.linalg.solve(matrices[:, :2, :2], matrices[:, :2, 2:]).flatten()
    for values, low, high in ((scale, 1 / 1.05, 1.05), (angle, -5, 5), (moved, -0.03, 0.03)):
        assert low - 1e-6 <= values.min() < low + 0.02 * (high - low)
        assert high + 1e-6 >= values.max() > high - 0.02 * (high - low)
    turned = rotation(angle.deg2rad()) * scale[:, None, None]  # neither sheared nor mirrored
    torch.testing.assert_close(matrices[:, :2, :2], turned[:, :2, :2])


def test_annotated_warp_is_scipys_linear_in_images_and_nearest_in_the_annotation():
    torch.manual_seed(0)
    images = (smooth(32, 4) + 1).square()
    annotation = CODES[torch.randint(4, (2, 1, 32, 32))]
    images = torch.cat([1.5 * images / images.max() - 1, annotation, annotation.flip(2), annotation.flip(3)], 1)
    transforms = small_transforms(2)
    out = warp_annotated(images, transforms)
    assert set(out[:, 4:].unique().tolist()) == set(CODES.tolist())
    for before, after, transform in zip(images.numpy(), out.numpy(), transforms.double().numpy(), strict=True):
        (xx, xy, x), (yx, yy, y) = transform[:2]
        matrix, move = np.array([[yy, yx], [xy, xx]]), 32 * np.array([y, x])  # scipy's axes are (y, x), in pixels
        offset = 15.5 - matrix @ [15.5, 15.5] + move
        for channel in range(4):
            expected = ndimage.affine_transform(before[channel], matrix, offset, order=3, cval=-1)
            np.testing.assert_allclose(after[channel], expected, atol=0.03)
        for plane in range(4, 7):
            expected = ndimage.affine_transform(before[plane], matrix, offset, order=0, mode="grid-constant", cval=-1)
            assert (after[plane] == expected).mean() > 0.99  # but for points half-way between two pixels
        assert (after[4] == before[4]).mean() < 0.9


def test_small_affine_leaves_the_rest_of_the_images_alone():
    torch.manual_seed(0)
    images = torch.rand(400, 5, 8, 8) * 2 - 1
    alone = (small_affine(images, 0.3) == images).flatten(1).all(1)
    assert alone.float().mean().item() == pytest.approx(0.7, abs=0.07)
    assert torch.equal(small_affine(images, 0.0), images)
    assert small_affine(images, 1.0).abs().max() <= 1


def test_p_rises_above_the_target_and_falls_below_it():
    augmentation = adaptive()
    assert follow(augmentation, 9, 41)[-1] == pytest.approx(0.41)  # r_t = 0.8
    assert follow(augmentation, 7, 21)[-1] == pytest.approx(0.41 - 0.21)  # r_t = 0.4


def test_p_stays_within_0_and_1():
    augmentation = adaptive()
    rising = follow(augmentation, 10, 120)
    assert max(rising) == rising[-1] == 1
    assert rising[96] == pytest.approx(0.97)  # from 0 to 1 in 1000 images
    falling = follow(augmentation, 0, 120)
    assert min(falling) == falling[-1] == 0


def test_p_follows_the_mean_sign_over_four_batches():
    augmentation = adaptive()
    assert follow(augmentation, 10, 9) == pytest.approx([0.01] * 4 + [0.05] * 4 + [0.09])
    augmentation, high, low = adaptive(), torch.ones(10), torch.tensor([0.1] * 5 + [-9.0] * 5)
    for step, logits in enumerate((low, high, high, low, high)):  # r_t of the last four is 3/4; their mean logit is < 0
        augmentation.update(logits, seen=10 * step)
    assert augmentation.p == pytest.approx(0.04)  # down from 0 to 0 at the first, up by four batches


def test_state_resumes_between_two_adjustments():
    whole, other = adaptive(), adaptive()
    follow(whole, 9, 7)
    other.load_state_dict(whole.state_dict())
    for augmentation in (whole, other):
        augmentation.update(-torch.ones(10), seen=70)
        augmentation.update(-torch.ones(10), seen=80)
    assert whole.p == other.p < 0.05


def test_symlet_is_orthogonal_and_smooth():
    """Daubechies: unit norm, orthogonal to its even shifts, six vanishing moments of the high-pass."""
    h = SYMLET.double().numpy() * math.sqrt(2)
    for shift in range(6):
        assert h[2 * shift :] @ h[: 12 - 2 * shift] == pytest.approx(float(shift == 0), abs=1e-6)
    alternating = h * (-1.0) ** np.arange(12)
    for moment in range(6):
        assert alternating @ ((np.arange(12) - 5.5) / 5.5) ** moment == pytest.approx(0, abs=1e-6)


def test_nothing_happens_at_p_0():
    images = torch.randn(3, 5, 16, 16)
    assert adaptive()(images) is images
    torch.testing.assert_close(random_transforms(8, 16, 0.0, True), torch.eye(3).expand(8, 3, 3), atol=0, rtol=0)
    torch.testing.assert_close(random_intensity(images, 0.0), images, atol=0, rtol=0)
    torch.testing.assert_close(warp(images, torch.eye(3).expand(3, 3, 3)), images, atol=1e-4, rtol=0)


def test_whole_pixels_move_exactly():
    images = torch.rand(2, 5, 16, 16) * 2 - 1
    moved = warp(images, translation(torch.tensor([3 / 16, 0.0]), torch.tensor([0.0, -2 / 16])))
    torch.testing.assert_close(moved[0, :, :, :13], images[0, :, :, 3:], atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[1, :, 2:], images[1, :, :14], atol=1e-4, rtol=0)
    assert (moved[0, :, :, -1] + 1).abs().max() < 0.2  # background comes in


@pytest.mark.parametrize(
    "transform",
    [
        rotation(torch.tensor([0.5])),
        scaling(torch.tensor([-1.0]), torch.tensor([1.0])),
        scaling(torch.tensor([1.2]), torch.tensor([0.9])) @ translation(torch.tensor([0.05]), torch.tensor([-0.11])),
    ],
    ids=["turn", "flip", "scale and move"],
)
def test_warp_is_scipys_affine_transform(transform):
    images = smooth(32)
    (xx, xy, x), (yx, yy, y) = transform[0, :2].double().numpy()
    matrix, move = np.array([[yy, yx], [xy, xx]]), 32 * np.array([y, x])  # scipy's axes are (y, x), in pixels
    offset = 15.5 - matrix @ [15.5, 15.5] + move
    for before, after in zip(images, warp(images, transform.expand(2, 3, 3)), strict=True):
        expected = ndimage.affine_transform(before[0].numpy(), matrix, offset, order=3, cval=-1)
        np.testing.assert_allclose(after[0], expected, atol=0.03)
    assert np.ptp(images.numpy()) > 1


def test_transforms_have_the_papers_distributions():
    torch.manual_seed(0)
    p, matrices = 0.4, random_transforms(20_000, 64, 0.4, False).double()
    determinant = torch.linalg.det(matrices)
    assert (determinant < 0).double().mean().item() == pytest.approx(p / 2, abs=0.01)  # flipped
    scale = determinant.abs().sqrt().log()
    scaled = scale.abs() > 1e-5
    assert scaled.double().mean().item() == pytest.approx(p, abs=0.015)
    assert scale[scaled].std().item() == pytest.approx(0.2 * math.log(2), rel=0.03)
    turned = (matrices[:, 0, 1].abs() > 1e-5) | (matrices[:, 1, 0].abs() > 1e-5)
    assert turned.double().mean().item() == pytest.approx(p, abs=0.015)
    moved = (matrices[:, :2, 2].abs() > 1e-6).any(1)
    assert moved.double().mean().item() == pytest.approx(1 - (1 - p) ** 2, abs=0.015)
    only_moved = 64 * matrices[~scaled & ~turned, :2, 2]  # pixels
    whole = (only_moved - only_moved.round()).abs().amax(1) < 1e-4
    assert whole.double().mean().item() == pytest.approx(1 - p, abs=0.02)
    assert only_moved[whole].abs().max() == 8
    quarters = random_transforms(20_000, 64, p, True)
    turned = (quarters[:, :2, :2].diagonal(dim1=1, dim2=2).abs() < 1e-5).all(1)
    still = (1 - math.sqrt(1 - p), p / 2)  # not turned freely, by a quarter or three
    assert turned.double().mean().item() == pytest.approx((1 - still[0]) ** 2 * still[1], abs=0.015)


def test_brightness_and_contrast_leave_the_annotation_alone():
    torch.manual_seed(0)
    images = torch.rand(4000, 7, 2, 2) * 2 - 1
    changed = random_intensity(images, 0.5)
    assert torch.equal(changed[:, 4:], images[:, 4:])
    factor = (changed[:, :4].amax((1, 2, 3)) - changed[:, :4].amin((1, 2, 3))) / (
        images[:, :4].amax((1, 2, 3)) - images[:, :4].amin((1, 2, 3))
    )
    offset = (changed[:, :4] / factor[:, None, None, None] - images[:, :4]).mean((1, 2, 3))
    for values, deviation in ((factor.log(), 0.5 * math.log(2)), (offset, 0.2)):
        acted = values.abs() > 1e-5
        assert acted.float().mean().item() == pytest.approx(0.5, abs=0.03)
        assert values[acted].std().item() == pytest.approx(deviation, rel=0.05)


def test_annotation_moves_with_the_image():
    """Modalities made from the annotation are still, up to brightness and contrast, made from it."""
    torch.manual_seed(0)
    label = smooth(32).repeat(8, 1, 1, 1)
    augmentation = adaptive(quarter_turns=True)
    augmentation.p = 0.9
    out = augmentation(label.expand(-1, 5, -1, -1))
    assert (out[:, 4:] - label).abs().amax((1, 2, 3)).gt(0.2).sum() > 10
    for image in out:
        assert np.corrcoef(image.flatten(1)).min() > 0.9999


@pytest.mark.parametrize("size", [4, 8])
def test_growing_gans_smallest_images_are_augmented(size):
    torch.manual_seed(0)
    images, augmentation = torch.rand(256, 7, size, size) * 2 - 1, adaptive(quarter_turns=True)
    augmentation.p = 1.0
    out = augmentation(images)
    assert out.shape == images.shape
    assert out.isfinite().all()
    assert (out != images).flatten(1).any(1).all()
    moved = warp(images, translation(torch.full((256,), 1 / size), torch.zeros(256)))
    torch.testing.assert_close(moved[:, :, :, :-1], images[:, :, :, 1:], atol=1e-4, rtol=0)
    pixels = random_transforms(20_000, size, 0.5, False)[:, :2, 2] * size
    assert (pixels.abs().amax(1) > 0.5).any()  # for whole pixels there is no room at 4 × 4, for fractions there is


def test_centred_scores_forget_their_constant():
    real, fake = torch.tensor([7.0, 9.0]), torch.tensor([1.0, 5.0])
    for constant in (0.0, -100.0):
        torch.testing.assert_close(centred(real + constant, fake + constant), torch.tensor([1.5, 3.5]))


def test_images_that_no_transformation_meets_stay_as_they_are():
    torch.manual_seed(0)
    images, augmentation = torch.rand(2000, 5, 8, 8) * 2 - 1, adaptive()
    augmentation.p = 0.05
    out = augmentation(images)[:, 4:]  # the annotation, which brightness and contrast leave alone
    still = (out == images[:, 4:]).flatten(1).all(1)
    # flip, whole pixels, scale, one of two rotations, stretch, fractional move; half the flips flip nothing, and at
    # 8 pixels 1 in 4 whole-pixel moves is one of none
    expected = (1 - 0.05 / 2) * (1 - 0.05 * 3 / 4) * (1 - 0.05) ** 4
    assert still.float().mean().item() == pytest.approx(expected, abs=0.03)


def test_augmentation_differentiates_twice():
    images = torch.randn(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    transform = rotation(torch.tensor([0.4])) @ translation(torch.tensor([0.06]), torch.tensor([0.1]))

    def squared(x):
        return warp(x, transform).square()

    assert torch.autograd.gradcheck(squared, images)
    assert torch.autograd.gradgradcheck(squared, images)


def test_r1_through_augmentation_equals_finite_differences():
    """∂R1/∂weight along a random direction, of the discriminator behind the augmentation, in float64."""
    torch.manual_seed(0)
    discriminator = Discriminator(5, 8, GANConfig(channel_base=32, channel_max=4)).double()
    discriminator.dtype = torch.float64
    images, augmentation = torch.randn(2, 5, 8, 8, dtype=torch.float64), adaptive()
    augmentation.p = 0.8
    parameters = list(discriminator.parameters())
    directions = [torch.randn_like(p) for p in parameters]

    def penalty(step):
        torch.manual_seed(1)
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p += step * d
        value = logistic.r1_penalty(lambda x: discriminator(augmentation(x)), images)
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p -= step * d
        return value

    gradients = torch.autograd.grad(penalty(0.0), parameters, allow_unused=True)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None)
    torch.testing.assert_close(slope, (penalty(1e-5) - penalty(-1e-5)) / 2e-5, rtol=1e-4, atol=0)
