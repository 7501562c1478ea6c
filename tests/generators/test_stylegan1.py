"""StyleGAN against its paper; growth itself is tested with progressive GAN's."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

import generators
from generators.growth import up
from generators.logistic import discriminator_losses
from generators.stylegan1 import (
    StyleGAN1Config,
    StyleGAN1Discriminator,
    StyleGAN1Network,
    StyleLayer,
    adaptive_instance_norm,
)

TINY = {"z_dim": 8, "w_dim": 8, "mapping_layers": 2, "channel_base": 64, "channel_max": 8}


def network(resolution: int = 32, noise_gain: float = 0.0) -> StyleGAN1Network:
    torch.manual_seed(0)
    made = StyleGAN1Network(3, resolution, StyleGAN1Config(**TINY))
    for layer in made.layers:
        torch.nn.init.constant_(layer.noise_gain, noise_gain)
    return made


def small(**config):
    torch.manual_seed(0)
    return generators.create("stylegan1", 5, 16, **{**TINY, "stable_images": 8, "fade_images": 16, **config})


def test_generator_has_the_papers_size():
    """Caption of Figure 1: 26.2 M, of which one layer to images: that of 1024 pixels.

    8 · (512² + 512) mapping, 512 · 4² constant, and at each of two layers a level with C maps from C': 9 C C' (but for
    the constant's), C biases, C noise gains, 2 C (512 + 1) for the style; 3 · 16 + 3 to RGB.
    """
    generator = StyleGAN1Network(3, 1024, StyleGAN1Config())
    other = sum(p.numel() for layer in generator.to_image[:-1] for p in layer.parameters())
    parameters = sum(p.numel() for p in generator.parameters()) - other
    maps = [512] * 4 + [256, 128, 64, 32, 16]
    layers = [(None, 512), *((i, o) for a, b in itertools.pairwise(maps) for i, o in ((a, a), (a, b)))]
    layers.append((16, 16))
    each = [(9 * (i or 0) + 2 + 2 * 513) * o for i, o in layers]
    assert parameters == 8 * (512**2 + 512) + 512 * 16 + sum(each) + 51 == 26_212_019
    assert round(parameters / 1e5) == 262


def test_adain_gives_each_map_the_styles_mean_and_deviation():
    x, (scale, shift) = 5 + 3 * torch.randn(4, 6, 9, 7), torch.randn(2, 4, 6)
    out = adaptive_instance_norm(x, scale, shift)
    torch.testing.assert_close(out.mean((2, 3)), shift, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std((2, 3), correction=0), scale.abs(), atol=1e-5, rtol=0)


def test_a_layer_is_noise_bias_leaky_relu_adain():
    """Figure 1b, in numpy, for the layer on the constant and for one with a convolution."""
    torch.manual_seed(0)
    for inputs in (None, 4):
        layer = StyleLayer(5, inputs, 6, grow=False).requires_grad_(False)
        layer.noise_gain.normal_()
        layer.bias.normal_()
        x, w, noise = torch.randn(2, inputs or 6, 8, 8), torch.randn(2, 5), torch.randn(2, 1, 8, 8)
        expected = x if inputs is None else F.conv2d(x, layer.conv.weight / math.sqrt(9 * inputs), padding=1)
        expected = expected.numpy() + layer.noise_gain.numpy()[:, None, None] * noise.numpy()
        expected += layer.bias.numpy()[:, None, None]
        expected = np.where(expected > 0, expected, 0.2 * expected)
        expected -= expected.mean((2, 3), keepdims=True)
        expected /= expected.std((2, 3), keepdims=True)
        style = w.numpy() @ layer.style.weight.numpy().T / math.sqrt(5)
        scale, shift = 1 + style[:, :6], style[:, 6:]  # biases of y_s begin at one, of y_b at zero
        expected = scale[:, :, None, None] * expected + shift[:, :, None, None]
        np.testing.assert_allclose(layer(x, w, noise).numpy(), expected, atol=1e-4)


def test_upsampling_is_bilinear_inside(monkeypatch):
    """Filter and convolution commute but at the border: the layer filters afterwards, on fewer operations."""
    torch.manual_seed(0)
    layer, x, caught = StyleLayer(5, 4, 6, grow=True), torch.randn(2, 4, 8, 8), []
    layer.noise_gain.data.fill_(1)
    leaky = F.leaky_relu
    noise = torch.randn(2, 1, 16, 16)
    monkeypatch.setattr(F, "leaky_relu", lambda x, slope, inplace: caught.append(x) or leaky(x, slope))
    layer(x, torch.randn(2, 5), noise)
    larger = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    expected = F.conv2d(larger, layer.conv.weight.flip((2, 3)) / math.sqrt(36), padding=1)
    torch.testing.assert_close((caught[0] - noise)[:, :, 2:-2, 2:-2], expected[:, :, 2:-2, 2:-2], atol=1e-5, rtol=0)


def test_downsampling_is_filtered():
    block = StyleGAN1Discriminator(3, 16, StyleGAN1Config(**TINY)).blocks[0]
    x = torch.randn(2, 8, 8, 8)
    torch.nn.init.normal_(block.conv2.bias)
    filtered = block.conv1(x).detach().numpy()
    for axis in (2, 3):
        filtered = ndimage.correlate1d(filtered, [0.25, 0.5, 0.25], axis=axis, mode="constant")
    weight, bias = block.conv2.weight.detach() / math.sqrt(8 * 9), block.conv2.bias.detach().numpy()
    expected = F.conv2d(torch.from_numpy(filtered), weight, padding=1).numpy()
    expected = expected.reshape(2, -1, 4, 2, 4, 2).mean((3, 5)) + bias[:, None, None]
    expected = math.sqrt(2) * np.where(expected > 0, expected, 0.2 * expected)
    np.testing.assert_allclose(block(x).detach().numpy(), expected, atol=1e-6)


def test_growth_starts_at_8_pixels_and_fades():
    model = small()
    images = torch.rand(4, 5, 16, 16) * 2 - 1
    assert [float(model.train_step(images, seen)["level"]) for seen in (0, 8, 12, 24, 400)] == [3, 3, 3.25, 4, 4]

    made = network(noise_gain=0.3)
    level4, pixels = made.styles(torch.randn(2, 8), 4.0), made.noise_pixels(4.0)
    noise = torch.randn(2, sum(pixels))
    small_image = made(level4[:, :4], noise[:, : sum(pixels[:4])], 3.0)
    assert small_image.shape == (2, 3, 8, 8)
    large = made(level4, noise, 4.0)
    torch.testing.assert_close(made(level4, noise, 3.25), 0.75 * up(small_image) + 0.25 * large)
    assert torch.equal(made(level4, noise, 3 + 2.0**-40), up(small_image))


def test_mixing_takes_styles_from_two_latents():
    made = network().eval()
    z, plain = torch.randn(1000, 8), 0
    cuts = []
    for own, mixed in zip(made.mapping(z), made.styles(z, 5.0, mixing=0.9), strict=True):
        is_own = (mixed == own).all(1)
        cut = int(is_own.sum())
        assert is_own[:cut].all()  # its own w first, then the other
        assert (mixed[cut:] == mixed[-1]).all()
        cuts.append(cut)
        plain += cut == 8
    assert plain / 1000 == pytest.approx(0.1, abs=0.03)
    assert set(cuts) == set(range(1, 9))
    unmixed = made.styles(z, 5.0)
    assert torch.equal(unmixed, made.mapping(z)[:, None].expand(-1, 8, -1))


def test_training_mixes_styles():
    assert StyleGAN1Config().mixing == 0.9
    for share in (0.0, 1.0):
        model, styles = small(mixing=share), []
        model.networks["generator"].register_forward_pre_hook(
            lambda module, args, styles=styles: styles.append(args[0])
        )
        model.train_step(torch.rand(16, 5, 16, 16) * 2 - 1, 0)
        assert styles
        for w in styles:
            assert ((w[:, 0] != w[:, -1]).any(1) == bool(share)).all()


def test_truncation_moves_w_towards_its_running_mean():
    """Appendix B: w' = w̄ + ψ (w − w̄), w̄ = E w."""
    made = network()
    z = torch.randn(64, 8)
    w = made.styles(z, 3.0)
    for _ in range(2000):
        made.mapping.track(w[:, 0])
    mean = w[:, 0].mean(0)
    torch.testing.assert_close(made.mapping.mean, mean, atol=0.03, rtol=0)
    made.mapping.mean.copy_(mean)
    torch.testing.assert_close(made.styles(z, 3.0, truncation=0.7), mean + 0.7 * (w - mean))


def test_the_mean_of_w_follows_each_step_once():
    model, seen = small(mixing=1.0), []
    model.networks["generator"].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    expected = torch.zeros(8)
    for step in range(3):
        model.train_step(torch.rand(4, 5, 16, 16) * 2 - 1, 4 * step)
        expected = 0.995 * expected + 0.005 * seen[-1][:, 0].mean(0)
    assert len(seen) == 3
    torch.testing.assert_close(model.networks["generator"].mapping.mean, expected)


def test_truncation_to_zero_leaves_the_noise():
    model = small(truncation=0.0)
    first, second = model.sample([1, 2])
    torch.testing.assert_close(first, second)
    for layer in model.ema["generator"].layers:
        layer.noise_gain.fill_(1)
    first, second = model.sample([1, 2])
    assert (first - second).abs().max() > 0.1


def test_noise_belongs_to_the_seed():
    model = small()
    for layer in model.ema["generator"].layers:
        layer.noise_gain.fill_(1)
    model.ema["generator"].level.fill_(4)
    torch.testing.assert_close(model.sample([3, 4, 5])[1:], model.sample([4, 5]), atol=1e-5, rtol=0)
    caught = []
    model.ema["generator"].layers[0].register_forward_pre_hook(lambda module, args: caught.append(args))
    model.sample([4])
    model.ema["generator"].level.fill_(3)
    model.sample([4])
    assert torch.equal(caught[0][1], caught[1][1])  # w and noise stay as the network grows
    assert torch.equal(caught[0][2], caught[1][2])


def test_mapping_learns_at_a_hundredth_of_the_rate():
    """Appendix C: λ' = 0.01 λ. Adam's first step moves every stored weight by λ; what runs is scaled by 0.01."""
    model = small(learning_rate=0.01)
    mapping, style = model.networks["generator"].mapping.layers[0], model.networks["generator"].layers[0].style
    before = [(layer.weight * layer.weight_gain).detach().clone() for layer in (mapping, style)]
    model.train_step(torch.rand(4, 5, 16, 16) * 2 - 1, 0)
    moved = [
        (layer.weight * layer.weight_gain - b).abs().max() for layer, b in zip((mapping, style), before, strict=True)
    ]
    assert (moved[0] / moved[1]).item() == pytest.approx(0.01, rel=0.05)


def test_losses_are_logistic_with_r1():
    """Softplus of the logits + γ / 2 E ‖∇D(real)‖², for a critic that sums pixels: ‖∇D‖² is their number."""
    real, fake = torch.randn(2, 4, 5, 8, 8)

    def critic(x):
        return x.mean((1, 2, 3))

    def losses(seen, **config):
        logistic = discriminator_losses(critic(real), critic(fake))
        return small(**config).with_r1(logistic, critic, real, seen)

    plain = np.log1p(np.exp(-critic(real).numpy())).mean() + np.log1p(np.exp(critic(fake).numpy())).mean()
    r1 = 1 / (5 * 8 * 8)
    assert float(losses(0)["r1"]) == pytest.approx(r1, rel=1e-5)
    assert float(losses(4, r1_gamma=10)["loss_discriminator"]) == pytest.approx(plain + 5 * r1, rel=1e-5)
    lazy = losses(8, r1_gamma=10, r1_interval=2)
    assert float(lazy["loss_discriminator"]) == pytest.approx(plain + 2 * 5 * r1, rel=1e-5)
    assert "r1" not in losses(4, r1_interval=2)
    assert float(losses(0, r1_gamma=0)["loss_discriminator"]) == pytest.approx(plain, rel=1e-5)


def test_r1_is_smooth_where_a_level_begins_to_fade_in():
    """γ is for the size of what is judged: four times as large for a gradient that four pixels share."""
    model = small(r1_scale=1e5)  # so that float32 sees it beside the logistic loss
    level4 = up(torch.randn(4, 5, 8, 8))
    discriminator, none = model.networks["discriminator"].double(), {"loss_discriminator": 0.0}
    discriminator.dtype = torch.float64
    level4 = level4.double()
    small_r1 = model.with_r1(none, lambda x: discriminator(x, 3.0), level4[:, :, ::2, ::2], 0)
    large_r1 = model.with_r1(none, lambda x: discriminator(x, 3 + 2.0**-40), level4, 0)
    torch.testing.assert_close(small_r1["loss_discriminator"], large_r1["loss_discriminator"])
    torch.testing.assert_close(small_r1["r1"], 4 * large_r1["r1"])
    assert small_r1["loss_discriminator"] == small_r1["r1"] * (1e5 * 0.0002 * 8 * 8 / 4 / 2)


def test_bf16_is_close_to_fp32():
    images = []
    for precision in ("fp32", "bf16"):
        model = small(precision=precision)
        for layer in model.ema["generator"].layers:
            layer.noise_gain.fill_(0.5)
        model.ema["generator"].level.fill_(3.5)
        images.append(model.sample([1, 2, 3]))
        assert all(loss.isfinite() for loss in model.train_step(torch.rand(4, 5, 16, 16) * 2 - 1, 20).values())
    assert not torch.equal(*images)
    torch.testing.assert_close(images[0], images[1], atol=0.2, rtol=0)


@pytest.mark.parametrize("resolution", [8, 48, 2048])
def test_impossible_resolution_is_refused(resolution):
    with pytest.raises(ValueError, match=f"stylegan1.*not {resolution}"):
        generators.create("stylegan1", 5, resolution)
