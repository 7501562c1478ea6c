"""The Wasserstein loss with gradient penalty, and every GAN that can play for it."""

import math

import numpy as np
import pytest
import torch

import generators
from generators.progressive_gan import GrowingDiscriminator, ProgressiveGANConfig
from generators.wasserstein import WassersteinConfig, discriminator_losses, gradient_penalty, penalized

GROWING = {"stable_images": 8, "fade_images": 16}
STYLE = {"loss": "wasserstein", "w_dim": 8, "mapping_layers": 2}
LOSS = {
    "progressive_gan": GROWING,
    "stylegan1": STYLE | GROWING,
    "stylegan2": STYLE | {"path_length_weight": 0},
    "stylegan3": STYLE | {"layers": 6},
}


def test_gradient_penalty_of_critics_with_known_gradients():
    torch.manual_seed(0)
    real, fake, slope = torch.randn(3, 4, 2, 5, 5).unbind(0)
    penalty = gradient_penalty(lambda x: (x * slope[0]).sum((1, 2, 3)), real, fake)
    assert penalty.item() == pytest.approx((float(slope[0].norm()) - 1) ** 2, rel=1e-5)
    penalty = gradient_penalty(lambda x: x.square().sum((1, 2, 3)) / 2, real, real)  # its gradient is x
    assert penalty.item() == pytest.approx((real.flatten(1).norm(dim=1) - 1).square().mean().item(), rel=1e-5)


def test_gradient_penalty_is_taken_between_pairs():
    points = []

    def critic(x):
        points.append(x.detach())
        return x.sum((1, 2, 3))

    real, fake = torch.randn(2, 64, 2, 3, 3)
    gradient_penalty(critic, real, fake)
    share = (points[0] - fake) / (real - fake)
    torch.testing.assert_close(share, share[:, :1, :1, :1].expand_as(share), atol=1e-3, rtol=0)
    share = share[:, 0, 0, 0].numpy()
    assert 0 <= share.min() < 0.1
    assert 0.9 < share.max() <= 1


def test_gradient_penalty_trains_the_critic_by_finite_differences():
    torch.manual_seed(0)
    critic = GrowingDiscriminator(3, 32, ProgressiveGANConfig(z_dim=8, channel_base=128, channel_max=8)).double()
    critic.dtype = torch.float64
    real, fake = torch.randn(2, 4, 3, 8, 8, dtype=torch.float64)

    def penalty() -> torch.Tensor:
        torch.manual_seed(3)
        return gradient_penalty(lambda x: critic(x, 2.6), real, fake)

    penalty().backward()
    for weight in (critic.blocks[0].conv1.weight, critic.from_image[1].weight, critic.conv1.weight):
        gradient, step = weight.grad.clone(), 1e-6
        place = tuple(int(i) for i in np.unravel_index(int(gradient.abs().argmax()), gradient.shape))
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * step
            values.append(penalty().item())
            with torch.no_grad():
                weight[place] -= sign * step
        assert float(gradient[place]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)


def test_losses_are_wgan_gp_with_drift():
    """E D(fake) − E D(real) + 10 E (‖∇D‖ − 1)² + 0.001 E D(real)² for a critic that sums pixels."""
    config = WassersteinConfig()
    real, fake = torch.randn(2, 4, 5, 4, 4)

    def critic(x):
        return x.sum((1, 2, 3))

    losses = discriminator_losses(critic(real), critic(fake), config)
    losses |= penalized(losses["loss_discriminator"], gradient_penalty(critic, real, fake), config)
    real, fake = (x.numpy().sum((1, 2, 3)) for x in (real, fake))
    penalty = (math.sqrt(5 * 4 * 4) - 1) ** 2
    expected = fake.mean() - real.mean() + 10 * penalty + 0.001 * np.square(real).mean()
    assert losses["loss_discriminator"].item() == pytest.approx(expected, rel=1e-5)
    assert losses["gradient_penalty"].item() == pytest.approx(penalty, rel=1e-5)


def create(name, **config):
    torch.manual_seed(0)
    widths = {"z_dim": 8, "channel_base": 64, "channel_max": 8}
    return generators.create(name, 5, 16, **widths | LOSS[name] | config)


@pytest.mark.parametrize("name", LOSS)
def test_a_penalty_that_comes_at_every_fourth_step_weighs_four_times_as_much(name):
    model, images = create(name, penalty_interval=4), torch.rand(8, 5, 16, 16) * 2 - 1
    penalized_steps = ["gradient_penalty" in model.train_step(images, 8 * step) for step in range(9)]
    assert penalized_steps == [True, False, False, False] * 2 + [True]
    found = penalized(torch.tensor(1.0), torch.tensor(0.5), model.config)
    assert found["loss_discriminator"].item() == 1 + 4 * 10 * 0.5
    assert found["gradient_penalty"].item() == 0.5


@pytest.mark.parametrize("name", LOSS)
def test_no_step_is_taken_but_one_of_each_network(name):
    """No R1, and Adam at its whole rate, as no step of a regularization shares its moments."""
    model, taken = create(name), []
    for network, optimizer in model.optimizers.items():
        assert optimizer.param_groups[0]["betas"] == (0.0, 0.99)
        optimizer.register_step_pre_hook(lambda *call, network=network: taken.append(network))
    losses = model.train_step(torch.rand(4, 5, 16, 16) * 2 - 1, 0)
    assert taken == ["discriminator", "generator"]
    assert "r1" not in losses


@pytest.mark.parametrize("name", LOSS)
def test_both_networks_learn_from_the_same_images_and_the_last_step_raises_their_score(name):
    model, entered, scores = create(name, augmentation=False), [], []
    critic = model.networks["discriminator"]
    critic.register_forward_pre_hook(lambda module, args: entered.append(args[0].detach()))
    critic.register_forward_hook(lambda *call: scores.append(call[-1].detach()))
    losses = model.train_step(torch.rand(4, 5, 16, 16) * 2 - 1, 0)
    _, fake, _, again = entered  # real, generated, between; generated
    assert torch.equal(fake, again)
    assert float(losses["loss_generator"]) == pytest.approx(-float(scores[-1].mean()), rel=1e-5)
    assert float(losses["score_fake"]) == pytest.approx(float(scores[1].mean()), rel=1e-5)
