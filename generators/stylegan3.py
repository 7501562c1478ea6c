"""StyleGAN3: alias-free GAN, configurations T and R (Karras et al. 2021, arXiv 2106.12423; sections refer to it)."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from generators import logistic, parallel, wasserstein
from generators.adversarial import GAN, lazy_adam
from generators.augmentation import mirror
from generators.base import half_life_decay, latents
from generators.discriminator import Discriminator
from generators.layers import LEAK, LEAKY_GAIN, Linear, Mapping, modulated_conv2d
from generators.resample import downsample, gaussian, lowpass, radial_lowpass, upsample
from generators.stylegan import StyleGANConfig

MARGIN = 10  # samples kept around the canvas on each side, so that borders leak no absolute position (Section 3.2)
TAPS = 6  # filter taps per sample of the lower rate: the Kaiser window's n (Section 3.2)
OVERSAMPLING = 2  # rate at which the nonlinearity runs, over the higher of a layer's two rates: m (Section 3.2)
FIRST_CUTOFF, FIRST_STOPBAND, LAST_STOPBAND = 2.0, 2**2.1, 2**0.3  # Section 3.2, "Flexible layers"
CRITICAL = 2  # last layers, sampled critically: the image needs all frequencies up to its own limit (Section 3.2)
OUTPUT_SCALE = 0.25  # brings the untrained network's output into the range of images


class StyleGAN3Config(StyleGANConfig):
    """What may be chosen about a StyleGAN3 and its training.

    Defaults are those of the paper's configuration T (variant=r: R), but for half of its maps at high resolutions
    (channel_base=32768 is the paper's) and for R1: the paper chose γ for each data set, here it fits the size (see
    `R1Config`).
    """

    # γ · batch size / pixels: at batches of 32, γ is 0.5 at 128 × 128 and 2 at 256 × 256, what the authors' code
    # recommends to begin with.
    gamma_factor: ClassVar[float] = 1 / 1024

    bf16_on_cpu: ClassVar[bool] = False  # measured at 32 px (AVX512-BF16): 0.45 of fp32's images/s

    search_space: ClassVar = {
        "generator_learning_rate": (5e-4, 5e-3, "log"),
        "discriminator_learning_rate": (5e-4, 5e-3, "log"),
        "loss": ["logistic", "wasserstein"],
        "r1_scale": (0.1, 10.0, "log"),
    }

    variant: Literal["t", "r"] = Field(
        "t", description="equivariance: t = translation, r = also rotation (1×1 convolutions, twice the maps) [name]"
    )
    w_dim: int = Field(512, ge=1, description="width of the style space W [numbers]")
    mapping_layers: int = Field(2, ge=1, le=16, description="depth of the mapping network [layers]")
    layers: int = Field(14, ge=4, le=32, description="depth of the synthesis network, without the last 1×1 [layers]")
    generator_learning_rate: float = Field(0.0025, gt=0, le=1, description="Adam's step, generator [per step]")
    discriminator_learning_rate: float = Field(0.002, gt=0, le=1, description="Adam's step, discriminator [per step]")
    magnitude_half_life: float = Field(20_000, gt=0, description="averaging of each layer's magnitude [images]")
    blur_sigma: float | None = Field(
        None, ge=0, le=64, description="blur of all the discriminator sees at the start; unset: r 10, t 0 [pixels]"
    )
    blur_images: int = Field(200_000, ge=1, description="length over which that blur fades to nothing [images]")
    truncation: float = Field(1.0, ge=0, le=1, description="psi: 1 samples all of W, 0 only its mean [share]")

    def sigma(self, seen: int) -> float:
        """Blur after `seen` images [pixels]: by default that with which the paper's R starts (Appendix F)."""
        start = {"t": 0.0, "r": 10.0}[self.variant] if self.blur_sigma is None else self.blur_sigma
        return start * max(1 - seen / self.blur_images, 0)


class Band(NamedTuple):
    """The signal between two layers: continuous, band-limited, sampled. Frequencies in cycles per canvas."""

    cutoff: float  # f_c
    half_width: float  # f_h of the transition band
    rate: int  # s, samples per canvas
    size: int  # samples per side, margins included
    maps: int


def plan(config: StyleGAN3Config, resolution: int) -> list[Band]:
    """The input's band, then every layer's output band (Section 3.2, "Flexible layers"; Figure 4c)."""
    last = config.layers - CRITICAL  # the first critically sampled layer, from which on nothing grows
    widen = 2 if config.variant == "r" else 1
    bands = []
    for i in range(config.layers):
        progress = min(i / last, 1)
        cutoff = FIRST_CUTOFF * (resolution / 2 / FIRST_CUTOFF) ** progress
        stopband = FIRST_STOPBAND * (resolution / 2 * LAST_STOPBAND / FIRST_STOPBAND) ** progress  # f_t
        rate = 2 ** math.ceil(math.log2(min(2 * stopband, resolution)))
        size = resolution if i == config.layers - 1 else rate + 2 * MARGIN
        maps = max(min(round(config.channel_base / 2 / cutoff), config.channel_max), 1) * widen
        bands.append(Band(cutoff, max(rate / 2, stopband) - cutoff, rate, size, maps))
    return [bands[0], *bands]


class FourierFeatures(nn.Module):
    """w [B, w_dim] → band-limited pattern [B, maps, size, size], moved and turned by w: fixed waves
    (Section 3.1) under a learned transformation (Section 3.2, "Transformed Fourier features"; Figure 4b)."""

    def __init__(self, w_dim: int, band: Band) -> None:
        super().__init__()
        # Frequencies uniform in the disc of radius f_c, fixed for good.
        radius, angle = band.cutoff * torch.rand(band.maps).sqrt(), 2 * math.pi * torch.rand(band.maps)
        self.register_buffer("frequencies", torch.stack([radius * angle.cos(), radius * angle.sin()], 1))
        self.register_buffer("phases", torch.rand(band.maps))
        self.weight = nn.Parameter(torch.randn(band.maps, band.maps))
        self.transform = Linear(w_dim, 4)
        with torch.no_grad():  # the identity, whatever w
            self.transform.weight.zero_()
            self.transform.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        position = (torch.arange(band.size) + 0.5 - band.size / 2) / band.rate  # canvas = [-1/2, 1/2]²
        y, x = torch.meshgrid(position, position, indexing="ij")
        self.register_buffer("grid", torch.stack([x, y], 2), persistent=False)

    def forward(self, w: Tensor) -> Tensor:
        t = self.transform(w)
        cos, sin, *shift = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        shift = torch.stack(shift, 1)
        turn = torch.stack([cos, sin, -sin, cos], 1).unflatten(1, (2, 2))  # rotation by −α of the sampling points
        frequencies = self.frequencies @ turn  # [B, maps, 2]: the pattern at x is the fixed one at R⁻¹ (x − shift)
        phases = self.phases - (frequencies @ shift[:, :, None]).squeeze(2)
        angle = torch.einsum("hwd,bcd->bhwc", self.grid, frequencies) + phases[:, None, None, :]
        features = (2 * math.pi * angle).sin() @ self.weight.T / math.sqrt(len(self.weight))
        return features.permute(0, 3, 1, 2)


class SynthesisLayer(nn.Module):
    """One layer of Figure 4b: modulated convolution, then leaky ReLU between up- and downsampling filters.

    x [B, source.maps, source.size, source.size], w [B, w_dim] → [B, target.maps, target.size, target.size].
    """

    def __init__(self, w_dim: int, source: Band, target: Band, kernel: int, radial: bool) -> None:
        super().__init__()
        self.style = Linear(w_dim, source.maps, bias=1.0)
        self.weight = nn.Parameter(torch.randn(target.maps, source.maps, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(target.maps))
        self.register_buffer("magnitude", torch.ones(()))  # E[x²] of the input

        rate = OVERSAMPLING * max(source.rate, target.rate)
        self.up, self.down = rate // source.rate, rate // target.rate
        # × up: what zero insertion takes away. √(leaky ReLU's gain) on each axis: the gain itself, for a positive
        # factor commutes with leaky ReLU.
        gain = self.up * math.sqrt(LEAKY_GAIN)
        up_kernel = gain * lowpass(TAPS * self.up, source.cutoff, source.half_width, rate)
        design = radial_lowpass if radial else lowpass
        down_kernel = design(TAPS * self.down, target.cutoff, target.half_width, rate)
        self.register_buffer("up_kernel", up_kernel, persistent=False)
        self.register_buffer("down_kernel", down_kernel, persistent=False)
        # Of the upsampled signal, only what the target's samples are made of.
        have = (source.size - 1) * self.up + len(up_kernel)
        need = (target.size - 1) * self.down + len(down_kernel)
        self.crop = (have - need) // 2

    def forward(self, x: Tensor, w: Tensor, magnitude_decay: float | None) -> Tensor:
        if magnitude_decay is not None:
            self.magnitude.lerp_(parallel.mean(x.detach().float().square().mean()), 1 - magnitude_decay)
        # Division by the input's magnitude: Section 3.1, "Simplified generator".
        x = modulated_conv2d(x, self.weight, self.style(w), self.bias, gain=self.magnitude.rsqrt())
        return self.filtered_leaky_relu(x)

    def filtered_leaky_relu(self, x: Tensor) -> Tensor:
        """Nonlinearity at a rate that holds the frequencies it makes, which are then filtered off (Section 3.2)."""
        x = upsample(x, self.up_kernel, self.up, self.crop)
        return downsample(F.leaky_relu(x, LEAK, inplace=True), self.down_kernel, self.down)


class ToImage(nn.Module):
    """1×1 modulated convolution without demodulation or nonlinearity to the image [B, channels, H, W], float32."""

    def __init__(self, w_dim: int, maps: int, channels: int) -> None:
        super().__init__()
        self.style = Linear(w_dim, maps, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, maps, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("magnitude", torch.ones(()))

    def forward(self, x: Tensor, w: Tensor, magnitude_decay: float | None) -> Tensor:
        if magnitude_decay is not None:
            self.magnitude.lerp_(parallel.mean(x.detach().float().square().mean()), 1 - magnitude_decay)
        gain = self.magnitude.rsqrt() / math.sqrt(x.shape[1])
        x = modulated_conv2d(x, self.weight, self.style(w), self.bias, demodulate=False, gain=gain)
        return x.float() * OUTPUT_SCALE


class StyleGAN3Network(nn.Module):
    """z [B, z_dim] → images [B, channels, resolution, resolution], not clamped."""

    def __init__(self, channels: int, resolution: int, config: StyleGAN3Config) -> None:
        super().__init__()
        self.dtype = config.dtype
        self.mapping = Mapping(config.z_dim, config.w_dim, config.mapping_layers, decay=0.998)  # the authors' for it
        bands = plan(config, resolution)
        self.input = FourierFeatures(config.w_dim, bands[0])
        rotation = config.variant == "r"
        self.layers = nn.ModuleList()
        for i in range(config.layers):
            critical = i >= config.layers - CRITICAL
            layer = SynthesisLayer(
                config.w_dim, bands[i], bands[i + 1], 1 if rotation else 3, radial=rotation and not critical
            )
            self.layers.append(layer)
        self.to_image = ToImage(config.w_dim, bands[-1].maps, channels)

    def forward(self, z: Tensor, truncation: float = 1.0, magnitude_decay: float | None = None) -> Tensor:
        """`truncation`: psi in W. `magnitude_decay`: weight of the past in the layers' magnitudes; None: no update of
        these, nor of W's mean."""
        w = self.mapping(z, truncation)
        if magnitude_decay is not None:
            self.mapping.track(w)
        x = self.input(w).to(self.dtype)
        for layer in self.layers:
            x = layer(x, w, magnitude_decay)
        return self.to_image(x, w, magnitude_decay)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of `sigma` pixels with zeros outside the image; none below 0.1 pixels."""
    if sigma < 0.1:
        return images
    return downsample(images, gaussian(sigma).to(images.device), 1, pad=math.ceil(3 * sigma))


class StyleGAN3(GAN):
    """StyleGAN3 with StyleGAN2's discriminator, non-saturating loss and lazy R1 (Appendix F)."""

    Config = StyleGAN3Config

    def __init__(self, channels: int, resolution: int, config: StyleGAN3Config) -> None:
        if resolution < 16 or resolution & (resolution - 1):
            raise ValueError(f"stylegan3 makes images of 16, 32, 64, ... pixels a side, not {resolution}")
        generator = StyleGAN3Network(channels, resolution, config)
        discriminator = Discriminator(channels, resolution, config)
        super().__init__(channels, resolution, config, generator, discriminator)
        self.optimizers = {
            "generator": lazy_adam(generator.parameters(), config.generator_learning_rate, None),
            "discriminator": lazy_adam(
                discriminator.parameters(), config.discriminator_learning_rate, config.r1_step_interval
            ),
        }

    def train_step(self, images: Tensor, seen: int) -> dict[str, Tensor]:
        """One generator and one discriminator step, and every `r1_interval` steps an R1 step.

        Losses: loss_generator, loss_discriminator; gradient_norm_generator, gradient_norm_discriminator; score_real and
        score_fake, the mean logits; r1, the squared gradient norm, at the steps that compute it; ada_p, the probability
        of augmentation, where that is on; or those of `wasserstein.step`.
        """
        if self.config.mirror:
            images = mirror(images)
        step = self.wasserstein_step if self.config.loss == "wasserstein" else self.logistic_step
        return self.finish(step(images, seen), len(images), seen)

    def wasserstein_step(self, images: Tensor, seen: int) -> dict[str, Tensor]:
        sigma, fake = self.config.sigma(seen), self.generate(len(images))
        return wasserstein.step(self, self.networks["discriminator"], blur(images, sigma), blur(fake, sigma), seen)

    def logistic_step(self, images: Tensor, seen: int) -> dict[str, Tensor]:
        batch, sigma = len(images), self.config.sigma(seen)

        def discriminate(x: Tensor) -> Tensor:
            return self.networks["discriminator"](self.augmented(blur(x, sigma)))

        losses = self.generator_step(lambda: logistic.generator_loss(discriminate(self.generate(batch))))
        with torch.no_grad():
            fake = self.networks["generator"](self.latents(batch))
        real, fake = discriminate(images), discriminate(fake)
        losses |= self.discriminator_step(logistic.discriminator_losses(real, fake))
        losses |= logistic.r1_step(self, discriminate, images, seen)
        return losses | self.adapt_augmentation(real, seen)

    def generate(self, batch: int) -> Tensor:
        """Fresh images [B, C, H, H] of the network in training, not clamped; magnitudes and W's mean follow them."""
        decay = half_life_decay(parallel.total(batch), self.config.magnitude_half_life)
        return self.networks["generator"](self.latents(batch), magnitude_decay=decay)

    def latents(self, batch: int) -> Tensor:
        return parallel.randn(batch, self.config.z_dim).to(self.device)

    @torch.no_grad()
    def sample(self, seeds: Sequence[int]) -> Tensor:
        z = latents(seeds, self.config.z_dim).to(self.device)
        return self.ema["generator"](z, self.config.truncation).clamp(-1, 1)
