import numpy as np
import pytest
import torch

import generators
from generators import logistic
from generators.adversarial import GANConfig
from generators.discriminator import Discriminator


def test_losses_are_the_logistic_ones():
    real, fake = torch.tensor([-3.0, 0.5, 2.0]), torch.tensor([1.5, -0.5, 4.0])
    p, q = 1 / (1 + np.exp(-real.numpy())), 1 / (1 + np.exp(-fake.numpy()))
    assert logistic.generator_loss(fake).item() == pytest.approx(-np.log(q).mean(), rel=1e-5)
    expected = -(np.log(p).mean() + np.log(1 - q).mean())
    assert logistic.discriminator_losses(real, fake)["loss_discriminator"].item() == pytest.approx(expected, rel=1e-5)


def test_r1_of_a_linear_discriminator_is_its_squared_norm():
    slope = torch.randn(5, 8, 8)
    penalty = logistic.r1_penalty(lambda x: (x * slope).sum((1, 2, 3)) + 3, torch.randn(4, 5, 8, 8))
    assert penalty.item() == pytest.approx(slope.square().sum().item(), rel=1e-5)


def test_r1_and_its_gradient_equal_finite_differences():
    """Of the true discriminator, in float64: first ∇D over every pixel, then ∂R1/∂weight along a random direction."""
    torch.manual_seed(0)
    discriminator = Discriminator(1, 8, GANConfig(channel_base=32, channel_max=4)).double()
    discriminator.dtype = torch.float64
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    flat, step = images.flatten(), 1e-5

    def logits(pixels):
        return discriminator(pixels.view_as(images)).sum()

    with torch.no_grad():
        basis = step * torch.eye(len(flat), dtype=torch.float64)
        gradient = torch.stack([(logits(flat + e) - logits(flat - e)) / (2 * step) for e in basis])
    expected = gradient.square().sum() / 2
    penalty = logistic.r1_penalty(discriminator, images)
    torch.testing.assert_close(penalty, expected, rtol=1e-4, atol=0)

    parameters = list(discriminator.parameters())
    directions = [torch.randn_like(p) for p in parameters]
    gradients = torch.autograd.grad(penalty, parameters, allow_unused=True)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None)

    def moved(step):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p += step * d
        value = logistic.r1_penalty(discriminator, images)
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p -= step * d
        return value

    torch.testing.assert_close(slope, (moved(step) - moved(-step)) / (2 * step), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("name", "size", "batch", "gamma"),
    [
        ("stylegan1", 256, 32, 0.4096),  # 0.0002 · 65,536 / 32
        ("stylegan2", 256, 32, 0.4096),
        ("stylegan2", 256, 8, 1.6384),
        ("stylegan2", 32, 16, 0.0128),
        ("stylegan3", 128, 32, 0.5),  # the authors' table
        ("stylegan3", 256, 32, 2.0),
    ],
)
def test_r1_fits_image_and_batch_size_unless_given(name, size, batch, gamma):
    config_class, images = generators.load(name).Config, torch.empty(batch, 5, size, size, device="meta")
    assert config_class().gamma(images) == pytest.approx(gamma)
    assert config_class(r1_scale=3).gamma(images) == pytest.approx(3 * gamma)
    assert config_class(r1_gamma=7).gamma(images) == 7
    assert config_class(r1_gamma=7, r1_scale=0.5).gamma(images) == 3.5
    assert config_class(r1_gamma=0).gamma(images) == 0


def test_an_r1_step_descends_the_penalty_of_that_weight():
    """Of a linear critic D(x) = a · x, whose penalty is ‖a‖²: plain descent moves a by γ / 2 · 2a · interval."""

    class Critic(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = torch.nn.Parameter(torch.randn(5, 8, 8))

        def forward(self, x):
            return (x * self.slope).sum((1, 2, 3))

    torch.manual_seed(0)
    model = generators.create("stylegan2", 5, 8, channel_base=32, channel_max=4, r1_interval=2)
    critic = model.networks["discriminator"] = Critic()
    model.optimizers["discriminator"] = torch.optim.SGD(critic.parameters(), 1.0)
    before = critic.slope.detach().clone()
    losses = logistic.r1_step(model, critic, torch.randn(4, 5, 8, 8), 0)
    assert losses["r1"].item() == pytest.approx(before.square().sum().item(), rel=1e-5)
    torch.testing.assert_close(critic.slope, before * (1 - 0.0002 * 8 * 8 / 4 * 2))
    assert logistic.r1_step(model, critic, torch.randn(4, 5, 8, 8), 4) == {}
