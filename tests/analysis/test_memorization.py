import json

import numpy as np
import pytest
from scipy import stats

from analysis import memorization
from analysis.memorization import audit
from analysis.neighbours import nearest


class TestStatistics:
    def test_threshold_is_exceeded_by_the_share_it_names(self):
        null = np.random.default_rng(0).permutation(np.arange(1, 100.0))
        assert memorization.threshold(null, 0.95) == pytest.approx(95)  # rank 95 of 99: 1 − 95/100 above
        assert memorization.threshold(null, 0.99) == pytest.approx(99)
        assert memorization.threshold(null[:30], 0.99) == null[:30].max()

    def test_independent_slices_give_the_clopper_pearson_bound(self):
        reference = stats.binomtest(17, 200, alternative="greater").proportion_ci(0.95, "exact").low
        assert memorization.lower_bound(17 / 200, 200) == pytest.approx(reference, rel=1e-9)
        assert memorization.lower_bound(0.0, 200) == 0

    def test_p_value_tends_to_the_binomial_test(self):
        p = memorization.p_value(25 / 300, 300, 200_000, 0.05)
        assert p == pytest.approx(stats.binomtest(25, 300, 0.05, alternative="greater").pvalue, rel=0.02)

    def test_p_value_counts_rankings_when_the_null_is_small(self):
        # With 19 null values the threshold is their largest. All orders of 19 + 2 values are equally likely.
        one, both = (memorization.p_value(hits / 2, 2, 19, 0.05) for hits in (1, 2))
        assert one == pytest.approx(2 / 21)
        assert both == pytest.approx(2 / (21 * 20))

    def test_repeated_slices_count_once(self):
        rng, names = np.random.default_rng(0), np.repeat(np.arange(40), 25)
        assert 36 < memorization.effective_size(np.repeat(rng.random(40), 25), names) < 41  # 25 say the same
        assert memorization.effective_size(rng.random(1000), names) > 500
        assert memorization.effective_size(rng.random(1000), np.zeros(1000)) == 1

    @pytest.mark.parametrize("level", [0.95, 0.99])
    @pytest.mark.parametrize("dependence", [0.0, 0.7])  # of margin and similarity
    def test_false_positives_with_several_slices_a_subject(self, level, dependence):
        rng, trials, memorized, copied, share = np.random.default_rng(0), 400, 0, 0, 0.0
        names = np.repeat(np.arange(30), 10)
        mix = np.linalg.cholesky([[1, dependence], [dependence, 1]])
        expected = memorization.expected_above(len(names), level)
        for _ in range(trials):
            null = mix @ (rng.normal(size=(2, 30))[:, names] + rng.normal(size=(2, 300)))
            synthetic = mix @ rng.normal(0, np.sqrt(2), (2, 500))
            above = [values > memorization.threshold(of, level) for values, of in zip(synthetic, null, strict=True)]
            n_null = memorization.effective_size(null[0], names)
            memorized += memorization.p_value(above[0].mean(), 500, n_null, expected) <= 0.05
            copied += memorization.p_value(np.all(above, 0).mean(), 500, n_null, expected) <= 0.05
            share += np.all(above, 0).mean() / trials
        assert memorized / trials < 0.08  # 0.05 and three standard errors; with tau taken as known it would be 0.29
        assert copied <= memorized
        assert share <= 1 - level + 0.002

    def test_cross_fitting_by_hand(self):
        null, subjects = np.array([[1.0, 2, 3, 10]]).T, np.array(["a", "a", "b", "b"])
        assert memorization.cross_fitted_rate(null, subjects, 0.95) == 0.5  # 3 and 10 above 2; 1 and 2 not above 10
        assert memorization.cross_fitted_rate(null[:2], subjects[:2], 0.95) is None
        both = np.column_stack([null, [1, 1, 0, 2]])
        assert memorization.cross_fitted_rate(both, subjects, 0.95) == 0.25  # of 3 and 10, only the latter's 2 beats 1

    def test_margin_by_hand(self):
        first, second = np.array([1.0, 0.9, 0.5, 1.0, 0.4, 0.8]), np.array([0.8, 0.9, 0.6, 1.0, 0.2, 0.6])
        assert memorization.margin(first, second) == pytest.approx([1, 0, 0, 0, 0.25, 0.5])

    def test_c_t_is_the_weighted_mann_whitney_score(self):
        rng = np.random.default_rng(0)
        q, p, cells_q, cells_p = rng.random(90), rng.random(60), np.repeat([0, 1], 45), np.repeat([0, 1], [20, 40])
        scores = []
        for cell in (0, 1):
            farther = sum(x > y for x in q[cells_q == cell] for y in p[cells_p == cell])
            n, m = 45, (cells_p == cell).sum()
            scores.append((farther - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12))
        reference = (20 * scores[0] + 40 * scores[1]) / 60
        assert memorization.c_t(q, cells_q, p, cells_p) == pytest.approx(reference)
        assert memorization.c_t(q[:10], cells_q[:10], p, cells_p) is None

    def test_c_t_has_the_sign_of_the_paper(self):
        rng, cells = np.random.default_rng(0), np.zeros(200)
        assert memorization.c_t(rng.random(200) / 4, cells, rng.random(200), cells) < -10  # copies
        assert abs(memorization.c_t(rng.random(200), cells, rng.random(200), cells)) < 3
        assert memorization.c_t(rng.random(200) * 4, cells, rng.random(200), cells) > 8  # underfits


@pytest.fixture(scope="module")
def cohort(patients):
    return {
        "training": patients(20, 30, 2, size=24),
        "held_out": patients(21, 50, 2, size=24),
        "others": patients(22, 60, size=24)[0],
    }


@pytest.fixture(scope="module")
def honest(cohort):
    return audit(cohort["others"], *cohort["training"], *cohort["held_out"])


@pytest.fixture(scope="module")
def copied(cohort):
    rows = np.arange(60) % 20  # of the first ten subjects
    copies = memorization.plant(cohort["training"][0][rows], np.random.default_rng(0))["noise"]
    return audit(copies, *cohort["training"], *cohort["held_out"]), rows


class TestAudit:
    def test_strangers_pass(self, honest):
        assert honest.p_value["tau95"] > 0.05
        assert honest.p_value["tau99"] > 0.05
        assert honest.memorized_share["tau95"] < 0.15
        assert abs(honest.c_t) < 4
        assert honest.counts_above["0.99"] == 0

    def test_copies_are_found(self, copied):
        result, rows = copied
        assert result.memorized_share == {"tau95": 1.0, "tau99": 1.0}
        assert result.p_value["tau99"] < 1e-6
        assert result.memorized_interval["tau99"][0] > 0.9
        assert (result.slices["training_row"] == rows).all()
        assert result.leaked_patients["count"] == 10
        assert result.leaked_patients["share"] == 10 / 30
        assert result.c_t < -8
        assert result.authenticity == 0

    def test_controls(self, honest):
        for kind in ("exact", "mirrored", "shifted", "blurred", "noise", "gamma"):
            assert honest.controls[kind]["found"]["tau99"] >= 0.95, kind
            assert honest.controls[kind]["nearest_is_original"] >= 0.95, kind
        assert honest.controls["held_out"]["tau95"] < 0.12
        assert honest.controls["held_out"]["tau99"] < 0.05
        assert honest.warnings == []

    def test_thresholds_are_percentiles_of_the_null(self, honest):
        null = honest.null["similarity"]
        assert (null > honest.tau95).sum() == 5  # of 100: rank 0.95 · 101 = 95.95
        assert (null > honest.tau99).sum() == 1

    def test_authenticity_by_hand(self, cohort):
        images, subjects = cohort["training"][0][:12], cohort["training"][1][:12]
        synthetic = np.concatenate([images[:3], cohort["others"][:9]])
        result = audit(synthetic, images, subjects, *cohort["held_out"])
        authentic = []
        for similarity, row in zip(result.slices["similarity"], result.slices["training_row"], strict=True):
            others = nearest(images[row : row + 1], images[subjects != subjects[row]])
            authentic.append(similarity < others["similarity"][0])
        assert result.authenticity == np.mean(authentic)

    def test_same_seed_same_result(self, cohort):
        (training, names), (held_out, others) = cohort["training"], cohort["held_out"]
        one, two = (audit(held_out[:5], training[:6], names[:6], held_out[5:10], others[5:10]) for _ in range(2))
        assert json.dumps(one.to_json(), allow_nan=False) == json.dumps(two.to_json(), allow_nan=False)
        assert one.slices.equals(two.slices)

    def test_small_and_odd_sets_are_defined(self, cohort):
        synthetic = cohort["others"][:4].copy()
        synthetic[0], synthetic[1] = 0, 200
        (training, names), (held_out, _) = cohort["training"], cohort["held_out"]
        result = audit(synthetic, training[:2], names[:2], held_out[:2], ["x", "x"])
        assert json.loads(json.dumps(result.to_json(), allow_nan=False))["authenticity"] is None
        assert result.c_t is None
        assert result.slices["similarity"][0] == 0
        assert 0 < result.p_value["tau95"] <= 1
        text = "\n".join(result.warnings)
        for part in ("too few for tau95", "too few for tau99", "no brain", "two subjects", "C_T needs", "two held-out"):
            assert part in text

    def test_impossible_audits_are_refused(self, cohort):
        (training, names), (held_out, others) = cohort["training"], cohort["held_out"]
        with pytest.raises(ValueError, match="trained on"):
            audit(training, training, names, held_out, [names[0], *others[1:]])
        with pytest.raises(ValueError, match="as many subjects"):
            audit(training, training, names[1:], held_out, others)
        with pytest.raises(ValueError, match="no training slice"):
            audit(training, np.zeros_like(training), names, held_out, others)
