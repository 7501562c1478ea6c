"""What the GANs share: configuration, losses, the gradient penalty, lazy regularization, a step of each network."""

import copy
from collections.abc import Callable, Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from generators import parallel
from generators.base import Generator, GeneratorConfig


class GANConfig(GeneratorConfig):
    """What may be chosen about any GAN."""

    z_dim: int = Field(512, ge=1, description="width of the random input z [numbers]")
    channel_base: int = Field(16384, ge=1, description="feature maps × resolution, in both networks [maps × pixels]")
    channel_max: int = Field(512, ge=1, description="most feature maps of a layer, in both networks [maps]")
    ema_half_life: float = Field(10_000, ge=0, description="averaging of the generator's weights [images]")
    ema_ramp: float = Field(0.05, gt=0, description="that half-life is at most this share of images seen [share]")
    mirror: bool = Field(False, description="flip training images left-right at random [yes/no]")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="arithmetic of convolutions and filters [name]")

    def maps(self, level: int) -> int:
        """Feature maps of layers at 2^level pixels a side."""
        return max(min(self.channel_base >> level, self.channel_max), 1)

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


class GAN(Generator):
    """A generator, its averaged copy and the discriminator it learns from; a step of each on every batch."""

    config: GANConfig
    share_multiple = 4  # groups of `minibatch_std`

    def __init__(
        self, channels: int, resolution: int, config: GANConfig, generator: nn.Module, discriminator: nn.Module
    ) -> None:
        super().__init__(channels, resolution, config)
        self.networks = {"generator": generator, "discriminator": discriminator}
        self.ema = {"generator": copy.deepcopy(generator).eval().requires_grad_(False)}

    def generator_step(self, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
        """A step of the generator down what loss() returns, in which the discriminator is a constant."""
        self.networks["discriminator"].requires_grad_(False)
        value = loss()
        norm = self.step("generator", value)
        self.networks["discriminator"].requires_grad_(True)
        return {"loss_generator": value, "gradient_norm_generator": norm}

    def discriminator_step(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """A step of the discriminator down losses["loss_discriminator"]; returns all of `losses` and its norm."""
        return losses | {"gradient_norm_discriminator": self.step("discriminator", losses["loss_discriminator"])}

    def finish(self, losses: dict[str, Tensor], batch: int, seen: int) -> dict[str, Tensor]:
        """Averages the generator's weights; the losses, detached, and repaired_gradients."""
        self.update_averages(batch, seen, self.config.ema_half_life, self.config.ema_ramp)
        return {name: loss.detach() for name, loss in (losses | self.repaired()).items()}


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
    gamma, interval = model.config.r1_gamma, model.config.r1_interval
    if gamma == 0 or not is_due(seen, len(images), interval):
        return {}
    penalty = r1_penalty(discriminate, images)
    model.step("discriminator", penalty * (gamma / 2 * interval))
    return {"r1": penalty}


def lazy_adam(parameters: Iterable[nn.Parameter], learning_rate: float, interval: int | None) -> torch.optim.Adam:
    """Adam (β₁ = 0, β₂ = 0.99) of a network that takes one regularization step every `interval` ordinary ones.

    The extra step shares Adam's moments, so learning rate and betas are slowed by c = k / (k + 1); the penalty is to be
    multiplied by k (1912.04958, Appendix B, "Lazy regularization"). None: no regularization, no change.
    """
    c = 1.0 if interval is None else interval / (interval + 1)
    return torch.optim.Adam(parameters, learning_rate * c, (0.0, 0.99**c), eps=1e-8, fused=True)


def is_due(seen: int, batch: int, interval: int) -> bool:
    """Whether the step that starts at `seen` training images is one of every `interval`-th; `batch`: this process's."""
    return seen // parallel.total(batch) % interval == 0
