import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

import generators
from generators.stylegan3 import Band, FourierFeatures, StyleGAN3Config, StyleGAN3Network, SynthesisLayer, blur, plan

CONFIG = StyleGAN3Config(z_dim=16, w_dim=16, channel_base=256, channel_max=16)


def network(variant: str) -> StyleGAN3Network:
    """A small untrained network for 32 × 32 pixels with settled magnitudes."""
    torch.manual_seed(0)
    made = StyleGAN3Network(2, 32, CONFIG.model_copy(update={"variant": variant})).eval().requires_grad_(False)
    made(torch.randn(8, 16), magnitude_decay=0.0)
    return made


def place(made: StyleGAN3Network, angle: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> None:
    """Turns by `angle` and moves by `shift` (x, y; canvas widths) the Fourier features, hence the whole image."""
    made.input.transform.bias.copy_(torch.tensor([math.cos(angle), math.sin(angle), *shift]))


def decibels(error: torch.Tensor) -> float:
    """Peak signal-to-noise ratio for images in [-1, 1] (2106.12423, EQ-T in Section 3)."""
    return 10 * math.log10(4 / error.square().mean())


def alias(layer: SynthesisLayer, source: Band, target: Band) -> None:
    """The careless layer: nearest-neighbour upsampling, then the nonlinearity at that rate, nothing filtered."""
    repeat = target.rate // source.rate
    excess = (source.size * repeat - target.size) // 2

    def pointwise(x):
        x = math.sqrt(2) * F.leaky_relu(x.repeat_interleave(repeat, 2).repeat_interleave(repeat, 3), 0.2)
        return x[:, :, excess : excess + target.size, excess : excess + target.size]

    layer.filtered_leaky_relu = pointwise


def eq_t(made: StyleGAN3Network) -> float:
    """EQ-T at integer translations up to 1/8 of the image: PSNR between moving the input and moving the output."""
    z, errors, edge = torch.randn(4, 16, generator=torch.Generator().manual_seed(1)), [], 4
    place(made)
    still = made(z)
    for x, y in ((1, 0), (0, -1), (3, 2), (-4, 4)):
        place(made, shift=(x / 32, y / 32))
        errors.append((made(z) - still.roll((y, x), (2, 3)))[:, :, edge:-edge, edge:-edge])
    return decibels(torch.stack(errors))


@pytest.mark.parametrize("variant", ["t", "r"])
def test_translation_equivariance(variant):
    """The paper's trained networks reach 60–66 dB; without its filters an untrained one is far below."""
    made = network(variant)
    assert eq_t(made) > 55
    bands = plan(CONFIG, 32)
    for layer, source, target in zip(made.layers, bands[:-1], bands[1:], strict=True):
        alias(layer, source, target)
    assert eq_t(made) < 45


def eq_r(made: StyleGAN3Network, degrees: float) -> float:
    """EQ-R at one angle: PSNR between turning the input and turning the output, on the disc that both see."""
    z = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    place(made)
    still = made(z).numpy()
    place(made, angle=math.radians(degrees))
    turned = made(z).numpy()
    expected = ndimage.rotate(still, -degrees, axes=(2, 3), reshape=False, order=5)
    y, x = np.indices(still.shape[2:]) - (still.shape[2] - 1) / 2
    disc = np.hypot(x, y) < still.shape[2] / 2 - 4
    return decibels(torch.from_numpy(turned - expected)[:, :, disc])


@pytest.mark.parametrize("degrees", [90, 30])
def test_rotation_equivariance_of_r_alone(degrees):
    assert eq_r(network("r"), degrees) > 60
    assert eq_r(network("t"), degrees) < 40


@pytest.mark.parametrize(
    ("resolution", "base", "most", "parameters"), [(256, 16384, 512, 23_320_573), (64, 2048, 64, 1_410_199)]
)
def test_generator_has_the_papers_size(resolution, base, most, parameters):
    made = StyleGAN3Network(5, resolution, StyleGAN3Config(channel_base=base, channel_max=most))
    assert sum(p.numel() for p in made.parameters()) == parameters


def test_plan_is_the_papers_at_1024_pixels():
    """2106.12423, Section 3.2 "Flexible layers": end points, geometric growth, rates, sizes, maps."""
    bands = plan(StyleGAN3Config(channel_base=32768), 1024)
    assert [band.size for band in bands[1:]] == [36, 36, 52, 52, 84, 148, 148, 276, 276, 532, 1044, 1044, 1044, 1024]
    cutoffs = np.array([band.cutoff for band in bands[1:]])
    assert cutoffs[0] == 2
    np.testing.assert_allclose(cutoffs[12:], 512)
    np.testing.assert_allclose(np.diff(np.log2(cutoffs[:13])), 8 / 12)
    assert bands[1].half_width == pytest.approx(8 - 2)  # s/2 = 8 holds f_t = 2^2.1
    assert bands[-1].half_width == pytest.approx(512 * (2**0.3 - 1))
    assert [band.maps for band in bands[-3:]] == [51, 32, 32]  # 32768 / 2 f_c


def test_input_is_its_band_limited_waves_moved_and_turned():
    """Against the sum of plane waves, evaluated at R(−α)(x − t) with x in canvas widths from the middle."""
    torch.manual_seed(0)
    features = FourierFeatures(4, Band(cutoff=2, half_width=6, rate=16, size=20, maps=3)).double()
    assert features.frequencies.norm(dim=1).max() <= 2
    angle, shift = 0.7, np.array([0.1, -0.2])
    with torch.no_grad():
        features.transform.bias.copy_(
            3 * torch.tensor([math.cos(angle), math.sin(angle), *shift])
        )  # 3: normalized away
    out = features(torch.randn(1, 4).double()).detach().numpy()[0]
    frequencies, phases, weight = (t.detach().numpy() for t in (features.frequencies, features.phases, features.weight))
    for row, column in ((0, 0), (3, 17), (19, 8)):
        x = np.array([column - 9.5, row - 9.5]) / 16 - shift
        x = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) @ x
        waves = np.sin(2 * np.pi * (frequencies @ x + phases))
        np.testing.assert_allclose(out[:, row, column], weight @ waves / math.sqrt(3), atol=1e-6)


def test_magnitudes_follow_the_input_and_divide_it():
    made = network("t")
    z = torch.randn(8, 16)
    for layer in made.layers:
        layer.seen = []
        layer.register_forward_pre_hook(lambda module, args: module.seen.append(args[0]))
    made(z, magnitude_decay=0.0)
    for layer in made.layers:
        torch.testing.assert_close(layer.magnitude, layer.seen[0].square().mean())
    before = made.layers[3].magnitude.clone()
    made(2 * z)
    torch.testing.assert_close(made.layers[3].magnitude, before)
    made(torch.randn(8, 16), magnitude_decay=0.75)
    torch.testing.assert_close(made.layers[3].magnitude, 0.75 * before + 0.25 * made.layers[3].seen[-1].square().mean())

    layer, x, w = made.layers[3], torch.randn(2, 16, 36, 36), torch.randn(2, 16)
    expected = layer(x, w, None)
    layer.magnitude.mul_(9)
    torch.testing.assert_close(layer(3 * x, w, None), expected)


def test_nothing_is_random_but_z():
    """2106.12423, Section 3.1: the per-pixel noise inputs are gone."""
    made, z = network("t").train(), torch.randn(4, 16)
    images = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        images.append(made(z))
    assert torch.equal(*images)


def train(steps: int, batch: int = 4, p: float = 0.0, **config) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = generators.create("stylegan3", 5, 16, z_dim=8, w_dim=8, channel_base=64, channel_max=8, layers=4, **config)
    model.augmentation.p = p
    return [model.train_step(torch.rand(batch, 5, 16, 16) * 2 - 1, step * batch) for step in range(steps)]


def test_r1_is_computed_at_every_interval():
    assert ["r1" in losses for losses in train(7, r1_interval=3)] == [True, False, False, True, False, False, True]
    assert not any("r1" in losses for losses in train(2, r1_gamma=0))


def test_discriminator_sees_blurred_images_until_the_blur_has_faded():
    sharp, blurred = train(3), train(3, blur_sigma=8.0, blur_images=8)
    assert blurred[0]["score_real"] != sharp[0]["score_real"]
    sharp, blurred = train(1), train(1, blur_sigma=8.0)
    assert blurred[0]["r1"] < 0.5 * sharp[0]["r1"]  # the gradient at what is seen reaches the pixels through the blur


def test_r_starts_blurred_and_t_does_not():
    """Appendix F: σ = 10 pixels for configuration R, gone after 200,000 images."""
    r = StyleGAN3Config(variant="r")
    assert [r.sigma(seen) for seen in (0, 50_000, 200_000, 900_000)] == pytest.approx([10, 7.5, 0, 0])
    assert StyleGAN3Config(variant="t").sigma(0) == 0
    assert StyleGAN3Config(variant="r", blur_sigma=0).sigma(0) == 0
    assert StyleGAN3Config(variant="t", blur_sigma=3, blur_images=100).sigma(50) == 1.5


def test_the_discriminator_sees_augmented_images_of_both():
    plain, augmented = train(1, augmentation=False)[0], train(1, p=1.0)[0]
    for name in ("score_real", "score_fake", "loss_generator", "r1"):
        assert plain[name] != augmented[name]
    assert "ada_p" not in plain
    assert 0.999 < float(augmented["ada_p"]) < 1


def test_the_mean_of_w_follows_the_generators_step_alone():
    torch.manual_seed(0)
    model = generators.create("stylegan3", 5, 16, z_dim=8, w_dim=8, channel_base=64, channel_max=8, layers=4)
    network, styles = model.networks["generator"], []
    network.mapping.register_forward_hook(lambda module, args, w: styles.append(w.detach()))
    model.train_step(torch.rand(4, 5, 16, 16) * 2 - 1, 0)
    assert len(styles) == 2
    torch.testing.assert_close(network.mapping.mean, 0.002 * styles[0].mean(0))


def test_blur_is_gaussian():
    image = torch.randn(1, 1, 32, 32)
    expected = ndimage.gaussian_filter(image[0, 0].numpy(), 2.0, mode="constant", truncate=3.0)
    np.testing.assert_allclose(blur(image, 2.0)[0, 0], expected, atol=1e-5)
    assert blur(image, 0.05) is image


def test_truncation_to_zero_gives_one_image():
    torch.manual_seed(0)
    model = generators.create("stylegan3", 5, 16, z_dim=8, w_dim=8, channel_base=64, channel_max=8, truncation=0.0)
    first, second = model.sample([1, 2])
    torch.testing.assert_close(first, second)


def test_bf16_is_close_to_fp32():
    torch.manual_seed(0)
    images = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        model = generators.create(
            "stylegan3", 5, 16, z_dim=8, w_dim=8, channel_base=64, channel_max=8, precision=precision
        )
        model.train_step(torch.rand(4, 5, 16, 16), 0)
        torch.manual_seed(0)
        images.append(model.networks["generator"](torch.randn(2, 8)))
    assert not torch.equal(*images)
    torch.testing.assert_close(images[0], images[1], atol=0.1, rtol=0)


def test_impossible_resolution_is_refused():
    with pytest.raises(ValueError, match="not 48"):
        generators.create("stylegan3", 5, 48)
