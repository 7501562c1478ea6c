"""Codings of the annotation: what is encoded comes back, and what a generator draws in between is decoded as stated."""

from typing import get_args

import numpy as np
import pytest
import torch
from scipy import ndimage

from benchmark.config import TrainGenerator
from benchmark.data.annotation import CODINGS, from_network, to_network

NCR, ED, ET = 1, 2, 3


def grey() -> torch.Tensor:
    """Every 8-bit value in each modality."""
    return torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(3, 4, 16, 16)


def annotations() -> torch.Tensor:
    """Labels [3, 16, 16]: pixels at random, single ones of each class in a wide background, and nested blobs."""
    labels = torch.randint(0, 4, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels[1] = 0
    labels[1, 2, 2], labels[1, 8, 8], labels[1, 0, 15] = NCR, ED, ET
    labels[2] = 0
    labels[2, 1:14, 2:16] = ED
    labels[2, 3:11, 4:13] = ET
    labels[2, 5:9, 7:10] = NCR
    return labels


def planes(*pixels: tuple[float, ...]) -> torch.Tensor:
    """A row of pixels, given by the values of their planes: [1, planes, 1, pixels]."""
    return torch.tensor(pixels).T[None, :, None]


# --- every coding ---------------------------------------------------------------------------------------------------


def test_what_can_be_configured_is_what_there_is():
    assert set(get_args(TrainGenerator.model_fields["annotation"].annotation)) == CODINGS.keys()


@pytest.mark.parametrize("coding", CODINGS)
def test_coding_is_exactly_inverted(coding):
    coded = to_network(grey(), annotations(), coding)
    assert coded.shape == (3, 4 + CODINGS[coding].planes, 16, 16)
    assert coded.dtype == torch.float32
    assert -1 <= coded.min() < coded.max() <= 1
    images, labels, off_code = from_network(coded, coding)
    assert images.dtype == labels.dtype == torch.uint8
    assert torch.equal(images, grey())
    assert torch.equal(labels, annotations())
    assert torch.equal(off_code, torch.zeros(3))


@pytest.mark.parametrize("coding", CODINGS)
def test_far_from_every_tumour_planes_are_as_air(coding):
    assert (CODINGS[coding].encode(torch.zeros(1, 8, 8, dtype=torch.uint8)) == -1).all()


@pytest.mark.parametrize("coding", CODINGS)
def test_faint_noise_changes_nothing(coding):
    coded = to_network(grey(), annotations(), coding)
    noise = torch.empty_like(coded).uniform_(-0.09, 0.09, generator=torch.Generator().manual_seed(1))
    _, labels, off_code = from_network(coded + noise, coding)
    assert torch.equal(labels, annotations())
    assert torch.equal(off_code, torch.zeros(3))


@pytest.mark.parametrize("coding", CODINGS)
def test_off_code_is_a_share_per_image(coding):
    odd = {"values": (0.2,), "onehot": (0.5, 0.5, -1.0)}.get(coding, (-1.0, 0.5, -1.0))  # 0.2: v = 3, between ED and ET
    generated = torch.full((2, 4 + len(odd), 2, 2), -1.0)
    generated[1, 4:, 0, 0] = torch.tensor(odd)
    assert from_network(generated, coding)[2].tolist() == [0, 0.25]


@pytest.mark.parametrize("coding", CODINGS)
def test_values_beyond_the_range_are_clamped(coding):
    channels = 4 + CODINGS[coding].planes
    generated = torch.tensor([-7.0, 7.0]).reshape(2, 1, 1, 1).expand(2, channels, 1, 1)
    images, labels, _ = from_network(generated, coding)
    assert images[:, 0].flatten().tolist() == [0, 255]
    assert labels[0] == 0 < labels[1]


@pytest.mark.parametrize("coding", CODINGS)
def test_nan_unknown_labels_and_missing_planes_are_errors(coding):
    channels = 4 + CODINGS[coding].planes
    with pytest.raises(ValueError, match="NaN"):
        from_network(torch.full((1, channels, 2, 2), float("nan")), coding)
    with pytest.raises(IndexError):
        to_network(torch.zeros(1, 4, 2, 2, dtype=torch.uint8), torch.full((1, 2, 2), 4, dtype=torch.uint8), coding)
    with pytest.raises(RuntimeError, match="split"):
        from_network(torch.zeros(1, channels + 1, 2, 2), coding)


# --- values ---------------------------------------------------------------------------------------------------------


def test_values_are_the_brats_values_times_51():
    coded = to_network(grey(), annotations(), "values")
    brats = torch.tensor([0, 1, 2, 4])[annotations().long()]
    torch.testing.assert_close(coded[:, 4], brats * 51 / 127.5 - 1, atol=1e-6, rtol=0)


def test_values_are_decoded_by_the_studys_thresholds_for_every_grey_value():
    values = np.arange(256)
    generated = torch.zeros(256, 5, 1, 1)
    generated[:, 4, 0, 0] = torch.from_numpy(values / 127.5 - 1)
    _, labels, off_code = from_network(generated, "values")
    for g in values:
        v = 5 * g / 255
        expected = 3 if v > 3.0 else 2 if v > 1.5 else 1 if v > 0.5 else 0
        assert labels[g] == expected, g
        assert off_code[g] == float(min(abs(v - code) for code in (0, 1, 2, 4)) > 0.25), g


# --- nested, and distance, which is decoded alike -------------------------------------------------------------------


def regions(labels: np.ndarray) -> np.ndarray:
    """WT, TC and ET of labels [B, H, W], as bool [B, 3, H, W]: PROTOCOL, section 2."""
    return np.stack([np.isin(labels, classes) for classes in ([NCR, ED, ET], [NCR, ET], [ET])], 1)


def test_nested_planes_are_the_regions():
    coded = to_network(grey(), annotations(), "nested")[:, 4:]
    np.testing.assert_array_equal(coded, np.where(regions(annotations().numpy()), 1, -1))


@pytest.mark.parametrize("coding", ["nested", "distance"])
def test_the_outermost_region_decides_and_contradictions_are_counted(coding):
    drawn = {  # WT, TC, ET → label, whether they contradict each other
        (-0.1, -0.1, -0.1): (0, False),
        (0.1, -0.9, -0.9): (ED, False),
        (0.1, 0.1, -0.1): (NCR, False),
        (0.1, 0.9, 0.1): (ET, False),
        (0.1, -0.1, 0.9): (ED, True),  # ET without TC
        (-0.1, 0.9, -0.1): (0, True),  # TC without WT
        (-0.1, 0.9, 0.9): (0, True),
        (-0.1, -0.1, 0.9): (0, True),  # ET without TC, outside of WT
        (0.0, 0.0, 0.0): (0, False),
    }
    for pixel, (label, contradicts) in drawn.items():
        found, off_code = CODINGS[coding].decode(planes(pixel))
        assert (found.item(), off_code.item()) == (label, contradicts), pixel
    _, off_code = CODINGS[coding].decode(planes(*drawn))
    assert off_code.item() == pytest.approx(4 / 9)


def test_distance_is_scipys_chessboard_distance_to_the_border():
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.standard_normal((8, 32, 32)), (0, 3, 3))
    labels = np.digitize(smooth, np.quantile(smooth, [0.5, 0.7, 0.8])).astype(np.uint8)
    labels[0] = 0
    labels[0, 4, 4], labels[0, 20:25, 20:25] = ET, NCR
    coded = CODINGS["distance"].encode(torch.from_numpy(labels)).numpy()
    for one, expected in zip(coded.reshape(-1, 32, 32), regions(labels).reshape(-1, 32, 32), strict=True):
        if not expected.any():
            assert (one == -1).all()
            continue
        inside, outside = (ndimage.distance_transform_cdt(mask, "chessboard") for mask in (expected, ~expected))
        signed = np.where(expected, inside - 0.5, 0.5 - outside)
        np.testing.assert_allclose(one, np.clip(signed, -2.5, 2.5) / 2.5, atol=1e-6)
    assert len(np.unique(coded.round(3))) == 6  # ±0.2, ±0.6, ±1 all occur


# --- onehot ---------------------------------------------------------------------------------------------------------


def test_onehot_planes_are_the_classes():
    coded = to_network(grey(), annotations(), "onehot")[:, 4:]
    expected = np.stack([annotations() == label for label in (NCR, ED, ET)], 1)
    np.testing.assert_array_equal(coded, np.where(expected, 1, -1))


def test_the_largest_plane_decides_where_it_is_positive_and_several_are_counted():
    drawn = {  # NCR, ED, ET → label, whether several are positive
        (-0.1, -0.2, -0.3): (0, False),
        (0.1, -0.2, -0.3): (NCR, False),
        (0.1, 0.2, -0.3): (ED, True),
        (0.1, 0.2, 0.3): (ET, True),
        (-0.1, -0.9, 0.3): (ET, False),
        (0.0, 0.0, 0.0): (0, False),
    }
    for pixel, (label, several) in drawn.items():
        found, off_code = CODINGS["onehot"].decode(planes(pixel))
        assert (found.item(), off_code.item()) == (label, several), pixel
    _, off_code = CODINGS["onehot"].decode(planes(*drawn))
    assert off_code.item() == pytest.approx(2 / 6)
