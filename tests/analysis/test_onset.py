"""When copying begins: planted onsets, slopes by hand, what stopping changes, and the words for it."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.attacks_statistics import auc_interval
from analysis.onset import half_by, onsets, slope, stopping
from analysis.onset_figures import measures_while_training, onset_against_patients
from analysis.onset_tables import in_words, onset_table, stopping_table

SEEN = [100, 200, 400, 800]


def training(model, subjects, seed, p_values):
    table = pd.DataFrame({"seen": SEEN, "test_copied_p_value": p_values, "test_copied_share": [0.0, 0.1, 0.5, 0.9]})
    shown = {"test_memorized_share": 0.5, "test_kernel_distance": 0.01, "test_dice": 0.2, "test_membership_auc": 0.9}
    return table.assign(model=model, subjects=subjects, seed=seed, kept=False, kept_if_stopped=False, **shown)


def test_the_onset_is_the_first_snapshot_below_the_level_of_them_all():
    level = 0.05 / 4
    snapshots = pd.concat(
        [
            training("diffusion", 8, 0, [1, 0.02, level, 0.5]),  # 0.02 would do for one snapshot alone
            training("diffusion", 8, 1, [0.001, 1, 1, 1]),
            training("diffusion", 16, 0, [1, 1, math.nan, level * 1.001]),  # a missing test rejects nothing
        ]
    ).sample(frac=1, random_state=0)
    found = onsets(snapshots, 4, 26)
    assert list(found["when"]) == ["at", "by", "after"]
    assert list(found["onset"].fillna(-1)) == [400, 100, -1]
    assert list(found["not_by"]) == [200, 0, 800]
    assert list(found["last"]) == [800] * 3
    unknown = onsets(snapshots, 4, 5)
    assert set(unknown["when"]) == {"unknown"}
    assert unknown["onset"].isna().all()
    assert "not known" in onset_table(snapshots, unknown).markdown()


def frame(*rows):
    """Of subjects, the last snapshot that does not copy (0: none), the first one that does (NaN: none)."""
    found = pd.DataFrame(rows, columns=["subjects", "not_by", "onset"]).astype(float)
    when = np.where(found["onset"].isna(), "after", np.where(found["not_by"] == 0, "by", "at"))
    return found.assign(when=when, last=800)


def test_of_onsets_known_exactly_the_slope_and_its_interval_are_those_of_least_squares():
    rng = np.random.default_rng(0)
    n = np.array([8, 8, 16, 32, 64])
    images = 50 * n**1.2 * np.exp(rng.normal(0, 0.2, 5))
    found = slope(frame(*zip(n, images * (1 - 1e-6), images * (1 + 1e-6), strict=True)))
    fit = stats.linregress(np.log(n), np.log(images))
    half = stats.t.ppf(0.975, 3) * fit.stderr
    assert (found.value, found.intercept) == pytest.approx((fit.slope, fit.intercept), abs=1e-5)
    assert (found.low, found.high) == pytest.approx((fit.slope - half, fit.slope + half), abs=1e-5)
    assert (found.trainings, found.censored, found.sizes, found.unknown) == (5, 0, 4, "")


def _simulated(seed, grid, sizes=(2, 4, 8, 16, 32), repeats=3, deviation=0.5):
    """Onsets in proportion to patients, seen by snapshots on a grid."""
    n = np.repeat(sizes, repeats)
    true = 3000 * n * np.exp(np.random.default_rng(seed).normal(0, deviation, len(n)))
    place = np.searchsorted(grid, true)
    return frame(*zip(n, np.array([0, *grid])[place], np.array([*grid, math.nan])[place], strict=True))


def test_slopes_of_censored_onsets_centre_on_the_truth_and_their_intervals_hold_it():
    grid = 64_000 * 2 ** ((np.arange(1, 11) - 10) / 2)
    found = [(onsets, slope(onsets)) for onsets in (_simulated(seed, grid) for seed in range(60))]
    dropped = [
        stats.linregress(np.log(known["subjects"]), np.log(known["onset"])).slope
        for known in (onsets[onsets["when"] == "at"] for onsets, _ in found)
    ]
    assert np.mean(dropped) < 0.9  # what leaving censored onsets out would give
    values = np.array([each.value for _, each in found])
    assert abs(values.mean() - 1) < 2.5 * values.std(ddof=1) / math.sqrt(60)
    covered = sum(each.low <= 1 <= each.high for _, each in found)
    assert covered >= stats.binom.ppf(0.01, 60, 0.95)
    assert all(each.censored == (onsets["when"] != "at").sum() > 0 for onsets, each in found)


def test_no_slope_is_sure_only_because_snapshots_are_coarse():
    """Equal steps of a grid: least squares through them has no error at all."""
    equal = frame((8, 100, 200), (16, 200, 400), (32, 400, 800), (64, 800, 1600))
    found = slope(equal)
    assert found.value == pytest.approx(1, abs=1e-6)
    # the steepest line through all brackets goes from 100 at 8 to 1600 at 64, the flattest from 200 to 800
    assert found.low < math.log(4) / math.log(8)
    assert found.high > math.log(16) / math.log(8)
    later = slope(pd.concat([equal, frame((128, 6400, math.nan))]))  # not by 6400, where a power of 1 has it by 3200
    assert later.value > 1.1
    assert later.censored == 1


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([(8, 50, 100), (16, 100, 200), (32, 800, math.nan)], "fewer than three trainings copied"),
        ([(8, 50, 100), (8, 100, 200), (8, 100, 200), (16, 800, math.nan)], "on fewer than two numbers of patients"),
        ([(8, 0, 100), (8, 0, 100), (16, 0, 100), (32, 800, math.nan)], "no onset lies between two snapshots"),
        ([(8, 200, 400), (8, 200, 400), (16, 0, 100)], "has no maximum"),  # the steeper downwards, the better
        ([(8, 200, 400), (8, 400, 800), (16, 0, 100)], "has no maximum"),
    ],
)
def test_a_slope_that_cannot_be_known_says_why(rows, reason):
    found = slope(frame(*rows))
    assert (found.value, found.low, found.high, found.intercept) == (None, None, None, None)
    assert reason in found.unknown


@pytest.mark.parametrize(
    ("rows", "median"),
    [
        ([(400, 800), (100, 200), (200, 400)], (400, "at")),
        ([(800, math.nan), (100, 200), (800, math.nan)], (800, "after")),
        ([(800, math.nan), (100, 200), (200, 400)], (400, "at")),  # its mean would have no number
        ([(0, 100), (0, 100), (400, 800)], (100, "by")),
        ([(800, math.nan), (0, 100)], (100, "by")),  # half of two have by then
    ],
)
def test_half_of_several_trainings_copy_by_their_median_with_those_that_are_censored_in_order(rows, median):
    assert half_by(frame(*[(8, *row) for row in rows])) == median


def _stopped():
    first = training("diffusion", 8, 0, [1, 1, 0, 0])
    first["kept"], first["kept_if_stopped"] = first["seen"] == 800, first["seen"] == 200
    second = training("diffusion", 16, 0, [0, 0, 0, 0])
    second["kept"] = second["seen"] == 400
    return pd.concat([first, second])


def test_stopping_compares_what_is_released():
    found = stopping(_stopped())
    assert list(found["copied_share"]) == [0.9, 0.5]
    assert list(found["copied_share_stopped"].fillna(-1)) == [0.1, -1]
    assert list(found["images_stopped"].fillna(-1)) == [200, -1]


def test_words_tables_and_figures_tell_of_it():
    snapshots = pd.concat(
        [_stopped(), training("stylegan2", 8, 0, [1] * 4), training("diffusion", 32, 0, [1, 1, 1, 0])]
    )
    found, stopped = onsets(snapshots, 4, 26), stopping(snapshots)
    slopes = {model: slope(group) for model, group in found.groupby("model")}
    words = in_words(snapshots, found, slopes, stopped, 26)
    assert words[0].startswith("Diffusion: 3 of 3 trainings copied more than chance gives within 800 images seen")
    assert "images seen until half of them do, by number of patients: 400 on 8, ≤ 100 on 16, 800 on 32" in words[0]
    found_slope = "to the power 0.50 (95 % interval"  # 200 to 400 at 8, by 100 at 16, 400 to 800 at 32
    assert found_slope in words[0]
    assert "3 trainings, 1 of them censored" in words[0]
    low, high = auc_interval(0.9, 8, 26)
    assert f"with an AUC of 0.90 ({low:.2f} to {high:.2f}) on 8, 0.90 (" in words[0]
    assert words[1].startswith("StyleGAN 2: none of 1 training copied")
    assert "keeps nothing in 3 of 4 trainings" in words[2]
    assert "copies 10.0\u00a0% instead of 90.0\u00a0%" in words[2]
    assert in_words(snapshots, found, slopes, stopped, 5) == [
        "When a generator begins to copy is not known: there are 5 test patients, and the null needs 6."
    ]
    assert "| Diffusion | 16 | 1 | ≤ 100 |" in onset_table(snapshots, found).markdown()
    assert "| StyleGAN 2 | 8 | 1 | > 800 |" in onset_table(snapshots, found).markdown()
    assert "none kept" in stopping_table(stopped).markdown()
    fitted = slopes["diffusion"]
    drawn = [list(line.get_ydata()) for line in onset_against_patients(found, slopes).axes[0].lines]
    assert pytest.approx([math.exp(fitted.intercept) * n**fitted.value for n in (8, 16, 32)]) in drawn
    figure = measures_while_training(snapshots, 26)
    copied = figure.axes[0]
    assert copied.get_title(loc="left") == "Diffusion"
    assert pytest.approx([0, 10, 50, 90]) in [list(line.get_ydata()) for line in copied.lines]
    (attack,) = [axis for axis in figure.axes if axis.get_ylabel() == "membership AUC"]
    assert attack.get_ylim() == (0, 1)
    assert [0.5, 0.5] in [list(line.get_ydata()) for line in attack.lines]
    band = attack.collections[0].get_paths()[0].get_extents()  # of 8 patients, the same at every snapshot
    assert (band.ymin, band.ymax) == pytest.approx((low, high))


def test_the_table_gives_the_median_and_each_of_several_trainings():
    several = [training("diffusion", 8, seed, p) for seed, p in enumerate(([1, 0, 0, 0], [1] * 4, [1] * 4))]
    snapshots = pd.concat(several)
    table = onset_table(snapshots, onsets(snapshots, 4, 26)).markdown()
    assert "| Diffusion | 8 | 3 | > 800 (200; > 800; > 800) |" in table
