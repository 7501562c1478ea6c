"""Adversarial training: losses, the gradient penalty, lazy regularization, and what is done to images beforehand."""

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.resample import downsample, gaussian


def generator_loss(fake: Tensor) -> Tensor:
    """Non-saturating loss of logits [B]: −log σ(fake) (1406.2661, Section 3)."""
    return F.softplus(-fake).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Logistic loss of logits [B]: −log σ(real) − log(1 − σ(fake)) (1406.2661, eq. 1)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def r1_penalty(discriminate: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Squared gradient norm E‖∇D(x)‖² of the logits at real images (1801.04406, eq. 9, without its γ/2)."""
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminate(images).sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def lazy_adam(parameters: Iterable[nn.Parameter], learning_rate: float, interval: int | None) -> torch.optim.Adam:
    """Adam (β₁ = 0, β₂ = 0.99) of a network that takes one regularization step every `interval` ordinary ones.

    The extra step shares Adam's moments, so learning rate and betas are slowed by c = k / (k + 1); the penalty is to be
    multiplied by k (1912.04958, Appendix B, "Lazy regularization"). None: no regularization, no change.
    """
    c = 1.0 if interval is None else interval / (interval + 1)
    return torch.optim.Adam(parameters, learning_rate * c, (0.0, 0.99**c), eps=1e-8)


def is_due(seen: int, batch: int, interval: int) -> bool:
    """Whether the step that starts at `seen` training images is one of every `interval`-th."""
    return seen // batch % interval == 0


def mirror(images: Tensor) -> Tensor:
    """Each image [C, H, W] of a batch flipped left–right with probability one half."""
    flip = torch.rand(len(images)) < 0.5
    return torch.where(flip.to(images.device)[:, None, None, None], images.flip(3), images)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of `sigma` pixels with zeros outside the image; none below 0.1 pixels."""
    if sigma < 0.1:
        return images
    return downsample(images, gaussian(sigma).to(images.device), 1, pad=math.ceil(3 * sigma))
