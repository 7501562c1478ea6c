import math
from collections.abc import Callable

import pytest
import torch
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock
from monai.networks.schedulers.ddim import DDIMScheduler
from monai.networks.schedulers.ddpm import DDPMScheduler
from torch import Tensor, nn

import generators
from generators.base import latents

STUDY = {
    "widths": [64, 64, 128, 128, 256, 256],
    "residual_blocks": 3,
    "scale": 1,
    "noise": "uniform",
    "annotation_weight": 1,
    "schedule": "linear",
    "steps": 4000,
    "prediction": "epsilon",
    "learning_rate": 1e-4,
    "dropout": 0,
    "augmentation": 0,
    "sampler": "ddpm",
    "sampling_steps": 4000,
}


def small(channels: int = 2, resolution: int = 16, **config):
    plain = {"widths": [8, 8], "precision": "fp32", "augmentation": 0, "scale": 1, "noise": "uniform"}
    torch.manual_seed(0)
    return generators.create("diffusion", channels, resolution, **plain | config)


class Stub(nn.Module):
    """A denoiser made of a function of (x, t); counts its evaluations."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.calls, self.inputs = function, 0, []

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        self.calls += 1
        self.inputs.append((x, time))
        return self.function(x, time)


def oracle(model, clean: Tensor) -> Stub:
    """The denoiser that knows x_0 of each sample: it predicts what x_t says about ε (or v) exactly."""
    signal_variance = model.process.alphas_cumprod.double()

    def predict(x: Tensor, time: Tensor) -> Tensor:
        a = signal_variance[time].sqrt()[:, None, None, None]
        s = (1 - signal_variance[time]).sqrt()[:, None, None, None]
        noise = (x - a * clean) / s
        return noise if model.config.prediction == "epsilon" else a * noise - s * clean

    return Stub(predict)


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_training_follows_the_forward_process(prediction):
    """x_t = √ᾱ x_0 + √(1 − ᾱ) ε; v = √ᾱ ε − √(1 − ᾱ) x_0. The loss of predicting zero is the target's mean square."""
    model = small(prediction=prediction)
    stub = Stub(lambda x, time: torch.zeros_like(x) * model.networks["denoiser"].weight)
    stub.weight = nn.Parameter(torch.ones(()))
    model.networks["denoiser"] = model.ema["denoiser"] = stub
    images = torch.rand(4, 2, 16, 16) * 2 - 1
    torch.manual_seed(5)
    loss = model.train_step(images, 0)["loss"]

    torch.manual_seed(5)
    time, noise = torch.randint(1000, (4,)), torch.randn(4, 2, 16, 16)
    signal_variance = model.process.alphas_cumprod[time].view(4, 1, 1, 1)
    noisy = signal_variance.sqrt() * images + (1 - signal_variance).sqrt() * noise
    velocity = signal_variance.sqrt() * noise - (1 - signal_variance).sqrt() * images
    target = velocity if prediction == "v" else noise
    x, t = stub.inputs[0]
    assert torch.equal(t, time)
    assert torch.allclose(x, noisy, atol=1e-6)
    assert loss.item() == pytest.approx(target.square().mean().item(), rel=1e-5)


def test_cosine_schedule_is_the_published_one_at_64_px():
    """ᾱ = cos²(π t / 2), 2102.09672 eq. 17 without its offset, but for the ends, where log SNR stops at ±10."""
    signal_variance = generators.create("diffusion", 1, 64, widths=[8]).process.alphas_cumprod
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    assert torch.allclose(signal_variance.double(), torch.cos(t * math.pi / 2) ** 2, atol=0.011)


@pytest.mark.parametrize(("resolution", "shift"), [(16, 1), (32, 1), (128, 1 / 4), (256, 1 / 16)])
def test_cosine_schedule_is_shifted_above_64_px(resolution, shift):
    """Averaging 2×2 redundant pixels of an image twice as large brings back the same signal-to-noise ratio."""

    def snr(size: int) -> Tensor:
        signal_variance = generators.create("diffusion", 1, size, widths=[8]).process.alphas_cumprod.double()
        return (signal_variance / (1 - signal_variance))[200:800]

    assert torch.allclose(snr(resolution), shift * snr(64), rtol=0.2)


def test_linear_schedule_has_the_papers_noise_at_any_number_of_steps():
    """DDPM: β from 1e-4 to 0.02 over 1,000 steps; ᾱ at the end is 4e-5 whatever the number (2102.09672)."""
    thousand = small(schedule="linear", steps=1000).process.alphas_cumprod
    study = small(schedule="linear", steps=4000).process.alphas_cumprod
    by_hand = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    assert torch.allclose(thousand.double(), by_hand, rtol=1e-3)
    assert torch.allclose(study[3::4], thousand, rtol=0.06, atol=1e-6)


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
@pytest.mark.parametrize("sampler", ["dpm", "ddim", "ddpm"])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_an_oracle_is_followed_to_its_image(prediction, sampler, schedule):
    model = small(prediction=prediction, sampler=sampler, schedule=schedule)
    clean = torch.rand(3, 2, 16, 16) * 2 - 1
    model.ema["denoiser"] = stub = oracle(model, clean)
    assert torch.allclose(model.sample([1, 2, 3]), clean, atol=1e-3)
    assert stub.calls == model.config.sampling_steps <= 32
    assert stub.inputs[0][1].tolist() == [999] * 3
    assert torch.equal(stub.inputs[0][0], latents([1, 2, 3], 2, 16, 16))


def test_scaled_images_are_learned_and_given_back_unscaled():
    model = small(scale=2)
    clean = torch.rand(3, 2, 16, 16) * 2 - 1
    model.ema["denoiser"] = oracle(model, 2 * clean)
    assert torch.allclose(model.sample([1, 2, 3]), clean, atol=1e-3)


def test_training_s_noise_levels_are_edm_s():
    """log (σ / α) ~ N(-1.2, 1.2²) for images of standard deviation 1/2; ours have 1, so it is larger by log 2."""
    model = small(noise="lognormal", steps=10_000)
    torch.manual_seed(0)
    log_snr = model.process.alphas_cumprod.double().logit()[model._training_times(20_000)]
    log_sigma = -log_snr / 2
    assert log_sigma.mean().item() == pytest.approx(-1.2 + math.log(2), abs=0.03)
    assert log_sigma.std().item() == pytest.approx(1.2, rel=0.02)


def test_the_annotation_s_error_weighs_more():
    """With a network that predicts nothing, the loss is the target's mean square: 4 of 6 channels once, 2 by weight."""
    losses = {}
    for weight in (1.0, 3.0):
        model = small(channels=6, annotation_weight=weight)
        torch.manual_seed(5)
        losses[weight] = model.train_step(torch.ones(64, 6, 16, 16), 0)["loss"].item()  # its last layer begins at zero
    assert losses[3.0] / losses[1.0] == pytest.approx((4 + 3 * 2) / 6, rel=0.02)


def test_patches_are_taken_apart_and_put_together():
    """The network sees squares of two by two as four channels; without levels below, each is its own alone."""
    model = small(channels=3, resolution=16, patch=2, widths=[8, 8], attention=0)
    seen = []
    network = model.networks["denoiser"]
    network.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 3, 16, 16)
    assert network(x, torch.tensor([5, 5])).shape == x.shape
    assert seen[0].shape == (2, 12, 8, 8)
    assert torch.equal(seen[0][0, 4:8, 1, 2], x[0, 1, 2:4, 4:6].flatten())
    with pytest.raises(ValueError, match="in patches of 3"):
        small(patch=3)


@pytest.mark.parametrize("std", [0.05, 0.3])
@pytest.mark.parametrize(
    ("sampler", "evaluations", "tolerance"), [("dpm", 25, 0.04), ("ddim", 200, 0.1), ("ddpm", 1000, 0.05)]
)
def test_samplers_carry_noise_to_a_known_gaussian(sampler, evaluations, tolerance, std):
    """For x_0 ~ N(m, c²) the ideal denoiser is linear, so samples must come out as N(m, c²): shift and scale show."""
    model = small(sampler=sampler, sampling_steps=evaluations)
    mean = 0.1
    signal_variance = model.process.alphas_cumprod.double()

    def ideal(x: Tensor, time: Tensor) -> Tensor:
        a2 = signal_variance[time[0]]
        clean = mean + a2.sqrt() * std**2 / (a2 * std**2 + 1 - a2) * (x - a2.sqrt() * mean)
        return (a2.sqrt() * x - clean) / (1 - a2).sqrt()

    model.ema["denoiser"] = Stub(ideal)
    samples = model.sample(range(20))
    assert samples.mean().item() == pytest.approx(mean, abs=0.05 * std + 0.002)
    assert samples.std().item() == pytest.approx(std, rel=tolerance)


def test_every_ddim_step_is_monai_s():
    """Against MONAI's DDIM step where its time steps are spaced as that step assumes: 1,000 = 25 × 40."""
    model = small(sampler="ddim")
    signal_variance = model.process.alphas_cumprod

    def velocity(x: Tensor, time: Tensor) -> Tensor:  # of the image ½ tanh(x), which nothing clips
        return (signal_variance[time].sqrt() * x - 0.5 * x.tanh()) / (1 - signal_variance[time]).sqrt()

    model.ema["denoiser"] = stub = Stub(lambda x, time: velocity(x, time[0]))
    result = model.sample([7])

    reference = DDIMScheduler(1000, schedule="shifted_cosine", resolution=16, prediction_type="v_prediction")
    reference.num_inference_steps = 25
    following = [x for x, _ in stub.inputs[1:]] + [result]
    for (x, time), x_next in zip(stub.inputs, following, strict=True):
        expected, _ = reference.step(velocity(x, time[0]), int(time[0]), x)
        assert torch.allclose(x_next, expected, atol=1e-4)


def test_every_ddpm_step_is_the_posterior():
    """Over all steps of a short process, against MONAI's DDPM step (2006.11239 eq. 7) with the same noise."""
    model = small(sampler="ddpm", schedule="linear", steps=20, sampling_steps=20, prediction="epsilon")
    model.ema["denoiser"] = stub = Stub(lambda x, time: 0.7 * x + 0.1)
    result = model.sample([3])

    scale = 1000 / 20
    reference = DDPMScheduler(20, schedule="linear_beta", beta_start=scale * 1e-4, beta_end=0.999)
    stream = torch.Generator().manual_seed(3)
    x = torch.randn(1, 2, 16, 16, generator=stream)
    for t in reversed(range(20)):
        assert torch.allclose(stub.inputs[19 - t][0], x, atol=1e-4)
        x, _ = reference.step(0.7 * x + 0.1, t, x, generator=stream)
    assert torch.allclose(result, x, atol=1e-4)


@pytest.mark.parametrize("sampler", ["dpm", "ddim", "ddpm"])
def test_a_sample_depends_on_its_seed_alone(sampler):
    model = small(sampler=sampler, sampling_steps=4)
    for parameter in model.ema["denoiser"].parameters():  # the output layer starts at zero
        nn.init.normal_(parameter, std=0.05)
    together = model.sample([5, 6, 7, 8])
    torch.manual_seed(99)
    assert torch.allclose(model.sample([7]), together[2:3], atol=1e-4)
    assert torch.allclose(model.sample([8, 5]), together[[3, 0]], atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=0.1)


def test_ddpm_noise_is_fresh_at_every_step():
    model = small(sampler="ddpm", sampling_steps=5)
    model.ema["denoiser"] = stub = Stub(lambda x, time: torch.zeros_like(x))
    model.sample([11])
    signal_variance = model.process.alphas_cumprod
    noises = []
    for (x, time), (x_next, time_next) in zip(stub.inputs[:-1], stub.inputs[1:], strict=True):
        a2, b2 = signal_variance[time], signal_variance[time_next]
        clean = (a2.sqrt() * x).clamp(-1, 1)
        direction = (x - a2.sqrt() * clean) / (1 - a2).sqrt()
        fresh = ((1 - b2) / (1 - a2) * (1 - a2 / b2)).sqrt()  # DDIM eq. 16 with η = 1
        noises.append((x_next - b2.sqrt() * clean - (1 - b2 - fresh**2).sqrt() * direction) / fresh)
    stacked = torch.cat(noises).flatten(1)
    assert stacked.std(1).numpy() == pytest.approx(1, abs=0.1)
    assert torch.corrcoef(stacked).fill_diagonal_(0).abs().max() < 0.2


def test_sampling_leaves_training_as_it_was():
    images = torch.rand(4, 2, 16, 16) * 2 - 1
    losses = []
    for sample_between in (False, True):
        model = small(dropout=0.3)
        for step in range(4):
            if sample_between:
                model.sample([0, 1])
            torch.manual_seed(step)
            loss = model.train_step(images, 4 * step)["loss"]
        losses.append(loss)
    assert torch.equal(losses[0], losses[1])


def test_dropout_stands_in_every_residual_block_and_only_in_training():
    model = small(dropout=0.25)
    blocks = [block for block in model.networks["denoiser"].modules() if isinstance(block, DiffusionUNetResnetBlock)]
    rates = [[layer.p for layer in block.modules() if isinstance(layer, nn.Dropout)] for block in blocks]
    assert rates == [[0.25]] * len(blocks)
    assert not model.ema["denoiser"].training


def test_mirror_turns_half_of_the_images_left_to_right_only():
    model = small(mirror=True, steps=2, sampling_steps=2)
    model.process.alphas_cumprod = torch.ones(2)  # no noise at all, so that the network sees the images
    seen_by_network = Stub(lambda x, time: x * seen_by_network.weight)
    seen_by_network.weight = nn.Parameter(torch.ones(()))
    model.networks["denoiser"] = model.ema["denoiser"] = seen_by_network
    images = torch.rand(64, 2, 16, 16)
    torch.manual_seed(0)
    model.train_step(images, 0)
    x = seen_by_network.inputs[0][0]
    kept = (x == images).flatten(1).all(1)
    mirrored = (x == images.flip(-1)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert 16 < kept.sum() < 48


def test_augmentation_moves_a_share_of_the_images_and_keeps_annotation_codes():
    model = small(7, augmentation=0.5, steps=2, sampling_steps=2)
    model.process.alphas_cumprod = torch.ones(2)  # no noise at all, so that the network sees the images
    seen_by_network = Stub(lambda x, time: x * seen_by_network.weight)
    seen_by_network.weight = nn.Parameter(torch.ones(()))
    model.networks["denoiser"] = model.ema["denoiser"] = seen_by_network
    codes = torch.tensor([0, 51, 102, 204]) / 127.5 - 1
    images = torch.cat([torch.rand(64, 4, 16, 16) * 2 - 1, codes[torch.randint(4, (64, 3, 16, 16))]], 1)
    torch.manual_seed(0)
    model.train_step(images, 0)
    x = seen_by_network.inputs[0][0]
    kept = (x == images).flatten(1).all(1)
    assert 16 < kept.sum() < 48
    assert ((x[~kept] != images[~kept]).flatten(2).any(2).float().mean(0) > 0.8).all()  # modalities and annotation
    assert torch.isin(x[:, 4:], codes).all()


def test_learning_rate_warms_up_with_images_seen():
    model = small(warm_up=100, learning_rate=1e-3)
    images = torch.rand(10, 2, 16, 16)
    rates = []
    for seen in (0, 40, 90, 500):
        model.train_step(images, seen)
        rates.append(model.optimizers["denoiser"].param_groups[0]["lr"])
    assert rates == pytest.approx([1e-4, 5e-4, 1e-3, 1e-3])


def test_averaged_weights_lag_by_the_half_life():
    """After h images with weights that jump from 0 to 1, the average is ½; before, the ramp holds h to a share."""
    model = small(ema_half_life=40, learning_rate=1e-12, warm_up=0)
    for parameter in model.networks["denoiser"].parameters():
        nn.init.ones_(parameter)
    for parameter in model.ema["denoiser"].parameters():
        nn.init.zeros_(parameter)
    for _ in range(4):
        model.train_step(torch.rand(10, 2, 16, 16), 100_000)
    for parameter in model.ema["denoiser"].parameters():
        assert torch.allclose(parameter, torch.full_like(parameter, 0.5), atol=1e-3)
    model.train_step(torch.rand(10, 2, 16, 16), 0)
    for parameter in model.ema["denoiser"].parameters():
        assert torch.allclose(parameter, torch.ones_like(parameter), atol=1e-3)


def test_learns_a_gaussian():
    """Pixels drawn from N(m, c²): the best possible loss is known, and samples have that mean and deviation.

    Given x_t, the variance of x_0 is c² σ² / (α² c² + σ²), so that of v = (α x_t − x_0) / σ is c² / (α² c² + σ²).
    """
    mean, std = torch.tensor([0.3, -0.2]).view(2, 1, 1), torch.tensor([0.1, 0.25]).view(2, 1, 1)
    model = small(widths=[16], attention=0, learning_rate=5e-3, warm_up=0, dropout=0, ema_ramp=0.1)
    signal_variance = model.process.alphas_cumprod
    floor = (std**2 / (signal_variance * std**2 + 1 - signal_variance)).mean().item()

    losses = []
    for step in range(120):
        torch.manual_seed(step)
        losses.append(model.train_step(mean + std * torch.randn(8, 2, 16, 16), 8 * step)["loss"].item())
    assert sum(losses[:5]) / 5 > 2 * floor
    assert 0.9 * floor < sum(losses[-30:]) / 30 < 1.5 * floor

    samples = model.sample(range(8))
    assert samples.mean((0, 2, 3)).numpy() == pytest.approx(mean.flatten().numpy(), abs=0.05)
    assert samples.std((0, 2, 3)).numpy() == pytest.approx(std.flatten().numpy(), rel=0.3)


def test_the_study_s_set_up_can_be_configured():
    config = generators.load("diffusion").Config(**STUDY)
    with torch.device("meta"):
        model = generators.load("diffusion")(5, 256, config)
    network = model.networks["denoiser"]
    assert network.block_out_channels[0] == 64
    assert tuple(network.num_res_blocks) == (3,) * 6
    assert list(network.attention_levels) == [False] * 4 + [True] * 2  # at 16 and 8 px, as in improved DDPM
    assert len(model.process.alphas_cumprod) == 4000


def test_default_is_of_the_planned_size():
    model = generators.create("diffusion", 5, 64)
    assert 3e6 < sum(parameter.numel() for parameter in model.networks["denoiser"].parameters()) < 4e6
    assert model.config.sampling_steps <= 32


@pytest.mark.parametrize("resolution", [0, 8, 48, 100, 512])
def test_impossible_resolution_is_refused(resolution):
    with pytest.raises(ValueError, match=f"resolution is {resolution} px"):
        small(resolution=resolution)


def test_too_many_levels_are_refused():
    with pytest.raises(ValueError, match="5 levels halve 16 px, in patches of 1, below 2"):
        small(widths=[8] * 5)


def test_more_sampling_than_process_steps_are_refused():
    with pytest.raises(ValueError, match="sampling_steps is 50, more than the 20 steps"):
        small(steps=20, sampling_steps=50)
