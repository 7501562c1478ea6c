"""What MLflow's pages show of a table: a run for each cell, and the note on the table's own run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd

from analysis.arms import in_order, label
from benchmark.data.synthetic import name_of
from benchmark.report.cards import verdict
from benchmark.stages import TRAININGS, Outcome, StageResult, tags_of, train_segmenter
from benchmark.table.cells import Job
from benchmark.tracking import runs as tracking
from benchmark.tracking.session import Session

CELL = ("arm", "generator", "segmenter", "augmentation")
RISKS = {  # what stands beside a cell's ratio: stage, and where in its headline
    "memorized_share": ("audit", "memorized_share", "tau95"),
    "copied_share": ("audit", "copied_share", "tau95"),
    "attack_auc": ("attack", "auc", "ratio"),
}
DIGITS = 4  # a page shows columns, not files
Results = Mapping[str, Outcome]  # by fingerprint


@dataclass(frozen=True)
class Table:
    """One cohort's part of a table that has ended."""

    jobs: Sequence[Job]
    results: Results
    analyzed: StageResult

    @property
    def ratios(self) -> pd.DataFrame:
        """At the primary endpoint."""
        ratios = pd.read_parquet(self.analyzed.path / "ratios.parquet")
        return ratios[ratios["region"] == "mean"]

    def finished(self, stage: str) -> Iterator[tuple[Job, StageResult]]:
        for job in self.jobs:
            if job.stage == stage and isinstance(result := self.results[job.fingerprint], StageResult):
                yield job, result


def show_cells(table: Table, session: Session) -> None:
    """Logs a run for each cell that there is none of yet, with the numbers by which people choose."""
    for cell, numbers in _cells(table):
        called = [cell[key] for key in CELL[:3] if cell[key] != "none"]
        name = " ".join([*called, "aug", cell["augmentation"]])
        told = {"stage": "cell", "cohort": table.analyzed.tags["cohort"], **cell}
        digest = tracking.fingerprint("cell", {**told, **numbers}, {"analyze": table.analyzed.fingerprint}, 1)
        if session.store.finished_run(digest) is None:
            tags = {**told, "fingerprint": digest, "path": str(table.analyzed.path.resolve())}
            with session.open_run(name, tags, {}) as run:
                run.log_summary(numbers)


def _cells(table: Table) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Each cell with its numbers; the real-only ones, which the others are measured by, have ratio 1."""
    ratios = table.ratios
    real = ratios[ratios["dice_real"].notna()]
    real = real.assign(arm="real", generator="none", dice=real["dice_real"], ratio=1.0, low=None, high=None)
    for row in pd.concat([real.drop_duplicates([*CELL]), ratios]).to_dict("records"):
        cell = {key: row[key] for key in CELL}
        numbers = {
            "dice": row["dice"],
            "ratio": row["ratio"],
            "ratio_low": row["low"],
            "ratio_high": row["high"],
            **{name: _risk(table, cell["generator"], *where) for name, where in RISKS.items()},
            "train_seconds": _train_seconds(table, cell),
        }
        yield cell, {name: round(value, DIGITS) for name, value in numbers.items() if pd.notna(value)}


def _risk(table: Table, generator: str, stage: str, what: str, level: str) -> float | None:
    """The mean over the sets of all repeats."""
    of_sets = (result for _, result in table.finished(stage) if result.tags["model"] == generator)
    found = [value for result in of_sets if (value := result.headline[what].get(level)) is not None]
    return mean(found) if found else None


def _train_seconds(table: Table, cell: Mapping[str, str]) -> float | None:
    """What a repeat's trainings took, the generator's included, as first measured."""
    by_fingerprint = {job.fingerprint: job for job in table.jobs}

    def behind(job: Job) -> set[str]:
        parents = [by_fingerprint[digest] for role, digest in job.parents.items() if role != "extractor"]
        own = {parent.fingerprint for parent in parents if parent.stage in TRAININGS}
        return own.union(*map(behind, parents))

    evaluations = [job for job, _ in table.finished("evaluate") if _cell_of(job) == dict(cell)]
    if not evaluations:
        return None
    trainings = set().union(*map(behind, evaluations))
    return sum(table.results[digest].headline["seconds"] for digest in trainings) / len(evaluations)


def _cell_of(job: Job) -> dict[str, str] | None:
    """None where a share of the data is left out: such a cell has no ratio."""
    keys = job.config.train_segmenter
    if set(train_segmenter.shares(job.config).values()) != {1.0}:
        return None
    return {
        "arm": keys.train_on + "_last" * (job.config.evaluate.snapshot == "last"),
        "generator": "none" if keys.train_on == "real" else name_of(job.config, keys.synthetic),
        "segmenter": keys.segmenter,
        "augmentation": tags_of("evaluate", job.config)["augmentation"],
    }


def note(tables: Mapping[str, Table], reasons: Mapping[str, str], failed: int, path: Path) -> str:
    """Markdown: what came out, what to look at, where the report lies. tables, and reasons why there is none: by
    cohort."""
    lines = ["**What came out**", ""]
    for cohort, table in tables.items():
        ratios = table.ratios
        sets = in_order(ratios["generator"].unique())
        lines += [f"- {cohort}, {label(name)}: {verdict(name, ratios)}" for name in sets]
    lines += [f"- {cohort}: nothing to analyze. {reason}" for cohort, reason in reasons.items()]
    if failed:
        lines.append(f"- {failed} stage runs failed: `jobs.csv` among the artifacts says why.")
    lines += [
        "",
        "**Where to look**",
        "",
        "- One run for each cell: the view *Cells: kept, risked, paid* (menu Views of the page of runs) shows `ratio`, "
        "`ratio_low`, `ratio_high`, `memorized_share`, `copied_share`, `attack_auc`, `train_seconds`.",
        "- Artifacts: the forest plot in `report/figures/forest_….svg`, sheets of samples in "
        "`report/figures/samples_….png`, every table in `report/tables`.",
        f"- The report: `{path / 'index.html'}`",
        "",
        "How these pages are meant to be used: docs/mlflow.md.",
    ]
    return "\n".join(lines)
