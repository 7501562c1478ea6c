"""When does a generator begin to copy its training patients, and how does that depend on how many they are?

Snapshots of trainings on more and more patients, each with the exact test of `analysis.memorization` whether it copies
more than chance gives. The onset of a training is its first snapshot that does, at ALPHA over all its snapshots
(Bonferroni). For diffusion models theory has the onset in proportion to the number of training images, while good
samples come after a number that does not depend on it (openreview BSZqpqgqM0): on log-log axes, a slope of 1.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import censored

ALPHA = 0.05
FEWEST_PATIENTS = 6  # of the null: with fewer, thresholds are too uncertain for a test to mean much
TRAINING = ["model", "subjects", "seed"]


@dataclass(frozen=True)
class Slope:
    """Of log onset against log patients, most likely by the brackets of `trainings` on `sizes` numbers of patients, of
    which `censored` have an open side; low, high: its 95 % interval. What is None has its reason in `unknown`."""

    value: float | None
    low: float | None
    high: float | None
    intercept: float | None  # of the natural logarithm
    trainings: int
    censored: int
    sizes: int
    unknown: str = ""


def onsets(snapshots: pd.DataFrame, planned: int, test_patients: int) -> pd.DataFrame:
    """A row per training: model, subjects, seed, the images seen between which its onset lies, and how much is known.

    snapshots: a row per snapshot with model, subjects, seed, seen and test_copied_p_value; planned: how many snapshots
    a training has; test_patients: behind the null. The onset lies after not_by and by onset, the first snapshot that
    copies and the one before it: `when` is "at". Where the first of all copies it is "by", with a not_by of 0; where
    none does "after", with an onset of NaN; "unknown", with NaN in both, where there are fewer than FEWEST_PATIENTS.
    """
    rows = []
    for key, training in snapshots.sort_values("seen").groupby(TRAINING, sort=True):
        copies = (training["test_copied_p_value"] <= ALPHA / planned).to_numpy()
        seen = training["seen"].to_numpy()
        first = int(np.argmax(copies)) if copies.any() else len(seen)
        when = "after" if first == len(seen) else "by" if first == 0 else "at"
        around = np.array([0, *seen, np.nan])[[first, first + 1]]
        if test_patients < FEWEST_PATIENTS:
            when, around = "unknown", [np.nan, np.nan]
        found = {"not_by": float(around[0]), "onset": float(around[1]), "when": when, "last": int(seen[-1])}
        rows.append({**dict(zip(TRAINING, key, strict=True)), **found})
    return pd.DataFrame(rows, columns=[*TRAINING, "not_by", "onset", "when", "last"])


def half_by(onsets: pd.DataFrame) -> tuple[float, str]:
    """The median onset of trainings on one number of patients, the first snapshot by which at least half of them copy,
    and what is known of it: "at", "by" (it may be earlier), "after" (it is later than the images given) or "unknown".

    Trainings whose onset is censored stand in their order, before or after all others, so that none is left out.
    """
    if (onsets["when"] == "unknown").any():
        return np.nan, "unknown"
    order = onsets.assign(images=onsets["onset"].fillna(np.inf)).sort_values("images")
    middle = order.iloc[(len(order) - 1) // 2]
    return float(middle["last"] if middle["when"] == "after" else middle["onset"]), middle["when"]


def slope(onsets: pd.DataFrame) -> Slope:
    """Of one model's onsets, from all its trainings: between which snapshots each begins to copy is what is known."""
    bounded = onsets[onsets["onset"].notna()]
    sizes, open_side = bounded["subjects"].nunique(), int((onsets["when"] != "at").sum())

    def unknown(reason: str) -> Slope:
        return Slope(None, None, None, None, len(onsets), open_side, sizes, reason)

    if len(bounded) < 3:
        return unknown("fewer than three trainings copied")
    if sizes < 2:
        return unknown("trainings copied on fewer than two numbers of patients")
    if open_side == len(onsets):
        return unknown("no onset lies between two snapshots")
    brackets = np.log(onsets[["not_by", "onset"]].fillna(np.inf).replace(0, np.nan).to_numpy())
    x, low, high = np.log(onsets["subjects"].to_numpy()), np.nan_to_num(brackets[:, 0], nan=-np.inf), brackets[:, 1]
    found = censored.line(x, low, high)
    if found is None:
        return unknown("the likelihood has no maximum: the steeper, the better it agrees with the censored onsets")
    reason = "" if found.low is not None else "with so few onsets between two snapshots its interval has no end"
    return Slope(found.slope, found.low, found.high, found.intercept, len(onsets), open_side, sizes, reason)


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
