"""What every registered generator must do. A new one joins by its name; TINY makes a big default small enough."""

import copy
import io

import pydantic
import pytest
import torch

import generators
from generators.base import Generator
from tests.precision import Convolutions

GAN = {"z_dim": 8, "channel_base": 64, "channel_max": 8, "augmentation": True, "augmentation_images": 100}
GROWING = {**GAN, "stable_images": 2, "fade_images": 7}
TINY = {
    "progressive_gan": GROWING,
    "stylegan1": {**GROWING, "w_dim": 8, "mapping_layers": 2},
    "stylegan2": {
        **GAN,
        "w_dim": 8,
        "mapping_layers": 2,
        "path_length_interval": 2,
    },
    "stylegan3": {**GAN, "w_dim": 8, "layers": 6, "r1_interval": 2},
    "diffusion": {"widths": [8, 16], "attention": 8, "sampling_steps": 3, "precision": "fp32", "clip": 99},
}
BATCH, CHANNELS, SIZE = 4, 5, 16


def create(name: str, seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    return generators.create(name, CHANNELS, SIZE, **TINY.get(name, {}))


def train(model, start: int, stop: int) -> list[dict[str, torch.Tensor]]:
    """Steps start..stop − 1, seeded as the training loop does: batch and noise are functions of the step alone."""
    losses = []
    for step in range(start, stop):
        images = torch.rand(BATCH, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(step)) * 2 - 1
        torch.manual_seed(1000 + step)
        losses.append(model.train_step(images, step * BATCH))
    return losses


def flat(state, prefix: str = "") -> dict:
    """Leaves of nested dicts and lists by path."""
    if isinstance(state, dict):
        return {k: v for key, value in state.items() for k, v in flat(value, f"{prefix}/{key}").items()}
    if isinstance(state, list | tuple):
        return {k: v for key, value in enumerate(state) for k, v in flat(value, f"{prefix}/{key}").items()}
    return {prefix: state}


def assert_identical(first, second) -> None:
    first, second = flat(first), flat(second)
    assert first.keys() == second.keys()
    for key, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[key]), key
        else:
            assert value == second[key], key


@pytest.fixture(params=generators.names())
def name(request) -> str:
    return request.param


def test_config_is_frozen_strict_and_documented(name):
    config = generators.load(name).Config(**TINY.get(name, {}))
    field = next(iter(type(config).model_fields))
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        setattr(config, field, getattr(config, field))
    with pytest.raises(pydantic.ValidationError, match="no_such_key"):
        type(config)(no_such_key=1)
    for key, info in type(config).model_fields.items():
        assert info.description, f"{key} has no description"
        assert info.description.endswith("]"), f"{key}'s description names no unit"
        assert not info.is_required(), f"{key} has no default"


def test_samples_are_images(name):
    images = create(name).sample([3, 5, 8])
    assert images.shape == (3, CHANNELS, SIZE, SIZE)
    assert images.dtype == torch.float32
    assert not images.requires_grad
    assert images.isfinite().all()
    assert images.abs().max() <= 1


def test_a_sample_depends_on_its_seed_alone(name):
    model = create(name)
    train(model, 0, 2)
    together = model.sample([0, 1, 2, 3, 4, 5])
    torch.manual_seed(99)  # torch's global random state is not the seed
    for seeds in ([5, 0, 3], [2], [4, 4]):
        torch.testing.assert_close(model.sample(seeds), together[seeds], atol=1e-4, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-3


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_networks_compute_in_the_configured_precision(name, precision):
    if "precision" not in generators.load(name).Config.model_fields:
        pytest.skip("has no choice")
    torch.manual_seed(0)
    model = generators.create(name, CHANNELS, SIZE, **TINY.get(name, {}) | {"precision": precision})
    networks = {**model.networks, **{f"averaged {key}": network for key, network in model.ema.items()}}
    with Convolutions(networks) as convolutions:
        losses = model.train_step(torch.rand(BATCH, CHANNELS, SIZE, SIZE) * 2 - 1, 100 * BATCH)
        model.sample([1, 2])
    assert all(loss.isfinite() for loss in losses.values())
    for key, counts in convolutions.counts.items():
        low, single = counts[torch.bfloat16], counts[torch.float32]
        # some layers at 4 × 4 pixels are always in float32
        assert (low > single) if precision == "bf16" else (low == 0 < single), f"{key}: {counts}"


def test_sampling_changes_nothing(name):
    model = create(name)
    train(model, 0, 1)
    before = {key: value.clone() for key, value in model.weights().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    model.sample([1, 2])
    assert torch.equal(torch.rand(1), expected)
    assert_identical(before, model.weights())


def test_familiarity_is_a_function_of_image_and_seed_alone(name):
    model = create(name)
    images = torch.rand(5, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(3)) * 2 - 1
    if model.critic is None:
        with pytest.raises(NotImplementedError):
            model.familiarity(images, range(5))
        return
    train(model, 0, 3)
    assert model.critic in model.networks
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    together = model.familiarity(images, range(5))
    assert torch.equal(torch.rand(1), expected)  # torch's global random state is not the seed
    assert (together.shape, together.dtype, together.requires_grad) == ((5,), torch.float32, False)
    assert together.isfinite().all()
    assert together.std() > 0
    for rows in ([4, 0], [2], [3, 1, 0, 4]):
        torch.testing.assert_close(model.familiarity(images[rows], rows), together[rows], atol=1e-4, rtol=1e-4)
    assert_identical(before, model.state_dict())


def test_familiarity_of_a_critic_with_an_average_needs_released_weights_alone(name):
    model, other = create(name), create(name, seed=1)
    if model.critic not in model.ema:
        pytest.skip("its critic is in checkpoints only")
    train(model, 0, 3)
    other.load_weights(model.weights())
    images = torch.rand(3, CHANNELS, SIZE, SIZE) * 2 - 1
    assert torch.equal(model.familiarity(images, [1, 2, 3]), other.familiarity(images, [1, 2, 3]))


def test_training_moves_every_network(name):
    model = create(name)
    before = {key: {k: v.clone() for k, v in net.state_dict().items()} for key, net in model.networks.items()}
    losses = train(model, 0, 3)
    for step in losses:
        assert step
        for key, value in step.items():
            assert isinstance(value, torch.Tensor), key
            assert value.shape == (), key
            assert value.isfinite(), key
            assert not value.requires_grad, key
    for key, network in model.networks.items():
        moved = [not torch.equal(v, before[key][k]) for k, v in network.state_dict().items()]
        assert any(moved), f"{key} did not train"
        assert all(parameter.requires_grad for parameter in network.parameters())
    assert model.ema.keys() <= model.networks.keys()


def test_gradient_norms_are_of_all_that_each_network_learns_from(name):
    """At a step without lazy regularization, so that each network's gradient is still that of its one step."""
    model = create(name)
    losses = train(model, 0, 2)[1]
    for key, network in model.networks.items():
        gradient = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
        norm = losses["gradient_norm" if len(model.networks) == 1 else f"gradient_norm_{key}"]
        torch.testing.assert_close(norm, gradient.norm())
        assert norm > 0


def test_averages_lie_between_the_old_ones_and_the_new_weights(name):
    model = create(name)
    train(model, 0, 1)
    before = {key: [p.clone() for p in network.parameters()] for key, network in model.ema.items()}
    train(model, 1, 2)
    assert model.ema
    for key, averaged in model.ema.items():
        lags = []
        for old, average, new in zip(before[key], averaged.parameters(), model.networks[key].parameters(), strict=True):
            assert torch.minimum(old, new).le(average + 1e-6).all()
            assert torch.maximum(old, new).ge(average - 1e-6).all()
            lags.append((new - average).abs().max())
        assert max(lags) > 0


@pytest.mark.parametrize("name", ["progressive_gan", "stylegan1", "stylegan2", "stylegan3"])
def test_mirrored_training_flips_left_right_alone(name):
    """What the discriminator sees of real images; the diffusion model's own test looks at its denoiser."""
    torch.manual_seed(0)
    grown = {"stable_images": 0, "fade_images": 1} if "stable_images" in TINY[name] else {}
    model = generators.create(name, CHANNELS, SIZE, **{**TINY[name], **grown, "mirror": True, "augmentation": False})
    batches = []
    model.networks["discriminator"].register_forward_pre_hook(lambda module, args: batches.append(args[0].detach()))
    images = torch.rand(32, CHANNELS, SIZE, SIZE) * 2 - 1
    model.train_step(images, 1000 * 32 + 32)
    kept, flipped = (
        torch.stack([(batch == expected).flatten(1).all(1) for batch in batches]).any(0)
        for expected in (images, images.flip(3))
    )
    assert (kept ^ flipped).all()
    assert 4 < kept.sum() < 28


@pytest.mark.parametrize("name", ["progressive_gan", "stylegan1", "stylegan2", "stylegan3"])
def test_every_gan_adapts_its_augmentation_unless_told_not_to(name):
    """p follows what the discriminator makes of real images, and goes on from where a checkpoint left it."""
    configs = [{**TINY[name], "augmentation_target": target, "augmentation": True} for target in (-1, 1)]
    for config, rises in zip(configs, (True, False), strict=True):
        torch.manual_seed(0)
        model = generators.create(name, CHANNELS, SIZE, **config)
        model.augmentation.p = 0.5
        losses = train(model, 0, 5)
        assert float(losses[-1]["ada_p"]) == pytest.approx(model.augmentation.p)
        assert (model.augmentation.p > 0.5) == rises
        other = generators.create(name, CHANNELS, SIZE, **config)
        other.load_state_dict(copy.deepcopy(model.state_dict()))
        assert other.augmentation.p == model.augmentation.p
    model = generators.create(name, CHANNELS, SIZE, **{**TINY[name], "augmentation": False})
    assert "ada_p" not in train(model, 0, 1)[0]
    assert model.augmentation.p == 0


def test_resumed_training_is_bit_identical(name):
    straight = create(name)
    train(straight, 0, 2)
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    file.seek(0)
    resumed = create(name, seed=1)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert_identical(straight.state_dict(), resumed.state_dict())
    assert_identical(train(straight, 2, 5), train(resumed, 2, 5))
    assert_identical(straight.state_dict(), resumed.state_dict())


def test_released_weights_give_the_same_samples(name):
    model = create(name)
    train(model, 0, 2)
    file = io.BytesIO()
    torch.save(model.weights(), file)
    file.seek(0)
    weights = torch.load(file, weights_only=True)
    assert all(type(tensor) is torch.Tensor and tensor.is_contiguous() for tensor in weights.values())
    other = create(name, seed=1)
    other.load_weights(weights)
    assert torch.equal(model.sample([7, 9]), other.sample([7, 9]))


def test_foreign_state_is_refused(name):
    model = create(name)
    weights = model.weights()
    weights.pop(next(iter(weights)))
    with pytest.raises(RuntimeError):
        model.load_weights(weights)
    state = model.state_dict()
    state["networks"]["stranger"] = state["networks"].pop(next(iter(state["networks"])))
    with pytest.raises(RuntimeError, match="stranger"):
        model.load_state_dict(state)


def test_an_unknown_generator_is_refused():
    with pytest.raises(ValueError, match=r"stylegan9.*stylegan3"):
        generators.load("stylegan9")
