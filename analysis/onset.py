"""When does a generator begin to copy its training patients, and how does that depend on how many they are?

Snapshots of trainings on more and more patients, each with the exact test of `analysis.memorization` whether it copies
more than chance gives. The onset of a training is its first snapshot that does, at ALPHA over all its snapshots
(Bonferroni). For diffusion models theory has the onset in proportion to the number of training images, while good
samples come after a number that does not depend on it (openreview BSZqpqgqM0): on log-log axes, a slope of 1.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

ALPHA = 0.05
FEWEST_PATIENTS = 6  # of the null: with fewer, thresholds are too uncertain for a test to mean much
TRAINING = ["model", "subjects", "seed"]


@dataclass(frozen=True)
class Slope:
    """Of log onset against log patients, by least squares over `trainings` of `sizes` numbers of patients; low, high:
    its 95 % interval by Student's t. What is None has its reason in `unknown`."""

    value: float | None
    low: float | None
    high: float | None
    intercept: float | None  # of the natural logarithm
    trainings: int
    sizes: int
    unknown: str = ""


def onsets(snapshots: pd.DataFrame, planned: int, test_patients: int) -> pd.DataFrame:
    """A row per training: model, subjects, seed, onset [images seen], and which side of it is not known.

    snapshots: a row per snapshot with model, subjects, seed, seen and test_copied_p_value; planned: how many snapshots
    a training has; test_patients: behind the null. onset is NaN, and `when` "after", where none copies; where the first
    one does, `when` is "by", for the onset may lie anywhere before it; else "at"; "unknown", with NaN, where there are
    fewer than FEWEST_PATIENTS.
    """
    rows = []
    for key, training in snapshots.sort_values("seen").groupby(TRAINING, sort=True):
        copies = (training["test_copied_p_value"] <= ALPHA / planned).to_numpy() & (test_patients >= FEWEST_PATIENTS)
        first = int(np.argmax(copies))
        when = "after" if not copies.any() else "by" if first == 0 else "at"
        when = "unknown" if test_patients < FEWEST_PATIENTS else when
        seen = training["seen"].to_numpy()
        onset, last = (float(seen[first]) if copies.any() else np.nan), int(seen[-1])
        rows.append({**dict(zip(TRAINING, key, strict=True)), "onset": onset, "when": when, "last": last})
    return pd.DataFrame(rows, columns=[*TRAINING, "onset", "when", "last"])


def slope(onsets: pd.DataFrame) -> Slope:
    """Of one model's onsets, from the trainings whose onset lies between two snapshots."""
    known = onsets[onsets["when"] == "at"]
    n, sizes = len(known), known["subjects"].nunique()
    if sizes < 2:
        return Slope(None, None, None, None, n, sizes, "an onset was seen at fewer than two numbers of patients")
    fit = stats.linregress(np.log(known["subjects"]), np.log(known["onset"]))
    if n < 3:
        return Slope(fit.slope, None, None, fit.intercept, n, sizes, "two trainings give a slope no interval")
    half = stats.t.ppf(0.975, n - 2) * fit.stderr
    return Slope(fit.slope, fit.slope - half, fit.slope + half, fit.intercept, n, sizes)


def stopping(snapshots: pd.DataFrame) -> pd.DataFrame:
    """What stopping where copying begins changes: a row per training with the released snapshot's images seen, copied
    share and Dice, by test subjects, without stopping and with it (…_stopped, NaN where nothing could be kept).

    snapshots: also with kept, kept_if_stopped, test_copied_share and test_dice. Training is the same until it is
    stopped, so that one training tells both; what stops it is measured by validation subjects.
    """
    values = {"seen": "images", "test_copied_share": "copied_share", "test_dice": "dice"}
    rows = []
    for key, training in snapshots.groupby(TRAINING, sort=True):
        row = dict(zip(TRAINING, key, strict=True))
        for flag, suffix in (("kept", ""), ("kept_if_stopped", "_stopped")):
            released = training[training[flag].to_numpy(bool)]
            for column, name in values.items():
                row[name + suffix] = float(released[column].iloc[0]) if len(released) else np.nan
        rows.append(row)
    return pd.DataFrame(rows)
