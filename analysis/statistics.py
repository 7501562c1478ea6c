"""From the long score table to ratios, tests and ranks (PROTOCOL, section 3). Everything here is about Dice.

Let D[s, k] be an arm's Dice for segmenter seed s and subject k. Its reference is the real-only arm of the same
segmenter and augmentation. An arm that cannot be analysed keeps its row, without numbers and with its `reason`.
Ratios, tests and ranks are about cells trained on all the data; `amounts` alone looks at those trained on a share.
Every table has its rows in the order of `Scores`, with the cohort's name in front.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product

import numpy as np
import pandas as pd
from scipy import stats

from analysis.arms import ARM_COLUMNS, Arm, facts
from analysis.long_table import AMOUNT, DiceMatrix, Scores

MARGINS = (0.80, 0.90, 0.95)
ALPHA = 0.05
MIN_SUBJECTS = 6  # fewer paired subjects: "n too small", never a p-value
ARM = ["cohort", *ARM_COLUMNS]
SETTING = ["cohort", "segmenter", "augmentation", "arm"]  # what generators that compete have in common
RANKED_REGIONS = ("NCR", "ED", "ET", "WT", "TC")

# Measured by tests/bench/bench_statistics.py: per cent of simulated studies in which the 95 % interval held the truth,
# and in which each test was significant at 0.05 though its null was true ("new seeds": of other trainings, too).
# seed_sd: how much the mean Dice of one training differs from that of the next.
CALIBRATION = pd.DataFrame(
    [
        (56, 10, 0.0075, 94.0, 4.9, 4.1, 6.3, 4.9, 6.3),
        (56, 5, 0.0075, 94.2, 5.4, 4.7, 7.1, 4.5, 6.2),
        (56, 3, 0.0075, 94.4, 5.5, 4.8, 8.9, 4.9, 7.2),
        (56, 1, 0.0075, 83.0, 12.6, 4.3, 14.9, 5.0, 13.1),
        (56, 10, 0.02, 93.8, 5.7, 4.1, 14.3, 4.9, 12.4),
        (56, 5, 0.02, 92.5, 7.0, 4.7, 21.6, 4.5, 17.9),
        (56, 3, 0.02, 89.2, 7.9, 4.8, 28.5, 4.9, 24.9),
        (56, 1, 0.02, 51.7, 28.2, 4.3, 45.6, 5.0, 41.3),
        (20, 10, 0.0075, 94.0, 5.8, 4.9, 4.9, 4.2, 4.7),
        (20, 5, 0.0075, 93.9, 5.1, 5.0, 5.9, 4.7, 4.3),
        (20, 3, 0.0075, 94.5, 5.2, 5.1, 6.0, 4.6, 5.5),
        (10, 10, 0.0075, 91.6, 6.6, 5.3, 4.8, 3.7, 3.8),
        (10, 3, 0.0075, 93.3, 6.5, 5.0, 6.1, 4.0, 4.4),
        (6, 10, 0.0075, 88.4, 8.8, 2.7, 3.2, 1.8, 1.5),
    ],
    columns=[
        *("subjects", "seeds", "seed_sd", "coverage", "non_inferiority"),
        *("wilcoxon", "wilcoxon_new_seeds", "ranks", "ranks_new_seeds"),
    ],
)


def ratios(scores: Scores, replicates: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Dice of every arm relative to its real-only reference, with a crossed-bootstrap interval.

    Returns one row per arm and region: the arm's five columns, region, dice and dice_real (means over seeds and
    subjects), ratio = dice / dice_real, low and high (95 % percentile interval), lower_bound (the 5 % quantile),
    passes_0.80, passes_0.90, passes_0.95 (non-inferiority: lower_bound above the margin; missing where undecided),
    seeds, seeds_real, subjects, reason ("" or why numbers are missing).

    A replicate draws subjects, the arm's seeds and the reference's seeds, each with replacement and independently; the
    same subjects serve arm and reference. All arms with equally many seeds and subjects meet the same draws, so a row
    does not depend on which other arms are in the table.
    """
    rows = []
    for pair in scores.pairs():
        row = pair.facts()
        if not row["reason"]:
            row |= _ratio(pair.dice.dice, pair.real.dice, replicates, seed)
        rows.append(row)
    passes = [f"passes_{margin:.2f}" for margin in MARGINS]
    columns = [*ARM, "region", "dice", "dice_real", "ratio", "low", "high", "lower_bound", *passes]
    table = _table(rows, [*columns, "seeds", "seeds_real", "subjects", "reason"], scores)
    return table.astype(dict.fromkeys(columns[6:12], "float64") | dict.fromkeys(passes, "boolean"))


def paired_tests(scores: Scores) -> pd.DataFrame:
    """Difference of every arm from its real-only reference, paired over subjects, seeds averaged first.

    Returns one row per arm and region: the arm's five columns, region, shift (Hodges–Lehmann: median of the Walsh
    averages of the differences arm − real), rank_biserial (matched pairs, −1..1, positive where the arm is better),
    p (Wilcoxon signed-rank, Pratt's zeros), p_holm (Holm over the `family` arms of the same segmenter and region: one
    column of a table), family, subjects, reason ("n too small" below 6 paired subjects).

    The test compares these trainings over patients; what another segmenter seed would give, only the interval of
    `ratios` carries.
    """
    rows = []
    for pair in scores.pairs():
        row = pair.facts()
        if not row["reason"]:
            row |= _paired_test(pair.dice.dice.mean(0) - pair.real.dice.mean(0))
        rows.append(row)
    numbers = ["shift", "rank_biserial", "p", "p_holm"]
    table = _table(rows, [*ARM, "region", *numbers, "family", "subjects", "reason"], scores)
    return _holm(table.astype(dict.fromkeys(numbers, "float64")), ["segmenter", "region"])


def ranks(scores: Scores) -> pd.DataFrame:
    """Mean rank of every generator over subjects and regions NCR, ED, ET, WT, TC; 1 is the best, ties share a rank.

    Generators compete within one segmenter, augmentation and arm, with Dice averaged over seeds. Returns the arm's five
    columns, mean_rank, generators, subjects, reason, a group after the other.
    """
    rows = []
    for group in _rank_groups(scores):
        for index, arm in enumerate(group.arms):
            mean_rank = np.nan if group.ranks is None else group.ranks[index].mean()
            ranked = {"mean_rank": mean_rank, "generators": len(group.arms)}
            rows.append(facts(arm) | ranked | {"subjects": group.subjects, "reason": group.reason})
    return _table(rows, [*ARM, "mean_rank", "generators", "subjects", "reason"], scores)


def rank_tests(scores: Scores, permutations: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Permutation test over subjects for every pair of ranked generators.

    Under the null a subject's two generators are exchangeable: swapping them flips the sign of the subject's difference
    of mean ranks. All 2^n flips are enumerated where there are no more than `permutations`, else `permutations` of them
    are drawn and the observed one is counted in. Returns cohort, segmenter, augmentation, arm, generator, other,
    difference (of mean ranks, negative where `generator` is better), p (two-sided), p_holm (over the group's pairs),
    family, subjects, reason.
    """
    rows = []
    for group in _rank_groups(scores):
        for a, b in combinations(range(len(group.arms)), 2):
            row = facts(group.arms[a]) | {"other": group.arms[b].generator}
            row |= {"subjects": group.subjects, "reason": group.reason}
            if group.ranks is not None:
                difference = group.ranks[a].mean(0) - group.ranks[b].mean(0)  # one number per subject
                row["difference"] = difference.mean()
                if group.subjects < MIN_SUBJECTS:
                    row["reason"] = "n too small"
                else:
                    row["p"] = _sign_flip_p(difference, permutations, seed)
            rows.append(row)
    columns = [*SETTING, "generator", "other", "difference", "p", "p_holm", "family", "subjects", "reason"]
    table = _table(rows, columns, scores).astype(dict.fromkeys(["difference", "p", "p_holm"], "float64"))
    return _holm(table, SETTING)


def amounts(scores: Scores, replicates: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Mean Dice over NCR, ED and ET of every arm at every amount of training data, with a crossed-bootstrap interval.

    Returns one row per arm and amount: the arm's five columns, real_subjects and synthetic_share (shares of the real
    training subjects and of the synthetic set), seeds, subjects, dice (mean over seeds and subjects), low and high
    (95 % percentile interval, seeds and subjects drawn as for `ratios`), reason ("" or why numbers are missing).
    """
    rows = []
    for arm, *shares in scores.amounts:
        matrix = scores.dice(arm, "mean", *shares)
        row = facts(arm) | dict(zip(AMOUNT, shares, strict=True)) | {"reason": matrix.reason}
        row |= {"seeds": len(matrix.dice), "subjects": len(matrix.subjects)}
        if not matrix.reason:
            row |= _mean(matrix.dice, replicates, seed)
        rows.append(row)
    numbers = ["dice", "low", "high"]
    table = _table(rows, [*ARM, *AMOUNT, "seeds", "subjects", *numbers, "reason"], scores)
    return table.astype(dict.fromkeys(numbers, "float64"))


def _table(rows: list[dict], columns: list[str], scores: Scores) -> pd.DataFrame:
    return pd.DataFrame([{"cohort": scores.cohort, **row} for row in rows], columns=columns)


def caveats(ratios: pd.DataFrame) -> list[str]:
    """What a reader must know about intervals and tests at this number of seeds and subjects; [] in a safe regime.

    ratios: the table of `ratios`.
    """
    measured = ratios[ratios["reason"] == ""]
    if measured.empty:
        return []
    seeds, subjects = int(measured[["seeds", "seeds_real"]].min().min()), int(measured["subjects"].min())
    texts = []
    if seeds < 5:
        texts.append(
            f"Only {counted(seeds, 'segmenter seed')}: intervals are too narrow, and a difference may come from the "
            f"seeds. {_calibrated(56, 1 if seeds == 1 else 3)}"
        )
    if subjects < 20:
        texts.append(
            f"Only {counted(subjects, 'test subject')}: intervals are too narrow, and tests see large differences "
            f"only. {_calibrated(6 if subjects < 10 else 10, 10)}"
        )
    return texts


def counted(count: int, noun: str) -> str:
    """'1 seed', '3 seeds'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _calibrated(subjects: int, seeds: int) -> str:
    """The measured behaviour of the interval and of the test at a margin, at its worst over seed_sd."""
    rows = CALIBRATION[(CALIBRATION["subjects"] == subjects) & (CALIBRATION["seeds"] == seeds)]
    return (
        f"In simulations with {counted(subjects, 'subject')} × {counted(seeds, 'seed')}, 95\u00a0% intervals held the "
        f"truth in {rows['coverage'].min():.0f}\u00a0% of cases, and an arm exactly at a margin passed it in "
        f"{rows['non_inferiority'].max():.0f}\u00a0% instead of 5\u00a0%."
    )


def _holm(table: pd.DataFrame, family: list[str]) -> pd.DataFrame:
    """Fills p_holm and family from p, over the rows of each family that have a p-value."""
    table["family"] = table.groupby(family)["p"].transform("count").astype(int)
    for _, p in table["p"].dropna().groupby([table[column] for column in family]):
        p = p.sort_values()
        # Holm (1979); statsmodels' form of it collects all garbage of the process at every call, 0.2 s each.
        table.loc[p.index, "p_holm"] = np.minimum(np.maximum.accumulate(p * np.arange(len(p), 0, -1)), 1)
    return table


# --- the ratio ------------------------------------------------------------------------------------------------------


def _ratio(arm: np.ndarray, real: np.ndarray, replicates: int, seed: int) -> dict:
    """Ratio of the means of Dice matrices [seeds, subjects], with its crossed-bootstrap interval."""
    row = {"dice": arm.mean(), "dice_real": real.mean()}
    if row["dice_real"] == 0:
        return row | {"reason": "the reference's Dice is 0: no ratio"}
    row["ratio"] = row["dice"] / row["dice_real"]
    if real.shape[1] < 2:
        return row | {"reason": "one subject: no interval"}
    numerator = _bootstrap_mean(arm, replicates, seed, 1)
    denominator = _bootstrap_mean(real, replicates, seed, 2)
    zero = int((denominator == 0).sum())
    if zero:
        return row | {"reason": f"the reference's Dice is 0 in {zero} of {replicates} replicates: no interval"}
    low, lower_bound, high = np.quantile(numerator / denominator, [0.025, ALPHA, 0.975])
    passes = {f"passes_{margin:.2f}": bool(lower_bound > margin) for margin in MARGINS}
    return row | {"low": low, "high": high, "lower_bound": lower_bound} | passes


def _mean(dice: np.ndarray, replicates: int, seed: int) -> dict:
    """Mean of a Dice matrix [seeds, subjects], with its crossed-bootstrap interval."""
    row = {"dice": dice.mean()}
    if dice.shape[1] < 2:
        return row | {"reason": "one subject: no interval"}
    low, high = np.quantile(_bootstrap_mean(dice, replicates, seed, 1), [0.025, 0.975])
    return row | {"low": low, "high": high}


def _bootstrap_mean(dice: np.ndarray, replicates: int, seed: int, stream: int) -> np.ndarray:
    """Means [replicates] of Dice [seeds, subjects] under crossed resampling of seeds and subjects.

    A draw with replacement is its vector of counts c (sum n), so a replicate's mean is uᵀ D c / (S K). Subjects are
    always drawn from stream 0, so every arm meets the same ones; `stream` is that of the seeds.
    """
    subjects = _counts(dice.shape[1], replicates, seed, 0)
    seeds = _counts(dice.shape[0], replicates, seed, stream)
    return np.einsum("bk,bk->b", seeds @ dice, subjects) / dice.size


@lru_cache(maxsize=16)
def _counts(n: int, replicates: int, seed: int, stream: int) -> np.ndarray:
    """How often each of n units is drawn in n draws with replacement: [replicates, n], rows sum to n."""
    return np.random.default_rng([seed, stream]).multinomial(n, np.full(n, 1 / n), size=replicates).astype(np.float64)


# --- paired difference ----------------------------------------------------------------------------------------------


def _paired_test(difference: np.ndarray) -> dict:
    """Wilcoxon–Pratt, Hodges–Lehmann shift and rank-biserial correlation of paired differences [subjects]."""
    difference = difference.round(9)  # equal up to rounding of the means is equal
    row = {"shift": hodges_lehmann(difference), "rank_biserial": rank_biserial(difference)}
    if len(difference) < MIN_SUBJECTS:
        return row | {"reason": "n too small"}
    if not difference.any():
        return row | {"p": 1.0}  # scipy has no statistic when nothing differs
    return row | {"p": stats.wilcoxon(difference, zero_method="pratt").pvalue}


def hodges_lehmann(difference: np.ndarray) -> float:
    """Median of the Walsh averages (d_i + d_j) / 2, i ≤ j (Hodges & Lehmann 1963)."""
    i, j = np.triu_indices(len(difference))
    return float(np.median((difference[i] + difference[j]) / 2))


def rank_biserial(difference: np.ndarray) -> float:
    """(W+ − W−) / (n (n + 1) / 2) with Pratt's ranks of |d|: zeros take ranks, for neither side (Kerby 2014)."""
    rank = stats.rankdata(np.abs(difference))
    return float((rank * np.sign(difference)).sum() / rank.sum())


# --- ranks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _RankGroup:
    """Arms that compete: they differ in their generator alone. ranks [arms, regions, subjects]."""

    arms: list[Arm]
    ranks: np.ndarray | None
    subjects: int
    reason: str


def _rank_groups(scores: Scores) -> Iterator[_RankGroup]:
    groups: dict[tuple, list[Arm]] = {}
    for arm in scores.arms:
        if arm.arm != "real":
            groups.setdefault(arm.setting, []).append(arm)
    for arms in groups.values():
        dice = [{region: scores.dice(arm, region) for region in scores.regions} for arm in arms]
        reason = _why_unranked(arms, dice)
        rank = None
        if not reason:
            means = [[regions[region].dice.mean(0) for region in RANKED_REGIONS] for regions in dice]
            rank = stats.rankdata(-np.round(means, 9), axis=0)
        yield _RankGroup(arms, rank, len(dice[0][scores.regions[0]].subjects), reason)


def _why_unranked(arms: list[Arm], dice: list[dict[str, DiceMatrix]]) -> str:
    if len(arms) < 2:
        return "one generator: nothing to rank"
    subjects = None
    for (arm, regions), region in product(zip(arms, dice, strict=True), RANKED_REGIONS):
        if region not in regions:
            return f"the table has no scores for {region}"
        if regions[region].reason:
            return f"{arm.generator}, {region}: {regions[region].reason}"
        subjects = subjects or regions[region].subjects
        if regions[region].subjects != subjects:
            return f"{arm.generator} was scored on other subjects than {arms[0].generator}"
    return ""


def _sign_flip_p(difference: np.ndarray, permutations: int, seed: int) -> float:
    """Two-sided p of the mean of paired differences [subjects] under random sign flips."""
    n = len(difference)
    observed = abs(difference.sum()) - 1e-9  # sums that differ by rounding are ties
    if 2**n <= permutations:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(np.mean(np.abs(signs @ difference) >= observed))
    return float((1 + np.sum(np.abs(_signs(n, permutations, seed) @ difference) >= observed)) / (1 + permutations))


@lru_cache(maxsize=4)
def _signs(n: int, permutations: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, 3]).choice([-1.0, 1.0], size=(permutations, n))
