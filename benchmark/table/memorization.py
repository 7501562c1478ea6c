"""The study's second claim: does a generator copy its patients when they are few? Trainings on few and on more of them,
every snapshot measured, and a page on when each begins to copy.

Each training is a stage run like any other, so an experiment that was stopped goes on, and one more number of patients
trains only what is missing.
"""

import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import onset, onset_figures, onset_tables
from analysis.set_tables import NOT_PROOF
from analysis.text import csv_frame
from benchmark.config import Config
from benchmark.data.slices import SliceSet
from benchmark.errors import UserError
from benchmark.report.page import picture, template, write_table
from benchmark.stages import CallResult, Failure, Outcome, StageResult, pull
from benchmark.stages.report import cohort_facts
from benchmark.stages.snapshots import FILE
from benchmark.table.cells import Job, Planner, done
from benchmark.table.executors import at_once, executor, machine_decides
from benchmark.table.plan import Plan, dry_run
from benchmark.table.run import run_jobs
from benchmark.tracking import runs as tracking
from benchmark.tracking.session import Session
from benchmark.training import precision
from benchmark.training.processes import Team


def memorization(config: Config, team: Team | None = None) -> CallResult | Plan:
    """Runs the trainings and leaves index.html, tables/ and figures/ in work/memorization/<run> and in the report's
    folder, and as artifacts of the experiment's run.

    A training that fails is recorded with its reason and the others go on; the status is then FAILED. Raises UserError
    where more patients are asked for than there are, before anything is trained, and where every training failed.
    """
    if config.benchmark.dry_run:
        plan = dry_run(config, jobs(config), at_once(config))
        if not config.common.json_:
            print(plan)
        return plan
    started = time.monotonic()
    session = Session.begin(config.common.work_dir, team)
    precision.keep(config, partial(machine_decides, config, session.store))
    planned = jobs(config)
    tags = {"stage": "memorization", "cohort": config.prepare.cohort, "commit": tracking.commit()}
    with (
        executor(config, session.store) as workers,
        session.open_run("memorization", tags, config.memorization.model_dump(mode="json")) as tracked,
    ):
        nested = session.within(tracked)
        prepared = pull("prepare", config, nested).path
        test_patients = _refuse_too_many(config, SliceSet.open(prepared))
        results: dict[str, Outcome] = {**done(planned, session.store)}
        left = [job for job in planned if job.fingerprint not in results]
        folder = config.common.work_dir / "memorization" / tracked.run_id
        folder.mkdir(parents=True, exist_ok=True)
        run_jobs(planned, left, results, workers, nested, tracked, folder)
        ended = [(job, results[job.fingerprint]) for job in planned]
        headline = _conclude(config, ended, test_patients, prepared, folder)
        failed = sum(isinstance(outcome, Failure) for _, outcome in ended)
        tracked.log_artifact(folder, "memorization")
        tracked.log_summary({**headline, "failed_jobs": failed, "memorization_seconds": time.monotonic() - started})
    out = config.report.out / "memorization"
    shutil.copytree(folder, out, dirs_exist_ok=True)
    print(f"memorization: {out / 'index.html'}", file=sys.stderr)
    return CallResult("memorization", tracked.run_id, folder, not left, headline, "FAILED" if failed else "FINISHED")


def jobs(config: Config) -> list[Job]:
    """Every stage run behind the experiment, once each, parents first; a repeat comes whole before the next."""
    keys, planner = config.memorization, Planner(several_cohorts=False)
    for repeat in range(keys.repeats):
        for subjects in keys.subjects:
            for model in keys.model:
                chosen = {
                    "train_generator.model": model,
                    "train_generator.subjects": subjects,
                    "train_generator.seed": config.train_generator.seed + repeat,
                    "train_generator.stop_when_copied": False,  # what it changes is told from the whole training
                }
                planner.add("snapshots", config.replace(chosen), "snapshots")
    return list(planner.jobs.values())


def _refuse_too_many(config: Config, slices: SliceSet) -> int:
    """The number of test patients."""
    patients = {split: slices.index["patient"][slices.rows(split)].nunique() for split in ("train", "test")}
    if (most := max(config.memorization.subjects)) > patients["train"]:
        raise UserError(
            f"memorization.subjects: {most} patients were asked for, but {slices.meta['cohort']} has "
            f"{patients['train']} for training; give fewer, or a larger cohort"
        )
    return patients["test"]


def _conclude(
    config: Config, ended: list[tuple[Job, Outcome]], test_patients: int, prepared: Path, folder: Path
) -> dict[str, Any]:
    """Writes the page, its tables and figures; returns the numbers for people, by model and patients."""
    snapshots = _snapshots(ended)
    found = onset.onsets(snapshots, config.train_generator.snapshots, test_patients)
    slopes = {model: onset.slope(group) for model, group in found.groupby("model")}
    stopped = onset.stopping(snapshots)
    tables = [onset_tables.onset_table(snapshots, found), onset_tables.stopping_table(stopped)]
    words = onset_tables.in_words(snapshots, found, slopes, stopped, test_patients)
    drawn = {
        "memorization_measures": (
            "What test patients tell of every snapshot, against images seen.",
            onset_figures.measures_while_training(snapshots, test_patients),
        ),
        "memorization_onset": (
            "Images seen until the copied share leaves its null, against training patients.",
            onset_figures.onset_against_patients(found, slopes),
        ),
    }
    for name in ("tables", "figures"):
        (folder / name).mkdir(exist_ok=True)
    for table in tables:
        write_table(folder, table.name, table)
    csv_frame(snapshots).to_csv(folder / "tables" / "memorization_snapshots.csv", index=False)
    pictures = []
    for name, (caption, figure) in drawn.items():
        shown, content = picture(figure, name, "memorization", caption)
        (folder / "figures" / shown.name).write_bytes(content)
        pictures.append(shown)
    keys = config.train_generator
    page = template("memorization.html.j2").render(
        title="When does a generator begin to copy?",
        cohort=cohort_facts(prepared),
        words=words,
        pictures=pictures,
        tables=tables,
        missing=[(job.title, outcome.reason) for job, outcome in ended if isinstance(outcome, Failure)],
        budget=f"{keys.images:,} images seen a training, {keys.snapshots} snapshots, each of {keys.snapshot_samples:,}",
        commit=tracking.commit(),
        not_proof=NOT_PROOF,
    )
    (folder / "index.html").write_text(page, encoding="utf-8")
    (folder / "words.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return {"words": words, **_numbers(snapshots, found, slopes)}


def _snapshots(ended: list[tuple[Job, Outcome]]) -> pd.DataFrame:
    """All trainings' snapshots under each other, with model, subjects and seed."""
    parts = []
    for job, outcome in ended:
        if job.stage == "snapshots" and isinstance(outcome, StageResult):
            keys = job.config.train_generator
            parts.append(
                pd.read_csv(outcome.path / FILE).assign(model=keys.model, subjects=keys.subjects, seed=keys.seed)
            )
    if not parts:
        reasons = sorted({outcome.reason for _, outcome in ended if isinstance(outcome, Failure)})
        raise UserError("no training of the experiment ended:\n" + "\n".join(f"  {reason}" for reason in reasons))
    return pd.concat(parts, ignore_index=True)


def _numbers(snapshots: pd.DataFrame, onsets: pd.DataFrame, slopes: dict[str, onset.Slope]) -> dict[str, Any]:
    last = snapshots.loc[snapshots.groupby(onset.TRAINING)["seen"].idxmax()].groupby(["model", "subjects"])
    copied = last["test_copied_share"].mean()
    found: dict[str, Any] = {}
    for model, slope in slopes.items():
        half = {n: onset.half_by(group) for n, group in onsets[onsets["model"] == model].groupby("subjects")}
        fitted = {name: getattr(slope, name) for name in ("value", "low", "high")}
        found[model] = {
            "slope": {name: value for name, value in fitted.items() if value is not None},
            "copied_share": {
                str(n): float(copied[model, n]) for n in copied[model].index if pd.notna(copied[model, n])
            },
            "copies_from_images": {str(n): images for n, (images, when) in half.items() if when == "at"},
        }
    return found
