import numpy as np
import pytest

from analysis import fidelity


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(fidelity, "CHUNK", 7)  # pairs of a few samples already come in several pieces


def normal(seed, n, dimensions, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1, (n, dimensions))


class TestKernelDistance:
    def test_equals_the_sums_over_pairs(self):
        a, b = normal(0, 15, 5), normal(1, 24, 5, 0.3)

        def k(x, y):
            return (sum(x * y) / 5 + 1) ** 3

        within_a = np.mean([k(a[i], a[j]) for i in range(15) for j in range(15) if i != j])
        within_b = np.mean([k(b[i], b[j]) for i in range(24) for j in range(24) if i != j])
        between = np.mean([k(x, y) for x in a for y in b])
        assert fidelity.kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * between, rel=1e-10)

    def test_approaches_the_distance_of_the_distributions(self, monkeypatch):
        # D = 1: k(x, y) = 1 + 3 xy + 3 x²y² + x³y³, so MMD² = 3 ΔE[x]² + 3 ΔE[x²]² + ΔE[x³]²; N(1, 1) has 1, 2 and 4
        monkeypatch.setattr(fidelity, "CHUNK", 1024)
        assert fidelity.kernel_distance(normal(0, 8000, 1), normal(1, 8000, 1, 1.0)) == pytest.approx(22, rel=0.1)

    def test_is_unbiased_in_small_samples(self):
        same = [fidelity.kernel_distance(normal(i, 8, 3), normal(i + 1000, 12, 3)) for i in range(500)]
        assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(500)
        assert min(same) < 0 < max(same)

    def test_float32_features_lose_nothing_to_cancellation(self):
        a, b = normal(0, 40, 16, 30).astype(np.float32), normal(1, 40, 16, 30).astype(np.float32)
        assert fidelity.kernel_distance(a, b) == fidelity.kernel_distance(a.astype(np.float64), b.astype(np.float64))

    def test_refuses_what_it_cannot_compare(self):
        a = normal(0, 10, 4)
        with pytest.raises(ValueError, match="2 samples of each set, not 1"):
            fidelity.kernel_distance(a, a[:1])
        with pytest.raises(ValueError, match="4 and 3 features"):
            fidelity.kernel_distance(a, a[:, :3])
        with pytest.raises(ValueError, match="finite"):
            fidelity.kernel_distance(a, np.where(a > 1, np.nan, a))
