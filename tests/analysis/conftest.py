import numpy as np
import pytest
from scipy import ndimage


def _patients(seed: int, subjects: int, slices: int = 1, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    rng, anatomy_rng = np.random.default_rng(seed), np.random.default_rng(1)
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) / size

    def field(rng, *shape, sigma):
        smooth = ndimage.gaussian_filter(rng.normal(size=(*shape, size, size)), (*[0] * len(shape), sigma, sigma))
        return smooth / smooth.std()

    anatomy = field(anatomy_rng, 4, sigma=size / 16)
    person = np.repeat(field(rng, subjects, 4, sigma=size / 12), slices, 0)
    values = 120 + 30 * anatomy + 30 * person + 12 * field(rng, len(person), 4, sigma=1)
    radius = np.repeat(rng.uniform(0.34, 0.4, subjects), slices)[:, None, None]
    brain = (x / 0.85) ** 2 + y**2 < radius**2
    images = np.clip(values, 20, 255) * brain[:, None] + rng.uniform(0, 9, values.shape)
    return images.astype(np.uint8), np.repeat([f"{seed}-{i}" for i in range(subjects)], slices)


@pytest.fixture(scope="session")
def patients():
    """(seed, subjects, slices of each, size) → brain-like slices uint8 [N, 4, size, size] and their subjects: one
    anatomy, smooth differences of people."""
    return _patients


class _Recorder(np.ndarray):
    largest = 0

    def __getitem__(self, index):
        part = np.asarray(self)[index]
        self.largest = max(self.largest, part.nbytes)
        return part


@pytest.fixture(scope="session")
def recorder():
    """A kind of array, for `view`, that remembers how many bytes were read from it at once: its `largest`."""
    return _Recorder
