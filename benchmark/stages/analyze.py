"""All cells' scores → the long table, ratios with intervals, paired tests, ranks, Dice against amount of data."""

from collections import Counter
from typing import Any

import pandas as pd

from analysis import ranks, statistics
from analysis.long_table import Scores
from analysis.statistics import counted
from analysis.text import csv_frame
from benchmark.config import Config, Need
from benchmark.errors import UserError
from benchmark.stages import Headline, RunningTask, Settings, StageResult

SCHEMA = 4  # 4: tables say how many trainings of a generator stand behind a row, and which seeds failed


def settings(config: Config) -> Settings:
    return config.analyze.model_dump(mode="json", include={"seed", "repeats", "replicates"})


def needs(config: Config) -> dict[str, Need]:
    raise NotImplementedError("the table hands its evaluations in")


def tags(config: Config) -> dict[str, Any]:
    return {"cohort": config.prepare.cohort, "seed": config.analyze.seed}


def run(task: RunningTask) -> Headline:
    """Writes scores, ratios, tests, ranks, rank_tests and amounts, each as .csv and .parquet.

    `inputs` are evaluations.
    """
    config, inputs, folder, tracked = task.config, task.inputs, task.folder, task.tracked
    keys = config.analyze
    parts = [pd.read_parquet(cell.path / "scores.parquet") for cell in inputs.values() if isinstance(cell, StageResult)]
    if not parts:
        counts = Counter(cell.reason for cell in inputs.values())
        reasons = "\n".join(f"  {counted(count, 'cell')}: {reason}" for reason, count in counts.items())
        raise UserError(f"no cell of the table could be evaluated:\n{reasons}")
    scores = Scores(pd.concat(parts, ignore_index=True), range(keys.seed, keys.seed + keys.repeats))
    ratios = statistics.ratios(scores)
    tables = {
        "scores": scores.table,
        "ratios": ratios,
        "tests": statistics.paired_tests(scores),
        "ranks": ranks.ranks(scores),
        "rank_tests": ranks.rank_tests(scores, keys.replicates, keys.seed),
        "amounts": statistics.amounts(scores),
    }
    for name, table in tables.items():
        csv_frame(table).to_csv(folder / f"{name}.csv", index=False)
        table.to_parquet(folder / f"{name}.parquet", index=False)
        tracked.log_artifact(folder / f"{name}.csv", "tables")
    return {"ratios": _primary(ratios)}


def _primary(ratios: pd.DataFrame) -> dict[str, float]:
    """Ratio of every arm at the primary endpoint, by arm."""
    primary = ratios[(ratios["region"] == "mean") & ratios["ratio"].notna()]
    return {
        f"{row.arm} {row.generator} {row.segmenter} aug {row.augmentation}": round(row.ratio, 4)
        for row in primary.itertuples()
    }
