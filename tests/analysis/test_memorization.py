import json

import numpy as np
import pytest
from scipy import ndimage, stats

from analysis import memorization
from analysis.memorization import Reference, audit
from analysis.neighbours import Rows, nearest


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
def reference(cohort):
    return Reference(*cohort["training"], *cohort["held_out"])


@pytest.fixture
def few_controls(monkeypatch):
    """For audits whose controls nobody looks at."""
    monkeypatch.setattr(memorization, "PLANTED", 1)


class TestReference:
    def test_null_thresholds_and_shares_by_hand(self, cohort, few_controls):
        """Each training patient is searched alone: whoever comes nearest is the first, the next the second."""
        training, names = (values[:20] for values in cohort["training"])
        held_out, strangers = (values[:40] for values in cohort["held_out"])
        generated = np.concatenate([training[:3], cohort["others"][:17]])

        def similarity_and_margin(images):
            alone = [nearest(images, training[names == name])["similarity"] for name in sorted(set(names))]
            second, first = np.sort(alone, 0)[-2:]
            return first, np.maximum(1 - (1 - first) / (1 - second), 0)

        def percentile(values):  # of 40: rank 0.95 · 41 = 38.95
            below, above = np.sort(values)[[37, 38]]
            return below + 0.95 * (above - below)

        null, found = similarity_and_margin(held_out), similarity_and_margin(generated)
        limits = [percentile(values) for values in null]
        above = [values > limit for values, limit in zip(found, limits, strict=True)]
        shares = {"memorized_share": above[0].mean(), "copied_share": (above[0] & above[1]).mean()}
        assert 0.1 < shares["copied_share"] < 1

        sets = training, names, held_out, strangers
        reference, audited = Reference(*sets, k=len(training)), audit(generated, *sets, k=len(training))
        for table in (reference.null, audited.null):
            assert table["similarity"].to_numpy() == pytest.approx(null[0], abs=1e-6)
            assert table["margin"].to_numpy() == pytest.approx(null[1], abs=1e-5)
        assert [reference.tau["tau95"], reference.margin["tau95"]] == pytest.approx(limits, abs=1e-5)
        assert [audited.tau95, audited.margin["tau95"]] == pytest.approx(limits, abs=1e-5)
        shares["copied_p_value"] = audited.copied_p_value["tau95"]
        assert reference.shares(generated) == shares
        assert {name: getattr(audited, name)["tau95"] for name in shares} == shares

    def test_averages_and_blurred_strangers_are_memorized_by_no_patient(self, reference, cohort):
        training, subjects = cohort["training"]
        people = training[:: len(subjects) // len(set(subjects))].astype(float)
        rng = np.random.default_rng(0)
        averages = np.stack([people[rng.permutation(len(people))[:20]].mean(0) for _ in range(30)])
        blurred = ndimage.gaussian_filter(cohort["others"][:30].astype(float), (0, 0, 1.5, 1.5))
        for images in (averages, blurred):
            shares = reference.shares(images.astype(np.uint8))
            assert shares["memorized_share"] > 0.9
            assert shares["copied_share"] < 0.1

    def test_copies_are_told_from_blur_however_smooth(self, reference, cohort):
        copies = ndimage.gaussian_filter(cohort["training"][0][:30].astype(float), (0, 0, 1, 1)).astype(np.uint8)
        shares = reference.shares(copies)
        assert shares["memorized_share"] > 0.9
        assert shares["copied_share"] > 0.9

    def test_a_patient_under_two_names_hides_from_the_margin_only(self, cohort):
        (training, names), copies = cohort["training"], cohort["training"][0][:4]
        twice = Reference(np.concatenate([training, copies]), [*names, *["twin"] * 4], *cohort["held_out"])
        assert twice.shares(copies) == {"memorized_share": 1.0, "copied_share": 0.0, "copied_p_value": 1.0}

    def test_a_single_training_subject_has_no_margin(self, cohort):
        (training, names), (held_out, others) = cohort["training"], cohort["held_out"]
        alone = Reference(training[:2], names[:2], held_out[:4], others[:4])
        assert alone.margin is None
        unknown = {"copied_share": None, "copied_p_value": None}
        assert alone.shares(training[:2]) == {"memorized_share": 1.0, **unknown}


class TestAudit:
    def test_strangers_pass(self, honest):
        assert honest.p_value["tau95"] > 0.05
        assert honest.p_value["tau99"] > 0.05
        assert honest.memorized_share["tau95"] < 0.15
        assert honest.copied_p_value["tau95"] > 0.05
        assert honest.copied_share["tau95"] <= 0.05
        assert honest.copied_patients["count"] <= honest.leaked_patients["count"]
        assert abs(honest.c_t) < 4
        assert honest.counts_above["0.99"] == 0

    def test_copies_are_found(self, cohort):
        rows = np.arange(60) % 20  # of the first ten subjects
        copies = memorization.plant(cohort["training"][0][rows], np.random.default_rng(0))["noise"]
        result = audit(copies, *cohort["training"], *cohort["held_out"])
        assert result.memorized_share == result.copied_share == {"tau95": 1.0, "tau99": 1.0}
        assert result.p_value["tau99"] < 1e-6
        assert result.copied_p_value["tau99"] < 1e-6
        assert result.memorized_interval["tau99"][0] > 0.9
        assert result.copied_interval["tau99"][0] > 0.9
        assert (result.slices["training_row"] == rows).all()
        for patients in (result.leaked_patients, result.copied_patients):
            assert patients["count"] == 10
            assert patients["share"] == 10 / 30
        assert result.c_t < -8
        assert result.authenticity == 0

    def test_controls(self, honest):
        for kind in ("exact", "mirrored", "shifted", "blurred", "noise", "gamma", "turned"):
            assert honest.controls[kind]["found"]["tau99"] >= 0.95, kind
            assert honest.controls[kind]["copied"]["tau99"] >= 0.95, kind
            assert honest.controls[kind]["nearest_is_original"] >= 0.95, kind
        assert honest.controls["blurred_strangers"]["found"]["tau95"] > 0.5
        assert honest.controls["blurred_strangers"]["copied"]["tau95"] < 0.1
        assert honest.controls["held_out"]["tau95"] < 0.12
        assert honest.controls["held_out"]["tau99"] < 0.05
        assert honest.controls["held_out"]["copied"]["tau95"] <= 0.05
        assert honest.warnings == []

    def test_thresholds_are_percentiles_of_the_null(self, honest):
        null = honest.null
        assert (null["similarity"] > honest.tau95).sum() == 5  # of 100: rank 0.95 · 101 = 95.95
        assert (null["similarity"] > honest.tau99).sum() == 1
        assert (null["margin"] > honest.margin["tau95"]).sum() == 5
        assert (null["margin"] > honest.margin["tau99"]).sum() == 1

    def test_tables_by_hand(self, honest, cohort):
        images, subjects = cohort["training"]
        for table in (honest.slices, honest.null):
            assert (table["training_subject"] == subjects[table["training_row"]]).all()
            assert (table["second_subject"] != table["training_subject"]).all()
            distances = (1 - table["similarity"]) / (1 - table["second_similarity"])
            assert table["margin"].to_numpy() == pytest.approx(np.maximum(1 - distances, 0))
        row = honest.slices.loc[7]
        others = subjects != row["training_subject"]
        second = nearest(cohort["others"][7:8], images[others])
        assert row["second_similarity"] == pytest.approx(second["similarity"][0])
        assert row["second_subject"] == subjects[others][second["row"][0]]

    def test_authenticity_by_hand(self, cohort, few_controls):
        images, subjects = cohort["training"][0][:12], cohort["training"][1][:12]
        held_out, others = cohort["held_out"]
        synthetic = np.concatenate([images[:3], cohort["others"][:9]])
        result = audit(synthetic, images, subjects, held_out[:4], others[:4])
        authentic = []
        for similarity, row in zip(result.slices["similarity"], result.slices["training_row"], strict=True):
            another = nearest(images[row : row + 1], images[subjects != subjects[row]])
            authentic.append(similarity < another["similarity"][0])
        assert result.authenticity == np.mean(authentic)

    def test_same_seed_same_result(self, cohort, few_controls):
        (training, names), (held_out, others) = cohort["training"], cohort["held_out"]
        one, two = (audit(held_out[:5], training[:6], names[:6], held_out[5:10], others[5:10]) for _ in range(2))
        assert json.dumps(one.to_json(), allow_nan=False) == json.dumps(two.to_json(), allow_nan=False)
        assert one.slices.equals(two.slices)

    def test_never_reads_a_set_as_a_whole(self, patients, recorder, few_controls):
        (images, subjects), synthetic = patients(23, 50, 40, size=16), patients(24, 5, size=16)[0]
        stored = images.view(recorder)
        rows, held_out = np.split(np.arange(len(images)), [1960])
        result = audit(
            synthetic,
            Rows(stored, rows),
            subjects[rows],
            Rows(stored, held_out),
            subjects[held_out],
            memory_gib=0.005,
        )
        assert 0 < stored.largest < images.nbytes / 2
        plain = audit(synthetic, images[rows], subjects[rows], images[held_out], subjects[held_out])
        assert result.copied_share == plain.copied_share
        assert result.tau95 == pytest.approx(plain.tau95, abs=1e-6)

    def test_small_and_odd_sets_are_defined(self, cohort, few_controls):
        synthetic = cohort["others"][:4].copy()
        synthetic[0], synthetic[1] = 0, 200
        (training, names), (held_out, _) = cohort["training"], cohort["held_out"]
        result = audit(synthetic, training[:2], names[:2], held_out[:2], ["x", "x"])
        written = json.loads(json.dumps(result.to_json(), allow_nan=False))
        assert written["authenticity"] is None
        undefined = {"tau95": None, "tau99": None}
        for key in ("margin", "copied_share", "copied_interval", "copied_p_value"):
            assert written[key] == undefined, key
        assert written["copied_patients"]["count"] is None
        assert written["controls"]["exact"]["copied"] == written["controls"]["held_out"]["copied"] == undefined
        assert result.slices["margin"].isna().all()
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
