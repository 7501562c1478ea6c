from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis import calibration, crossed, ranks, statistics
from analysis.long_table import Scores

REGIONS = ("NCR", "ED", "ET", "WT", "TC", "mean")


def long_table(
    dice: dict[tuple[str, str], np.ndarray], segmenter="unet", augmentation="on", regions=REGIONS
) -> pd.DataFrame:
    """{(generator, arm): Dice [seeds, subjects]} as a long table with the same values in every region."""
    rows = [
        ("phantom", generator, arm, segmenter, augmentation, seed, f"case{subject:02d}", region, "dice", value)
        for (generator, arm), matrix in dice.items()
        for (seed, subject), value in np.ndenumerate(matrix)
        for region in regions
    ]
    columns = [*statistics.ARM, "seed", "subject", "region", "metric", "value"]
    return pd.DataFrame(rows, columns=columns).assign(real_subjects=1.0, synthetic_share=1.0)


@pytest.fixture
def dice():
    rng = np.random.default_rng(3)
    patients = rng.beta(5, 2, 9)
    return {
        ("none", "real"): patients + rng.normal(0, 0.03, (4, 9)),
        ("diffusion", "synthetic"): 0.9 * patients + rng.normal(0, 0.03, (3, 9)),
        ("stylegan3", "synthetic"): 0.8 * patients + rng.normal(0, 0.03, (3, 9)),
        ("stylegan3", "both"): patients + rng.normal(0, 0.03, (3, 9)),
    }


def row_of(table: pd.DataFrame, region="mean", **where) -> pd.Series:
    found = table[table["region"] == region] if "region" in table else table
    for column, value in where.items():
        found = found[found[column] == value]
    assert len(found) == 1
    return found.iloc[0]


# --- ratio ----------------------------------------------------------------------------------------------------------


def test_the_ratio_is_that_of_the_means_by_hand():
    table = long_table(
        {("none", "real"): np.array([[0.8, 0.6], [0.6, 0.4]]), ("diffusion", "synthetic"): np.array([[0.5, 0.4]])}
    )
    row = row_of(statistics.ratios(Scores(table)))
    assert row["ratio"] == pytest.approx(0.45 / 0.6)
    assert (row["seeds"], row["seeds_real"], row["subjects"]) == (1, 2, 2)


def test_the_scans_of_a_patient_are_averaged_first():
    """Eight patients, the first of whom was scanned three times: its scans weigh as much as another's only one."""
    rng = np.random.default_rng(1)
    patients = {("none", "real"): rng.beta(5, 2, (3, 8)), ("diffusion", "synthetic"): rng.beta(5, 2, (3, 8))}
    spread = np.array([-0.03, 0.01, 0.02])  # of the three scans about their mean
    scans = {key: np.concatenate([dice[:, :1] + spread, dice[:, 1:]], axis=1) for key, dice in patients.items()}
    whose = {f"case{scan:02d}": f"case{max(scan - 2, 0):02d}" for scan in range(10)}
    table = long_table(scans).assign(patient=lambda rows: rows["subject"].map(whose))
    by_patient, expected = Scores(table), Scores(long_table(patients))
    assert by_patient.dice(by_patient.arms[0], "mean").scans == tuple(whose)
    for measure in (statistics.ratios, statistics.paired_tests, ranks.ranks, statistics.amounts):
        found = measure(by_patient)
        assert (found["subjects"] == 8).all()
        pd.testing.assert_frame_equal(found, measure(expected))


def test_a_scan_that_only_the_reference_was_scored_on_is_missed():
    table = long_table({("none", "real"): np.full((2, 8), 0.8), ("diffusion", "synthetic"): np.full((2, 8), 0.7)})
    table = table.assign(patient=table["subject"].replace("case01", "case00"))
    table = table[(table["arm"] == "real") | (table["subject"] != "case01")]
    row = row_of(statistics.ratios(Scores(table)))
    assert np.isnan(row["ratio"])
    assert "other subjects than its reference: 0 only here, 1 only there, for example case01" in row["reason"]


def test_a_subject_with_two_patients_is_refused():
    table = long_table({("none", "real"): np.full((2, 8), 0.8)})
    table["patient"] = [f"p{row % 5}" for row in range(len(table))]
    with pytest.raises(ValueError, match="several patients for subject 'case0"):
        Scores(table)


def test_a_margin_is_passed_when_the_lower_bound_lies_above_it_after_a_step_down(dice):
    """Holm by hand: the arm with the smallest p at 0.05 / 3, the next at 0.05 / 2, the last at 0.05."""
    table = statistics.ratios(Scores(long_table(dice, regions=["mean"])))
    estimates = [crossed.ratio(dice[row["generator"], row["arm"]], dice["none", "real"]) for _, row in table.iterrows()]
    passed = 0
    for margin, column in zip(statistics.MARGINS, statistics.PASSES, strict=True):
        order = sorted(range(3), key=lambda arm: estimates[arm].p_above(margin))
        expected, going = {}, True
        for place, arm in enumerate(order):
            going = going and estimates[arm].lower_bound(0.05 / (3 - place)) >= margin
            expected[arm] = going
        assert table[column].tolist() == [expected[arm] for arm in range(3)]
        passed += table[column].sum()
    assert 0 < passed < 9


def test_one_training_passes_and_fails_nothing(dice):
    alone = {key: values[:1] for key, values in dice.items()}
    for function in (statistics.ratios, statistics.paired_tests):
        table = function(Scores(long_table(alone)))
        assert set(table["reason"]) == {"not known with one training"}
        known = [
            column for column in ("low", "high", "lower_bound", "p", "p_holm", *statistics.PASSES) if column in table
        ]
        assert table[known].isna().all(axis=None)
    assert statistics.ratios(Scores(long_table(alone)))["ratio"].notna().all()


def test_a_row_depends_on_its_arm_and_reference_alone(dice):
    alone = {key: dice[key] for key in [("none", "real"), ("diffusion", "synthetic")]}
    shuffled = long_table(dice).sample(frac=1, random_state=0)
    columns = ["ratio", "low", "high", "lower_bound"]
    all_rows = statistics.ratios(Scores(shuffled))
    one_row = statistics.ratios(Scores(long_table(alone)))
    for region in REGIONS:
        assert (
            row_of(all_rows, region, generator="diffusion")[columns].tolist()
            == row_of(one_row, region, generator="diffusion")[columns].tolist()
        )


# --- what is missing ------------------------------------------------------------------------------------------------


def test_an_arm_without_reference_keeps_its_row_and_says_why(dice):
    scores = pd.concat(
        [long_table(dice), long_table({("diffusion", "synthetic"): np.ones((2, 9))}, augmentation="off")]
    )
    for function in (statistics.ratios, statistics.paired_tests):
        row = row_of(function(Scores(scores)), generator="diffusion", augmentation="off")
        assert row["reason"] == "no real-only arm with this cohort, segmenter and augmentation"


@pytest.mark.parametrize("key", [("diffusion", "synthetic"), ("none", "real")])
def test_missing_cells_are_named_and_never_averaged_away(dice, key):
    scores = long_table(dice, regions=["mean"])
    hole = (scores["generator"] == key[0]) & (scores["seed"] == 1) & (scores["subject"] == "case04")
    for function in (statistics.ratios, statistics.paired_tests):
        row = row_of(function(Scores(scores[~hole])), generator="diffusion")
        assert "seed × subject cells are missing, for example seed 1, subject case04" in row["reason"]
        assert row[[column for column in ("ratio", "low", "p", "shift") if column in row]].isna().all()


def test_a_missing_region_keeps_its_row(dice):
    scores = long_table(dice)
    gone = (scores["generator"] == "diffusion") & (scores["region"] == "TC")
    row = row_of(statistics.ratios(Scores(scores[~gone])), "TC", generator="diffusion")
    assert row["reason"].startswith("27 of 27 seed × subject cells are missing")


def test_other_subjects_than_the_reference_are_no_pairs(dice):
    scores = long_table(dice)
    gone = (scores["generator"] == "diffusion") & (scores["subject"] == "case00")
    row = row_of(statistics.ratios(Scores(scores[~gone])), generator="diffusion")
    assert row["reason"] == "scored on other subjects than its reference: 0 only here, 1 only there, for example case00"


def test_a_reference_of_zero_gives_a_reason_and_no_ratio():
    table = long_table({("none", "real"): np.zeros((2, 8)), ("diffusion", "synthetic"): np.ones((2, 8))})
    row = row_of(statistics.ratios(Scores(table)))
    assert "reference's Dice is 0" in row["reason"]
    assert np.isnan(row["ratio"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table.drop(columns="subject"), "lacks the columns"),
        (lambda table: table.drop(columns="real_subjects"), "lacks the columns"),
        (lambda table: pd.concat([table, table.iloc[[0]]]), "more than once"),
        (lambda table: table.assign(value=np.nan), "empty cells in column 'value'"),
        (lambda table: table.assign(value=1.2), "a Dice of 1.2, outside 0 … 1"),
        (lambda table: table.assign(value=-np.inf), "a Dice of -inf, outside 0 … 1"),
        (lambda table: pd.concat([table, table.assign(cohort="clinic")]), "must hold one cohort, and has 2"),
        (lambda table: table.assign(generator_seed=range(len(table))), "two trainings of the generator"),
    ],
)
def test_a_table_that_is_not_one_is_refused(dice, spoil, message):
    with pytest.raises(ValueError, match=message):
        Scores(spoil(long_table(dice)))


def test_a_row_knows_how_many_trainings_of_its_generator_stand_behind_it(dice):
    table = long_table(dice)
    assert set(statistics.ratios(Scores(table))["generator_seeds"]) == {3}  # each seed a whole training
    own = table["seed"].mask(table["generator"] == "diffusion", 7).where(table["generator"] != "none")
    own = own.where(table["arm"] != "both").astype("Int64")  # as if that set had been made elsewhere
    found = statistics.ratios(Scores(table.assign(generator_seed=own)))
    assert row_of(found, generator="diffusion")["generator_seeds"] == 1
    assert row_of(found, arm="both")["generator_seeds"] == 0
    assert row_of(found, generator="stylegan3", arm="synthetic")["generator_seeds"] == 3
    same = ["ratio", "low", "high", "seeds"]  # one formula, whatever its seeds stand for
    pd.testing.assert_frame_equal(found[same], statistics.ratios(Scores(table))[same])
    real = statistics.amounts(Scores(table)).query("arm == 'real'")
    assert real["generator_seeds"].tolist() == [0]


def test_seeds_that_failed_are_named(dice):
    table = long_table(dice)  # four trainings of the reference, three of the others
    found = statistics.ratios(Scores(table))
    assert set(found["missing_seeds"]) == {"3"}
    assert set(found["missing_seeds_real"]) == {""}
    found = statistics.ratios(Scores(table[table["seed"] != 1], seeds=range(5)))
    assert set(found["missing_seeds"]) == {"1, 3, 4"}
    assert set(found["missing_seeds_real"]) == {"1, 4"}
    amounts = statistics.amounts(Scores(table, seeds=range(5)))
    assert amounts.query("arm != 'real'")["missing_seeds"].unique().tolist() == ["3, 4"]


# --- paired tests ---------------------------------------------------------------------------------------------------


def test_the_star_is_of_a_crossed_t_with_holm_by_hand_and_wilcoxon_stands_beside_it(dice):
    table = statistics.paired_tests(Scores(long_table(dice, regions=["mean"]))).sort_values("p")
    for _, row in table.iterrows():
        arm, real = dice[row["generator"], row["arm"]], dice["none", "real"]
        assert row["difference"] == pytest.approx(arm.mean() - real.mean())
        assert row["p"] == pytest.approx(crossed.difference(arm, real).p_differs())
        exact = stats.wilcoxon((arm.mean(0) - real.mean(0)).round(9), method="exact").pvalue  # no ties, no zeros here
        assert row["p_wilcoxon"] == pytest.approx(exact)
    adjusted = np.maximum.accumulate(np.minimum(1, table["p"].to_numpy() * np.array([3, 2, 1])))
    assert table["p_holm"].to_numpy() == pytest.approx(adjusted)
    assert set(table["family"]) == {3}


@pytest.mark.parametrize(
    "difference",
    [
        [0.10, -0.02, 0.05, 0.07, 0.01, 0.12, -0.03],
        [0.1, 0.1, -0.1, 0.2, 0.0, 0.3, 0.0, 0.2],  # ties and zeros
        [*[0.0] * 52, 0.1, 0.2, 0.3, 0.4],  # where the normal approximation says 0.046
    ],
)
def test_wilcoxon_s_p_by_enumeration_of_all_signs(difference):
    difference = np.array(difference)
    rank = stats.rankdata(np.abs(difference))[difference != 0]
    signs = np.array(list(product([-1, 1], repeat=len(rank))))
    observed = abs(rank @ np.sign(difference[difference != 0]))
    assert statistics.wilcoxon(difference) == pytest.approx((np.abs(signs @ rank) >= observed).mean())
    if len(difference) == 56:
        assert statistics.wilcoxon(difference) == 0.125


def test_beyond_twenty_differences_wilcoxon_is_scipy_s():
    difference = np.random.default_rng(0).normal(0.1, 1, 40).round(1)
    expected = stats.wilcoxon(difference, zero_method="pratt", method="approx").pvalue
    assert statistics.wilcoxon(difference) == pytest.approx(expected)


def test_hodges_lehmann_is_the_median_of_all_walsh_averages(dice):
    difference = dice["diffusion", "synthetic"].mean(0) - dice["none", "real"].mean(0)
    walsh = [(difference[i] + difference[j]) / 2 for i in range(9) for j in range(i, 9)]
    row = row_of(statistics.paired_tests(Scores(long_table(dice, regions=["mean"]))), generator="diffusion")
    assert row["shift"] == pytest.approx(np.median(walsh), abs=1e-9)


def test_rank_biserial_by_hand():
    # |d| ranks with Pratt's zero: 0→1, 1→2, 2→3, 3→4; W+ = 2 + 4, W− = 3, total = 10
    assert statistics.rank_biserial(np.array([1.0, -2.0, 3.0, 0.0])) == pytest.approx((6 - 3) / 10)
    assert statistics.rank_biserial(np.arange(1.0, 8)) == 1
    assert statistics.rank_biserial(-np.arange(1.0, 8)) == -1


def test_fewer_than_six_subjects_never_get_a_p_value():
    rng = np.random.default_rng(0)
    table = long_table({("none", "real"): rng.random((2, 5)), ("diffusion", "synthetic"): rng.random((2, 5))})
    row = row_of(statistics.paired_tests(Scores(table)))
    assert (row["reason"], row["family"]) == ("n too small", 0)
    assert np.isnan(row["p"])
    assert np.isnan(row["p_holm"])
    assert np.isfinite(row["shift"])


def test_equal_up_to_rounding_is_no_difference():
    patients = np.random.default_rng(0).random((2, 8)) / 2
    table = long_table({("none", "real"): patients, ("diffusion", "synthetic"): patients + 1e-12})
    row = row_of(statistics.paired_tests(Scores(table)))
    assert (row["p"], row["p_wilcoxon"], row["shift"], row["rank_biserial"]) == (1.0, 1.0, 0.0, 0.0)


def test_holm_equals_statsmodels_and_passes_over_what_has_no_p():
    rng = np.random.default_rng(0)
    p = np.concatenate([rng.random(6) ** 3, [0.01, 0.01, np.nan]])
    table = statistics.holm(pd.DataFrame({"p": p, "p_holm": np.nan, "group": "one"}), ["group"])
    assert table["p_holm"][:8].to_numpy() == pytest.approx(multipletests(p[:8], method="holm")[1])
    assert np.isnan(table["p_holm"][8])
    assert set(table["family"]) == {8}


def test_stars_are_one_family_over_a_segmenter_s_table(dice):
    settings = ({}, {"augmentation": "off"}, {"segmenter": "swin"})
    regions = ["ET", "ED", "NCR", "mean", "WT", "TC"]
    table = statistics.paired_tests(
        Scores(pd.concat([long_table(dice, regions=regions, **setting) for setting in settings]))
    )
    starred = table[table["region"].isin(["ET", "ED", "NCR", "mean"])]
    sizes = starred.groupby("segmenter")["family"].unique().map(list).to_dict()
    assert sizes == {"swin": [3 * 4], "unet": [6 * 4]}
    unet = starred[starred["segmenter"] == "unet"]
    assert unet["p_holm"].to_numpy() == pytest.approx(multipletests(unet["p"], method="holm")[1])
    assert set(table[~table["region"].isin(starred["region"])].groupby("segmenter")["family"].first()) == {6, 12}


def test_an_arm_that_finds_nothing_fails_every_margin_and_counts_in_its_family(dice):
    nothing = {**dict(dice), ("stylegan2", "synthetic"): np.zeros_like(dice["none", "real"])}
    table = statistics.ratios(Scores(long_table(nothing, regions=["mean"])))
    row = row_of(table, generator="stylegan2")
    assert (row["ratio"], row["low"], row["high"], row["lower_bound"], row["reason"]) == (0, 0, 0, 0, "")
    assert not row[list(statistics.PASSES)].any()
    barely = dict(nothing) | {("stylegan2", "synthetic"): np.full_like(dice["none", "real"], 1e-6)}
    others = [statistics.ratios(Scores(long_table(each, regions=["mean"]))) for each in (nothing, barely)]
    assert others[0][statistics.PASSES].equals(others[1][statistics.PASSES])


# --- ranks ----------------------------------------------------------------------------------------------------------


def test_mean_ranks_by_hand():
    dice = {
        ("a", "synthetic"): np.array([[0.9, 0.9, 0.5]]),
        ("b", "synthetic"): np.array([[0.8, 0.9, 0.6]]),
        ("c", "synthetic"): np.array([[0.7, 0.1, 0.7]]),
    }
    table = ranks.ranks(Scores(long_table(dice))).set_index("generator")["mean_rank"]
    assert table.to_dict() == pytest.approx({"a": (1 + 1.5 + 3) / 3, "b": (2 + 1.5 + 2) / 3, "c": (3 + 3 + 1) / 3})


def test_the_permutation_test_equals_exact_enumeration(dice):
    matrices = [dice[name, "synthetic"].mean(0) for name in ("stylegan3", "diffusion")]  # the order of tables
    rank = np.where(matrices[0] > matrices[1], 1, 2)
    difference = rank - (3 - rank)  # the other's rank is 3 − rank
    flips = np.array(list(product([-1, 1], repeat=9)))
    expected = np.mean(np.abs(flips @ difference) >= abs(difference.sum()) - 1e-9)
    row = row_of(ranks.rank_tests(Scores(long_table(dice))))
    assert row["p"] == pytest.approx(expected)
    assert row["difference"] == pytest.approx(difference.mean())


def test_drawn_permutations_agree_with_the_normal_approximation():
    difference = np.random.default_rng(4).normal(0.25, 1, 60)
    p = ranks._sign_flip_p(difference, 20_000, 0)
    z = difference.sum() / np.sqrt((difference**2).sum())
    assert p == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.02)
    assert ranks._sign_flip_p(np.ones(60), 999, 0) == 1 / 1000  # the observed one counts: never 0


def test_a_generator_with_a_hole_is_not_ranked_and_the_group_says_why(dice):
    scores = long_table(dice)
    hole = (scores["generator"] == "stylegan3") & (scores["seed"] == 0) & (scores["subject"] == "case01")
    table = ranks.ranks(Scores(scores[~hole])).query("arm == 'synthetic'")
    assert table["mean_rank"].isna().all()
    assert table["reason"].str.startswith("stylegan3, NCR: 1 of 27").all()
    lonely = ranks.ranks(Scores(scores)).query("arm == 'both'")
    assert lonely["reason"].tolist() == ["one generator: nothing to rank"]


# --- amounts --------------------------------------------------------------------------------------------------------


@pytest.fixture
def shares(dice):
    """All the data, half of the real subjects (Dice 0.1 less), a tenth of the synthetic set (0.2 less)."""
    less = [(0.1, {"real_subjects": 0.5}), (0.2, {"synthetic_share": 0.1})]
    parts = [long_table({key: values - loss for key, values in dice.items()}).assign(**share) for loss, share in less]
    return pd.concat([long_table(dice), *parts], ignore_index=True)


def test_ratios_tests_and_ranks_see_cells_trained_on_all_the_data_alone(dice, shares):
    alone = long_table(dice)
    for function in (statistics.paired_tests, ranks.ranks, ranks.rank_tests):
        pd.testing.assert_frame_equal(function(Scores(shares)), function(Scores(alone)))
    pd.testing.assert_frame_equal(statistics.ratios(Scores(shares)), statistics.ratios(Scores(alone)))


def test_the_mean_and_interval_of_an_amount(dice, shares):
    table = statistics.amounts(Scores(shares))
    assert len(table) == 3 * len(dice)
    row = row_of(table, generator="diffusion", real_subjects=0.5)
    matrix = dice["diffusion", "synthetic"] - 0.1
    expected = [matrix.mean(), *crossed.mean(matrix).interval()]
    assert row[["dice", "low", "high"]].tolist() == pytest.approx(expected)
    assert (row["seeds"], row["subjects"], row["synthetic_share"], row["reason"]) == (3, 9, 1.0, "")


def test_an_amount_with_a_hole_keeps_its_row_and_says_why(shares):
    hole = (shares["real_subjects"] == 0.5) & (shares["seed"] == 1) & (shares["subject"] == "case04")
    table = statistics.amounts(Scores(shares[~hole]))
    broken = table[table["real_subjects"] == 0.5]
    assert broken["reason"].str.contains("for example seed 1, subject case04").all()
    assert broken[["dice", "low", "high"]].isna().all(axis=None)
    assert (table.loc[table["real_subjects"] == 1, "reason"] == "").all()
    row = statistics.amounts(Scores(long_table({("none", "real"): np.full((3, 1), 0.5)}))).iloc[0]
    assert (row["dice"], row["reason"]) == (0.5, "n too small")


# --- caveats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seeds", "subjects", "starts"),
    [
        (10, 30, []),
        (3, 20, []),
        (2, 30, ["Only two trainings of an arm"]),
        (1, 5, ["Only 1 training of an arm", "Only 5 test subjects: below 6"]),
        (3, 8, ["Only 8 test subjects: only large"]),
    ],
)
def test_few_seeds_or_subjects_are_called_out(seeds, subjects, starts):
    matrix = np.random.default_rng(0).random((seeds, subjects))
    table = statistics.ratios(Scores(long_table({("none", "real"): matrix, ("diffusion", "synthetic"): matrix})))
    found = calibration.caveats(table)
    assert len(found) == len(starts)
    assert all(text.startswith(start) for text, start in zip(found, starts, strict=True))


def test_calibration_keeps_its_promise_but_where_the_generator_s_luck_is_left_out():
    table = calibration.CALIBRATION
    shared = table["model"] == "one generator"
    assert table.loc[~shared, "coverage"].between(93.5, 97).all()
    assert (table.loc[~shared, ["non_inferiority", "star"]] <= 8).all(axis=None)
    assert (table.loc[shared, "coverage"] < 75).all()
    assert (table.loc[table["seed_sd"] == 0.02, "wilcoxon"].max()) > 20
