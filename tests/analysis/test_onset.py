"""When copying begins: planted onsets, slopes by hand, what stopping changes, and the words for it."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.onset import onsets, slope, stopping
from analysis.onset_figures import measures_while_training, onset_against_patients
from analysis.onset_tables import in_words, onset_table, stopping_table

SEEN = [100, 200, 400, 800]


def training(model, subjects, seed, p_values):
    table = pd.DataFrame({"seen": SEEN, "test_copied_p_value": p_values, "test_copied_share": [0.0, 0.1, 0.5, 0.9]})
    shown = {"test_memorized_share": 0.5, "test_kernel_distance": 0.01, "test_dice": 0.2}
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
    assert list(found["last"]) == [800] * 3
    unknown = onsets(snapshots, 4, 5)
    assert set(unknown["when"]) == {"unknown"}
    assert unknown["onset"].isna().all()
    assert "not known" in onset_table(snapshots, unknown).markdown()


def frame(*rows):
    return pd.DataFrame(rows, columns=["subjects", "onset", "when"])


def test_the_slope_is_that_of_least_squares_by_hand():
    rng = np.random.default_rng(0)
    n = np.array([8, 8, 16, 32, 64])
    images = 50 * n**1.2 * np.exp(rng.normal(0, 0.2, 5))
    censored = [(64, math.nan, "after"), (8, 100.0, "by")]
    found = slope(frame(*[(a, b, "at") for a, b in zip(n, images, strict=True)], *censored))
    x, y = np.log(n), np.log(images)
    design = np.stack([x, np.ones(5)], 1)
    (power, constant), (residual,), *_ = np.linalg.lstsq(design, y, rcond=None)
    error = math.sqrt(residual / 3 / ((x - x.mean()) ** 2).sum())
    assert (found.value, found.intercept) == pytest.approx((power, constant))
    assert (found.low, found.high) == pytest.approx((power - 3.182446 * error, power + 3.182446 * error), abs=1e-6)
    assert (found.trainings, found.sizes, found.unknown) == (5, 4, "")


def test_a_slope_that_cannot_be_known_says_why():
    assert slope(frame((8, 100.0, "at"), (8, 200.0, "at"))).value is None
    two = slope(frame((8, 100.0, "at"), (16, 400.0, "at")))
    assert two.value == pytest.approx(2)
    assert two.low is None
    assert "interval" in two.unknown


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
    words = in_words(found, slopes, stopped, 26)
    assert words[0].startswith("Diffusion: 3 of 3 trainings copied more than chance gives within 800 images seen")
    assert "8 from 400, 16 from 100, 32 from 800" in words[0]
    assert "to the power 0.50; two trainings give a slope no interval" in words[0]  # of 400 at 8 and 800 at 32
    assert words[1].startswith("StyleGAN 2: none of 1 training copied")
    assert "keeps nothing in 3 of 4 trainings" in words[2]
    assert "copies 10.0\u00a0% instead of 90.0\u00a0%" in words[2]
    assert in_words(found, slopes, stopped, 5) == [
        "When a generator begins to copy is not known: there are 5 test patients, and the null needs 6."
    ]
    assert "| Diffusion | 16 | 1 | ≤ 100 |" in onset_table(snapshots, found).markdown()
    assert "not by 800" in onset_table(snapshots, found).markdown()
    assert "none kept" in stopping_table(stopped).markdown()
    drawn = [list(line.get_ydata()) for line in onset_against_patients(found, slopes).axes[0].lines]
    assert pytest.approx([400, 400 * math.sqrt(2), 800]) in drawn  # the fitted power
    copied = measures_while_training(snapshots).axes[0]
    assert copied.get_title(loc="left") == "Diffusion"
    assert pytest.approx([0, 10, 50, 90]) in [list(line.get_ydata()) for line in copied.lines]
