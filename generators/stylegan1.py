"""StyleGAN (Karras et al. 2019, arXiv 1812.04948; sections refer to it)."""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from generators import logistic, parallel, wasserstein
from generators.adversarial import GAN, lazy_adam
from generators.augmentation import mirror
from generators.base import is_due, latents
from generators.discriminator import minibatch_std
from generators.growth import GrowthConfig, check_size, down, fade, grown, level_at, up
from generators.layers import LEAK, Conv2d, DownConv2d, LeakyConv2d, Linear, Mapping, upsampling_conv2d
from generators.resample import downsample
from generators.stylegan import StyleGANConfig

# The binomial filter [1, 2, 1] of Appendix C after nearest-neighbour upsampling, or before the average of two: both in
# one are bilinear resampling.
BILINEAR = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
BINOMIAL = torch.tensor([1.0, 2.0, 1.0]) / 4
FIRST = 3  # level of the smallest images


class StyleGAN1Config(GrowthConfig, StyleGANConfig):
    """What may be chosen about a StyleGAN and its training; defaults are those of the paper's configuration F, but for
    R1: its γ = 10 was for 1024 × 1024 pixels, here it fits the size (see `R1Config`)."""

    bf16_on_cpu: ClassVar[bool] = False  # measured at 32 px (AVX512-BF16): 0.77 of fp32's images/s

    search_space: ClassVar = {
        "learning_rate": (5e-4, 5e-3, "log"),
        "loss": ["logistic", "wasserstein"],
        "r1_scale": (0.1, 10.0, "log"),
        "mixing": (0.0, 0.9),
    }

    w_dim: int = Field(512, ge=1, description="width of the style space W [numbers]")
    mapping_layers: int = Field(8, ge=1, le=16, description="depth of the mapping network [layers]")
    mixing: float = Field(0.9, ge=0, le=1, description="training images whose styles come from two w [share]")
    r1_interval: int = Field(1, ge=1, description="R1 in one step out of so many; more than 1 is faster [steps]")
    truncation: float = Field(1.0, ge=0, le=1, description="psi: 1 samples all of W, 0 only its mean [share]")


def adaptive_instance_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x [B, C, H, W] with each map brought to standard deviation `scale` and mean `shift`, both [B, C] (eq. 1)."""
    x = x - x.mean((2, 3), keepdim=True)
    variance = torch.linalg.vector_norm(x, dim=(2, 3)).square() / x[0, 0].numel()
    scale = scale * (variance + 1e-8).rsqrt()
    return torch.addcmul(shift.to(x.dtype)[:, :, None, None], x, scale.to(x.dtype)[:, :, None, None])


class StyleLayer(nn.Module):
    """Convolution, noise, leaky ReLU, AdaIN (Figure 1b).

    x [B, I, H, W], w [B, w_dim], noise [B, 1, H', W'] → [B, O, H', W'], where H' is 2H if `grow`, else H. Without
    `inputs`, x is the learned constant, which nothing convolves.
    """

    def __init__(self, w_dim: int, inputs: int | None, outputs: int, grow: bool) -> None:
        super().__init__()
        self.grow = grow
        self.conv = None if inputs is None else Conv2d(inputs, outputs, 3, pad=1, bias=False)
        self.noise_gain = nn.Parameter(torch.zeros(outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = Linear(w_dim, 2 * outputs)
        self.register_buffer("blur", 2 * BILINEAR, persistent=False)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        if self.grow:
            x = upsampling_conv2d(x, self.conv.weight * self.conv.weight_gain, self.blur)
        elif self.conv is not None:
            x = self.conv(x)
        bias, noise_gain = (p.to(x.dtype)[:, None, None] for p in (self.bias, self.noise_gain))
        x = x + torch.addcmul(bias, noise_gain, noise.to(x.dtype))
        x = F.leaky_relu(x, LEAK, inplace=True)  # AdaIN undoes any gain
        scale, shift = self.style(w).chunk(2, 1)
        return adaptive_instance_norm(x, 1 + scale, shift)  # 1 +: the initial bias of y_s (Appendix C)


class StyleGAN1Network(nn.Module):
    """z [B, z_dim] → images [B, channels, 2^⌈level⌉, 2^⌈level⌉], not clamped (Figure 1b)."""

    def __init__(self, channels: int, resolution: int, config: StyleGAN1Config) -> None:
        super().__init__()
        self.dtype = config.dtype
        self.register_buffer("level", torch.tensor(3.0))
        self.mapping = Mapping(config.z_dim, config.w_dim, config.mapping_layers)
        last, maps = int(math.log2(resolution)), config.maps
        self.constant = nn.Parameter(torch.ones(maps(2), 4, 4))
        self.layers = nn.ModuleList()  # two for each level from 2
        for i in range(2, last + 1):
            self.layers.append(StyleLayer(config.w_dim, maps(i - 1) if i > 2 else None, maps(i), grow=i > 2))
            self.layers.append(StyleLayer(config.w_dim, maps(i), maps(i), grow=False))
        self.to_image = nn.ModuleList(Conv2d(maps(i), channels, 1) for i in range(3, last + 1))

    def noise_pixels(self, level: float) -> list[int]:
        """Pixels of each layer's noise at a level."""
        return [4**i for i in range(2, math.ceil(level) + 1) for _ in range(2)]

    def styles(self, z: Tensor, level: float, mixing: float = 0.0, truncation: float = 1.0) -> Tensor:
        """w of each layer [B, layers, w_dim] for z [B, z_dim]. `mixing`: chance that an image takes its styles from
        a random layer on from a second, random z (Section 3.1). `truncation`: psi (Appendix B)."""
        layers = len(self.noise_pixels(level))
        if mixing == 0:
            return self.mapping(z, truncation)[:, None].expand(-1, layers, -1)
        other = parallel.randn(*z.shape).to(z.device)
        w, other = self.mapping(torch.cat([z, other]), truncation)[:, None].chunk(2)
        cut = torch.where(parallel.rand(len(z)) < mixing, parallel.randint(1, layers, len(z)), layers)
        first = torch.arange(layers) < cut[:, None]  # [B, layers]
        return torch.where(first.to(z.device)[:, :, None], w, other)

    def forward(self, w: Tensor, noise: Tensor, level: float) -> Tensor:
        """w [B, layers, w_dim], noise [B, pixels of all layers]."""
        noises = noise.split(self.noise_pixels(level), 1)
        x = before = self.constant.expand(len(w), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        for i, (layer, pixels) in enumerate(zip(self.layers, noises, strict=False)):
            if layer.grow:
                before = x
            size = math.isqrt(pixels.shape[1])
            # Only now in low precision: AdaIN lives on the constant's small differences, which float32 keeps.
            x = layer(x, w[:, i], pixels.reshape(-1, 1, size, size)).to(self.dtype)
        top = math.ceil(level) - 3
        image = fade(lambda: up(self.to_image[top - 1](before)), self.to_image[top](x), level)
        return image.float()


class DiscriminatorBlock(nn.Module):
    """x [B, I, H, W] → [B, O, H/2, W/2]: progressive GAN's block, with bilinear downsampling (Appendix C): the binomial
    filter before the second convolution, with which it commutes, and the average within it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = LeakyConv2d(inputs, inputs, 3, pad=1)
        self.conv2 = DownConv2d(inputs, outputs)
        self.register_buffer("blur", BINOMIAL, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(downsample(self.conv1(x), self.blur, 1, pad=1))


class StyleGAN1Discriminator(nn.Module):
    """Images [B, channels, 2^⌈level⌉, 2^⌈level⌉] → realness logits [B], float32.

    Progressive GAN's (1710.10196, Table 2), but for its downsampling and for starting at 8 × 8 pixels.
    """

    def __init__(self, channels: int, resolution: int, config: StyleGAN1Config) -> None:
        super().__init__()
        self.dtype = config.dtype
        last, maps = int(math.log2(resolution)), config.maps
        self.from_image = nn.ModuleList(LeakyConv2d(channels, maps(i), 1) for i in range(FIRST, last + 1))
        self.blocks = nn.ModuleList(DiscriminatorBlock(maps(i), maps(i - 1)) for i in range(FIRST, last + 1))
        self.conv1 = LeakyConv2d(maps(2) + 1, maps(2), 3, pad=1)
        self.conv2 = LeakyConv2d(maps(2), maps(2), 4)
        self.score = Linear(maps(2), 1)

    def forward(self, images: Tensor, level: float) -> Tensor:
        images = images.to(self.dtype, memory_format=torch.channels_last)
        top = math.ceil(level) - FIRST
        x = self.blocks[top](self.from_image[top](images))
        x = fade(lambda: self.from_image[top - 1](down(images)), x, level)
        for block in reversed(self.blocks[:top]):
            x = block(x)
        # Groups of 4 samples rather than the whole minibatch: the statistic means the same on any number of devices.
        x = self.conv2(self.conv1(minibatch_std(x.to(self.conv1.weight.dtype))))
        return self.score(x.flatten(1)).squeeze(1)


class StyleGAN1(GAN):
    """StyleGAN: grows from 8 × 8 pixels; non-saturating loss with R1 (Appendix C)."""

    Config = StyleGAN1Config
    config: StyleGAN1Config

    def __init__(self, channels: int, resolution: int, config: StyleGAN1Config) -> None:
        check_size(resolution, "stylegan1")
        generator = StyleGAN1Network(channels, resolution, config)
        super().__init__(channels, resolution, config, generator, StyleGAN1Discriminator(channels, resolution, config))
        for name, network in self.networks.items():
            self.optimizers[name] = lazy_adam(network.parameters(), config.learning_rate, None)

    def train_step(self, images: Tensor, seen: int) -> dict[str, Tensor]:
        """One discriminator and one generator step at the level of `seen`.

        Losses: loss_generator, loss_discriminator; gradient_norm_generator, gradient_norm_discriminator; score_real and
        score_fake, the mean logits; r1, the squared gradient norm, at the steps that compute it; ada_p, the probability
        of augmentation, where that is on; or those of `wasserstein.step`; `level`, how far the networks have grown.
        """
        batch, level = len(images), level_at(seen, FIRST, int(math.log2(self.resolution)), self.config)
        self.networks["generator"].level.fill_(level)
        if self.config.mirror:
            images = mirror(images)

        fake, real = self.generate(batch, level), grown(images, level)  # the same images train both networks
        if self.config.loss == "wasserstein":
            losses = wasserstein.step(self, lambda x: self.networks["discriminator"](x, level), real, fake, seen)
        else:
            losses = self.logistic_step(real, fake, level, seen)
        return self.finish(losses | {"level": torch.tensor(level)}, batch, seen)

    def logistic_step(self, real: Tensor, fake: Tensor, level: float, seen: int) -> dict[str, Tensor]:
        def discriminate(x: Tensor) -> Tensor:
            return self.networks["discriminator"](self.augmented(x), level)

        logits = discriminate(real)
        losses = logistic.discriminator_losses(logits, discriminate(fake.detach()))
        losses = self.discriminator_step(self.with_r1(losses, discriminate, real, seen))
        losses |= self.generator_step(lambda: logistic.generator_loss(discriminate(fake)))
        return losses | self.adapt_augmentation(logits, seen)

    def generate(self, count: int, level: float) -> Tensor:
        """Fresh images of the network in training, not clamped; W's mean follows their styles."""
        generator = self.networks["generator"]
        w = generator.styles(parallel.randn(count, self.config.z_dim).to(self.device), level, self.config.mixing)
        generator.mapping.track(w[:, 0])
        return generator(w, parallel.randn(count, sum(generator.noise_pixels(level)), device=self.device), level)

    def with_r1(
        self, losses: dict[str, Tensor], discriminate: Callable[[Tensor], Tensor], real: Tensor, seen: int
    ) -> dict[str, Tensor]:
        """`losses` with r1, the squared gradient norm, and γ / 2 of it, times the interval, in loss_discriminator, at
        every `r1_interval`-th step.

        Where it fits the size, γ is for the size of `real`, which grows. That is smooth: when the next level begins to
        fade in, four pixels share what was the gradient at one, R1 falls to a quarter and γ rises by four.
        """
        gamma, interval = self.config.gamma(real), self.config.r1_interval
        if gamma == 0 or not is_due(seen, len(real), interval):
            return losses
        r1 = logistic.r1_penalty(discriminate, real)
        return losses | {"r1": r1, "loss_discriminator": losses["loss_discriminator"] + r1 * (gamma / 2 * interval)}

    def realness(self, images: Tensor) -> Tensor:
        level = float(self.networks["generator"].level)
        return self.networks["discriminator"](grown(images, level), level)

    @torch.no_grad()
    def sample(self, seeds: Sequence[int]) -> Tensor:
        """z and noise are one draw a seed, always as long as full resolution needs, so that z does not change with the
        level."""
        generator, z_dim = self.ema["generator"], self.config.z_dim
        level = float(generator.level)
        pixels = sum(generator.noise_pixels(math.log2(self.resolution)))
        drawn = latents(seeds, z_dim + pixels).to(self.device)
        w = generator.styles(drawn[:, :z_dim], level, truncation=self.config.truncation)
        images = generator(w, drawn[:, z_dim : z_dim + sum(generator.noise_pixels(level))], level)
        return up(images, self.resolution // images.shape[2]).clamp(-1, 1)
