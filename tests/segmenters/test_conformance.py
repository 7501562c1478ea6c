"""What every registered segmenter must do, whatever it is made of."""

import pytest
import torch

import segmenters
from segmenters.base import Segmenter, SegmenterConfig
from tests.precision import Convolutions

BATCH = 8
TINY = {  # where the default is more than a test needs
    "swin": {
        "width": 16,
        "depths": (1, 1, 1, 1),
        "decoder_width": 16,
        "auxiliary_width": 8,
        "learning_rate": 0.01,
        "warm_up": 32,
    },
}


@pytest.fixture(params=segmenters.names())
def name(request) -> str:
    return request.param


def create(name: str, resolution: int = 32, seed: int = 0, **config):
    torch.manual_seed(seed)
    return segmenters.create(name, 4, 4, resolution, **TINY.get(name, {}) | config)


def batch(seed: int, resolution: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy images with a square of each class 1, 2, 3 somewhere in its own row, brighter in its own channel."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(BATCH, resolution, resolution, dtype=torch.int64)
    side = resolution // 4
    for label in (1, 2, 3):
        for image, left in enumerate(torch.randint(resolution - side, (BATCH,), generator=generator).tolist()):
            labels[image, label * side : (label + 1) * side, left : left + side] = label
    signal = torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2)
    return 3 * signal + torch.randn(BATCH, 4, resolution, resolution, generator=generator), labels


def train(model, steps: range) -> list[float]:
    losses = []
    for step in steps:
        torch.manual_seed(step)
        losses.append(model.train_step(*batch(step), BATCH * step)["loss"].item())
    return losses


def same(a: object, b: object) -> bool:
    """Whether two nested states hold the same plain values and bit-identical tensors."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("resolution", [16, 32, 64])
def test_shapes_types_and_gradients(name, resolution):
    model = create(name, resolution)
    images, labels = batch(0, resolution)
    losses = model.train_step(images, labels, 0)
    assert "loss" in losses
    assert all(loss.ndim == 0 and loss.isfinite() and not loss.requires_grad for loss in losses.values())
    logits = model.predict(images)
    assert logits.shape == (BATCH, 4, resolution, resolution)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert not logits.requires_grad
    assert set(model.networks) == {"segmenter"}


@pytest.mark.parametrize(
    ("precision", "dtype"), [("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_the_network_computes_in_the_configured_precision(name, precision, dtype):
    model = create(name, precision=precision)
    with Convolutions(model.networks) as convolutions:
        model.train_step(*batch(0), 0)
        trained = convolutions.counts["segmenter"].copy()
        model.predict(batch(1)[0])
    assert trained.keys() == convolutions.counts["segmenter"].keys() == {dtype}
    assert convolutions.counts["segmenter"][dtype] > trained[dtype] > 0


def test_training_goes_on_bit_for_bit_from_a_saved_state(name, tmp_path):
    """Saved after 3 steps, read back into a fresh model as a checkpoint is read, and trained 3 more."""
    model = create(name)
    train(model, range(3))
    torch.save(model.state_dict(), tmp_path / "state.pt")
    train(model, range(3, 6))

    resumed = create(name, seed=77)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    train(resumed, range(3, 6))
    assert same(resumed.state_dict(), model.state_dict())
    assert not same(resumed.state_dict(), create(name).state_dict())


def test_training_depends_on_torch_s_seed_alone(name):
    assert train(create(name), range(3)) == train(create(name), range(3))


def test_weights_carry_the_predictions(name):
    model = create(name)
    train(model, range(2))
    images, _ = batch(9)
    other = create(name, seed=77)
    assert not torch.equal(other.predict(images), model.predict(images))
    other.load_weights(model.weights())
    assert torch.equal(other.predict(images), model.predict(images))


def test_weights_can_be_written_as_safetensors(name, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    weights = create(name).weights()
    safetensors.save_file(weights, tmp_path / "weights.safetensors")
    assert same(safetensors.load_file(tmp_path / "weights.safetensors"), weights)


def test_foreign_state_is_refused(name):
    model = create(name)
    state = model.state_dict()
    with pytest.raises(RuntimeError):
        model.load_state_dict({**state, "networks": {}})
    weights = model.weights()
    weights.pop(next(iter(weights)))
    with pytest.raises(RuntimeError):
        model.load_weights(weights)


def test_predicting_leaves_training_as_it_was(name):
    plain, interrupted = create(name), create(name)
    for step in range(3):
        train(plain, range(step, step + 1))
        interrupted.predict(batch(50)[0])
        train(interrupted, range(step, step + 1))
    assert same(plain.state_dict(), interrupted.state_dict())


def test_predictions_do_not_depend_on_the_batch(name):
    model = create(name, precision="fp32")
    train(model, range(2))
    images, _ = batch(9)
    together = model.predict(images)
    alone = torch.cat([model.predict(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-4)
    assert torch.equal(model.predict(images), together)


def test_air_is_background_and_the_brain_is_left_alone(name):
    model = create(name, precision="fp32")
    train(model, range(2))
    images, _ = batch(9)
    images[:, :, :8] = 0
    predicted = model.predict(images)
    assert (predicted[:, :, :8].argmax(1) == 0).all()
    with torch.no_grad():
        assert torch.equal(predicted[:, :, 8:], model.logits(images)[:, :, 8:])
    assert (model.predict(torch.zeros(2, 4, 32, 32)).argmax(1) == 0).all()


def test_features_describe_each_image_by_itself(name):
    model = create(name, precision="fp32")
    train(model, range(2))
    images, _ = batch(9)
    features = model.features(images)
    assert features.shape[0] == BATCH
    assert features.shape[1] >= 32
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert features.isfinite().all()
    assert torch.pdist(features).min() > 0
    alone = torch.cat([model.features(image[None]) for image in images])
    assert torch.allclose(features, alone, atol=1e-4)


def test_a_segmenter_without_an_encoder_says_so():
    class Bare(Segmenter):
        def train_step(self, images, labels, seen):
            return {}

        def logits(self, images):
            return self.networks["segmenter"](images)

    model = Bare(4, 4, 32, SegmenterConfig())
    model.networks["segmenter"] = torch.nn.Conv2d(4, 4, 1)
    assert model.predict(torch.ones(2, 4, 32, 32)).shape == (2, 4, 32, 32)
    with pytest.raises(NotImplementedError, match="Bare has no encoder"):
        model.features(torch.ones(2, 4, 32, 32))


def test_learns_a_simple_task(name):
    model = create(name, images=60 * BATCH)
    losses = train(model, range(60))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    images, labels = batch(1000)
    predicted = model.predict(images).argmax(1)
    for label in (1, 2, 3):
        a, b = predicted == label, labels == label
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.8


def test_configuration_is_frozen_strict_and_described(name):
    config = segmenters.load(name).Config()
    assert isinstance(config, SegmenterConfig)
    with pytest.raises(ValueError, match="frozen"):
        config.images = 3
    with pytest.raises(ValueError, match="no_such_key"):
        segmenters.create(name, 4, 4, 32, no_such_key=1)
    with pytest.raises(ValueError, match="images"):
        segmenters.create(name, 4, 4, 32, images=0)
    for key, field in type(config).model_fields.items():
        assert field.description, f"{key} has no description"
        assert field.description.endswith("]"), f"{key}'s description does not end in its unit"


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown segmenter 'unett'; known: unet"):
        segmenters.load("unett")


def test_a_gradient_that_is_not_finite_in_one_place_leaves_the_rest_of_the_network_alone(name):
    model = create(name)
    assert float(model.train_step(*batch(0), 0)["repaired_gradients"]) == 0
    first = next(model.networks["segmenter"].parameters())
    first.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([0]), float("inf")))
    step = model.train_step(*batch(1), BATCH)
    assert float(step["repaired_gradients"]) == 1
    assert step["gradient_norm"].isfinite()
    assert all(parameter.isfinite().all() for parameter in model.networks["segmenter"].parameters())
