"""What the GANs share, whatever their loss: configuration, lazy regularization, augmentation, each network's step."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from generators.augmentation import AdaptiveAugmentation
from generators.base import Generator, GeneratorConfig

SMALL_COHORT = 30_000  # training images; with fewer, adaptive augmentation is recommended (2006.06676)


class GANConfig(GeneratorConfig):
    """What may be chosen about any GAN."""

    z_dim: int = Field(512, ge=1, description="width of the random input z [numbers]")
    channel_base: int = Field(16384, ge=1, description="feature maps × resolution, in both networks [maps × pixels]")
    channel_max: int = Field(512, ge=1, description="most feature maps of a layer, in both networks [maps]")
    ema_half_life: float = Field(10_000, ge=0, description="averaging of the generator's weights [images]")
    ema_ramp: float = Field(0.05, gt=0, description="that half-life is at most this share of images seen [share]")
    mirror: bool = Field(False, description="flip training images left-right at random [yes/no]")
    augmentation: bool | None = Field(
        None, description="adaptive discriminator augmentation; unset: below 30,000 training slices [yes/no]"
    )
    augmentation_target: float = Field(0.6, ge=-1, le=1, description="mean sign of D(real) that it keeps to [1]")
    augmentation_images: float = Field(500_000, gt=0, description="its strength goes from 0 to 1 over these [images]")
    augmentation_quarter_turns: bool = Field(False, description="it also turns by multiples of 90 degrees [yes/no]")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="arithmetic of convolutions and filters; auto: bf16 where it is faster, else fp32 [name]"
    )

    def maps(self, level: int) -> int:
        """Feature maps of layers at 2^level pixels a side."""
        return max(min(self.channel_base >> level, self.channel_max), 1)

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


class GAN(Generator):
    """A generator, its averaged copy and the discriminator it learns from; a step of each on every batch.

    What the discriminator sees of images goes through adaptive augmentation, also where the configuration leaves that
    open: who trains on a cohort of `SMALL_COHORT` images or more is to switch it off.
    """

    config: GANConfig
    share_multiple = 4  # groups of `minibatch_std`
    critic = "discriminator"

    def __init__(
        self, channels: int, resolution: int, config: GANConfig, generator: nn.Module, discriminator: nn.Module
    ) -> None:
        super().__init__(channels, resolution, config)
        self.networks = {"generator": generator, "discriminator": discriminator}
        self.ema = {"generator": copy.deepcopy(generator).eval().requires_grad_(False)}
        self.augmentation = AdaptiveAugmentation(
            config.augmentation_target, config.augmentation_images, config.augmentation_quarter_turns
        )

    def augmented(self, images: Tensor) -> Tensor:
        """What the discriminator is to see of images [B, C, H, H], be they real or generated."""
        return images if self.config.augmentation is False else self.augmentation(images)

    def realness(self, images: Tensor) -> Tensor:
        """The discriminator's scores [B] of images [B, C, H, H] of full resolution, higher for real ones."""
        return self.networks["discriminator"](images)

    @torch.no_grad()
    def familiarity(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """The discriminator's score, which overfits to what it was shown as real (LOGAN, 1705.07663); no seed is used.

        An odd batch has no groups for `minibatch_std`, so no image changes another one's score.
        """
        odd = images if len(images) % 2 else torch.cat([images, images[:1]])
        return self.realness(odd)[: len(images)].float()

    def adapt_augmentation(self, real: Tensor, seen: int) -> dict[str, Tensor]:
        """Once a step: the augmentation follows the logits [B] of real images. ada_p, its probability, if it is on."""
        if self.config.augmentation is False:
            return {}
        self.augmentation.update(real, seen)
        return {"ada_p": torch.tensor(self.augmentation.p)}

    def extra_state(self) -> dict:
        return {"augmentation": self.augmentation.state_dict()}

    def load_extra_state(self, state: dict) -> None:
        if state.keys() != self.extra_state().keys():
            raise RuntimeError(f"state holds {sorted(state)}, this model has {sorted(self.extra_state())}")
        self.augmentation.load_state_dict(state["augmentation"])

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


def lazy_adam(parameters: Iterable[nn.Parameter], learning_rate: float, interval: int | None) -> torch.optim.Adam:
    """Adam (β₁ = 0, β₂ = 0.99) of a network that takes one regularization step every `interval` ordinary ones.

    The extra step shares Adam's moments, so learning rate and betas are slowed by c = k / (k + 1); the penalty is to be
    multiplied by k (1912.04958, Appendix B, "Lazy regularization"). None: no regularization, no change.
    """
    c = 1.0 if interval is None else interval / (interval + 1)
    return torch.optim.Adam(parameters, learning_rate * c, (0.0, 0.99**c), eps=1e-8, fused=True)
