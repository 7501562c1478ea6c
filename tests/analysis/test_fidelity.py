from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy import linalg, signal, stats
from scipy.spatial.distance import cdist

from analysis import fidelity
from analysis.fidelity import TooFewSamples


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
        assert fidelity.kernel_distance(normal(0, 4000, 1), normal(1, 4000, 1, 1.0)) == pytest.approx(22, rel=0.1)

    def test_is_unbiased_in_small_samples(self):
        same = [fidelity.kernel_distance(normal(i, 8, 3), normal(i + 1000, 12, 3)) for i in range(500)]
        assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(500)
        assert min(same) < 0 < max(same)

    def test_float32_features_lose_nothing_to_cancellation(self):
        a, b = normal(0, 40, 16, 30).astype(np.float32), normal(1, 40, 16, 30).astype(np.float32)
        assert fidelity.kernel_distance(a, b) == fidelity.kernel_distance(a.astype(np.float64), b.astype(np.float64))

    def test_refuses_what_it_cannot_compare(self):
        a = normal(0, 10, 4)
        with pytest.raises(TooFewSamples, match="at least 2 samples of each set; there are 1"):
            fidelity.kernel_distance(a, a[:1])
        with pytest.raises(ValueError, match="4 and 3 features"):
            fidelity.kernel_distance(a, a[:, :3])
        with pytest.raises(ValueError, match="finite"):
            fidelity.kernel_distance(a, np.where(a > 1, np.nan, a))


def with_moments(seed, n, mean, root):
    """Samples [n, D] with exactly this mean and the covariance root · rootᵀ."""
    noise = normal(seed, n, len(mean))
    white = np.linalg.qr(noise - noise.mean(0))[0] * np.sqrt(n - 1)
    return white @ np.array(root).T + mean


class TestFrechetDistance:
    def test_equals_the_formula_for_independent_features(self):
        # commuting covariances: tr(Σa + Σb − 2 (Σa Σb)^½) = Σ (σa − σb)²
        a = with_moments(0, 50, [0, 1, 2], np.diag([1, 2, 3]))
        b = with_moments(1, 40, [3, 1, 1], np.diag([4, 2, 1]))
        assert fidelity.frechet_distance(a, b) == pytest.approx((9 + 0 + 1) + (9 + 0 + 4), rel=1e-10)

    def test_equals_the_matrix_square_root(self):
        root_a, root_b = normal(2, 6, 6), normal(3, 6, 6)
        a, b = with_moments(0, 80, np.zeros(6), root_a), with_moments(1, 30, np.ones(6), root_b)
        cov_a, cov_b = root_a @ root_a.T, root_b @ root_b.T
        reference = 6 + np.trace(cov_a + cov_b - 2 * linalg.sqrtm(cov_a @ cov_b).real)
        assert fidelity.frechet_distance(a, b) == pytest.approx(reference, rel=1e-9)

    def test_holds_where_features_hardly_vary(self):
        sigma_a, sigma_b = np.array([1, 1e-5, 1e-9]), np.array([1, 2e-5, 0])
        a, b = with_moments(0, 20, np.zeros(3), np.diag(sigma_a)), with_moments(1, 20, np.zeros(3), np.diag(sigma_b))
        assert fidelity.frechet_distance(a, b) == pytest.approx(((sigma_a - sigma_b) ** 2).sum(), abs=1e-14)

    def test_of_a_set_with_itself_is_zero(self):
        a = normal(0, 40, 8, 5).astype(np.float32)
        assert 0 <= fidelity.frechet_distance(a, a[::-1]) < 1e-12

    def test_refuses_fewer_samples_than_a_covariance_needs(self):
        with pytest.raises(TooFewSamples, match="of 8 features needs at least 9 samples of each set; there are 8"):
            fidelity.frechet_distance(normal(0, 40, 8), normal(1, 8, 8))
        fidelity.frechet_distance(normal(0, 9, 8), normal(1, 9, 8))


class TestNeighbours:
    @pytest.mark.parametrize(("k", "n", "m"), [(1, 12, 12), (3, 20, 31), (5, 40, 25)])
    def test_equals_loops_over_balls(self, k, n, m):
        fake, real = normal(0, n, 3, 0.6), normal(1, m, 3)
        radius_real, radius_fake = (np.sort(cdist(x, x))[:, k] for x in (real, fake))
        near = [[np.linalg.norm(y - x) for x in real] for y in fake]
        in_real = [[near[j][i] <= radius_real[i] for i in range(m)] for j in range(n)]
        precision = np.mean([any(in_real[j]) for j in range(n)])
        recall = np.mean([any(near[j][i] <= radius_fake[j] for j in range(n)) for i in range(m)])
        density = sum(in_real[j][i] for j in range(n) for i in range(m)) / (k * n)
        coverage = np.mean([any(in_real[j][i] for j in range(n)) for i in range(m)])
        expected = (precision, recall, density, coverage)
        assert min(expected) > 0  # the case tells
        assert max(expected[::3]) < 1
        assert fidelity.precision_recall_density_coverage(fake, real, k) == pytest.approx(expected)

    def test_copies_lie_inside_the_balls(self):
        # each copy is in its original's ball and on the edge or inside of k others on average
        a = normal(0, 60, 4, 100.0).astype(np.float32)
        assert fidelity.precision_recall_density_coverage(a[::-1], a) == pytest.approx((1, 1, 6 / 5, 1))

    def test_a_single_image_over_and_over_is_precise_and_covers_little(self):
        a = normal(0, 60, 4)
        precision, recall, _, coverage = fidelity.precision_recall_density_coverage(np.repeat(a[:1], 60, 0), a)
        assert (precision, recall) == (1, 1 / 60)
        assert coverage < 0.3

    def test_one_distribution_has_the_papers_expectation(self, monkeypatch):
        monkeypatch.setattr(fidelity, "CHUNK", 512)
        _, _, density, coverage = fidelity.precision_recall_density_coverage(normal(0, 2000, 5), normal(1, 2000, 5))
        assert density == pytest.approx(1, abs=0.05)
        assert coverage == pytest.approx(1 - 2**-5, abs=0.015)

    def test_refuses_fewer_samples_than_neighbours(self):
        with pytest.raises(TooFewSamples, match="at least 6"):
            fidelity.precision_recall_density_coverage(normal(0, 5, 2), normal(1, 9, 2))


class TestCompare:
    def test_each_measure_stands_under_its_name(self):
        synthetic, reference, floor = normal(0, 30, 4, 0.5), normal(1, 30, 4), normal(2, 30, 4)
        result = fidelity.compare(synthetic, reference, floor)
        assert result["reasons"] == {}
        for part, features in (("values", synthetic), ("floor", floor)):
            names = ("precision", "recall", "density", "coverage")
            assert result[part] == {
                "frechet": fidelity.frechet_distance(features, reference),
                "kernel": fidelity.kernel_distance(features, reference),
                **dict(zip(names, fidelity.precision_recall_density_coverage(features, reference), strict=True)),
            }

    def test_too_few_samples_are_a_reason_and_not_a_number(self):
        result = fidelity.compare(normal(0, 6, 8), normal(1, 6, 8), normal(2, 6, 8))
        assert result["values"]["frechet"] is None
        assert result["floor"]["frechet"] is None
        assert "at least 9" in result["reasons"]["frechet"]
        assert set(result["reasons"]) == {"frechet"}
        assert set(fidelity.compare(*np.zeros((3, 1, 8)))["reasons"]) == set(result["values"])

    def test_only_equal_numbers_are_compared(self):
        with pytest.raises(ValueError, match="30 synthetic, 30 reference and 20 held-out"):
            fidelity.compare(normal(0, 30, 4), normal(1, 30, 4), normal(2, 20, 4))
        draws = fidelity.equal_draws((50, 40, 12), 100, seed=1)
        for rows, size in zip(draws, (50, 40, 12), strict=True):
            assert len(rows) == 12
            assert np.all(np.diff(rows) > 0)
            assert rows[-1] < size
        assert [len(rows) for rows in fidelity.equal_draws((50, 40, 12), 7, seed=1)] == [7, 7, 7]
        assert not np.array_equal(fidelity.equal_draws((50, 40, 12), 100, seed=2)[0], draws[0])


def slices(seed, n, size):
    """Smooth random images uint8 [n, 4, size, size]."""
    noise = np.random.default_rng(seed).normal(0, 1, (n, 4, size, size))
    smooth = signal.fftconvolve(noise, np.ones((1, 1, 5, 5)) / 5, mode="same", axes=(2, 3))
    return np.clip(smooth * 40 + 120, 0, 255).astype(np.uint8)


class TestMsSsim:
    @pytest.mark.parametrize(("size", "weights"), [(16, [1]), (32, [0.0448, 0.2856]), (64, [0.0448, 0.2856, 0.3001])])
    def test_equals_the_papers_formula(self, size, weights):
        x = slices(0, 6, size)
        x[3:] = x[:3] // 2 + x[3:] // 2  # alike, or a negative contrast makes it 0
        window = np.outer(*2 * [signal.windows.gaussian(11, 1.5)])
        window /= window.sum()

        def statistics(a, b):
            mean_a, mean_b, square_a, square_b, product = (
                signal.convolve2d(image, window, mode="valid") for image in (a, b, a * a, b * b, a * b)
            )
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            contrast = (2 * (product - mean_a * mean_b) + c2) / (square_a + square_b - mean_a**2 - mean_b**2 + c2)
            return contrast, contrast * (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)

        def similarity(a, b):
            result = 1.0
            for scale, weight in enumerate(np.array(weights) / sum(weights)):
                contrast, ssim = statistics(a, b)
                result *= (ssim if scale == len(weights) - 1 else contrast).mean() ** weight
                a, b = (image.reshape(len(a) // 2, 2, len(a) // 2, 2).mean((1, 3)) for image in (a, b))
            return result

        pairs = np.array([[0, 3], [1, 4], [2, 5]])
        expected = [np.mean([similarity(*x[pair, channel].astype(float)) for pair in pairs]) for channel in range(4)]
        assert min(expected) > 0.1
        assert fidelity.ms_ssim(x, pairs) == pytest.approx(expected, abs=1e-4)

    def test_of_an_identical_pair_is_one(self):
        x = slices(0, 2, 32)
        x[1] = x[0]
        assert fidelity.ms_ssim(x, np.array([[0, 1]] * 70)) == pytest.approx([1] * 4, abs=1e-5)

    def test_is_lower_where_images_are_more_varied(self):
        varied = slices(0, 40, 32)
        alike = (varied // 8 + slices(1, 1, 32) // 8 * 7).astype(np.uint8)
        pairs = fidelity.random_pairs(np.arange(40), seed=0, count=100)
        assert np.all(fidelity.ms_ssim(varied, pairs) < fidelity.ms_ssim(alike, pairs) - 0.2)

    def test_scales_halve_down_to_16_px(self):
        found = {size: fidelity.scales(size) for size in (16, 24, 32, 64, 96, 128, 240, 256, 1024)}
        assert found == {16: 1, 24: 1, 32: 2, 64: 3, 96: 3, 128: 4, 240: 4, 256: 5, 1024: 5}
        for size in (16, 24, 32, 96, 240):  # every size is one that the library takes
            assert fidelity.ms_ssim(np.zeros((2, 4, size, size), np.uint8), np.array([[0, 1]])) == pytest.approx(
                [1] * 4
            )
        with pytest.raises(ValueError, match="at least 16 px; these have 8"):
            fidelity.scales(8)

    def test_pairs_are_of_two_subjects(self):
        subjects = np.repeat(["a", "b", "c"], [50, 3, 7])
        pairs = fidelity.random_pairs(subjects, seed=0, count=500)
        assert pairs.shape == (500, 2)
        assert np.all(subjects[pairs[:, 0]] != subjects[pairs[:, 1]])
        assert set(pairs.ravel()) == set(range(60))
        assert not np.array_equal(pairs, fidelity.random_pairs(subjects, seed=1, count=500))
        with pytest.raises(TooFewSamples, match="all 4 are of 'a'"):
            fidelity.random_pairs(subjects[:4], seed=0)


def ratio_table(ratios, arm="synthetic"):
    rows = [
        {"cohort": "c", "segmenter": "unet", "arm": arm, "augmentation": "on", "generator": g, "ratio": r, "region": k}
        for g, r in ratios.items()
        for k in ("mean", "ET")
    ]
    return pd.DataFrame(rows)


def fidelity_table(**measures):
    return pd.DataFrame({"cohort": "c", "generator": list("abcde"), **measures})


RATIOS = {"a": 0.5, "b": 0.6, "c": 0.8, "d": 0.7, "e": 0.9}


class TestRankCorrelations:
    def test_equals_spearman_with_all_orders_enumerated(self):
        frechet, density = [9.0, 8.0, 3.0, 5.0, 4.0], [0.1, 0.2, 0.2, 0.2, 0.9]  # with ties
        ratios = pd.concat([ratio_table(RATIOS), ratio_table(RATIOS, "both")])
        table = fidelity.rank_correlations(fidelity_table(frechet=frechet, density=density), ratios)
        assert len(table) == 4
        assert set(table["arm"]) == {"synthetic", "both"}
        for measure, values in (("frechet", frechet), ("density", density)):
            row = table[(table["measure"] == measure) & (table["arm"] == "both")].iloc[0]
            y = list(RATIOS.values())
            rho = stats.spearmanr(values, y).statistic
            null = np.array([stats.spearmanr(order, y).statistic for order in permutations(values)])
            tail = min(np.mean(null >= rho - 1e-9), np.mean(null <= rho + 1e-9))
            assert (row["rho"], row["p"]) == pytest.approx((rho, min(1, 2 * tail)))
            assert (row["generators"], row["without"], row["reason"]) == (5, "", "")
        assert table.loc[table["measure"] == "frechet", "rho"].max() < 0  # of distances as they are: less is better

    def test_what_cannot_be_said_has_its_reason(self):
        measures = fidelity_table(
            frechet=[1.0, 2.0, None, None, 5.0], precision=[0.0] * 5, recall=[None, 0.2, 0.3, 0.4, 0.6]
        )
        table = fidelity.rank_correlations(measures, ratio_table(RATIOS)).set_index("measure")
        assert table.loc["frechet", ["generators", "without", "reason"]].tolist() == [3, "c, d", "n too small"]
        assert table.loc["precision", "reason"] == "all generators have the same value"
        assert table.loc["recall", ["generators", "without", "reason"]].tolist() == [4, "a", ""]
        assert table.loc["recall", "rho"] == pytest.approx(0.8)
        assert table.loc[["frechet", "precision"], ["rho", "p"]].isna().all(axis=None)

    def test_a_generator_without_fidelity_or_ratio_is_named(self):
        ratios = ratio_table({**RATIOS, "e": np.nan, "f": 0.4})
        row = fidelity.rank_correlations(fidelity_table(kernel=[1.0, 2, 3, 4, 5]), ratios).iloc[0]
        assert (row["generators"], row["without"]) == (4, "e, f")
