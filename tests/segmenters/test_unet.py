import pytest
import torch
from torch.nn import functional as F

import segmenters
from segmenters.unet import StudyUNet

STUDY = (64, 128, 256, 512, 1024, 2048)


def _train_batch(resolution: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(4, 4, resolution, resolution), torch.randint(4, (4, resolution, resolution))


def small(**config):
    torch.manual_seed(0)
    return segmenters.create("unet", 4, 4, 32, **{"widths": [8, 16, 32], "precision": "fp32"} | config)


def soft_dice_and_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """By hand: 1 − mean over the classes of 2 Σ p y / (Σ p + Σ y), sums over the batch; plus −log p."""
    probability = logits.softmax(1)
    truth = F.one_hot(labels, 4).permute(0, 3, 1, 2)
    overlap = 2 * (probability * truth).sum((0, 2, 3)) / (probability.sum((0, 2, 3)) + truth.sum((0, 2, 3)))
    return 1 - overlap.mean() - probability.gather(1, labels[:, None]).log().mean()


def test_the_study_s_network_has_its_parameters():
    with torch.device("meta"):
        network = StudyUNet(4, 4, STUDY)
    assert sum(parameter.numel() for parameter in network.parameters()) == 116_014_272


def test_each_tensor_has_one_name():
    state = small().networks["segmenter"].state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)


def test_heads_stand_at_every_level_above_the_bottleneck():
    network = small(widths=[8, 8, 8, 8]).networks["segmenter"]
    images, _ = _train_batch()
    outputs = network.train()(images)
    assert [tuple(output.shape) for output in outputs] == [(4, 4, 32, 32), (4, 4, 16, 16), (4, 4, 8, 8)]
    assert torch.equal(network.eval()(images), outputs[0])


def test_a_head_hears_of_its_own_level_and_of_coarser_ones_alone():
    network = small(widths=[8, 8, 8, 8]).networks["segmenter"].train()
    outputs = network(_train_batch()[0])
    gradient = [
        torch.autograd.grad(outputs[2].sum(), block.conv_block.conv1.conv.weight, retain_graph=True, allow_unused=True)[
            0
        ]
        for block in network.upsamples
    ]
    assert gradient[0].abs().sum() > 0
    assert gradient[1] is None
    assert gradient[2] is None


def test_loss_is_dice_and_cross_entropy_weighted_by_halves():
    model = small()
    images, labels = _train_batch()
    outputs = model.networks["segmenter"].train()(images)
    fine = soft_dice_and_cross_entropy(outputs[0], labels)
    coarse = soft_dice_and_cross_entropy(outputs[1], labels[:, 1::2, 1::2])
    expected = (fine + coarse / 2) / 1.5
    assert model.train_step(images, labels, 0)["loss"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_first_step_is_nesterov_sgd_with_clipping_and_weight_decay():
    """From rest: w ← w − lr (1 + 0.99) (g + 3e-5 w), with g of norm at most 12."""
    model = small(optimizer="sgd", learning_rate=0.02)
    images, labels = _train_batch()
    network = model.networks["segmenter"]
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    model.train_step(images, labels, 0)
    squares = 0.0
    for name, parameter in network.named_parameters():
        gradient = parameter.grad  # as clipped
        squares += gradient.square().sum().item()
        expected = before[name] - 0.02 * 1.99 * (gradient + 3e-5 * before[name])
        assert torch.allclose(parameter, expected, atol=1e-6)
    assert squares**0.5 <= 12 + 1e-4


def test_adamw_moves_every_weight_by_the_step_size_at_first():
    """Adam's first step is lr · sign(g), beside the decay of 0.01 lr w (1711.05101)."""
    model = small(learning_rate=1e-3)
    network = model.networks["segmenter"]
    before = network.output_block.weight.detach().clone()
    model.train_step(*_train_batch(), 0)
    moved = before * (1 - 1e-3 * 1e-2) - network.output_block.weight.detach()
    assert torch.allclose(moved, 1e-3 * network.output_block.weight.grad.sign(), atol=1e-5)


def test_features_are_the_spread_of_every_level_s_channels():
    model = small()
    images, _ = _train_batch()
    network, seen = model.networks["segmenter"], []
    for block in (network.input_block, *network.downsamples, network.bottleneck):
        block.register_forward_hook(lambda block, inputs, output: seen.append(output))
    features = model.features(images)
    assert torch.allclose(features, torch.cat([level.flatten(2).std(2) for level in seen], 1), atol=1e-6)
    assert features.shape[1] == sum(model.config.widths)


def test_gradients_are_clipped_at_12():
    model = small()
    images, labels = _train_batch()
    with torch.no_grad():
        model.networks["segmenter"].output_block.weight.mul_(1000)
    unclipped = model.train_step(images, labels, 0)["gradient_norm"]
    gradients = [p.grad.flatten() for p in model.networks["segmenter"].parameters() if p.grad is not None]
    assert unclipped > 12
    assert torch.cat(gradients).norm().item() == pytest.approx(12, rel=1e-3)


def test_learning_rate_decays_by_the_power_0_9_and_rests_at_zero():
    model = small(learning_rate=0.01, images=1000)
    rates = []
    for seen in (0, 500, 1000, 2000):
        model.train_step(*_train_batch(), seen)
        rates.append(model.optimizers["segmenter"].param_groups[0]["lr"])
    assert rates == pytest.approx([0.01, 0.01 * 0.5**0.9, 0, 0])


@pytest.mark.parametrize(("resolution", "widths"), [(20, [8] * 4), (8, [8] * 4), (0, [8] * 3), (48, STUDY)])
def test_resolution_that_cannot_be_halved_is_refused(resolution, widths):
    with pytest.raises(ValueError, match=f"resolution is {resolution} px; a U-Net of {len(widths)} levels needs"):
        segmenters.create("unet", 4, 4, resolution, widths=widths)
