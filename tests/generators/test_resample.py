import numpy as np
import pytest
import torch
from scipy import ndimage, signal, special

from generators.resample import downsample, gaussian, lowpass, radial_lowpass, upsample


def upfirdn(image: np.ndarray, kernel: np.ndarray, up: int = 1, down: int = 1) -> np.ndarray:
    """Zero insertion, full convolution and decimation of [..., H, W] along both axes."""
    for axis in (-2, -1):
        image = signal.upfirdn(kernel, image, up, down, axis=axis)
    return image


@pytest.mark.parametrize(("factor", "crop"), [(2, 0), (2, 5), (4, 10), (4, 3), (1, 0)])
def test_upsampling_equals_zero_insertion_and_convolution(factor, crop):
    image, kernel = torch.randn(2, 3, 9, 7, dtype=torch.float64), torch.randn(6 * factor, dtype=torch.float64)
    reference = upfirdn(image.numpy(), kernel.numpy(), up=factor)
    ends = [slice(crop, length - crop) for length in (8 * factor + len(kernel), 6 * factor + len(kernel))]
    np.testing.assert_allclose(upsample(image, kernel, factor, crop), reference[:, :, ends[0], ends[1]], atol=1e-12)


@pytest.mark.parametrize(("factor", "pad"), [(2, 0), (2, 5), (1, 2), (4, 3)])
def test_downsampling_equals_convolution_and_decimation(factor, pad):
    image, half = torch.randn(2, 3, 24, 22, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    kernel = torch.cat([half, half.flip(0)])
    padded = np.pad(image.numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    full = upfirdn(padded, kernel.numpy())
    reference = full[:, :, 7:-7, 7:-7][:, :, ::factor, ::factor]  # where the kernel lies inside the padded image
    np.testing.assert_allclose(downsample(image, kernel, factor, pad), reference, atol=1e-12)
    np.testing.assert_allclose(downsample(image, torch.outer(kernel, kernel), factor, pad), reference, atol=1e-12)


def test_resampling_keeps_a_smooth_signal_and_its_place():
    """Up by 2 and down by 2 is the identity in the pass band: nothing moves by a fraction of a sample."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    image = (torch.cos(2 * torch.pi * (2 * x + 3 * y) / 64) + 0.5)[None, None]
    kernel = lowpass(48, cutoff=16, half_width=8, rate=128)
    fine = upsample(image, 2 * kernel, 2, crop=23)
    position = (torch.arange(128) + 0.5) / 2 - 0.5
    y, x = torch.meshgrid(position, position, indexing="ij")
    expected = torch.cos(2 * torch.pi * (2 * x + 3 * y) / 64) + 0.5
    inside = slice(16, -16)
    torch.testing.assert_close(fine[0, 0, inside, inside], expected[inside, inside], atol=0.01, rtol=0)
    coarse = downsample(fine, kernel, 2, pad=23)
    torch.testing.assert_close(coarse[0, 0, inside, inside], image[0, 0, inside, inside], atol=0.02, rtol=0)


def kaiser_beta(taps: int, half_width: float, rate: float) -> float:
    """2106.12423, Appendix C: attenuation from the transition band, then the window's β."""
    attenuation = 2.285 * (taps - 1) * np.pi * (2 * half_width / (rate / 2)) + 7.95
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    return 0.5842 * max(attenuation - 21, 0) ** 0.4 + 0.07886 * max(attenuation - 21, 0)


@pytest.mark.parametrize(
    ("taps", "cutoff", "half_width", "rate"), [(12, 2, 6, 32), (24, 10.1, 5.9, 128), (12, 32, 7.4, 128)]
)
def test_lowpass_is_a_kaiser_windowed_sinc(taps, cutoff, half_width, rate):
    t = (np.arange(taps) - (taps - 1) / 2) / rate
    beta = kaiser_beta(taps, half_width, rate)
    window = special.i0(beta * np.sqrt(1 - (2 * np.arange(taps) / (taps - 1) - 1) ** 2)) / special.i0(beta)
    reference = np.sinc(2 * cutoff * t) * window
    np.testing.assert_allclose(lowpass(taps, cutoff, half_width, rate), reference / reference.sum(), atol=1e-7)


def test_lowpass_passes_what_it_should():
    """Half amplitude at the cutoff, unity below the transition band, little above it."""
    frequency, response = signal.freqz(lowpass(48, 16, 8, 128).numpy(), worN=1024, fs=128)
    gain = np.abs(response)
    assert np.interp(16, frequency, gain) == pytest.approx(0.5, abs=0.02)
    assert gain[frequency < 8] == pytest.approx(1, abs=0.02)
    assert gain[frequency > 24].max() < 0.02


def test_radial_lowpass_is_radial():
    """Taps at one radius are equal, which a product of sincs does not give; the cutoff is the same on every axis."""
    kernel = radial_lowpass(12, 8, 8, 64).numpy()
    distance = np.hypot(*np.meshgrid(np.arange(12) - 5.5, np.arange(12) - 5.5))
    for radius in np.unique(distance.round(6)):
        assert np.ptp(kernel[np.isclose(distance, radius)]) < 1e-7
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    separable = np.outer(lowpass(12, 8, 8, 64), lowpass(12, 8, 8, 64))
    same_radius = np.isclose(distance, np.hypot(0.5, 3.5)) | np.isclose(distance, np.hypot(2.5, 2.5))
    assert np.ptp(separable[same_radius]) > 1e-4

    def gain(angle: float, frequency: float) -> float:
        x, y = np.meshgrid(np.arange(12) - 5.5, np.arange(12) - 5.5)
        return abs((kernel * np.exp(-2j * np.pi * frequency / 64 * (x * np.cos(angle) + y * np.sin(angle)))).sum())

    for frequency in (4, 8, 16):
        assert gain(0, frequency) == pytest.approx(gain(np.pi / 4, frequency), abs=0.01)
    assert gain(0.3, 2) > 0.9
    assert gain(0.3, 20) < 0.05


def test_gaussian_is_scipys():
    impulse = np.zeros(41)
    impulse[20] = 1
    expected = ndimage.gaussian_filter1d(impulse, 2.0, truncate=3.0)[14:27]
    np.testing.assert_allclose(gaussian(2.0), expected, atol=1e-6)


@pytest.mark.parametrize("taps", [4, 8])  # one pass over both axes, and one along each
@pytest.mark.parametrize("width", [4, 5])  # of what is filtered down: at 5, the last stride leaves a column over
def test_resampling_differentiates_twice(taps, width):
    image = torch.randn(1, 2, 3, width, dtype=torch.float64, requires_grad=True)
    kernel = lowpass(taps, 2, 2, 8).double()

    def there(x):
        return upsample(x, kernel, 2, crop=taps // 2 - 1).square()

    def back(x):
        return downsample(x, kernel, 2, pad=taps // 2 - 1).square()

    for call in (there, back, lambda x: back(there(x))):
        assert torch.autograd.gradcheck(call, image)
        assert torch.autograd.gradgradcheck(call, image)


def test_derivatives_of_a_filter_are_those_of_pytorchs_convolution():
    """Up to the third."""
    kernel = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64) / 8
    image = torch.randn(2, 3, 9, 6, dtype=torch.float64, requires_grad=True)

    def reference(x):
        weight = torch.outer(kernel, kernel).expand(3, 1, -1, -1)
        return torch.nn.functional.conv2d(x, weight, None, 2, 1, groups=3)

    def third(filtered):
        value = filtered(image).pow(4).sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(value, image, create_graph=True)
            value = gradient.square().sum()
        return gradient

    torch.testing.assert_close(third(lambda x: downsample(x, kernel, 2, pad=1)), third(reference))
