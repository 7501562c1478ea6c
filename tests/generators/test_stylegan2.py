import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import signal

import generators
from generators.layers import modulated_conv2d
from generators.stylegan2 import (
    UP,
    StyleGAN2,
    StyleGAN2Config,
    StyleGAN2Network,
    SynthesisLayer,
    mix_styles,
    modulated_upsampling_conv2d,
    path_lengths,
)

TINY = {"z_dim": 8, "w_dim": 8, "mapping_layers": 2, "channel_base": 64, "channel_max": 8}


def create(resolution: int = 16, **config) -> StyleGAN2:
    torch.manual_seed(0)
    return generators.create("stylegan2", 5, resolution, **TINY, **config)


def train(model: StyleGAN2, steps: int, batch: int = 4) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    return [model.train_step(torch.rand(batch, 5, 16, 16) * 2 - 1, step * batch) for step in range(steps)]


@pytest.mark.parametrize(
    ("resolution", "base", "most", "parameters"),
    [(256, 16384, 512, 24_772_464), (256, 32768, 512, 30_040_240), (64, 2048, 64, 2_816_770)],
)
def test_generator_has_the_papers_size(resolution, base, most, parameters):
    with torch.device("meta"):
        network = StyleGAN2Network(5, resolution, StyleGAN2Config(channel_base=base, channel_max=most))
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_upsampling_convolution_is_one_kernel_per_sample_on_inserted_zeros():
    x, weight = torch.randn(3, 2, 5, 4, dtype=torch.float64), torch.randn(4, 2, 3, 3, dtype=torch.float64)
    style, bias = torch.randn(3, 2, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    out = modulated_upsampling_conv2d(x, weight, style, bias, UP.double(), gain=0.3)
    assert out.shape == (3, 4, 10, 8)
    lowpass = np.outer(UP, UP)
    zeros = np.zeros((3, 2, 9, 7))
    zeros[:, :, ::2, ::2] = x
    for b in range(3):
        own = (weight * style[b, None, :, None, None]).numpy()  # 1912.04958, eq. 1
        own = own / np.sqrt((own**2).sum((1, 2, 3), keepdims=True) + 1e-8)  # eq. 3
        for o in range(4):
            maps = (signal.convolve2d(signal.convolve2d(zeros[b, i], lowpass), own[o, i]) for i in range(2))
            expected = 0.3 * sum(maps)[2:-2, 2:-2] + bias[o].item()
            np.testing.assert_allclose(out[b, o], expected, atol=1e-10)


def test_layer_is_convolution_noise_bias_and_leaky_relu():
    torch.manual_seed(0)
    layer = SynthesisLayer(8, 4, 6, up=False)
    torch.nn.init.normal_(layer.bias)
    torch.nn.init.constant_(layer.noise_strength, 0.7)
    x, w, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 8), torch.randn(3, 1, 8, 8)
    convolved = modulated_conv2d(x, layer.weight, layer.style(w), torch.zeros(6))
    expected = math.sqrt(2) * F.leaky_relu(convolved + 0.7 * noise + layer.bias[:, None, None], 0.2)
    torch.testing.assert_close(layer(x, w, noise), expected)


@torch.no_grad()
def test_every_resolution_adds_its_image():
    synthesis = create(32).networks["generator"].synthesis
    assert len(synthesis.to_images) == 4  # 4, 8, 16, 32
    for i, to_image in enumerate(synthesis.to_images):
        to_image.weight.zero_()
        to_image.bias.fill_(10.0**i)
    image = synthesis(torch.randn(2, synthesis.styles, 8), torch.randn(2, synthesis.noise_size))
    torch.testing.assert_close(image[:, :, 15:17, 15:17], torch.full((2, 5, 2, 2), 1111.0))
    synthesis.to_images[-1].bias.zero_()
    image = synthesis(torch.randn(2, synthesis.styles, 8), torch.randn(2, synthesis.noise_size))
    torch.testing.assert_close(image[:, :, 15:17, 15:17], torch.full((2, 5, 2, 2), 111.0))


@torch.no_grad()
def test_each_layer_listens_to_its_own_style():
    """Coarse first: a change of the last style leaves all but the last resolution's own image as it was."""
    synthesis = create(16).networks["generator"].synthesis
    assert synthesis.styles == 2 * math.log2(16) - 2
    w, noise = torch.randn(2, synthesis.styles, 8), torch.randn(2, synthesis.noise_size)
    seen = []
    for layer in (*synthesis.layers, *synthesis.to_images):
        layer.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    synthesis(w, noise)
    used = [next(i for i in range(synthesis.styles) if torch.equal(style, w[:, i])) for style in seen]
    assert used == [0, 1, 1, 2, 3, 3, 4, 5]  # 4 px: layer, image; then at each size layer, layer, image


def test_noise_starts_without_effect_and_then_has_one():
    model = create()
    network = model.networks["generator"].eval()
    z, noise = torch.randn(2, 8), torch.randn(2, 2, network.synthesis.noise_size)
    torch.testing.assert_close(network(z, noise[0]), network(z, noise[1]), atol=0, rtol=0)
    train(model, 1)
    assert all(layer.noise_strength != 0 for layer in network.synthesis.layers)
    assert (network(z, noise[0]) - network(z, noise[1])).abs().max() > 1e-5


def test_noise_of_a_sample_is_its_seeds():
    model = create(truncation=0.0)  # one w for all: only the noise is left to differ
    first, second = model.sample([3, 4])
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    for layer in model.ema["generator"].synthesis.layers:
        layer.noise_strength.fill_(1.0)
    images = model.sample([3, 4, 5])
    assert (images[0] - images[1]).abs().max() > 0.1
    torch.testing.assert_close(model.sample([5, 3]), images[[2, 0]], atol=1e-5, rtol=0)


def test_truncation_to_zero_samples_the_mean_style():
    model = create(truncation=0.0)
    train(model, 2)
    network = model.ema["generator"]
    mean, noise = network.mapping.mean, torch.randn(3, network.synthesis.noise_size)
    assert mean.abs().max() > 0
    expected = network.synthesis(mean.expand(3, network.synthesis.styles, -1), noise)
    torch.testing.assert_close(network(torch.randn(3, 8), noise, truncation=0.0), expected)


def test_mixing_takes_a_second_style_from_some_layer_on():
    torch.manual_seed(0)
    first, second = torch.zeros(4000, 3), torch.ones(4000, 3)
    late = mix_styles(first, second, styles=6, probability=0.9)
    assert late.shape == (4000, 6, 3)
    assert torch.equal(late[:, :, 0], late[:, :, 2])
    assert (late.diff(dim=1) >= 0).all()  # never back to the first style
    from_second = late[:, :, 0].sum(1)  # the number of layers with the second style
    shares = [(from_second == n).float().mean().item() for n in range(7)]
    assert shares == pytest.approx([0.1, *[0.9 / 5] * 5, 0], abs=0.02)


def test_training_mixes_styles():
    for share in (0.0, 1.0):
        _, w = create(style_mixing=share).generate(16)
        assert ((w[:, 0] != w[:, -1]).any(1) == bool(share)).all()


def test_path_length_of_a_linear_generator_is_its_jacobians_norm():
    """E‖Jᵀy‖² = ‖J‖²: images = Σ over styles of A w, so the mean over the two styles is ‖A‖² / (H·W)."""
    torch.manual_seed(0)
    A, w = torch.randn(3 * 4 * 4, 6), torch.randn(20_000, 2, 6, requires_grad=True)
    lengths = path_lengths((w.sum(1) @ A.T).view(-1, 3, 4, 4), w)
    assert lengths.shape == (20_000,)
    assert lengths.square().mean().item() == pytest.approx(A.square().sum().item() / 16, rel=0.02)
    # with one pixel and one number in w, lengths are |a y|, y of unit variance
    w = torch.randn(20_000, 1, 1, requires_grad=True)
    lengths = path_lengths(-3 * w[:, :, :, None], w)
    assert lengths.mean().item() == pytest.approx(3 * math.sqrt(2 / math.pi), rel=0.02)


@pytest.mark.parametrize("resolution", [32, 256])
def test_path_length_weight_is_the_papers(resolution):
    """Appendix B: γ = ln 2 / (r² (ln r − ln 2)) for y of unit variance and the sum over all styles."""
    with torch.device("meta"):
        styles = StyleGAN2Network(5, resolution, StyleGAN2Config()).synthesis.styles
    gamma = math.log(2) / (resolution**2 * (math.log(resolution) - math.log(2)))
    assert StyleGAN2Config().path_length_weight / (styles * resolution**2) == pytest.approx(gamma)


def test_path_length_and_its_gradient_equal_finite_differences():
    """Of the true generator, in float64: first Jᵀy over every number of w, then ∂penalty/∂weight along a direction."""
    torch.manual_seed(0)
    synthesis = StyleGAN2Network(2, 8, StyleGAN2Config(w_dim=3, channel_base=32, channel_max=4)).synthesis.double()
    synthesis.dtype = torch.float64
    for layer in synthesis.layers:
        torch.nn.init.constant_(layer.noise_strength, 0.1)
    w, noise = torch.randn(2, synthesis.styles, 3).double(), torch.randn(2, synthesis.noise_size).double()

    def lengths():
        torch.manual_seed(1)
        styles = w.clone().requires_grad_()
        return path_lengths(synthesis(styles, noise), styles)

    torch.manual_seed(1)
    y, step = torch.randn(2, 2, 8, 8, dtype=torch.float64) / 8, 1e-5
    expected = torch.zeros_like(w)
    with torch.no_grad():
        for index in np.ndindex(*w.shape[1:]):
            move = torch.zeros_like(w)
            move[:, *index] = step
            change = synthesis(w + move, noise) - synthesis(w - move, noise)
            expected[:, *index] = (change * y).sum((1, 2, 3)) / (2 * step)
    torch.testing.assert_close(lengths(), expected.square().sum(2).mean(1).sqrt(), rtol=1e-5, atol=0)

    def penalty():
        return (lengths() - 0.3).square().mean()

    parameters = list(synthesis.parameters())
    directions = [torch.randn_like(p) for p in parameters]
    gradients = torch.autograd.grad(penalty(), parameters, allow_unused=True)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None)

    def moved(step):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p += step * d
        value = penalty().detach()
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p -= step * d
        return value

    torch.testing.assert_close(slope, (moved(1e-6) - moved(-1e-6)) / 2e-6, rtol=1e-4, atol=0)


def test_regularizers_are_computed_at_their_intervals():
    losses = train(create(r1_interval=3, path_length_interval=2), 7)
    assert ["r1" in step for step in losses] == [True, False, False, True, False, False, True]
    assert ["path_penalty" in step for step in losses] == [True, False, True, False, True, False, True]
    (losses,) = train(create(r1_gamma=0, path_length_weight=0), 1)
    assert not losses.keys() & {"r1", "path_length", "path_penalty"}


def test_path_lengths_running_mean_and_halved_batch():
    model, batches = create(path_length_interval=1), []
    generate = model.generate
    model.generate = lambda batch: batches.append(batch) or generate(batch)
    lengths = [step["path_length"] for step in train(model, 3)]
    assert batches == [4, 4, 2] * 3  # generator, discriminator, path lengths
    mean = 0.0
    for length in lengths:
        mean = 0.99 * mean + 0.01 * length
    torch.testing.assert_close(model.path_length, mean)


def test_regularized_networks_learn_more_slowly():
    """1912.04958, Appendix B: λ' = cλ with c = k / (k + 1), of each network's own interval."""
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in create().optimizers.items()}
    assert rates == pytest.approx({"generator": 0.002 * 8 / 9, "discriminator": 0.002 * 16 / 17})


def test_augmentation_reaches_what_the_discriminator_sees_of_both():
    plain, augmented = create(augmentation=False), create(augmentation=True)
    augmented.augmentation.p = 0.99
    before, after = train(plain, 1)[0], train(augmented, 1)[0]
    assert before["score_real"] != after["score_real"]
    assert before["score_fake"] != after["score_fake"]
    assert before["loss_generator"] != after["loss_generator"]
    assert "ada_p" not in before
    assert 0 < abs(after["ada_p"].item() - 0.99) < 0.001  # it follows the logits of real images


def test_the_mean_of_w_follows_the_generators_step_alone():
    """And neither the step that draws for the discriminator, nor the one that measures path lengths."""
    model, drawn = create(path_length_interval=1, style_mixing=1.0), []
    generate = model.generate

    def draw(batch):
        drawn.append(generate(batch))
        return drawn[-1]

    model.generate = draw
    expected = torch.zeros(8)
    for step in range(2):
        drawn.clear()
        model.train_step(torch.rand(4, 5, 16, 16) * 2 - 1, 4 * step)
        assert len(drawn) == 3
        expected = 0.995 * expected + 0.005 * drawn[0][1][:, 0].mean(0)
    torch.testing.assert_close(model.networks["generator"].mapping.mean, expected)


def test_bf16_is_close_to_fp32():
    images = []
    for precision in ("fp32", "bf16"):
        model = create(precision=precision)
        train(model, 1)
        images.append(model.sample([1, 2]))
    assert not torch.equal(*images)
    torch.testing.assert_close(images[0], images[1], atol=0.1, rtol=0)


def test_state_from_elsewhere_is_refused():
    state = create().state_dict()
    state["extra"] = {"stranger": 1}
    with pytest.raises(RuntimeError, match="stranger"):
        create().load_state_dict(state)


def test_impossible_resolution_is_refused():
    with pytest.raises(ValueError, match="not 48"):
        generators.create("stylegan2", 5, 48)
