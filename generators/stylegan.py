"""What the StyleGANs share: networks that may be trained with either of two losses."""

from typing import Literal

from pydantic import Field

from generators.logistic import R1Config
from generators.wasserstein import WassersteinConfig


class StyleGANConfig(R1Config, WassersteinConfig):
    """What may be chosen about the loss of a StyleGAN: logistic with R1, or progressive GAN's.

    The first paper had the one for FFHQ and the other for CelebA-HQ, and calls its networks "orthogonal to the ongoing
    discussion about GAN loss functions" (1812.04948, Sections 1 and 2.1).
    """

    loss: Literal["logistic", "wasserstein"] = Field(
        "logistic", description="what the networks play for: logistic, with R1, or wasserstein, with its penalty [name]"
    )

    @property
    def r1_step_interval(self) -> int | None:
        """Steps from one step of R1's own to the next; None where it takes none."""
        return None if self.loss == "wasserstein" or self.r1_gamma == 0 else self.r1_interval
