import copy
import json

import numpy as np
import pytest
from scipy import ndimage, stats

from analysis import data_copying, memorization, shares
from analysis.memorization import Reference, Slices, audit
from analysis.neighbours import Rows, nearest


class TestStatistics:
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
        assert data_copying.c_t(q, cells_q, p, cells_p) == pytest.approx(reference)
        assert data_copying.c_t(q[:10], cells_q[:10], p, cells_p) is None

    def test_c_t_has_the_sign_of_the_paper(self):
        rng, cells = np.random.default_rng(0), np.zeros(200)
        assert data_copying.c_t(rng.random(200) / 4, cells, rng.random(200), cells) < -10  # copies
        assert abs(data_copying.c_t(rng.random(200), cells, rng.random(200), cells)) < 3
        assert data_copying.c_t(rng.random(200) * 4, cells, rng.random(200), cells) > 8  # underfits


@pytest.fixture(scope="module")
def cohort(patients):
    return {
        "training": patients(20, 30, 2, size=24),
        "held_out": patients(21, 50, 2, size=24),
        "others": patients(22, 60, size=24)[0],
    }


@pytest.fixture(scope="module")
def honest(cohort):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memorization, "PLANTED", 4)
        return audit(alone(cohort["others"]), *(Slices(*cohort[part]) for part in ("training", "held_out")))


def alone(images):
    """Slices that are draws of their own."""
    return Slices(images, np.arange(len(images)))


@pytest.fixture(scope="module")
def reference(cohort):
    return Reference(*cohort["training"], *cohort["held_out"])


@pytest.fixture
def few_controls(monkeypatch):
    """For audits whose controls nobody looks at."""
    monkeypatch.setattr(memorization, "PLANTED", 1)


class TestReference:
    def test_null_thresholds_and_shares_by_hand(self, cohort):
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
        reference = Reference(*sets, k=len(training))
        assert reference.null["similarity"].to_numpy() == pytest.approx(null[0], abs=1e-6)
        assert reference.null["margin"].to_numpy() == pytest.approx(null[1], abs=1e-5)
        assert [reference.tau["tau95"], reference.margin["tau95"]] == pytest.approx(limits, abs=1e-5)
        found = reference.shares(generated)
        assert {name: found[name] for name in shares} == shares
        low, high = (stats.binom.sf(round(20 * shares["copied_share"]) - 1, 20, chance) for chance in (0.05, 0.15))
        assert low < found["copied_p_value"] < high  # the threshold is one of 40 slices', no known one

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
        for level in ("tau95", "tau99"):
            assert honest.p_value[level] > 0.001
            assert honest.copied_p_value[level] > 0.001
        assert honest.memorized_share["tau95"] < 0.2
        assert honest.copied_share["tau95"] < 0.2
        assert honest.copied_interval["tau95"][0] <= 0.05
        for question, named in (("copied", honest.honest_share), ("memorized", honest.honest_memorized_share)):
            values = honest.slices[memorization.MEASURE[question]].to_numpy()
            n = shares.effective_size(values, np.arange(len(values)))
            null = honest.null[memorization.MEASURE[question]].to_numpy(), honest.null["subject"].to_numpy()
            expected = shares.expected_above(len(null[0]), 0.95)
            assert named["tau95"] == shares.honest_share(n, shares.effective_size(*null), expected)
            assert 0.05 < named["tau95"] < 0.25
        assert honest.sharpness > 0.9
        assert abs(honest.c_t) < 4
        assert honest.counts_above["0.99"] == 0

    def test_a_single_copy_is_told_of_whatever_the_share(self, cohort, honest, few_controls):
        assert not any("whatever the share" in warning for warning in honest.warnings)
        one = np.concatenate([cohort["others"], cohort["training"][0][:1]])
        found = audit(alone(one), *(Slices(*cohort[part]) for part in ("training", "held_out")))
        assert found.copied_share["tau99"] < 0.1
        (told,) = [warning for warning in found.warnings if "whatever the share" in warning]
        assert told.startswith("1 synthetic slice points at one training patient")

    def test_blurred_strangers_pass_and_blurred_copies_do_not(self, reference, cohort, few_controls):
        both = np.concatenate([cohort["others"][:24], cohort["training"][0][:24]]).astype(float)
        both = ndimage.gaussian_filter(both, (0, 0, 1, 1)).astype(np.uint8)
        result = audit(alone(both), *(Slices(*cohort[part]) for part in ("training", "held_out")))
        strangers, copies = result.slices[:24], result.slices[24:]
        assert reference.shares(both[:24])["memorized_share"] > 0.9
        assert (strangers["similarity"] > result.tau95).mean() < 0.25
        assert (strangers["evidence"] > result.evidence["tau95"]).mean() < 0.25
        assert result.sharpness < 0.5
        assert (copies["similarity"] > result.tau95).mean() > 0.9
        assert (copies["evidence"] > result.evidence["tau99"]).mean() > 0.9

    def test_strangers_without_contrast_pass_and_copies_without_contrast_do_not(self, cohort, few_controls):
        def flat(images):
            return np.where((images > 10).any(1, keepdims=True), 0.4 * images + 0.6 * 110, images).astype(np.uint8)

        both = flat(np.concatenate([cohort["others"], cohort["training"][0][:20]]))
        result = audit(alone(both), *(Slices(*cohort[part]) for part in ("training", "held_out")))
        above = result.slices["evidence"] > result.evidence["tau95"]
        assert result.sharpness < 0.9
        assert above[:60].mean() < 0.15
        assert above[60:].mean() > 0.9

    def test_where_exact_copies_would_be_lost_the_null_keeps_its_rim(self, cohort, monkeypatch):
        monkeypatch.setattr(memorization, "PLANTED", 4)
        both = np.concatenate([cohort["others"][:40], cohort["training"][0][:20]]).astype(float)
        both = ndimage.gaussian_filter(both, (0, 0, 2, 2)).astype(np.uint8)
        shares = {}
        for enough in (0, memorization.OVERLOOKED):  # with 0 nothing counts as lost
            monkeypatch.setattr(memorization, "OVERLOOKED", enough)
            result = audit(alone(both), *(Slices(*cohort[part]) for part in ("training", "held_out")))
            above = result.slices["evidence"] > result.evidence["tau95"]
            shares[enough] = above[:40].mean(), above[40:].mean()
        assert shares[0][1] < 0.2
        assert shares[0.8][1] > 0.6
        assert shares[0.8][0] < 0.15

    def test_copies_are_found(self, cohort, few_controls):
        training, subjects = cohort["training"]
        rows = np.arange(40) % 20  # of the first ten subjects
        where = np.mgrid[:24, :24] - 11.5
        turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
        points = np.tensordot(turn, where, 1) + 11.5
        copies = [
            [ndimage.map_coordinates(channel.astype(float), points, order=1) for channel in training[row]]
            for row in rows
        ]
        copies = np.array(copies).astype(np.uint8)
        result = audit(alone(copies), Slices(*cohort["training"]), Slices(*cohort["held_out"]))
        assert result.copied_share["tau99"] > 0.8
        assert result.copied_p_value["tau99"] < 1e-6
        assert result.copied_interval["tau99"][0] > 0.6
        assert (result.slices["copied_subject"] == subjects[rows]).mean() > 0.9
        assert 9 <= result.copied_patients["count"] <= 11
        assert sum(result.searches.values()) == round(40 * result.copied_share["tau99"])
        assert result.searches["pose"] + result.searches["bent"] > 20

    def test_controls(self, honest):
        for kind in (
            "exact",
            "mirrored",
            "shifted 4 px",
            "turned 10°",
            "zoomed 10 %",
            "5 % noise",
            "modalities swapped",
        ):
            assert honest.controls[kind]["copied"]["tau99"] >= 0.75, kind
        assert honest.controls["exact"]["memorized"]["tau99"] == 1
        assert honest.controls["blurred_strangers"]["memorized"]["tau95"] > 0.5
        assert honest.controls["blurred_strangers"]["copied"]["tau95"] <= 0.5  # of four
        for rule in ("memorized", "copied"):
            assert honest.controls["held_out"][rule]["tau95"] < 0.12
            assert honest.controls["held_out"][rule]["tau99"] < 0.05

    def test_thresholds_are_percentiles_of_the_null(self, honest):
        null = honest.null
        for column, limits in (("similarity", [honest.tau95, honest.tau99]), ("evidence", [*honest.evidence.values()])):
            assert (null[column] > limits[0]).sum() == 5  # of 100: rank 0.95 · 101 = 95.95
            assert (null[column] > limits[1]).sum() == 1

    def test_tables_by_hand(self, honest, cohort):
        images, subjects = cohort["training"]
        for table in (honest.slices, honest.null):
            assert (table["training_subject"] == subjects[table["training_row"]]).all()
            assert (table["copied_subject"] == subjects[table["copied_row"]]).all()
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
        result = audit(alone(synthetic), Slices(images, subjects), Slices(held_out[:4], others[:4]))
        authentic = []
        for similarity, row in zip(result.slices["similarity"], result.slices["training_row"], strict=True):
            another = nearest(images[row : row + 1], images[subjects != subjects[row]])
            authentic.append(similarity < another["similarity"][0])
        assert result.authenticity == np.mean(authentic)

    def test_slices_of_one_synthetic_patient_are_no_independent_draws(self, cohort, few_controls):
        (training, names), (held_out, others) = cohort["training"], cohort["held_out"]
        synthetic = np.concatenate([np.repeat(training[:1], 8, 0), cohort["others"][:24]])
        sets = Slices(training[:20], names[:20]), Slices(held_out[:60], others[:60])
        apart, together = (
            audit(Slices(synthetic, people), *sets) for people in (np.arange(32), np.repeat(np.arange(4), 8))
        )
        assert apart.copied_share == together.copied_share
        assert apart.copied_p_value["tau95"] < 0.01 < together.copied_p_value["tau95"]
        assert together.copied_interval["tau95"][0] == 0 < apart.copied_interval["tau95"][0]

    def test_same_seed_same_result(self, cohort, few_controls):
        (training, names), (held_out, others) = cohort["training"], cohort["held_out"]
        sets = alone(held_out[:5]), Slices(training[:6], names[:6]), Slices(held_out[5:11], others[5:11])
        one, two = (audit(*sets) for _ in range(2))
        assert json.dumps(one.to_json(), allow_nan=False) == json.dumps(two.to_json(), allow_nan=False)
        assert one.slices.equals(two.slices)

    def test_never_reads_a_set_as_a_whole(self, patients, recorder, few_controls):
        (images, subjects), synthetic = patients(23, 30, 40, size=16), alone(patients(24, 3, size=16)[0])
        stored = images.view(recorder)
        rows, held_out = np.arange(1160), np.arange(1160, 1200)
        parts = [Slices(Rows(stored, part), subjects[part]) for part in (rows, held_out)]
        result = audit(synthetic, *parts, memory_gib=0.005)
        assert 0 < stored.largest < images.nbytes / 2
        plain = audit(synthetic, *(Slices(images[part], subjects[part]) for part in (rows, held_out)))
        assert result.copied_share == plain.copied_share
        assert result.tau95 == pytest.approx(plain.tau95, abs=1e-6)

    def test_small_and_odd_sets_are_defined(self, cohort, few_controls):
        synthetic = cohort["others"][:4].copy()
        synthetic[0], synthetic[1] = 0, 200
        (training, names), (held_out, _) = cohort["training"], cohort["held_out"]
        result = audit(alone(synthetic), Slices(training[:2], names[:2]), Slices(held_out[:2], ["x", "x"]))
        written = json.loads(json.dumps(result.to_json(), allow_nan=False))
        assert written["authenticity"] is None
        undefined = {"tau95": None, "tau99": None}
        for key in ("evidence", "copied_share", "copied_interval", "copied_p_value"):
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

    def test_kinds_of_copies_that_are_overlooked_are_named_in_one_sentence(self, honest):
        found = copy.deepcopy(honest.to_json())
        for kind, rate in {"exact": 1.0, "elastic, 3 px": 0.0, "turned 15°": 0.75}.items():
            found["controls"][kind]["copied"] = {"tau95": 1.0, "tau99": rate}
        for kind in found["controls"].keys() - {"exact", "elastic, 3 px", "turned 15°"}:
            found["controls"][kind]["copied"] = {"tau95": None, "tau99": None}
        (told,) = [text for text in memorization._warnings(found, np.array([True])) if "planted" in text]
        assert told.endswith("rule them out: turned 15° (75%), elastic, 3 px (0%)")

    def test_impossible_audits_are_refused(self, cohort):
        training, held_out = (Slices(*cohort[part]) for part in ("training", "held_out"))
        both = Slices(held_out.images, [training.subjects[0], *held_out.subjects[1:]])
        with pytest.raises(ValueError, match="trained on"):
            audit(training, training, both)
        with pytest.raises(ValueError, match="as many subjects"):
            audit(training, Slices(training.images, training.subjects[1:]), held_out)
        with pytest.raises(ValueError, match="no training slice"):
            audit(training, Slices(np.zeros_like(training.images), training.subjects), held_out)
        with pytest.raises(ValueError, match=r"no synthetic slice has a brain .*: the set is black\. Look at it"):
            audit(alone(np.zeros_like(training.images)), training, held_out)
