"""The Wasserstein loss with gradient penalty (Gulrajani et al. 2017, 1704.00028), as the progressive GAN has it."""

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from generators import parallel
from generators.adversarial import GAN, GANConfig
from generators.augmentation import centred
from generators.base import is_due


class WassersteinConfig(GANConfig):
    """What may be chosen about the Wasserstein loss; defaults are the progressive GAN's (1710.10196, Appendix A.1)."""

    gradient_penalty: float = Field(10.0, ge=0, description="weight λ of the gradient penalty [1]")
    penalty_interval: int = Field(
        1, ge=1, description="gradient penalty in one step out of so many; more than 1 is faster [steps]"
    )
    drift: float = Field(0.001, ge=0, description="weight ε of the squared scores of real images [1]")


def step(
    model: GAN, discriminate: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, seen: int
) -> dict[str, Tensor]:
    """One discriminator step, then one generator step, on the same generated images: `fake` [B, C, H, H], with its
    graph.

    Where augmentation is on, the critic compares augmented images with augmented ones, and the penalty, which makes it
    a distance of those, is taken between them.

    Losses: loss_generator and what `discriminator_losses` and `penalized` list; gradient_norm_generator and
    gradient_norm_discriminator; ada_p, the probability of augmentation, where that is on.
    """
    config = model.config
    seen_real, seen_fake = model.augmented(real), model.augmented(fake.detach())
    scores = discriminate(seen_real), discriminate(seen_fake)
    losses = discriminator_losses(*scores, config)
    if is_due(seen, len(real), config.penalty_interval):
        penalty = gradient_penalty(discriminate, seen_real, seen_fake)
        losses |= penalized(losses["loss_discriminator"], penalty, config)
    losses = model.discriminator_step(losses)
    losses |= model.generator_step(lambda: -discriminate(model.augmented(fake)).mean())
    return losses | model.adapt_augmentation(centred(*scores), seen)


def discriminator_losses(real: Tensor, fake: Tensor, config: WassersteinConfig) -> dict[str, Tensor]:
    """The Wasserstein loss of scores [B] (1704.00028, eq. 3 without its penalty) + ε E D(x)² (1710.10196, A.1).

    Losses: loss_discriminator; score_real and score_fake, the mean scores.
    """
    loss = fake.mean() - real.mean() + config.drift * real.square().mean()
    return {"loss_discriminator": loss, "score_real": real.mean(), "score_fake": fake.mean()}


def penalized(loss: Tensor, penalty: Tensor, config: WassersteinConfig) -> dict[str, Tensor]:
    """loss_discriminator with λ times the gradient penalty and times its interval; gradient_penalty without."""
    weight = config.gradient_penalty * config.penalty_interval
    return {"loss_discriminator": loss + weight * penalty, "gradient_penalty": penalty}


def gradient_penalty(discriminate: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """E (‖∇D(x̂)‖ − 1)² at points x̂ drawn uniformly between pairs of real and generated images (1704.00028, eq. 3)."""
    share = parallel.rand(len(real), 1, 1, 1, dtype=real.dtype).to(real.device)
    between = torch.lerp(fake.detach().requires_grad_(), real, share)
    (gradient,) = torch.autograd.grad(discriminate(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()
