import json

import numpy as np
import pytest
from monai.metrics.regression import compute_ssim_and_cs
from scipy import ndimage, stats

from analysis import memorization
from analysis.memorization import audit
from analysis.neighbours import Plan, nearest


def patients(seed: int, subjects: int, slices: int = 1, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Brain-like slices uint8 [N, 4, size, size] and their subjects: one anatomy, smooth differences of people."""
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


def moved(image: np.ndarray, down: int, right: int, margin: int) -> np.ndarray:
    """The image on a canvas with a black margin, moved by whole pixels."""
    canvas = np.zeros((image.shape[0], image.shape[1] + 2 * margin, image.shape[2] + 2 * margin), image.dtype)
    canvas[:, margin + down :][:, : image.shape[1], margin + right :][:, :, : image.shape[2]] = image
    return canvas


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Straight from the definition, in float64: two images [4, H, W], over the union of their brains."""
    brain_a, brain_b = (a > 10).any(0), (b > 10).any(0)
    union = brain_a | brain_b
    if not union.any():
        return 0.0
    a, b = (np.where(brain, image, 0.0)[:, union].ravel() for brain, image in ((brain_a, a), (brain_b, b)))
    return float(stats.pearsonr(a, b).statistic) if np.ptp(a) and np.ptp(b) else 0.0


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """MONAI's SSIM map, averaged over the union of the brains; images [4, H, W] with a black margin of 5 px."""
    import torch

    brain_a, brain_b = (a > 10).any(0), (b > 10).any(0)
    a, b = (torch.from_numpy(np.where(brain, image, 0.0))[None] for brain, image in ((brain_a, a), (brain_b, b)))
    value, _ = compute_ssim_and_cs(a, b, 2, kernel_size=(11, 11), kernel_sigma=(1.5, 1.5), data_range=255.0)
    return float(value[0].numpy()[:, (brain_a | brain_b)[5:-5, 5:-5]].mean())


class TestNearest:
    def test_equals_a_double_loop(self):
        queries, references = patients(2, 12, size=16)[0], patients(3, 40, size=16)[0]
        queries[0], queries[1] = references[17], references[5][..., ::-1]
        found = nearest(queries, references)
        for row, query in enumerate(queries):
            loop = [max(pearson(query, reference), pearson(query[..., ::-1], reference)) for reference in references]
            assert found["correlation"][row] == pytest.approx(max(loop), abs=1e-9)
        assert found["row"][0] == 17
        assert found["row"][1] == 5
        assert list(found["kind"][:2]) == ["pearson", "mirrored"]

    def test_rescoring_equals_every_shift_and_ssim_by_hand(self):
        queries, references = patients(4, 5, size=16)[0], patients(5, 6, size=16)[0]  # shifts up to 16 / 4 px
        queries[0] = moved(references[2], -2, 3, 4)[:, 4:-4, 4:-4]
        found = nearest(queries, references)
        lags = [(down, right) for down in range(-4, 5) for right in range(-4, 5)]
        for row, query in enumerate(queries):
            best = []
            for reference in references:
                pairs = [
                    (moved(turned, 0, 0, 9), moved(reference, *lag, 9))
                    for turned in (query, query[..., ::-1])
                    for lag in lags
                ]
                correlations = [pearson(*pair) for pair in pairs]
                best.append(max(max(correlations), ssim(*pairs[int(np.argmax(correlations))])))
            assert found["similarity"][row] == pytest.approx(max(best), abs=1e-5)
            assert found["row"][row] == int(np.argmax(best))
        assert tuple(found.loc[0, ["row", "shift_y", "shift_x", "mirrored"]]) == (2, -2, 3, False)

    def test_a_black_border_changes_nothing(self):
        queries, references = patients(6, 6)[0], patients(7, 20)[0]
        padding = ((0, 0), (0, 0), (5, 9), (8, 8))
        plain, padded = nearest(queries, references), nearest(np.pad(queries, padding), np.pad(references, padding))
        assert plain.equals(padded)

    def test_faint_background_changes_nothing(self):
        queries, references = patients(6, 4)[0], patients(7, 8)[0]
        clean = np.where((queries > 10).any(1, keepdims=True), queries, 0)
        assert nearest(queries, references).equals(nearest(clean, references))

    def test_memory_bound_sets_the_pieces_and_not_the_result(self):
        queries, references = patients(8, 6, size=16)[0], patients(9, 1030, size=16)[0]
        assert Plan.of(queries.shape[1:], 0.01).references < 600 < 1024 == Plan.of(queries.shape[1:], 2.0).references
        little, plenty = (nearest(queries, references, memory_gib=gib) for gib in (0.01, 2.0))
        assert little.drop(columns="similarity").equals(plenty.drop(columns="similarity"))
        assert little["similarity"].to_numpy() == pytest.approx(plenty["similarity"].to_numpy(), abs=1e-6)

    @pytest.mark.parametrize("gib", [0.5, 2.0, 8.0])
    def test_plan_stays_inside_the_bound(self, gib):
        plan = Plan.of((4, 256, 256), gib)
        slice_bytes = 5 * 256 * 256 * 4  # four modalities and a mask
        held = (plan.queries + plan.references) * slice_bytes + plan.queries * plan.references * 8 * 4
        assert 0.2 * gib * 2**30 < held < 0.9 * gib * 2**30

    def test_too_little_memory_is_refused(self):
        with pytest.raises(ValueError, match="is too little for slices of 256×256"):
            Plan.of((4, 256, 256), 0.01)

    def test_own_group_is_left_out(self):
        images, subjects = patients(10, 4, slices=3)
        found = nearest(images, images, query_groups=subjects, reference_groups=subjects)
        assert (subjects[found["row"]] != subjects).all()
        with pytest.raises(ValueError, match="another group"):
            nearest(images[:2], images[:2], query_groups=subjects[:2], reference_groups=subjects[:2])

    def test_empty_and_constant_slices(self):
        queries, references = patients(11, 3)[0], patients(12, 5)[0]
        queries[0], references[0] = 0, 0  # nothing, and its exact copy
        queries[1], references[1] = 100, 100  # Pearson's correlation is undefined, the copy is found all the same
        found = nearest(queries, references)
        assert not found.isna().any().any()
        assert found["similarity"][0] == 0
        assert found["correlation"][:2].tolist() == [0, 0]
        assert found.loc[1, ["similarity", "row", "kind"]].tolist() == [pytest.approx(1), 1, "ssim"]

    @pytest.mark.parametrize(
        ("queries", "message"),
        [
            (np.zeros((2, 4, 16, 16), np.float32), "uint8"),
            (np.zeros((0, 4, 16, 16), np.uint8), "N ≥ 1"),
            (np.zeros((2, 4, 16, 20), np.uint8), "agree"),
        ],
    )
    def test_arrays_of_another_kind_are_refused(self, queries, message):
        with pytest.raises(ValueError, match=message):
            nearest(queries, np.zeros((2, 4, 16, 16), np.uint8))


class TestStatistics:
    def test_threshold_is_exceeded_by_the_share_it_names(self):
        null = np.random.default_rng(0).permutation(np.arange(1, 100.0))
        assert memorization.threshold(null, 0.95) == pytest.approx(95)  # rank 95 of 99: 1 − 95/100 above
        assert memorization.threshold(null, 0.99) == pytest.approx(99)
        assert memorization.threshold(null[:30], 0.99) == null[:30].max()

    def test_independent_slices_give_the_clopper_pearson_bound(self):
        similarity = np.arange(200.0)
        reference = stats.binomtest(17, 200, alternative="greater").proportion_ci(0.95, "exact").low
        assert memorization.lower_bound(similarity, np.arange(200), 182) == pytest.approx(reference, rel=1e-9)
        assert memorization.lower_bound(similarity, np.arange(200), 199) == 0

    def test_p_value_tends_to_the_binomial_test(self):
        null, similarity = np.arange(200_000.0), np.arange(300.0)
        similarity[:25] += 195_000
        p = memorization.p_value(similarity, np.arange(300), null, np.arange(len(null)), 0.95)
        assert p == pytest.approx(stats.binomtest(25, 300, 0.05, alternative="greater").pvalue, rel=0.02)

    def test_p_value_counts_rankings_when_the_null_is_small(self):
        # With 19 null values the threshold is their largest. All orders of 19 + 2 values are equally likely.
        null, subjects = np.arange(19.0), np.arange(19)
        one, both = (
            memorization.p_value(np.array(similarity), np.arange(2), null, subjects, 0.95)
            for similarity in ([20.0, 5.5], [20.0, 21.0])
        )
        assert one == pytest.approx(2 / 21)
        assert both == pytest.approx(2 / (21 * 20))

    def test_repeated_slices_count_once(self):
        rng, names = np.random.default_rng(0), np.repeat(np.arange(40), 25)
        assert 36 < memorization.effective_size(np.repeat(rng.random(40), 25), names) < 41  # 25 say the same
        assert memorization.effective_size(rng.random(1000), names) > 500
        assert memorization.effective_size(rng.random(1000), np.zeros(1000)) == 1

    @pytest.mark.parametrize("level", [0.95, 0.99])
    def test_false_positives_with_several_slices_a_subject(self, level):
        rng, trials, rejected = np.random.default_rng(0), 400, 0
        names = np.repeat(np.arange(30), 10)
        for _ in range(trials):
            null = rng.normal(size=30)[names] + rng.normal(size=300)
            synthetic = rng.normal(0, np.sqrt(2), 500)
            rejected += memorization.p_value(synthetic, np.arange(500), null, names, level) <= 0.05
        assert rejected / trials < 0.08  # 0.05 and three standard errors; the binomial test with known tau rejects 0.29

    def test_cross_fitting_by_hand(self):
        null, subjects = np.array([1.0, 2, 3, 10]), np.array(["a", "a", "b", "b"])
        assert memorization.cross_fitted_rate(null, subjects, 0.95) == 0.5  # 3 and 10 above 2; 1 and 2 not above 10
        assert memorization.cross_fitted_rate(null[:2], subjects[:2], 0.95) is None

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
def cohort():
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
