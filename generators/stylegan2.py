"""StyleGAN2 (Karras et al. 2020, arXiv 1912.04958; sections, figures and equations refer to it)."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from generators import logistic, parallel, wasserstein
from generators.adversarial import GAN, lazy_adam
from generators.augmentation import mirror
from generators.base import is_due, latents
from generators.discriminator import Discriminator
from generators.layers import LEAK, LEAKY_GAIN, Linear, Mapping, modulated_conv2d, upsampling_conv2d
from generators.resample import upsample
from generators.stylegan import StyleGANConfig

UP = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4  # bilinear filter of all upsampling; a DC gain of two restores the level


class StyleGAN2Config(StyleGANConfig):
    """What may be chosen about a StyleGAN2 and its training.

    Defaults are those of the paper's configuration E, whose networks are half as wide as F's at high resolutions
    (channel_base=32768), but for R1: F's γ = 10 was for 1024 × 1024 pixels, here it fits the size (see `R1Config`).
    """

    bf16_on_cpu: ClassVar[bool] = False  # measured at 32 px (AVX512-BF16): 0.76 of fp32's images/s

    search_space: ClassVar = {
        "generator_learning_rate": (5e-4, 5e-3, "log"),
        "discriminator_learning_rate": (5e-4, 5e-3, "log"),
        "loss": ["logistic", "wasserstein"],
        "r1_scale": (0.1, 10.0, "log"),
        "augmentation": [False, True],
    }

    w_dim: int = Field(512, ge=1, description="width of the style space W [numbers]")
    mapping_layers: int = Field(8, ge=1, le=16, description="depth of the mapping network [layers]")
    generator_learning_rate: float = Field(0.002, gt=0, le=1, description="Adam's step, generator [per step]")
    discriminator_learning_rate: float = Field(0.002, gt=0, le=1, description="Adam's step, discriminator [per step]")
    style_mixing: float = Field(0.9, ge=0, le=1, description="images made from two styles, not one [share]")
    path_length_weight: float = Field(2.0, ge=0, description="weight of the path-length penalty [1]")
    path_length_interval: int = Field(8, ge=1, description="one path-length step every so many steps [steps]")
    path_length_decay: float = Field(
        0.01, gt=0, le=1, description="share of a new length in their running mean [share]"
    )
    truncation: float = Field(1.0, ge=0, le=1, description="psi: 1 samples all of W, 0 only its mean [share]")


def modulated_upsampling_conv2d(
    x: Tensor, weight: Tensor, style: Tensor, bias: Tensor, kernel: Tensor, gain: float
) -> Tensor:
    """`modulated_conv2d` at twice the resolution (see `upsampling_conv2d`): x [B, I, H, W] → [B, O, 2H, 2W]."""
    x = upsampling_conv2d(x * (style * gain).to(x.dtype)[:, :, None, None], weight, kernel)
    norm = (style.square() @ weight.square().sum((2, 3)).T + 1e-8).rsqrt().to(x.dtype)  # eq. 3
    return torch.addcmul(bias.to(x.dtype)[:, None, None], x, norm[:, :, None, None])


class SynthesisLayer(nn.Module):
    """Modulated 3 × 3 convolution, noise, bias, leaky ReLU (Figure 2d); with `up`, at twice the resolution.

    x [B, inputs, H, W], w [B, w_dim], noise [B, 1, H', W'] → [B, outputs, H', W'].
    """

    def __init__(self, w_dim: int, inputs: int, outputs: int, up: bool) -> None:
        super().__init__()
        self.style = Linear(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.up = up
        self.register_buffer("kernel", UP, persistent=False)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        # Leaky ReLU's gain, a positive factor, commutes with it: applied here, it costs no pass over x.
        style, bias = self.style(w), self.bias * LEAKY_GAIN
        if self.up:
            x = modulated_upsampling_conv2d(x, self.weight, style, bias, self.kernel, LEAKY_GAIN)
        else:
            x = modulated_conv2d(x, self.weight, style, bias, gain=LEAKY_GAIN)
        x = x.add_((noise * (self.noise_strength * LEAKY_GAIN)).to(x.dtype))
        return F.leaky_relu(x, LEAK, inplace=True)


class ToImage(nn.Module):
    """1 × 1 modulated convolution, not demodulated, to the image [B, channels, H, W] in the precision of w."""

    def __init__(self, w_dim: int, maps: int, channels: int) -> None:
        super().__init__()
        self.style = Linear(w_dim, maps, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, maps, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        gain = 1 / math.sqrt(x.shape[1])
        return modulated_conv2d(x, self.weight, self.style(w), self.bias, demodulate=False, gain=gain).to(w.dtype)


class Synthesis(nn.Module):
    """w [B, styles, w_dim], noise [B, noise_size] → images [B, channels, resolution, resolution], not clamped.

    The skip generator (Section 4.1, Figure 7b): every resolution adds its own image to the one below, upsampled. Each
    layer has a style of its own; an image shares that of the layer that follows it.
    """

    def __init__(self, channels: int, resolution: int, config: StyleGAN2Config) -> None:
        super().__init__()
        self.dtype = config.dtype
        levels = range(2, int(math.log2(resolution)) + 1)  # of 2^level pixels a side
        widths = [config.maps(i) for i in levels]
        self.constant = nn.Parameter(torch.randn(widths[0], 4, 4))
        self.layers = nn.ModuleList([SynthesisLayer(config.w_dim, widths[0], widths[0], up=False)])
        self.to_images = nn.ModuleList([ToImage(config.w_dim, widths[0], channels)])
        self.noise_shapes = [(4, 4)]
        for i, below, width in zip(levels[1:], widths[:-1], widths[1:], strict=True):
            self.layers.append(SynthesisLayer(config.w_dim, below, width, up=True))
            self.layers.append(SynthesisLayer(config.w_dim, width, width, up=False))
            self.to_images.append(ToImage(config.w_dim, width, channels))
            self.noise_shapes += [(2**i, 2**i)] * 2
        self.styles = len(self.layers) + 1
        self.noise_size = sum(h * w for h, w in self.noise_shapes)
        self.register_buffer("kernel", UP, persistent=False)

    def forward(self, w: Tensor, noise: Tensor) -> Tensor:
        noises = noise.split([h * w for h, w in self.noise_shapes], 1)
        x = self.constant.to(self.dtype).expand(len(w), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        for i, (layer, shape) in enumerate(zip(self.layers, self.noise_shapes, strict=True)):
            x = layer(x, w[:, i], noises[i].unflatten(1, (1, *shape)))
            if i == 0:
                image = self.to_images[0](x, w[:, 1])
            elif not layer.up:
                image = upsample(image, self.kernel, 2, crop=1) + self.to_images[i // 2](x, w[:, i + 1])
        return image


class StyleGAN2Network(nn.Module):
    """z [B, z_dim], noise [B, synthesis.noise_size] → images [B, channels, resolution, resolution], not clamped."""

    def __init__(self, channels: int, resolution: int, config: StyleGAN2Config) -> None:
        super().__init__()
        self.mapping = Mapping(config.z_dim, config.w_dim, config.mapping_layers)
        self.synthesis = Synthesis(channels, resolution, config)

    def forward(self, z: Tensor, noise: Tensor, truncation: float = 1.0) -> Tensor:
        w = self.mapping(z, truncation)
        return self.synthesis(w[:, None].expand(-1, self.synthesis.styles, -1), noise)


def mix_styles(first: Tensor, second: Tensor, styles: int, probability: float) -> Tensor:
    """w [B, w_dim] twice → [B, styles, w_dim]: `first`, but with `probability` `second` from a random layer on.

    The layer is uniform over all but the first, so that both take part (1812.04948, Section 3.1).
    """
    crossover = parallel.randint(1, styles, len(first))
    crossover = torch.where(parallel.rand(len(first)) < probability, crossover, styles)
    late = torch.arange(styles) >= crossover[:, None]
    return torch.where(late.to(first.device)[:, :, None], second[:, None], first[:, None])


def path_lengths(images: Tensor, w: Tensor) -> Tensor:
    """‖Jᵀy‖ [B] for y ~ N(0, 1), J the derivative of images [B, C, H, W] by w [B, styles, w_dim] (Section 3.2, eq. 4).

    Lengths are root mean squares over styles, and y is divided by √(H·W): both make them comparable between
    resolutions. In these units the paper's weight ln 2 / (r² (ln r − ln 2)) of Appendix B is two at every resolution r.
    """
    y = parallel.randn(*images.shape, device=images.device, dtype=images.dtype) / math.sqrt(images[0, 0].numel())
    (gradient,) = torch.autograd.grad((images * y).sum(), w, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


class StyleGAN2(GAN):
    """StyleGAN2, with non-saturating loss, lazy R1 and path-length regularization (Appendix B)."""

    Config = StyleGAN2Config

    def __init__(self, channels: int, resolution: int, config: StyleGAN2Config) -> None:
        if resolution < 8 or resolution & (resolution - 1):
            raise ValueError(f"stylegan2 makes images of 8, 16, 32, ... pixels a side, not {resolution}")
        generator = StyleGAN2Network(channels, resolution, config)
        discriminator = Discriminator(channels, resolution, config)
        super().__init__(channels, resolution, config, generator, discriminator)
        self.optimizers = {
            "generator": lazy_adam(
                generator.parameters(),
                config.generator_learning_rate,
                config.path_length_interval if config.path_length_weight > 0 else None,
            ),
            "discriminator": lazy_adam(
                discriminator.parameters(), config.discriminator_learning_rate, config.r1_step_interval
            ),
        }
        self.path_length = torch.zeros(())  # running mean: a of eq. 4

    def train_step(self, images: Tensor, seen: int) -> dict[str, Tensor]:
        """One generator and one discriminator step, and at their intervals a path-length and an R1 step.

        Losses: loss_generator, loss_discriminator; gradient_norm_generator, gradient_norm_discriminator; score_real and
        score_fake, the mean logits; path_length, its mean, and path_penalty, its mean squared distance from the running
        mean, at the steps that compute them; r1, the squared gradient norm, likewise; ada_p, the probability of
        augmentation, where that is on; or, but for path lengths, those of `wasserstein.step`.
        """
        config, batch = self.config, len(images)
        if config.mirror:
            images = mirror(images)
        losses = (self.wasserstein_step if config.loss == "wasserstein" else self.logistic_step)(images, seen)
        if config.path_length_weight > 0 and is_due(seen, batch, config.path_length_interval):
            losses |= self.path_length_step(max(batch // 2, 1))  # half a batch: its graph is the largest
        return self.finish(losses, batch, seen)

    def wasserstein_step(self, images: Tensor, seen: int) -> dict[str, Tensor]:
        fake, w = self.generate(len(images))
        self.networks["generator"].mapping.track(w[:, 0])  # which `mix_styles` leaves to the first z
        return wasserstein.step(self, self.networks["discriminator"], images, fake, seen)

    def logistic_step(self, images: Tensor, seen: int) -> dict[str, Tensor]:
        batch = len(images)

        def discriminate(x: Tensor) -> Tensor:
            return self.networks["discriminator"](self.augmented(x))

        def generator_loss() -> Tensor:
            fake, w = self.generate(batch)
            self.networks["generator"].mapping.track(w[:, 0])
            return logistic.generator_loss(discriminate(fake))

        losses = self.generator_step(generator_loss)
        with torch.no_grad():
            fake, _ = self.generate(batch)
        real, fake = discriminate(images), discriminate(fake)
        losses |= self.discriminator_step(logistic.discriminator_losses(real, fake))
        losses |= logistic.r1_step(self, discriminate, images, seen)
        return losses | self.adapt_augmentation(real, seen)

    def path_length_step(self, batch: int) -> dict[str, Tensor]:
        """A step of the generator down the squared distance of path lengths from their running mean (eq. 4)."""
        lengths = path_lengths(*self.generate(batch))
        mean = parallel.mean(lengths.detach().mean())
        self.path_length = self.path_length.to(mean.device).lerp(mean, self.config.path_length_decay)
        penalty = (lengths - self.path_length).square().mean()
        self.step("generator", penalty * (self.config.path_length_weight * self.config.path_length_interval))
        return {"path_length": mean, "path_penalty": penalty}

    def generate(self, batch: int) -> tuple[Tensor, Tensor]:
        """Fresh images [B, C, H, W] of the network in training, not clamped, and their w [B, styles, w_dim]."""
        network = self.networks["generator"]
        z = parallel.randn(2 * batch, self.config.z_dim).to(self.device)
        first, second = network.mapping(z).chunk(2)
        w = mix_styles(first, second, network.synthesis.styles, self.config.style_mixing)
        noise = parallel.randn(batch, network.synthesis.noise_size, device=self.device)
        return network.synthesis(w, noise), w

    @torch.no_grad()
    def sample(self, seeds: Sequence[int]) -> Tensor:
        network = self.ema["generator"]
        draws = latents(seeds, self.config.z_dim + network.synthesis.noise_size).to(self.device)
        z, noise = draws.split([self.config.z_dim, network.synthesis.noise_size], 1)
        return network(z, noise, self.config.truncation).clamp(-1, 1)

    def extra_state(self) -> dict:
        return {"path_length": self.path_length, **super().extra_state()}

    def load_extra_state(self, state: dict) -> None:
        super().load_extra_state(state)
        self.path_length = state["path_length"]
