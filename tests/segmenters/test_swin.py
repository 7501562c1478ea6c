import pytest
import torch
from torch import nn
from torch.nn import functional as F

import segmenters
from segmenters.swin import SwinSegmenterConfig, SwinUPerNet

STUDY = {
    "patch": 4,
    "width": 128,
    "depths": (2, 2, 18, 2),
    "heads": (4, 8, 16, 32),
    "window": 7,
    "drop_path": 0.3,
    "decoder_width": 512,
    "auxiliary_width": 256,
    "learning_rate": 6e-5,
    "warm_up": 12_000,
}


def _train_batch(resolution: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(4, 4, resolution, resolution), torch.randint(4, (4, resolution, resolution))


def small(resolution: int = 16, **config):
    torch.manual_seed(0)
    own = {"width": 8, "depths": [1, 1, 1, 1], "decoder_width": 8, "auxiliary_width": 8, "drop_path": 0, "warm_up": 0}
    return segmenters.create("swin", 4, 4, resolution, **own | {"precision": "fp32"} | config)


def tumour_dice_and_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """By hand: 1 − mean over classes 1, 2, 3 of 2 Σ p y / (Σ p + Σ y), sums over the batch; plus −log p of all four."""
    probability = logits.softmax(1)
    truth = F.one_hot(labels, 4).permute(0, 3, 1, 2)
    overlap = 2 * (probability * truth).sum((0, 2, 3)) / (probability.sum((0, 2, 3)) + truth.sum((0, 2, 3)))
    return 1 - overlap[1:].mean() - probability.gather(1, labels[:, None]).log().mean()


def test_the_study_s_network_has_its_parameters():
    with torch.device("meta"):
        network = SwinUPerNet(4, 4, 256, SwinSegmenterConfig(**STUDY))
    assert sum(parameter.numel() for parameter in network.parameters()) == 121_171_392


def test_each_tensor_has_one_name():
    state = small().networks["segmenter"].state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("resolution", [16, 40])
def test_stages_halve_and_both_heads_give_whole_images(resolution, patch):
    """Also where windows do not fit (window 4 on maps of 1 to 40 tokens) and where a map is odd."""
    network = small(resolution, patch=patch).networks["segmenter"]
    images, _ = _train_batch(resolution)
    sides = [resolution // patch]
    for _ in range(3):
        sides.append((sides[-1] + 1) // 2)
    assert [tuple(stage.shape) for stage in network.encode(images)] == [
        (4, 8 * 2**i, side, side) for i, side in enumerate(sides)
    ]
    assert [tuple(logits.shape) for logits in network.train()(images)] == [(4, 4, resolution, resolution)] * 2
    assert network.eval()(images).shape == (4, 4, resolution, resolution)


def test_the_auxiliary_head_hears_of_the_third_stage_and_of_finer_ones_alone():
    network = small().networks["segmenter"].train()
    _, auxiliary = network(_train_batch()[0])
    weights = [stage.blocks[0].mlp.fc1.weight for stage in network.backbone.swin.encoder.layers]
    gradients = torch.autograd.grad(auxiliary.square().sum(), weights, allow_unused=True)
    assert all(gradient.abs().sum() > 0 for gradient in gradients[:3])
    assert gradients[3] is None


@pytest.mark.parametrize("weight", [0.4, 0.0, 2.0])
def test_loss_is_that_of_the_decoder_and_a_share_of_the_auxiliary_head_s(weight):
    model = small(auxiliary_weight=weight)
    images, labels = _train_batch()
    logits, auxiliary = model.networks["segmenter"].train()(images)
    expected = tumour_dice_and_cross_entropy(logits, labels) + weight * tumour_dice_and_cross_entropy(auxiliary, labels)
    assert model.train_step(images, labels, 0)["loss"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_auxiliary_weight_is_the_study_s():
    assert SwinSegmenterConfig().auxiliary_weight == 0.4


def test_gradient_norm_is_reported_and_not_clipped():
    model = small()
    network = model.networks["segmenter"]
    with torch.no_grad():
        network.decode_head.classifier.weight.mul_(1000)
    norm = model.train_step(*_train_batch(), 0)["gradient_norm"].item()
    squares = sum(p.grad.square().sum().item() for p in network.parameters() if p.grad is not None)
    assert norm == pytest.approx(squares**0.5, rel=1e-4)
    assert norm > 12  # where the U-Net clips


def test_learning_rate_rises_linearly_while_it_decays_linearly_to_zero():
    model = small(learning_rate=0.01, warm_up=99, images=1000)
    rates = []
    for seen in (0, 49, 99, 500, 1000, 2000):
        model.train_step(*_train_batch(), seen)
        rates.append(model.optimizers["segmenter"].param_groups[0]["lr"])
    assert rates == pytest.approx([0.01 / 100, 0.01 * 0.5 * 0.951, 0.01 * 0.901, 0.005, 0, 0])


def test_weights_decay_but_biases_normalizations_and_relative_positions_do_not():
    """With gradients of zero AdamW leaves nothing but the decay (1711.05101, alg. 2): w ← (1 − lr · 0.01) w."""
    model = small()
    network, optimizer = model.networks["segmenter"], model.optimizers["segmenter"]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1)
            parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 10
    optimizer.step()
    decaying = {module.weight for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    assert len(decaying) > 20
    for parameter in network.parameters():
        assert torch.allclose(parameter, torch.tensor(0.9 if parameter in decaying else 1.0))


def test_attention_is_dropped_at_random_in_training_alone():
    network = small(drop_path=0.9).networks["segmenter"]
    images, _ = _train_batch()

    def last_stage(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return network.encode(images)[-1]

    network.train()
    assert torch.equal(last_stage(0), last_stage(0))
    assert any(not torch.equal(last_stage(0), last_stage(seed)) for seed in (1, 2, 3))
    network.eval()
    assert torch.equal(last_stage(0), last_stage(1))


def test_features_are_the_last_stage_s_means():
    model = small(patch=1)
    images, _ = _train_batch()
    tokens = []
    norm = model.networks["segmenter"].backbone.hidden_states_norms["stage4"]
    norm.register_forward_hook(lambda module, inputs, output: tokens.append(output))
    features = model.features(images)
    assert tokens[0].shape == (4, 2 * 2, 64)
    assert torch.allclose(features, tokens[0].mean(1), atol=1e-6)


def test_a_single_image_is_refused():
    images, labels = _train_batch()
    with pytest.raises(ValueError, match=r"batch_size is 1; .* take 2 or more"):
        small().train_step(images[:1], labels[:1], 0)


def test_heads_that_do_not_divide_their_channels_are_refused():
    with pytest.raises(ValueError, match="heads: 3 at stage 2 do not divide its 16 channels"):
        small(heads=[1, 3, 4, 8])
    with pytest.raises(ValueError, match="depths"):
        small(depths=[1, 1, 1])
