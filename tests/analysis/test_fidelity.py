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
        a, b = with_moments(0, 80, np.zeros(6), root_a), with_moments(1, 60, np.ones(6), root_b)
        cov_a, cov_b = root_a @ root_a.T, root_b @ root_b.T
        reference = 6 + np.trace(cov_a + cov_b - 2 * linalg.sqrtm(cov_a @ cov_b).real)
        assert fidelity.frechet_distance(a, b) == pytest.approx(reference, rel=1e-9)

    def test_holds_where_features_hardly_vary(self):
        sigma_a, sigma_b = np.array([1, 1e-5, 1e-9]), np.array([1, 2e-5, 0])
        a, b = with_moments(0, 30, np.zeros(3), np.diag(sigma_a)), with_moments(1, 30, np.zeros(3), np.diag(sigma_b))
        assert fidelity.frechet_distance(a, b) == pytest.approx(((sigma_a - sigma_b) ** 2).sum(), abs=1e-14)

    def test_of_a_set_with_itself_is_zero(self):
        a = normal(0, 80, 8, 5).astype(np.float32)
        assert 0 <= fidelity.frechet_distance(a, a[::-1]) < 1e-12

    def test_refuses_fewer_samples_than_a_covariance_needs(self):
        with pytest.raises(TooFewSamples, match="of 3 features needs at least 30 samples of each set; there are 29"):
            fidelity.frechet_distance(normal(0, 40, 3), normal(1, 29, 3))
        fidelity.frechet_distance(normal(0, 30, 3), normal(1, 30, 3))


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
        with pytest.raises(
            TooFewSamples, match=r"neighbour no\. 5 needs at least 20 samples of each set; there are 19"
        ):
            fidelity.precision_recall_density_coverage(normal(0, 19, 2), normal(1, 30, 2))


class TestEqualDraws:
    def test_a_draw_has_one_slice_of_each_of_as_many_people_as_the_smallest_set(self):
        people = [np.arange(30).astype(str), np.repeat(list("abcdefgh"), 4), np.tile(["x", "y", "z"], 4)]
        draws = fidelity.equal_draws(people, 100, seed=1)
        for rows, whose in zip(draws, people, strict=True):
            assert rows.shape == (fidelity.DRAWS, 3)
            assert all(len(set(whose[draw])) == 3 for draw in rows)
            assert set(rows.ravel()) == set(range(len(whose)))  # all have their turn
        assert fidelity.equal_draws(people, 2, seed=1)[1].shape == (fidelity.DRAWS, 2)
        assert not np.array_equal(fidelity.equal_draws(people, 100, seed=2)[0], draws[0])

    def test_all_slices_of_a_person_and_all_people_are_equally_likely(self):
        whose = np.repeat(["a", "b", "c", "d"], [1, 2, 3, 10])
        _, rows = fidelity.equal_draws([np.arange(2).astype(str), whose], 100, seed=0, draws=4000)
        expected = np.repeat(8000 / 4 / np.array([1, 2, 3, 10]), [1, 2, 3, 10])
        assert stats.chisquare(np.bincount(rows.ravel(), minlength=16), expected).pvalue > 0.001

    def test_floors_do_not_depend_on_how_large_the_synthetic_set_is(self):
        real = [np.repeat(list("abcd"), 5), np.repeat(list("xyz"), 5)]
        small, large = (fidelity.equal_draws([np.arange(n).astype(str), *real], 100, seed=0) for n in (10, 99))
        assert np.array_equal(small[1], large[1])
        assert np.array_equal(small[2], large[2])


def drawn(features, n=None, draws=1):
    """Draws of the first n rows, each time shuffled: the same sample over and over."""
    n = n or len(features)
    return fidelity.Drawn(features, np.stack([np.random.default_rng(i).permutation(n) for i in range(draws)]))


def clusters(rng, people, slices, dimensions=6):
    """Features of people who differ more than their slices do, and whose each slice is."""
    person = np.repeat(rng.normal(0, 1, (people, dimensions)), slices, 0)
    return person + rng.normal(0, 0.5, person.shape), np.repeat(np.arange(people), slices)


class TestCompare:
    def test_numbers_are_means_and_deviations_over_draws(self):
        features, rng = [normal(0, 60, 4, 0.5), normal(1, 60, 4), normal(2, 60, 4)], np.random.default_rng(0)
        rows = [np.stack([rng.permutation(60)[:30] for _ in range(3)]) for _ in features]
        result = fidelity.compare(*map(fidelity.Drawn, features, rows))
        assert result["reasons"] == {}
        centred = features[1][np.unique(rows[1])] - features[1][np.unique(rows[1])].mean(0)
        variances, axes = linalg.eigh(centred.T @ centred)
        assert result["components"] == 3  # 10 samples for each
        assert result["explained"] == pytest.approx(variances[1:].sum() / variances.sum())
        for part, which in (("values", 0), ("floor", 2)):
            pairs = [(features[which][a], features[1][b]) for a, b in zip(rows[which], rows[1], strict=True)]
            neighbours = [fidelity.precision_recall_density_coverage(a, b) for a, b in pairs]
            expected = dict(zip(("precision", "recall", "density", "coverage"), np.transpose(neighbours), strict=True))
            expected["kernel"] = [fidelity.kernel_distance(a, b) for a, b in pairs]
            expected["frechet"] = [fidelity.frechet_distance(a @ axes[:, 1:], b @ axes[:, 1:]) for a, b in pairs]
            assert result[part].keys() == expected.keys()
            for name, numbers in expected.items():
                assert result[part][name] == pytest.approx(np.mean(numbers), rel=1e-6), name
                assert result[f"{part}_sd"][name] == pytest.approx(np.std(numbers, ddof=1), rel=1e-6), name

    def test_an_honest_set_beats_the_floor_every_second_time(self, monkeypatch):
        """New people against a cohort's held-out people: by draws of people, and, for comparison, of any slices."""
        monkeypatch.setattr(fidelity, "CHUNK", 512)
        fair, unfair = [], []
        for trial in range(60):
            rng = np.random.default_rng(trial)
            sets = [clusters(rng, 300, 1), clusters(rng, 80, 12), clusters(rng, 26, 12)]
            draws = fidelity.equal_draws([whose for _, whose in sets], 100, trial, draws=8)
            result = fidelity.compare(*(fidelity.Drawn(x, rows) for (x, _), rows in zip(sets, draws, strict=True)))
            better = {"frechet": -1, "kernel": -1, "precision": 1, "recall": 1, "density": 1, "coverage": 1}
            fair.append([sign * (result["values"][key] - result["floor"][key]) > 0 for key, sign in better.items()])
            made, reference, held_out = (x[rng.choice(len(x), 300, replace=False)] for x, _ in sets)
            unfair.append(fidelity.kernel_distance(made, reference) < fidelity.kernel_distance(held_out, reference))
        assert np.all(np.abs(np.mean(fair, 0) - 0.5) < 0.25)  # of 60, 4 standard errors
        assert np.mean(unfair) > 0.85

    def test_too_few_samples_are_a_reason_and_not_a_number(self):
        result = fidelity.compare(*(drawn(normal(i, 12, 8), draws=2) for i in range(3)))
        assert result["components"] == 1
        assert set(result["reasons"]) == {"precision", "recall", "density", "coverage"}
        assert "at least 20 samples" in result["reasons"]["coverage"]
        result = fidelity.compare(*(drawn(normal(i, 6, 8), draws=2) for i in range(3)))
        assert result["values"]["frechet"] is result["floor"]["frechet"] is result["values_sd"]["frechet"] is None
        assert "at least 10 samples of each set; there are 6" in result["reasons"]["frechet"]
        assert result["values"]["kernel"] is not None
        alone = fidelity.compare(*(drawn(np.zeros((1, 8)), draws=2) for _ in range(3)))
        assert set(alone["reasons"]) == set(alone["values"])

    def test_only_equal_numbers_are_compared(self):
        with pytest.raises(ValueError, match="1 of 30, 1 of 30, 1 of 20"):
            fidelity.compare(drawn(normal(0, 30, 4)), drawn(normal(1, 30, 4)), drawn(normal(2, 20, 4)))


def slices(seed, n, size):
    """Smooth random images uint8 [n, 4, size, size]."""
    noise = np.random.default_rng(seed).normal(0, 1, (n, 4, size, size))
    smooth = signal.fftconvolve(noise, np.ones((1, 1, 5, 5)) / 5, mode="same", axes=(2, 3))
    return np.clip(smooth * 40 + 120, 0, 255).astype(np.uint8)


def brains(seed, n, size):
    """The same with black around discs that differ in size and place, and a faint background there."""
    x, rng = np.maximum(slices(seed, n, size), 20), np.random.default_rng(seed)
    y = np.arange(size)
    middle, radius = rng.uniform(0.45, 0.55, (2, n)) * size, rng.uniform(0.3, 0.4, n) * size
    brain = (y[:, None] - middle[0][:, None, None]) ** 2 + (y - middle[1][:, None, None]) ** 2 < radius[
        :, None, None
    ] ** 2
    return np.where(brain[:, None], x, rng.integers(0, 10, x.shape)).astype(np.uint8)


class TestMsSsim:
    @pytest.mark.parametrize("weights", [[1], [0.0448, 0.2856], [0.0448, 0.2856, 0.3001]])
    def test_equals_the_papers_formula_inside_the_brain(self, weights):
        x = brains(0, 4, 40)
        x[2:] = x[:2] // 2 + x[2:] // 2  # alike, or a negative contrast makes it 0
        window = np.outer(*2 * [signal.windows.gaussian(11, 1.5)])
        window /= window.sum()

        def halved(image):
            return image.reshape(len(image) // 2, 2, len(image[0]) // 2, 2).mean((1, 3))

        def similarity(a, b):
            union = (a > 10).any(0) | (b > 10).any(0)
            rows, columns = np.flatnonzero(union.any(1)), np.flatnonzero(union.any(0))
            corner = np.s_[..., rows[0] : rows[0] + 40, columns[0] : columns[0] + 40]
            a, b = (np.where((image > 10).any(0), image, 0.0) for image in (a, b))
            one, other, union = (
                np.pad(i, [(0, 0)] * (i.ndim - 2) + [(0, 40)] * 2)[corner] for i in (a, b, 1.0 * union)
            )
            results = []
            for channel in range(4):
                a, b, brain, result = one[channel], other[channel], union, 1.0
                for scale, weight in enumerate(np.array(weights) / sum(weights)):
                    mean_a, mean_b, square_a, square_b, product = (
                        signal.convolve2d(image, window, mode="same") for image in (a, b, a * a, b * b, a * b)
                    )
                    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
                    values = 2 * (product - mean_a * mean_b) + c2
                    values /= square_a + square_b - mean_a**2 - mean_b**2 + c2
                    if scale == len(weights) - 1:
                        values *= (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
                    result *= np.average(values, weights=brain) ** weight
                    a, b, brain = map(halved, (a, b, brain))
                results.append(result)
            return results

        pairs = np.array([[0, 2], [1, 3]])
        expected = np.mean([similarity(*x[pair]) for pair in pairs], 0)
        assert min(expected) > 0.1
        assert fidelity.ms_ssim(x, pairs, len(weights)) == pytest.approx(expected, abs=1e-4)

    @pytest.mark.parametrize("border", [5, 24])
    def test_a_wider_black_border_changes_nothing(self, border):
        x = brains(0, 6, 48)
        wider = np.pad(x, [(0, 0), (0, 0), (border, border), (border, border)])
        pairs = np.array([[0, 3], [1, 4], [2, 5]])
        for levels in (1, 2, 3):
            narrow = fidelity.ms_ssim(x, pairs, levels)
            assert fidelity.ms_ssim(wider, pairs, levels) == pytest.approx(narrow, abs=1e-6)
            assert fidelity.ms_ssim(wider[..., 2:, 3:], pairs, levels) == pytest.approx(narrow, abs=1e-6)
        assert fidelity.brain_width(wider) == fidelity.brain_width(x)

    def test_of_an_identical_pair_is_one(self):
        x = brains(0, 2, 32)
        x[1] = x[0]
        assert fidelity.ms_ssim(x, np.array([[0, 1]] * 70), 2) == pytest.approx([1] * 4, abs=1e-5)
        assert fidelity.ms_ssim(np.zeros_like(x), np.array([[0, 1]]), 2) == pytest.approx([1] * 4)

    def test_is_lower_where_images_are_more_varied(self):
        varied = brains(0, 40, 32)
        alike = np.where(varied > 10, varied // 8 + slices(1, 1, 32) // 8 * 7, 0).astype(np.uint8)
        pairs = fidelity.random_pairs(np.arange(40)[None], seed=0, count=100)
        assert np.all(fidelity.ms_ssim(varied, pairs, 2) < fidelity.ms_ssim(alike, pairs, 2) - 0.2)

    def test_a_brain_fills_a_window_on_every_scale(self):
        found = {width: fidelity.scales(width) for width in (0, 10, 21, 22, 43, 44, 88, 138, 176, 1000)}
        assert found == {0: 1, 10: 1, 21: 1, 22: 2, 43: 2, 44: 3, 88: 4, 138: 4, 176: 5, 1000: 5}

    def test_a_brain_s_width_is_that_of_a_disc(self):
        y = np.arange(64) - 31.5
        radii = np.array([10, 20, 30])
        disc = 200 * (y[:, None] ** 2 + y**2 < radii[:, None, None] ** 2)
        assert fidelity.brain_width(np.repeat(disc[:, None], 4, 1).astype(np.uint8)) == pytest.approx(40, rel=0.02)

    def test_pairs_are_of_two_people(self):
        people = np.repeat(np.arange(5), 20)
        (draws,) = fidelity.equal_draws([people], 100, seed=0)
        pairs = fidelity.random_pairs(draws, seed=0, count=500)
        assert pairs.shape == (500, 2)
        assert np.all(people[pairs[:, 0]] != people[pairs[:, 1]])
        assert len(np.unique(np.sort(people[pairs], 1), axis=0)) == 10  # all that five people can be
        assert not np.array_equal(pairs, fidelity.random_pairs(draws, seed=1, count=500))
        with pytest.raises(TooFewSamples, match="there is one"):
            fidelity.random_pairs(draws[:, :1], seed=0)


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
