import numpy as np
import pytest
import torch

from generators import adversarial
from generators.adversarial import GANConfig
from generators.discriminator import Discriminator


def test_losses_are_the_logistic_ones():
    real, fake = torch.tensor([-3.0, 0.5, 2.0]), torch.tensor([1.5, -0.5, 4.0])
    p, q = 1 / (1 + np.exp(-real.numpy())), 1 / (1 + np.exp(-fake.numpy()))
    assert adversarial.generator_loss(fake).item() == pytest.approx(-np.log(q).mean(), rel=1e-5)
    expected = -(np.log(p).mean() + np.log(1 - q).mean())
    assert adversarial.discriminator_losses(real, fake)["loss_discriminator"].item() == pytest.approx(
        expected, rel=1e-5
    )


def test_r1_of_a_linear_discriminator_is_its_squared_norm():
    slope = torch.randn(5, 8, 8)
    penalty = adversarial.r1_penalty(lambda x: (x * slope).sum((1, 2, 3)) + 3, torch.randn(4, 5, 8, 8))
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
    penalty = adversarial.r1_penalty(discriminator, images)
    torch.testing.assert_close(penalty, expected, rtol=1e-4, atol=0)

    parameters = list(discriminator.parameters())
    directions = [torch.randn_like(p) for p in parameters]
    gradients = torch.autograd.grad(penalty, parameters, allow_unused=True)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None)

    def moved(step):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p += step * d
        value = adversarial.r1_penalty(discriminator, images)
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p -= step * d
        return value

    torch.testing.assert_close(slope, (moved(step) - moved(-step)) / (2 * step), rtol=1e-4, atol=0)


def test_lazy_regularization_slows_adam():
    """1912.04958, Appendix B: λ' = cλ and β' = β^c with c = k / (k + 1)."""
    weights = [torch.nn.Parameter(torch.zeros(1))]
    (group,) = adversarial.lazy_adam(weights, 0.002, 16).param_groups
    assert group["lr"] == pytest.approx(0.002 * 16 / 17)
    assert group["betas"] == pytest.approx((0.0, 0.99 ** (16 / 17)))
    (group,) = adversarial.lazy_adam(weights, 0.002, None).param_groups
    assert (group["lr"], group["betas"]) == (0.002, (0.0, 0.99))


def test_a_regularization_step_is_due_once_per_interval():
    due = [adversarial.is_due(seen, 8, 16) for seen in range(0, 8 * 64, 8)]
    assert [i for i, value in enumerate(due) if value] == [0, 16, 32, 48]
