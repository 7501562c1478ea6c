import math

import pytest
import torch
import torch.nn.functional as F

from generators.adversarial import GANConfig
from generators.discriminator import Discriminator, minibatch_std
from generators.layers import Conv2d, DownConv2d, Linear, Mapping, leaky_relu, modulated_conv2d


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_modulated_convolution_is_one_kernel_per_sample(demodulate, kernel):
    x, weight = torch.randn(3, 4, 6, 5, dtype=torch.float64), torch.randn(7, 4, kernel, kernel, dtype=torch.float64)
    style, bias = torch.randn(3, 4, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    for b, image in enumerate(modulated_conv2d(x, weight, style, bias, demodulate=demodulate, gain=0.3)):
        own = weight * style[b, None, :, None, None]  # 1912.04958, eq. 1
        if demodulate:
            own = own / torch.sqrt((own**2).sum((1, 2, 3), keepdim=True) + 1e-8)  # eq. 3
        torch.testing.assert_close(image, F.conv2d(0.3 * x[b], own, bias, padding=kernel // 2))


def test_demodulated_output_has_unit_variance():
    torch.manual_seed(0)
    x, weight, style = torch.randn(4, 32, 40, 40), 5 * torch.randn(8, 32, 3, 3), 3 * torch.randn(4, 32).exp()
    out = modulated_conv2d(x, weight, style, torch.zeros(8))
    torch.testing.assert_close(out.std((2, 3)), torch.ones(4, 8), atol=0.1, rtol=0)


def test_downsampling_convolution_averages_before_bias_and_leaky_relu():
    torch.manual_seed(0)
    layer, x = DownConv2d(5, 7).double(), torch.randn(2, 5, 8, 6, dtype=torch.float64)
    torch.nn.init.normal_(layer.bias)
    averaged = F.avg_pool2d(F.conv2d(x, layer.weight / math.sqrt(5 * 9), padding=1), 2)
    expected = math.sqrt(2) * F.leaky_relu(averaged + layer.bias[:, None, None], 0.2)
    torch.testing.assert_close(layer(x), expected)
    assert torch.autograd.gradgradcheck(layer, x[:1, :, :4, :4].clone().requires_grad_())


@torch.no_grad()
def test_layers_keep_unit_variance_at_the_start():
    torch.manual_seed(0)
    assert Linear(512, 64)(torch.randn(4096, 512)).std() == pytest.approx(1, abs=0.1)
    assert Linear(512, 64, learning_rate_scale=0.01)(torch.randn(4096, 512)).std() == pytest.approx(1, abs=0.1)
    assert Conv2d(64, 16, 3)(torch.randn(4, 64, 32, 32)).std() == pytest.approx(1, abs=0.1)
    # He et al. 2015, Section 2.2, for slope 0.2: E[f(x)²] = (1 + 0.2²) / 2; the family's gain √2 leaves 1.04
    assert leaky_relu(torch.randn(100_000)).square().mean() == pytest.approx(1.04, abs=0.02)


def test_truncation_moves_towards_the_running_mean():
    torch.manual_seed(0)
    mapping, z = Mapping(8, 6, 2), torch.randn(5, 8)
    first = mapping(z)
    assert not mapping.mean.any()  # a pass as such moves nothing
    mapping.track(first)
    torch.testing.assert_close(mapping.mean, 0.005 * first.mean(0))
    mapping.track(first)
    torch.testing.assert_close(mapping.mean, (0.005 + 0.995 * 0.005) * first.mean(0))
    torch.testing.assert_close(mapping(z, 0.25), mapping.mean + 0.25 * (first - mapping.mean))
    torch.testing.assert_close(mapping(7 * z), first)  # only the direction of z counts


def test_minibatch_std_is_that_of_groups():
    x = torch.randn(8, 3, 4, 4)
    out = minibatch_std(x, group=4)
    for b in range(8):
        group = x[b % 2 :: 2]
        expected = torch.sqrt(group.var(0, correction=0) + 1e-8).mean()
        torch.testing.assert_close(out[b, 3], expected.expand(4, 4))
    torch.testing.assert_close(out[:, :3], x)
    assert minibatch_std(torch.randn(6, 3, 4, 4)).shape == (6, 4, 4, 4)


@pytest.mark.parametrize(
    ("resolution", "base", "most", "parameters"),
    [(64, 2048, 64, 367_009), (256, 16384, 512, 24_001_217), (256, 32768, 512, 28_864_385)],
)
def test_discriminator_has_the_papers_size(resolution, base, most, parameters):
    network = Discriminator(5, resolution, GANConfig(channel_base=base, channel_max=most))
    assert sum(p.numel() for p in network.parameters()) == parameters


@torch.no_grad()
def test_discriminator_starts_with_logits_of_order_one():
    torch.manual_seed(0)
    logits = torch.stack(
        [Discriminator(5, 32, GANConfig(channel_base=512, channel_max=32))(torch.randn(4, 5, 32, 32)) for _ in range(8)]
    )
    assert logits.shape == (8, 4)
    assert 0.1 < logits.std() < 10
