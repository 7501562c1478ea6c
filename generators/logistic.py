"""The logistic loss (Goodfellow et al. 2014, 1406.2661) and R1, which keeps its discriminator in check (1801.04406)."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from generators import parallel
from generators.adversarial import GAN, GANConfig
from generators.base import is_due


class R1Config(GANConfig):
    """What may be chosen about R1.

    The γ that is right grows with the number of pixels, over which the gradient is spread, and falls with the batch.
    Unless a number is given, it is pixels / batch size times a factor, so that another image size needs no search.
    """

    # γ · batch size / pixels. 0.0002: StyleGAN2's heuristic (2006.06676, Appendix C).
    gamma_factor: ClassVar[float] = 0.0002

    r1_gamma: float | None = Field(
        None, ge=0, description="weight of the R1 penalty, halved in the loss; unset: fits image and batch size [1]"
    )
    r1_scale: float = Field(1.0, gt=0, description="factor of that weight, given or not: what tuning varies [1]")
    r1_interval: int = Field(16, ge=1, description="one R1 step every so many steps [steps]")

    def gamma(self, images: Tensor) -> float:
        """γ for this process's part of a batch, [B, C, H, H]."""
        fitting = self.gamma_factor * images.shape[2] ** 2 / parallel.total(len(images))
        return self.r1_scale * (fitting if self.r1_gamma is None else self.r1_gamma)


def generator_loss(fake: Tensor) -> Tensor:
    """Non-saturating loss of logits [B]: −log σ(fake) (1406.2661, Section 3)."""
    return F.softplus(-fake).mean()


def discriminator_losses(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """loss_discriminator, the logistic loss −log σ(real) − log(1 − σ(fake)) of logits [B] (1406.2661, eq. 1), and
    score_real and score_fake, their means."""
    loss = F.softplus(-real).mean() + F.softplus(fake).mean()
    return {"loss_discriminator": loss, "score_real": real.mean(), "score_fake": fake.mean()}


def r1_penalty(discriminate: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Squared gradient norm E‖∇D(x)‖² of the logits at real images (1801.04406, eq. 9, without its γ/2)."""
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminate(images).sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def r1_step(model: GAN, discriminate: Callable[[Tensor], Tensor], images: Tensor, seen: int) -> dict[str, Tensor]:
    """At every `r1_interval`-th step, another one of the discriminator down γ / 2 · R1, times the interval; returns r1,
    the squared gradient norm, if so."""
    gamma, interval = model.config.gamma(images), model.config.r1_interval
    if gamma == 0 or not is_due(seen, len(images), interval):
        return {}
    penalty = r1_penalty(discriminate, images)
    model.step("discriminator", penalty * (gamma / 2 * interval))
    return {"r1": penalty}
