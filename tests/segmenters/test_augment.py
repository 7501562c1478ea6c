import numpy as np
import pytest
import torch
from scipy import ndimage

from segmenters import augment as module
from segmenters.augment import adjust_gamma, augment, blur, lower_resolution, warp


def _discs(batch: int, size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels of nested off-centre discs of class 1, 2, 3 in a head, and images that are functions of the label."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    distance = ((y - 0.42 * size) ** 2 + (x - 0.58 * size) ** 2).sqrt() / size
    labels = (distance < 0.25).long() + (distance < 0.17).long() + (distance < 0.09).long()
    head = ((y - size / 2) ** 2 + (x - size / 2) ** 2).sqrt() < 0.47 * size
    images = torch.stack([(labels + 1.0) * head, (4.0 - labels) * head, (labels * 2.0 + 1) * head, head.float()])
    return images.expand(batch, -1, -1, -1).clone(), labels.expand(batch, -1, -1).clone()


def _smooth(size: int = 64) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((size, size))
    image = ndimage.gaussian_filter(noise, 4)
    return (image / image.std()).astype(np.float32)


def _planes(*planes: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(planes).astype(np.float32))


def test_labels_follow_images():
    images, labels = _discs(32)
    torch.manual_seed(0)
    warped, warped_labels = warp(
        images, labels, torch.linspace(-30, 30, 32), 1 + 0.1 * torch.linspace(-1, 1, 64).view(32, 2)
    )
    head = warped[:, 3] > 0.99
    read_from_image = (warped[:, 0] - 1).round().long()
    assert (read_from_image == warped_labels)[head].float().mean() > 0.97  # all but pixels on borders of classes
    assert (warped_labels != labels).any()


def test_augmented_labels_follow_augmented_images():
    images, labels = _discs(64)
    torch.manual_seed(1)
    augmented, augmented_labels = augment(images, labels)
    for image, label in zip(augmented, augmented_labels, strict=True):  # whatever was drawn, classes stay apart
        means = [image[0][label == k].mean() for k in (1, 2, 3)]
        assert means[0] < means[1] < means[2]
    assert not torch.equal(augmented_labels, labels)


def test_identity_when_nothing_is_drawn(monkeypatch):
    images, labels = _discs(4)
    monkeypatch.setattr(module.torch, "rand", torch.ones)  # every draw at its upper end, so no probability is met
    augmented, augmented_labels = augment(images, labels)
    assert torch.equal(augmented, images)
    assert torch.equal(augmented_labels, labels)


def test_types_values_and_arguments_are_kept():
    images, labels = _discs(16)
    before = images.clone(), labels.clone()
    torch.manual_seed(2)
    augmented, augmented_labels = augment(images, labels)
    assert augmented.shape == images.shape
    assert augmented.dtype == torch.float32
    assert augmented_labels.dtype == torch.int64
    assert set(augmented_labels.unique().tolist()) <= {0, 1, 2, 3}
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])


def test_a_seed_gives_one_result():
    images, labels = _discs(8)
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(augment(images, labels))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], results[2][0])


def test_draws_differ_between_images_and_their_rates_are_those_of_the_study():
    images, labels = _discs(400, size=16)
    angles, scales = [], []

    def record(images, labels, angle, scale):
        angles.append(angle)
        scales.append(scale)
        return images, labels

    torch.manual_seed(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "warp", record)
        augmented, augmented_labels = augment(images, labels)
    angle, scale = angles[0], scales[0]
    assert (angle != 0).float().mean() == pytest.approx(0.75, abs=0.08)
    assert (scale != 1).any(1).float().mean() == pytest.approx(0.75, abs=0.08)
    assert angle.abs().max() <= 30
    assert ((scale >= 0.9) & (scale <= 1.1)).all()
    assert (scale[:, 0] != scale[:, 1]).any()
    # with the geometry held still, what changed is intensity: 1 − 0.85 · 0.9 · 0.875 · 0.85 of the planes
    changed = (augmented != images).flatten(2).any(2).float().mean(0)
    assert changed[:3].numpy() == pytest.approx(0.43, abs=0.1)
    assert torch.equal(augmented_labels, labels)


def test_empty_images_stay_finite_and_empty():
    torch.manual_seed(6)
    augmented, labels = augment(torch.zeros(32, 4, 16, 16), torch.zeros(32, 16, 16, dtype=torch.int64))
    assert torch.equal(augmented, torch.zeros(32, 4, 16, 16))
    assert not labels.any()


@pytest.mark.parametrize("angle", [-30.0, 10.0, 25.0])
def test_rotation_agrees_with_scipy(angle):
    image = _smooth()
    images = torch.from_numpy(image).expand(1, 4, -1, -1)
    labels = torch.zeros(1, 64, 64, dtype=torch.int64)
    ours, _ = warp(images, labels, torch.tensor([angle]), torch.ones(1, 2))
    theirs = ndimage.rotate(image, angle, reshape=False, order=1)
    assert ours[0, 0, 12:-12, 12:-12].numpy() == pytest.approx(theirs[12:-12, 12:-12], abs=1e-3)


def test_scale_agrees_with_scipy():
    image = _smooth()
    images = torch.from_numpy(image).expand(1, 4, -1, -1)
    labels = torch.zeros(1, 64, 64, dtype=torch.int64)
    ours, _ = warp(images, labels, torch.zeros(1), torch.tensor([[1.1, 0.9]]))  # wider in x, flatter in y
    centre = 31.5
    inverse = np.array([1 / 0.9, 1 / 1.1])  # scipy's axes are (y, x)
    theirs = ndimage.affine_transform(image, inverse, offset=centre - inverse * centre, order=1)
    assert ours[0, 2, 12:-12, 12:-12].numpy() == pytest.approx(theirs[12:-12, 12:-12], abs=1e-3)


def test_blur_agrees_with_scipy():
    image = np.random.default_rng(1).standard_normal((32, 40)).astype(np.float32)
    ours = blur(_planes(image, image), torch.tensor([0.6, 1.4]).view(2, 1, 1))
    for result, sigma in zip(ours, (0.6, 1.4), strict=True):
        theirs = ndimage.gaussian_filter(image, sigma, mode="nearest", radius=5)
        assert result.numpy() == pytest.approx(theirs, abs=1e-5)


def test_low_resolution_keeps_smooth_images_and_removes_detail():
    fine = np.random.default_rng(2).standard_normal((64, 64))
    smooth = _smooth()
    zoom = torch.tensor([0.5, 0.5, 1.0]).view(3, 1, 1)
    low = lower_resolution(_planes(smooth, fine, fine), zoom).numpy()
    assert np.corrcoef(low[0].ravel(), smooth.ravel())[0, 1] > 0.97
    # at half resolution a quarter of the values is left: 32 × 32 of them explain the whole plane
    kept = np.linalg.matrix_rank(low[1], tol=1e-3)
    assert kept <= 32
    assert low[2] == pytest.approx(fine.astype(np.float32), abs=1e-3)


def test_low_resolution_is_neither_shifted_nor_cropped():
    ramp = np.tile(np.arange(64.0), (64, 1))
    low = lower_resolution(_planes(ramp, ramp.T), torch.tensor([0.5, 0.73]).view(2, 1, 1)).numpy()
    for result, original in zip(low, (ramp, ramp.T), strict=True):
        assert abs((result - original)[4:-4, 4:-4].mean()) < 0.6
        assert np.abs(result - original).max() < 2.5


def test_gamma_keeps_order_mean_and_deviation_inside_the_mask():
    image = _smooth()
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, 10:50, 12:60] = True
    plane = _planes(image)
    curved = adjust_gamma(plane, mask, torch.tensor([1.5]).view(1, 1, 1))
    before, after = plane[mask].numpy(), curved[mask].numpy()
    assert after.mean() == pytest.approx(before.mean(), abs=1e-4)
    assert after.std() == pytest.approx(before.std(), abs=1e-4)
    order = np.argsort(before)
    assert (np.diff(after[order]) >= -1e-5).all()
    # against numpy, up to the affine map that the two moments fix
    by_hand = ((before - before.min()) / np.ptp(before)) ** 1.5
    assert np.corrcoef(by_hand, after)[0, 1] == pytest.approx(1, abs=1e-6)
    assert torch.equal(curved[~mask], plane[~mask])
