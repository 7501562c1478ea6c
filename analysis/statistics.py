"""From the long score table to ratios, tests and ranks (PROTOCOL, section 3). Everything here is about Dice.

Let D[s, k] be an arm's Dice for seed s and subject k. Its reference is the real-only arm of the same segmenter and
augmentation. An arm that cannot be analysed keeps its row, without numbers and with its `reason`. Ratios and tests are
about cells trained on all the data; `amounts` alone looks at those trained on a share.
Every table has its rows in the order of `Scores`, with the cohort's name in front.
"""

import numpy as np
import pandas as pd
from scipy import stats

from analysis import crossed
from analysis.arms import ARM_COLUMNS, facts
from analysis.long_table import AMOUNT, Scores

MARGINS = (0.80, 0.90, 0.95)
PASSES = [f"passes_{margin:.2f}" for margin in MARGINS]
ALPHA = 0.05
EXACT = 20  # most nonzero differences of which all signs are enumerated
ARM = ["cohort", *ARM_COLUMNS]
SETTING = ["cohort", "segmenter", "augmentation", "arm"]  # what generators that compete have in common
COLUMN = ["segmenter", "region"]  # arms that stand below each other in a table: one family of margins
STARRED = ("ET", "ED", "NCR", "mean")  # columns of a segmenter's table, in the study's order: one family of stars


def ratios(scores: Scores) -> pd.DataFrame:
    """Dice of every arm relative to its real-only reference, with an interval for other trainings and other patients.

    Returns one row per arm and region: the arm's five columns, region, dice and dice_real (means over seeds and
    subjects), ratio = dice / dice_real, low and high (95 % interval, crossed Satterthwaite), lower_bound (one-sided,
    95 %), passes_0.80, passes_0.90, passes_0.95 (non-inferiority: above the margin at 0.05, one-sided, after Holm's
    step-down over the arms of the same segmenter and region; missing where not known), seeds, seeds_real,
    generator_seeds (trainings of the generator behind the seeds, see `DiceMatrix`: with fewer than seeds the interval
    leaves the generator's variance out), missing_seeds and missing_seeds_real (those that failed, as text), subjects,
    reason ("" or why numbers are missing).
    """
    rows, estimates = [], []
    for pair in scores.pairs():
        row, estimate = pair.facts(), None
        if not row["reason"]:
            arm, real = pair.dice.dice, pair.real.dice
            row |= {"dice": arm.mean(), "dice_real": real.mean()}
            if row["dice_real"] == 0:
                row["reason"] = "the reference's Dice is 0: no ratio"
            else:
                row |= {"ratio": row["dice"] / row["dice_real"], "reason": crossed.why_unknown(arm, real)}
                if not row["reason"]:
                    estimate = crossed.ratio(arm, real)
                    low, high = estimate.interval()
                    row |= {"low": max(low, 0.0), "high": high, "lower_bound": estimate.lower_bound(ALPHA)}
        rows.append(row)
        estimates.append(estimate)
    columns = [*ARM, "region", "dice", "dice_real", "ratio", "low", "high", "lower_bound"]
    counts = ["seeds", "seeds_real", "generator_seeds", "missing_seeds", "missing_seeds_real", "subjects", "reason"]
    table = table_of(rows, [*columns, *counts], scores)
    for margin, passes in zip(MARGINS, PASSES, strict=True):
        table["p"] = np.array([np.nan if known is None else known.p_above(margin) for known in estimates], float)
        table[passes] = (holm(table, COLUMN)["p_holm"] <= ALPHA).astype("boolean").mask(table["p"].isna())
    table = table.astype(dict.fromkeys(columns[6:], "float64"))
    return table[[*columns, *PASSES, *counts]]


def paired_tests(scores: Scores) -> pd.DataFrame:
    """Difference of every arm from its real-only reference.

    Returns one row per arm and region: the arm's five columns, region, difference (of mean Dice), p (crossed t, two-
    sided: for other trainings and other patients) and p_holm (over the `family` tests of the segmenter's table, all
    arms and columns; of WT and TC, which it leaves out, over theirs), which decides every star; then, of these
    trainings only and with seeds averaged first, shift (Hodges–Lehmann: median of the Walsh averages of the
    differences), rank_biserial (matched pairs, −1..1, positive where the arm is better) and p_wilcoxon (signed-rank,
    Pratt's zeros); family, subjects, reason.
    """
    rows = []
    for pair in scores.pairs():
        row = pair.facts()
        if not row["reason"]:
            arm, real = pair.dice.dice, pair.real.dice
            row |= {"difference": arm.mean() - real.mean(), "reason": crossed.why_unknown(arm, real)}
            row |= _of_these_trainings(arm.mean(0) - real.mean(0))
            if not row["reason"]:
                row["p"] = crossed.difference(arm, real).p_differs()
        rows.append(row)
    numbers = ["difference", "p", "p_holm", "shift", "rank_biserial", "p_wilcoxon"]
    table = table_of(rows, [*ARM, "region", *numbers, "family", "subjects", "reason"], scores)
    table = table.astype(dict.fromkeys(numbers, "float64")).assign(starred=table["region"].isin(STARRED))
    return holm(table, ["segmenter", "starred"]).drop(columns="starred")


def amounts(scores: Scores) -> pd.DataFrame:
    """Mean Dice over NCR, ED and ET of every arm at every amount of training data.

    Returns one row per arm and amount: the arm's five columns, real_subjects and synthetic_share (shares of the real
    training subjects and of the synthetic set), seeds, generator_seeds, missing_seeds (as for `ratios`), subjects, dice
    (mean over seeds and subjects), low and high (95 % interval, as for `ratios`), reason ("" or why numbers are
    missing).
    """
    rows = []
    for arm, *shares in scores.amounts:
        matrix = scores.dice(arm, "mean", *shares)
        row = facts(arm) | dict(zip(AMOUNT, shares, strict=True)) | {"reason": matrix.reason}
        row |= {"seeds": len(matrix.dice), "subjects": len(matrix.subjects)}
        row |= {"generator_seeds": matrix.generator_seeds, "missing_seeds": matrix.missing}
        if not matrix.reason:
            row |= {"dice": matrix.dice.mean(), "reason": crossed.why_unknown(matrix.dice)}
            if not row["reason"]:
                low, high = crossed.mean(matrix.dice).interval()
                row |= {"low": max(low, 0.0), "high": min(high, 1.0)}
        rows.append(row)
    numbers = ["dice", "low", "high"]
    counts = ["seeds", "generator_seeds", "missing_seeds", "subjects"]
    table = table_of(rows, [*ARM, *AMOUNT, *counts, *numbers, "reason"], scores)
    return table.astype(dict.fromkeys(numbers, "float64"))


def counted(count: int, noun: str) -> str:
    """'1 seed', '3 seeds'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def table_of(rows: list[dict], columns: list[str], scores: Scores) -> pd.DataFrame:
    """Rows under these columns, the cohort's name in each."""
    return pd.DataFrame([{"cohort": scores.cohort, **row} for row in rows], columns=columns)


def holm(table: pd.DataFrame, family: list[str]) -> pd.DataFrame:
    """The table with p_holm and family filled from p, over the rows of each family that have a p-value (Holm 1979)."""
    table["family"] = table.groupby(family)["p"].transform("count").astype(int)
    table["p_holm"] = np.nan
    for _, p in table["p"].dropna().groupby([table[column] for column in family]):
        p = p.sort_values()
        # statsmodels' form of it collects all garbage of the process at every call, 0.2 s each.
        table.loc[p.index, "p_holm"] = np.minimum(np.maximum.accumulate(p * np.arange(len(p), 0, -1)), 1)
    return table


# --- of these trainings ---------------------------------------------------------------------------------------------


def _of_these_trainings(difference: np.ndarray) -> dict:
    """Hodges–Lehmann shift, rank-biserial correlation and Wilcoxon–Pratt's p of paired differences [subjects]."""
    difference = difference.round(9)  # equal up to rounding of the means is equal
    row = {"shift": hodges_lehmann(difference), "rank_biserial": rank_biserial(difference)}
    return row if len(difference) < crossed.MIN_SUBJECTS else row | {"p_wilcoxon": wilcoxon(difference)}


def wilcoxon(difference: np.ndarray) -> float:
    """Two-sided p of the signed-rank test, zeros ranked but for neither side (Pratt, JASA 54:655, 1959).

    Up to 20 nonzero differences by enumeration of all their signs: the number of ways to reach each rank sum is a
    product of polynomials, one factor 1 + x^(2 rank) for each difference (twice, as ties have half ranks). Beyond, the
    normal approximation.
    """
    nonzero = difference != 0
    if not nonzero.any():
        return 1.0
    if nonzero.sum() > EXACT:
        return float(stats.wilcoxon(difference, zero_method="pratt", method="approx").pvalue)
    ranks = np.rint(2 * stats.rankdata(np.abs(difference))[nonzero]).astype(int)
    ways = np.ones(1)
    for rank in ranks:
        ways = np.pad(ways, (0, rank)) + np.pad(ways, (rank, 0))
    distance = np.abs(2 * np.arange(len(ways)) - ranks.sum())
    observed = abs(2 * ranks[difference[nonzero] > 0].sum() - ranks.sum())
    return float(ways[distance >= observed].sum() / ways.sum())


def hodges_lehmann(difference: np.ndarray) -> float:
    """Median of the Walsh averages (d_i + d_j) / 2, i ≤ j (Hodges & Lehmann 1963)."""
    i, j = np.triu_indices(len(difference))
    return float(np.median((difference[i] + difference[j]) / 2))


def rank_biserial(difference: np.ndarray) -> float:
    """(W+ − W−) / (n (n + 1) / 2) with Pratt's ranks of |d|: zeros take ranks, for neither side (Kerby 2014)."""
    rank = stats.rankdata(np.abs(difference))
    return float((rank * np.sign(difference)).sum() / rank.sum())
