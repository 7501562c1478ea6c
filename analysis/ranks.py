"""Which generator is the best: mean ranks over subjects and regions, and a permutation test (PROTOCOL, section 3).

The test is about these trainings: other seeds of the same generators could rank otherwise.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product

import numpy as np
import pandas as pd
from scipy import stats

from analysis.arms import ARM_COLUMNS, Arm, facts
from analysis.crossed import MIN_SUBJECTS, TOO_FEW
from analysis.long_table import DiceMatrix, Scores
from analysis.statistics import SETTING, holm, table_of

RANKED_REGIONS = ("NCR", "ED", "ET", "WT", "TC")


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
    return table_of(rows, ["cohort", *ARM_COLUMNS, "mean_rank", "generators", "subjects", "reason"], scores)


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
                    row["reason"] = TOO_FEW
                else:
                    row["p"] = _sign_flip_p(difference, permutations, seed)
            rows.append(row)
    columns = [*SETTING, "generator", "other", "difference", "p", "p_holm", "family", "subjects", "reason"]
    table = table_of(rows, columns, scores).astype(dict.fromkeys(["difference", "p", "p_holm"], "float64"))
    return holm(table, SETTING)


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
