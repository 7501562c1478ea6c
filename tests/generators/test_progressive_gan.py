"""Progressive GAN against its paper, and the growth that StyleGAN shares with it."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import generators
from generators.augmentation import centred
from generators.growth import down, grown, level_at, up
from generators.progressive_gan import (
    GrowingDiscriminator,
    ProgressiveGANConfig,
    ProgressiveGenerator,
    UpConv2d,
)

CONFIG = ProgressiveGANConfig(z_dim=8, channel_base=128, channel_max=8)
HAIR = 2.0**-50  # so little of a fade that float32 cannot tell


def networks() -> tuple[ProgressiveGenerator, GrowingDiscriminator]:
    torch.manual_seed(0)
    return ProgressiveGenerator(3, 32, CONFIG), GrowingDiscriminator(3, 32, CONFIG)


def small(**config):
    torch.manual_seed(0)
    config = {"z_dim": 8, "channel_base": 64, "channel_max": 8, "stable_images": 8, "fade_images": 16, **config}
    return generators.create("progressive_gan", 5, 16, **config)


def repeat(image: np.ndarray) -> np.ndarray:
    return image.repeat(2, 2).repeat(2, 3)


def test_networks_have_the_papers_size():
    """Table 2, whose totals of 23.1 M count one of the 1×1 convolutions from and to images: those of 1024 pixels."""
    generator = ProgressiveGenerator(3, 1024, ProgressiveGANConfig())
    discriminator = GrowingDiscriminator(3, 1024, ProgressiveGANConfig())
    for network, images, parameters in (
        (generator, generator.to_image, 23_071_507),
        (discriminator, discriminator.from_image, 23_077_137),
    ):
        other = sum(p.numel() for layer in images[:-1] for p in layer.parameters())
        assert sum(p.numel() for p in network.parameters()) - other == parameters
        assert round(parameters / 1e5) == 231


@pytest.mark.parametrize(
    ("seen", "level"),
    [
        (0, 2.0),  # 4 × 4 pixels for 800,000 images
        (799_999, 2.0),
        (800_000, 2.0),  # then 8 × 8 fade in over 800,000
        (1_000_000, 2.25),
        (1_600_000, 3.0),  # and are trained for 800,000
        (2_400_000, 3.0),
        (2_800_000, 3.5),
        (8_800_000, 7.0),
        (9_600_000, 8.0),  # 256 × 256 pixels
        (99_000_000, 8.0),
    ],
)
def test_growth_follows_the_papers_schedule(seen, level):
    assert level_at(seen, 2, 8, ProgressiveGANConfig()) == pytest.approx(level)


def test_growth_is_continuous_and_never_shrinks():
    config = ProgressiveGANConfig(stable_images=7, fade_images=5)
    levels = np.array([level_at(seen, 2, 5, config) for seen in range(60)])
    assert levels[0] == 2
    assert levels[-1] == 5
    steps = np.diff(levels)
    assert steps.min() == 0
    assert steps.max() == pytest.approx(1 / 5)
    assert level_at(3, 2, 5, ProgressiveGANConfig(stable_images=0, fade_images=1)) == 5


def test_a_fade_blends_the_two_images():
    """Figure 2: (1 − α) of the smaller image, each pixel four times, + α of the larger one."""
    generator, _ = networks()
    z = torch.randn(3, 8)
    small, large, fading = (generator(z, level).detach().numpy() for level in (3.0, 4.0, 3.25))
    assert [image.shape[-1] for image in (small, large, fading)] == [8, 16, 16]
    np.testing.assert_allclose(fading, 0.75 * repeat(small) + 0.25 * large, atol=1e-6)


def test_real_images_fade_alike():
    images = torch.randn(2, 3, 32, 32)
    level4 = images.numpy().reshape(2, 3, 16, 2, 16, 2).mean((3, 5))
    level3 = level4.reshape(2, 3, 8, 2, 8, 2).mean((3, 5))
    np.testing.assert_allclose(grown(images, 4.0), level4, atol=1e-6)
    np.testing.assert_allclose(grown(images, 3.4), 0.6 * repeat(level3) + 0.4 * level4, atol=1e-6)
    assert torch.equal(grown(images, 5.0), images)


def test_the_discriminator_blends_features():
    """What enters the last block is the same mixture of what the smaller and the larger image give."""
    _, discriminator = networks()
    entered = []
    discriminator.conv1.register_forward_pre_hook(lambda module, args: entered.append(args[0][:, :-1]))
    images = torch.randn(4, 3, 8, 8)
    discriminator(down(images), 2.0)
    discriminator(images, 3.0)
    discriminator(images, 2.3)
    torch.testing.assert_close(entered[2], 0.7 * entered[0] + 0.3 * entered[1])


@pytest.mark.parametrize("level", [2.0, 3.0, 4.0])
def test_a_change_of_phase_changes_nothing(level):
    generator, discriminator = networks()
    z, images = torch.randn(4, 8), torch.randint(-64, 65, (4, 3, 32, 32)) / 64  # whose averages are exact
    start, end = level + HAIR, level + 1 - HAIR
    assert torch.equal(generator(z, start), up(generator(z, level)))
    assert torch.equal(generator(z, end), generator(z, level + 1))
    torch.testing.assert_close(grown(images, start), up(grown(images, level)), atol=1e-14, rtol=0)
    assert torch.equal(grown(images, end), grown(images, level + 1))
    same = grown(images, level)
    torch.testing.assert_close(discriminator(up(same), start), discriminator(same, level), atol=1e-6, rtol=0)
    same = grown(images, level + 1)
    assert torch.equal(discriminator(same, end), discriminator(same, level + 1))


def test_training_is_at_the_level_of_the_images_seen():
    model = small()
    images = torch.rand(4, 5, 16, 16) * 2 - 1
    levels = [float(model.train_step(images, seen)["level"]) for seen in (0, 8, 12, 24, 32, 44, 48, 400)]
    assert levels == [2, 2, 2.25, 3, 3, 3.75, 4, 4]


def test_training_resumes_inside_a_fade():
    """Bit for bit, at the very share of the fade at which it stopped."""
    straight, resumed = small(), small()
    images = torch.rand(4, 5, 16, 16) * 2 - 1
    straight.train_step(images, 12)
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    assert float(resumed.ema["generator"].level) == 2.25
    assert torch.equal(resumed.sample([3]), straight.sample([3]))
    losses = []
    for model in (straight, resumed):
        torch.manual_seed(1)
        losses.append(model.train_step(images, 16))
    assert float(losses[1]["level"]) == 2.5
    assert losses[0] == losses[1]


def test_before_full_resolution_samples_are_enlarged():
    model = small()
    model.train_step(torch.rand(4, 5, 16, 16) * 2 - 1, 0)
    images = model.sample([1, 2])
    assert images.shape == (2, 5, 16, 16)
    assert torch.equal(images, images[:, :, ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3))
    model.train_step(torch.rand(4, 5, 16, 16) * 2 - 1, 40)
    other = small()
    other.load_weights(model.weights())
    faded = other.sample([1, 2])
    assert torch.equal(faded, model.ema["generator"](model_z([1, 2]), 3.5).clamp(-1, 1))


def model_z(seeds: list[int]) -> torch.Tensor:
    return torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def test_upsampling_and_convolution_in_one():
    torch.manual_seed(0)
    layer, x = UpConv2d(5, 7), torch.randn(2, 5, 4, 6)
    with torch.no_grad():
        layer.bias.normal_()
    weight = layer.weight / math.sqrt(5 * 9)
    expected = F.conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected)


def test_learning_rate_is_equalized():
    """Section 4.1: all stored weights are N(0, 1); He's constant is applied when a layer runs."""
    torch.manual_seed(0)
    made = GrowingDiscriminator(3, 32, ProgressiveGANConfig(channel_max=64))
    for name, parameter in made.named_parameters():
        if name.endswith("weight"):
            assert parameter.std().item() == pytest.approx(1, abs=3 / math.sqrt(2 * parameter.numel())), name
        else:
            assert not parameter.any(), name
    layer, x = made.blocks[0].conv1, torch.randn(1, 64, 8, 8)
    expected = F.conv2d(x, layer.weight / math.sqrt(64 * 9), padding=1)
    torch.testing.assert_close(layer(x), math.sqrt(2) * F.leaky_relu(expected, 0.2))


def test_every_pixel_of_the_generator_has_unit_length():
    """Section 4.2, eq. of pixelwise feature vector normalization, after each 3 × 3 convolution."""
    generator, _ = networks()
    inputs = []
    for layer in (generator.conv, *(block.conv2 for block in generator.blocks), *generator.to_image):
        layer.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    generator(3 * torch.randn(2, 8), 5.0)
    assert len(inputs) == 1 + 3 + 1
    for x in inputs:
        torch.testing.assert_close(x.square().mean(1), torch.ones_like(x[:, 0]), atol=1e-4, rtol=0)


def test_the_discriminator_sees_the_minibatch_vary():
    """Section 3: standard deviation over the minibatch of each feature at each place, averaged to one number."""
    _, discriminator = networks()
    entered = []
    discriminator.conv1.register_forward_pre_hook(lambda module, args: entered.append(args[0].detach().numpy()))
    discriminator(torch.randn(4, 3, 8, 8), 3.0)
    features, statistic = entered[0][:, :-1], entered[0][:, -1]
    np.testing.assert_allclose(statistic, features.std(0).mean(), rtol=1e-4)


@pytest.mark.parametrize("seen", [0, 40])
def test_the_critic_compares_augmented_images(seen):
    """From 4 × 4 pixels on, real and generated alike; the penalty lies between the same pairs."""
    batches = {}
    for strength in (0.0, 1.0):
        model, entered = small(), []
        model.augmentation.p = strength
        model.networks["discriminator"].register_forward_pre_hook(
            lambda module, args, entered=entered: entered.append(args[0].detach())
        )
        torch.manual_seed(2)
        model.train_step(torch.rand(8, 5, 16, 16) * 2 - 1, seen)
        batches[strength] = entered
    assert len(batches[0.0]) == len(batches[1.0]) == 4
    for plain, augmented in zip(batches[0.0], batches[1.0], strict=True):
        assert plain.shape == augmented.shape
        assert augmented.isfinite().all()
        assert (plain != augmented).flatten(1).any(1).all()
    real, fake, between, _ = batches[1.0]
    share = ((between - fake) / (real - fake)).flatten(1).median(1).values[:, None, None, None]
    torch.testing.assert_close(between, torch.lerp(fake, real, share), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("gap", "follows"), [(3.0, True), (0.0, False)])
def test_augmentation_follows_a_critic_that_knows_its_images(gap, follows):
    """Its scores, whatever constant they all have: apart, the augmentation gains strength; alike, it loses it."""
    for constant in (-50.0, 0.0, 50.0):
        torch.manual_seed(0)
        model = small(augmentation_images=100)
        model.augmentation.p = 0.5
        for step in range(12):
            real, fake = torch.randn(2, 16) + constant
            model.adapt_augmentation(centred(real + gap, fake), 16 * step)
        assert model.augmentation.p == (1.0 if follows else 0.0)


def test_training_turns_augmentation_towards_the_critic():
    """In a whole step, of scores far from zero: with all real images above generated ones p rises, else it falls."""
    for real, fake, p in ((60.0, 50.0, 0.54), (50.0, 60.0, 0.46), (-50.0, -60.0, 0.54)):
        model = small(augmentation_images=100)
        model.augmentation.p = 0.5
        scores = iter([real, fake, 0.0, fake])  # real, generated, between; generated, for the generator
        model.networks["discriminator"].register_forward_hook(lambda m, a, out, s=scores: out * 1e-3 + next(s))
        losses = model.train_step(torch.rand(4, 5, 16, 16) * 2 - 1, 0)
        assert float(losses["ada_p"]) == pytest.approx(p)


def test_bf16_is_close_to_fp32():
    images = []
    for precision in ("fp32", "bf16"):
        model = small(precision=precision)
        images.append(model.networks["generator"](model_z([1, 2]), 3.5))
        assert all(loss.isfinite() for loss in model.train_step(torch.rand(4, 5, 16, 16) * 2 - 1, 40).values())
    assert not torch.equal(*images)
    torch.testing.assert_close(images[0], images[1], atol=0.2, rtol=0)


@pytest.mark.parametrize("resolution", [8, 48, 2048])
def test_impossible_resolution_is_refused(resolution):
    with pytest.raises(ValueError, match=f"progressive_gan.*not {resolution}"):
        generators.create("progressive_gan", 5, resolution)
