"""`Scores`: the long table of one cohort, asked by whoever computes, prints or draws.

It alone checks the table, puts its arms in order and turns it into matrices. A row is (cohort, generator, arm,
segmenter, augmentation, seed, real_subjects, synthetic_share, subject, region, metric, value). A seed is a repeat, a
whole training. Where there is a column patient, a subject is one of the patient's scans. A column generator_seed says
which training of the generator made the synthetic set (empty for real-only arms and sets made elsewhere); without it,
every seed has its own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.arms import ARM_COLUMNS, Arm, arms_in_order, facts

AMOUNT = ["real_subjects", "synthetic_share"]  # shares of the real training subjects and of the synthetic set, (0, 1]
ALL_DATA = (1.0, 1.0)
COLUMNS = ["cohort", *ARM_COLUMNS, *AMOUNT, "seed", "subject", "region", "metric", "value"]


@dataclass(frozen=True)
class DiceMatrix:
    """Dice [seeds, subjects] of one arm and region; `reason` says which cells are missing (NaN), "" when none is.

    generator_seeds: trainings of the generator behind the seeds: as many as seeds where each has its own, 1 where they
    share it, 0 without a generator or where its set was made elsewhere. missing_seeds: those that were asked for, or
    that other arms have, and that this arm lacks altogether.

    Only people are independent: where patients have several scans, the subjects here are patients, each with the mean
    over its `scans`.
    """

    dice: np.ndarray
    subjects: tuple[str, ...]
    scans: tuple[str, ...]
    reason: str
    generator_seeds: int
    missing_seeds: tuple[int, ...]

    @property
    def missing(self) -> str:
        """'1, 2': the missing seeds."""
        return ", ".join(map(str, self.missing_seeds))


@dataclass(frozen=True)
class Pair:
    """An arm and its reference in one region; `real` is None where there is no reference."""

    arm: Arm
    region: str
    dice: DiceMatrix
    real: DiceMatrix | None

    def facts(self) -> dict:
        """The arm's columns, region, seeds, seeds_real, generator_seeds, missing_seeds, missing_seeds_real, subjects,
        and the reason why the two cannot be compared, or ""."""
        counts = {
            "seeds": len(self.dice.dice),
            "seeds_real": 0 if self.real is None else len(self.real.dice),
            "generator_seeds": self.dice.generator_seeds,
            "missing_seeds": self.dice.missing,
            "missing_seeds_real": "" if self.real is None else self.real.missing,
            "subjects": len(self.dice.subjects),
        }
        return facts(self.arm) | {"region": self.region} | counts | {"reason": self._reason()}

    def _reason(self) -> str:
        if self.dice.reason:
            return self.dice.reason
        if self.real is None:
            return "no real-only arm with this cohort, segmenter and augmentation"
        if self.real.reason:
            return f"real-only reference: {self.real.reason}"
        arm, real = set(self.dice.scans), set(self.real.scans)
        if arm != real:
            example = sorted(arm ^ real)[0]
            return (
                f"scored on other subjects than its reference: {len(arm - real)} only here, "
                f"{len(real - arm)} only there, for example {example}"
            )
        return ""


class Scores:
    """The long table of one cohort.

    table : as it was given. cohort : its name. seeds : every arm should have them, sorted. arms : those trained on all
    the data, in the order of every table. amounts : (arm, share of the real training subjects, share of the synthetic
    set) of every cell, arms in order.
    """

    def __init__(self, table: pd.DataFrame, seeds: Iterable[int] = ()) -> None:
        """seeds: those that were asked for; an arm should have these, and those that any other arm has.

        Raises ValueError where a column is absent, a value is empty, a cell stands in the table twice, a seed has two
        generators, or the table has more than one cohort."""
        self.table = table
        self._dice = _checked(table)
        cohorts = self._dice["cohort"].unique()
        if len(cohorts) != 1:
            raise ValueError(f"the score table must hold one cohort, and has {len(cohorts)}: {', '.join(cohorts[:5])}")
        self.cohort = str(cohorts[0])
        self.seeds = sorted({*map(int, seeds), *map(int, self._dice["seed"].unique())})
        parts = {tuple(key): rows for key, rows in self._dice.groupby([*ARM_COLUMNS, *AMOUNT], sort=True)}
        order = arms_in_order(Arm(*key[:4]) for key in parts)
        self._parts = {(Arm(*key[:4]), *key[4:]): rows for key, rows in parts.items()}
        self.amounts = sorted(self._parts, key=lambda amount: (order.index(amount[0]), *amount[1:]))
        self.arms = [arm for arm in order if (arm, *ALL_DATA) in self._parts]

    @cached_property
    def regions(self) -> list[str]:
        """Every region that the table knows, by name."""
        return sorted(self._dice["region"].unique())

    @property
    def on_all_data(self) -> pd.DataFrame:
        """The rows of cells trained on every real training subject and on the whole synthetic set, all metrics."""
        return self.table[(self.table[AMOUNT] == 1).all(axis=1)]

    def of_segmenter(self, segmenter: str) -> list[Arm]:
        """Its arms, in order."""
        return [arm for arm in self.arms if arm.segmenter == segmenter]

    @property
    def segmenters(self) -> list[str]:
        return list(dict.fromkeys(arm.segmenter for arm in self.arms))

    def dice(
        self, arm: Arm, region: str, real_subjects: float = 1.0, synthetic_share: float = 1.0
    ) -> DiceMatrix | None:
        """The arm's Dice in a region, seeds and subjects sorted; None where the table has no such cells.

        An arm must have every (seed, subject) that it has anywhere, in each region that the table knows.
        """
        return self._matrices.get((arm, real_subjects, synthetic_share), {}).get(region)

    def pairs(self) -> Iterator[Pair]:
        """Every arm but real-only ones with its reference, in every region; arms in order."""
        for arm in self.arms:
            if arm.arm != "real":
                for region in self.regions:
                    yield Pair(arm, region, self.dice(arm, region), self.dice(arm.reference, region))

    @cached_property
    def _matrices(self) -> dict[tuple, dict[str, DiceMatrix]]:
        matrices = {}
        for amount, rows in self._parts.items():
            seeds, scans = np.unique(rows["seed"]), rows.groupby("subject")["patient"].first()
            by_region = dict(iter(rows.groupby("region")))
            behind = rows["generator_seed"].nunique(), tuple(sorted({*self.seeds} - {*map(int, seeds)}))
            matrices[amount] = {
                region: _matrix(by_region.get(region, rows.iloc[:0]), seeds, scans, *behind) for region in self.regions
            }
        return matrices


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    """The Dice rows."""
    absent = [column for column in COLUMNS if column not in table.columns]
    if absent:
        raise ValueError(f"the score table lacks the columns {absent}; it has {list(table.columns)}")
    columns = [*COLUMNS, "patient"]
    table = table.assign(patient=table.get("patient", table["subject"]))
    own = table["seed"].where(table["arm"] != "real")
    table = table.assign(generator_seed=table.get("generator_seed", own))
    dice = table.loc[table["metric"] == "dice", [*columns, "generator_seed"]]
    for column in columns:
        if dice[column].isna().any():
            raise ValueError(f"the score table has {int(dice[column].isna().sum())} empty cells in column {column!r}")
    dice = dice.astype({"subject": str, "patient": str})
    outside = ~dice["value"].between(0, 1)
    if outside.any():
        raise ValueError(f"the score table has a Dice of {dice.loc[outside, 'value'].iloc[0]}, outside 0 … 1")
    whose = dice.groupby("subject")["patient"].nunique()
    if (whose > 1).any():
        raise ValueError(f"the score table names several patients for subject {whose.idxmax()!r}")
    training = ["cohort", *ARM_COLUMNS, *AMOUNT, "seed"]
    if (dice.groupby(training)["generator_seed"].nunique() > 1).any():
        raise ValueError("the score table has a seed whose synthetic set two trainings of the generator made")
    cell = [*training, "region", "subject"]
    twice = dice.duplicated(cell)
    if twice.any():
        raise ValueError(f"the score table has a cell more than once: {dice.loc[twice, cell].iloc[0].to_dict()}")
    return dice


def _matrix(
    part: pd.DataFrame, seeds: np.ndarray, scans: pd.Series, generator_seeds: int, missing: tuple[int, ...]
) -> DiceMatrix:
    """Of one arm and region; scans: whose each one is, by its name, sorted."""
    subjects = scans.index.to_numpy(str)
    dice = np.full((len(seeds), len(subjects)), np.nan)
    rows, columns = np.searchsorted(seeds, part["seed"]), np.searchsorted(subjects, part["subject"].to_numpy(str))
    dice[rows, columns] = part["value"]
    holes = np.argwhere(np.isnan(dice))
    reason = ""
    if len(holes):
        s, k = holes[0]
        reason = (
            f"{len(holes)} of {dice.size} seed × subject cells are missing, "
            f"for example seed {seeds[s]}, subject {subjects[k]}"
        )
    patients, whose = np.unique(scans.to_numpy(str), return_inverse=True)
    dice = np.stack([dice[:, whose == patient].mean(1) for patient in range(len(patients))], axis=1)
    return DiceMatrix(dice, tuple(patients.tolist()), tuple(subjects.tolist()), reason, generator_seeds, missing)
