"""Denoising diffusion on MONAI's U-Net and noise schedules.

Notation of every formula: ᾱ_t is the signal's share of the variance after step t, α_t = √ᾱ_t, σ_t = √(1 − ᾱ_t), and
x_t = α_t x_0 + σ_t ε, where x_0 is an image times `scale`. Papers: DDPM (2006.11239), DDIM (2010.02502), improved DDPM
(2102.09672), v-prediction (progressive distillation, 2202.00512), the schedule's shift and patches (simple diffusion,
2301.11093), scaled images (2301.10972), noise levels of training and sampling (EDM, 2206.00364), DPM-Solver++
(2211.01095).
"""

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet, DiffusionUNetResnetBlock
from monai.networks.schedulers.ddpm import DDPMScheduler
from monai.networks.schedulers.scheduler import NoiseSchedules
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from generators import parallel
from generators.augmentation import MODALITIES, mirror, small_affine
from generators.base import Generator, GeneratorConfig

# Noise levels at which `familiarity` asks: little noise tells most. Of a model trained on 8 phantoms of 16 px for 8,000
# images, patients are told from others with AUC 0.94 at log SNR 4, 0.83 at 2, 0.71 at 0.
FAMILIAR_LOG_SNR = (5.0, 4.0, 3.0)
Width = Annotated[int, Field(ge=8, le=1024, multiple_of=8)]


class DiffusionConfig(GeneratorConfig):
    """A modern default (v-prediction of scaled images, shifted cosine schedule, EDM's noise levels, second-order
    solver, EMA; dropout and small affine augmentation against memorization).

    The study's set-up: widths [64, 64, 128, 128, 256, 256], residual_blocks 3, scale 1, schedule linear, steps 4000,
    noise uniform, prediction epsilon, annotation_weight 1, learning_rate 1e-4, dropout 0, augmentation 0, sampler ddpm
    with sampling_steps 4000.
    """

    search_space: ClassVar = {
        "learning_rate": (2e-4, 3e-3, "log"),
        "dropout": (0.0, 0.3),
        "prediction": ["v", "epsilon"],
        "ema_half_life": (2000.0, 50_000.0, "log"),
    }

    widths: tuple[Width, ...] = Field(
        (32, 64, 96, 128), min_length=1, max_length=7, description="width of each level, finest first [channels]"
    )
    patch: int = Field(1, ge=1, le=8, description="squares of so many pixels a side become one, channels for it [px]")
    residual_blocks: int = Field(1, ge=1, le=8, description="residual blocks a level [blocks]")
    attention: int = Field(16, ge=0, le=256, description="self-attention at levels of this size and below [px]")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout inside residual blocks [probability]")
    mirror: bool = Field(False, description="mirror training images left–right at random [true or false]")
    # What is generated will be turned, scaled and moved alike. No augmentation labels keep that out, as in EDM
    # (2206.00364), for heads do lie a few degrees apart; at one half, straight ones stay by far the most frequent.
    augmentation: float = Field(
        0.5, ge=0, le=1, description="training images turned, scaled and moved a little at random [share]"
    )

    # Most of a slice is air. Twice as large, MR slices have about unit variance, which v-prediction is made for.
    scale: float = Field(2.0, gt=0, le=100, description="what images are multiplied by before noise is added [1]")
    schedule: Literal["cosine", "linear"] = Field("cosine", description="noise schedule [name]")
    steps: int = Field(1000, ge=2, le=10_000, description="length of the forward process [steps]")
    noise: Literal["lognormal", "uniform"] = Field(
        "lognormal", description="training's noise levels: EDM's, which favour the middle, or uniform in time [name]"
    )
    prediction: Literal["v", "epsilon"] = Field("v", description="what the network predicts [name]")
    # A tumour's core covers a few pixels in a thousand: without weight, it is the last thing that is learned.
    annotation_weight: float = Field(4.0, gt=0, le=1000, description="loss of the annotation against an image's [1]")

    learning_rate: float = Field(1e-3, gt=0, le=1, description="Adam's step size after warm-up [1]")
    warm_up: int = Field(1000, ge=0, description="linear warm-up of the learning rate [images seen]")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient [1]")
    ema_half_life: float = Field(10_000, gt=0, description="half-life of the averaged weights [images]")
    ema_ramp: float = Field(0.05, gt=0, le=1, description="half-life as a share of the images seen, at most [1]")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="arithmetic inside the network; auto: bf16 where the device gains by it, else fp32 [name]"
    )

    sampler: Literal["dpm", "ddim", "ddpm"] = Field(
        "dpm", description="DPM-Solver++(2M), DDIM or ancestral DDPM [name]"
    )
    sampling_steps: int = Field(25, ge=1, le=10_000, description="network evaluations a sample [evaluations]")

    @model_validator(mode="after")
    def _sampling_fits(self) -> "DiffusionConfig":
        if self.sampling_steps > self.steps:
            raise ValueError(
                f"sampling_steps is {self.sampling_steps}, more than the {self.steps} steps of the process"
            )
        return self


@NoiseSchedules.add_def("shifted_cosine", "Cosine schedule shifted by resolution, simple diffusion (2301.11093)")
def _shifted_cosine(num_train_timesteps: int, resolution: int) -> tuple[Tensor, Tensor, Tensor]:
    """(β, 1 − β, ᾱ) of the cosine schedule with log SNR from 10 (noise below one grey level of 255) down to -10.

    Above 64 px the curve is lowered by 2 log(resolution / 64), because averaging redundant pixels undoes noise.
    """
    shift = -2 * math.log(max(resolution, 64) / 64)
    first, last = math.atan(math.exp((shift - 10) / 2)), math.atan(math.exp((shift + 10) / 2))
    angle = torch.linspace(first, last, num_train_timesteps, dtype=torch.float64)
    log_snr = shift - 2 * angle.tan().log()
    alphas_cumprod = log_snr.sigmoid()
    alphas = alphas_cumprod / torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
    return (1 - alphas).float(), alphas.float(), alphas_cumprod.float()


def _forward_process(config: DiffusionConfig, resolution: int) -> DDPMScheduler:
    """MONAI's scheduler, used for its schedules and its forward process only.

    Its `step` draws one noise for the whole batch, and MONAI's DDIM steps by steps // sampling_steps while its
    time steps are spaced by (steps − 1) / (sampling_steps − 1): the sampler below does neither.
    """
    if config.schedule == "cosine":
        return DDPMScheduler(config.steps, schedule="shifted_cosine", resolution=resolution)
    scale = 1000 / config.steps  # DDPM's β are for 1,000 steps; improved DDPM keeps the total noise at any number
    return DDPMScheduler(
        config.steps, schedule="linear_beta", beta_start=scale * 1e-4, beta_end=min(scale * 0.02, 0.999)
    )


class _Patched(nn.Module):
    """x [B, C, H, W], time [B] → [B, C, H, W] through a network that sees squares of patch × patch pixels as one."""

    def __init__(self, network: nn.Module, patch: int) -> None:
        super().__init__()
        self.network, self.patch = network, patch

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return F.pixel_shuffle(self.network(F.pixel_unshuffle(x, self.patch), time), self.patch)


def _denoiser(channels: int, resolution: int, config: DiffusionConfig) -> nn.Module:
    """MONAI's U-Net, with ADM's dropout before the second convolution of each residual block (2105.05233)."""
    resolution, inputs = resolution // config.patch, channels * config.patch**2
    network = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=inputs,
        out_channels=inputs,
        channels=config.widths,
        num_res_blocks=config.residual_blocks,
        attention_levels=[resolution >> level <= config.attention for level in range(len(config.widths))],
        norm_num_groups=math.gcd(32, *config.widths),
        num_head_channels=[math.gcd(32, width) for width in config.widths],
        use_flash_attention=True,
    )
    for block in network.modules():
        if isinstance(block, DiffusionUNetResnetBlock):
            block.conv2 = nn.Sequential(nn.Dropout(config.dropout), block.conv2)
    return _Patched(network, config.patch) if config.patch > 1 else network


class Diffusion(Generator):
    """A diffusion model over whole images [B, channels, resolution, resolution] in [-1, 1].

    Raises ValueError unless the resolution is a power of two in 16…256 that patches divide and the levels can halve.
    """

    Config = DiffusionConfig
    critic = "denoiser"

    def __init__(self, channels: int, resolution: int, config: DiffusionConfig) -> None:
        super().__init__(channels, resolution, config)
        if resolution not in (16, 32, 64, 128, 256):
            raise ValueError(f"resolution is {resolution} px; the diffusion model takes 16, 32, 64, 128 or 256")
        if resolution % config.patch or (resolution // config.patch) >> (len(config.widths) - 1) < 2:
            raise ValueError(
                f"{len(config.widths)} levels halve {resolution} px, in patches of {config.patch}, below 2; give fewer "
                "`widths`, or a smaller power of two as `patch`"
            )
        denoiser = _denoiser(channels, resolution, config)
        self.networks["denoiser"] = denoiser
        # channels last, sampling is 1.5 times as fast on a CPU; training is not
        self.ema["denoiser"] = deepcopy(denoiser).eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.optimizers["denoiser"] = torch.optim.Adam(denoiser.parameters(), lr=config.learning_rate, fused=True)
        self.process = _forward_process(config, resolution)

    def train_step(self, images: Tensor, seen: int) -> dict[str, Tensor]:
        """One step of the simple loss ‖target − prediction‖² (DDPM eq. 14), mean over batch, channels and pixels, those
        of the annotation with a weight."""
        config, denoiser = self.config, self.networks["denoiser"]
        batch, device = len(images), images.device
        if config.mirror:
            images = mirror(images)
        if config.augmentation > 0:
            images = small_affine(images, config.augmentation)
        time = self._training_times(batch).to(device)
        noise = parallel.randn(*images.shape, device=device)
        parallel.part_ways()  # dropout
        denoiser.train()
        loss = self._losses(denoiser, images, noise, time).mean()
        for group in self.optimizers["denoiser"].param_groups:
            group["lr"] = config.learning_rate * min(1.0, (seen + parallel.total(batch)) / max(config.warm_up, 1))
        norm = self.step("denoiser", loss, config.clip)
        self.update_averages(batch, seen, config.ema_half_life, config.ema_ramp)
        return {"loss": loss.detach(), "gradient_norm": norm, **self.repaired()}

    def _losses(self, denoiser: nn.Module, images: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """‖target − prediction‖², mean over channels and pixels, those of the annotation with a weight, [B]."""
        images = images * self.config.scale
        epsilon = self.config.prediction == "epsilon"
        target = noise if epsilon else self.process.get_velocity(images, noise, time)
        error = self._predict(denoiser, self.process.add_noise(images, noise, time), time) - target
        weight = torch.ones(self.channels, 1, 1, device=images.device)
        weight[MODALITIES:] = self.config.annotation_weight
        return (weight * error.square()).mean((1, 2, 3))

    @torch.no_grad()
    def familiarity(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Minus the averaged network's loss, mean over fixed noise levels, the noise of each from the seed: what was
        trained on is denoised better (Carlini et al., 2301.13188, section 5)."""
        noises = _noises(seeds, tuple(images.shape[1:]), images.device)
        times = _nearest(self._log_snr(), torch.tensor(FAMILIAR_LOG_SNR, dtype=torch.float64))
        at_levels = times.to(images.device)[:, None].expand(-1, len(images))
        losses = [self._losses(self.ema["denoiser"], images, next(noises), time) for time in at_levels]
        return -torch.stack(losses).mean(0)

    @torch.no_grad()
    def sample(self, seeds: Sequence[int]) -> Tensor:
        """Images [len(seeds), C, H, W], float32 in [-1, 1], by `sampling_steps` evaluations of the averaged network."""
        config, device = self.config, self.device
        # α and σ of each time step, then of the image itself, so that index -1 stands for t = -1
        signal_variance = torch.cat([self.process.alphas_cumprod.double().cpu(), torch.ones(1, dtype=torch.float64)])
        alpha, sigma = signal_variance.sqrt().tolist(), (1 - signal_variance).sqrt().tolist()

        noises = _noises(seeds, (self.channels, self.resolution, self.resolution), device)
        x = next(noises)
        last_step = None  # (half-log-SNR interval, x_0) of the step before, for the second-order solver
        for t, s in pairwise(self._sampling_times()):  # from time t to the earlier s
            output = self._predict(self.ema["denoiser"], x, torch.full((len(x),), t, device=device))
            clean = alpha[t] * x - sigma[t] * output if config.prediction == "v" else (x - sigma[t] * output) / alpha[t]
            clean = clean.clamp(-config.scale, config.scale)
            if s == -1:
                x = clean / config.scale
            elif config.sampler == "dpm":
                x, last_step = _dpm_step(x, clean, (alpha[t], sigma[t]), (alpha[s], sigma[s]), last_step)
            else:
                # DDIM eqs. 12 and 16: η = 0 is deterministic, η = 1 is DDPM's ancestral step with its smaller variance
                fresh = (
                    sigma[s] / sigma[t] * math.sqrt(1 - (alpha[t] / alpha[s]) ** 2) if config.sampler == "ddpm" else 0
                )
                noise = (x - alpha[t] * clean) / sigma[t]
                x = alpha[s] * clean + math.sqrt(sigma[s] ** 2 - fresh**2) * noise
                if fresh:
                    x = x + fresh * next(noises)
        return x

    def _training_times(self, batch: int) -> Tensor:
        """Time steps [batch] to train at. EDM's: log (σ / α) ~ N(-1.2, 1.2²) for images of standard deviation 1/2
        (Table 1), which is log SNR ~ N(1, 2.4²) for ours of 1."""
        if self.config.noise == "uniform":
            return parallel.randint(0, self.config.steps, batch)
        wanted = 2 * (1.2 - math.log(2)) + 2 * 1.2 * parallel.randn(batch)
        return _nearest(self._log_snr().float(), wanted)

    def _sampling_times(self) -> list[int]:
        """The time steps at which the network is evaluated, falling, and then -1, the image.

        DPM-Solver's are EDM's, even in (σ / α)^(1/7) (eq. 5): most are spent on little noise, where texture and borders
        are made. DDIM's and DDPM's are even in time.
        """
        steps, evaluations = self.config.steps, self.config.sampling_steps
        if self.config.sampler != "dpm":
            return torch.linspace(steps - 1, -1, evaluations + 1).round().int().tolist()
        log_snr = self._log_snr()
        root = (-log_snr / 2 / 7).exp()
        wanted = -2 * 7 * torch.linspace(root[-1], root[0], evaluations, dtype=torch.float64).log()
        return [*_nearest(log_snr, wanted).unique().flip(0).tolist(), -1]

    def _log_snr(self) -> Tensor:
        """log (α² / σ²) at each time step, float64, on the CPU."""
        return self.process.alphas_cumprod.double().cpu().logit()

    def _predict(self, denoiser: nn.Module, x: Tensor, time: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return denoiser(x, time).float()


def _nearest(levels: Tensor, wanted: Tensor) -> Tensor:
    """For each wanted value the index of the level closest to it."""
    return (levels - wanted[:, None]).abs().argmin(1)


def _noises(seeds: Sequence[int], shape: tuple[int, ...], device: torch.device) -> Iterator[Tensor]:
    """Endless standard normal [len(seeds), *shape]; row i of every draw comes from a stream of seeds[i] alone."""
    streams = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    while True:
        yield torch.stack([torch.randn(shape, generator=stream) for stream in streams]).to(device)


def _dpm_step(
    x: Tensor, clean: Tensor, now: tuple[float, float], then: tuple[float, float], last: tuple[float, Tensor] | None
) -> tuple[Tensor, tuple[float, Tensor]]:
    """A step of DPM-Solver++(2M) (2211.01095, alg. 2) from (α, σ) `now` to `then`; first order without `last`."""
    (alpha_now, sigma_now), (alpha_then, sigma_then) = now, then
    interval = math.log(alpha_then / sigma_then) - math.log(alpha_now / sigma_now)
    direction = clean
    if last is not None:
        last_interval, last_clean = last
        direction = clean + (clean - last_clean) * interval / (2 * last_interval)
    return sigma_then / sigma_now * x - alpha_then * math.expm1(-interval) * direction, (interval, clean)
