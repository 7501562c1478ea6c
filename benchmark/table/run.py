"""A call for one stage, or for the table: runs its jobs, keeps the books, then analyzes and reports."""

import csv
import logging
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TextIO

import torch

from analysis.text import csv_cell, visible, visible_lines
from benchmark.config import Config
from benchmark.errors import UserError
from benchmark.progress import say
from benchmark.stages import (
    MANIFEST,
    READ_FILES,
    CallResult,
    Failure,
    Outcome,
    StageResult,
    fingerprint,
    folder_of,
    pull,
    trained,
)
from benchmark.table.cells import Job, cohorts, done, jobs
from benchmark.table.executors import Executor, at_once, executor, machine_decides
from benchmark.table.overview import build_overview
from benchmark.table.plan import Durations, Plan, Work, dry_run, in_words, measured, never_measured
from benchmark.table.probe import expected
from benchmark.table.shown import Table, note, show_cells
from benchmark.tracking import runs as tracking
from benchmark.tracking.delivery import deliver_abandoned
from benchmark.tracking.runs import StageRun
from benchmark.tracking.session import Session
from benchmark.training import precision
from benchmark.training.devices import pick_device, warn_where_busy
from benchmark.training.processes import Team

log = logging.getLogger(__name__)

TABLE_STAGES = ("analyze", "report", "benchmark")
COLUMNS = ("job", "stage", "status", "reused", "seconds", "reason", "run_id", "path")


def call(stage: str, config: Config, team: Team | None = None) -> CallResult | Plan:
    """What the command line asks for: one stage with all that it needs, or the table."""
    if stage in TABLE_STAGES:
        if not config.benchmark.dry_run:
            return run_table(stage, config, team)
        plan = dry_run(config, jobs(config), at_once(config))
        if not config.common.json_:
            print(plan)
        return plan
    digest = fingerprint(stage, config)  # refuses what is wrong before anything is made, the store included
    session = Session.begin(config.common.work_dir, team)
    if stage not in READ_FILES:
        precision.keep(config)
        if not (folder_of(stage, config, digest) / MANIFEST).is_file():
            warn_where_busy(pick_device(config.common.device))
            precision.warn_of_mismatch(config, trained(stage, config))
    result = pull(stage, config, session)
    if result.reused:
        session.adopt_reused(stage, result.run_id)
    made = result.headline.get("zip", result.path)  # a package is what leaves; any other stage's folder is its result
    print(f"{stage}: {'reused' if result.reused else 'done'} → {made}", file=sys.stderr)
    return CallResult.of(result)


def run_table(stage: str, config: Config, team: Team | None = None) -> CallResult:
    """Runs what the table needs, then analyze and, unless only that was asked for, report, once for each cohort.

    A job that fails is recorded with its reason and the others go on; the result's status is then FAILED. Which jobs
    have ended, and how, stands in work_dir/benchmark/RUN_ID/jobs.csv at any time. Raises UserError where no cohort has
    anything to report.
    """
    started = time.monotonic()
    assumed = precision.decision(config)
    planned, by_cohort = jobs(config), cohorts(config)
    session = Session.begin(config.common.work_dir, team)
    decided = precision.keep(config, partial(machine_decides, config, session.store))
    if decided != assumed:  # by another machine than this, just now
        planned = jobs(config)
    _deliver_abandoned(session)
    results: dict[str, Outcome] = {**done(planned, session.store)}
    left = [job for job in planned if job.fingerprint not in results]
    working = config if left else config.replace({"benchmark.executor": "serial"})  # no cluster for nothing
    tags = {"stage": stage, "cohort": ", ".join(by_cohort), "commit": tracking.commit()}
    with (
        executor(working, session.store) as workers,
        session.open_run(stage, tags, config.analyze.model_dump(mode="json")) as tracked,
    ):
        nested = session.within(tracked)
        folder = config.common.work_dir / "benchmark" / tracked.run_id
        folder.mkdir(parents=True, exist_ok=True)
        run_jobs(planned, left, results, workers, nested, tracked, folder)
        ended = {
            name: {job.name: results[job.fingerprint] for job in planned if job.cohort == name} for name in by_cohort
        }
        concluded, reasons = _conclude(stage, by_cohort, ended, nested)
        tables = {name: _shown(name, planned, results, outcomes["analyze"]) for name, outcomes in concluded.items()}
        for table in tables.values():
            show_cells(table, nested)
        result = _result(stage, len(by_cohort), concluded, folder, tracked)
        if stage != "analyze":
            if len(by_cohort) > 1:
                build_overview(result.path, config.report.title, concluded, reasons)
            tracked.log_artifact(result.path, "report")
            _copy_report(result.path, config.report.out)
        failed = sum(isinstance(results[job.fingerprint], Failure) for job in planned)
        tracked.log_summary({**result.headline, "table_seconds": time.monotonic() - started})
        about = note(tables, reasons, failed, config.report.out.resolve())
        tracked.set_tags({"failed_jobs": failed, "mlflow.note.content": about})
    status = "FAILED" if failed or reasons else "FINISHED"
    return replace(result, reused=result.reused and not left, status=status)


def _shown(cohort: str, planned: list[Job], results: Mapping[str, Outcome], analyzed: StageResult) -> Table:
    return Table([job for job in planned if job.cohort == cohort], results, analyzed)


def _deliver_abandoned(session: Session) -> None:
    """What killed calls left: a table's own run, too, to which no stage's folder leads. What stays belongs to runs that
    live, or waits for `sync`, which says why."""
    for run, artifacts in deliver_abandoned(session.store)["lost"].items():
        log.warning("%s: artifacts are missing, so its stage will run again: %s", run, "; ".join(artifacts))


def run_jobs(
    planned: list[Job],
    left: list[Job],
    results: dict[str, Outcome],
    workers: Executor,
    session: Session,
    tracked: StageRun,
    folder: Path,
) -> None:
    """Runs what is left of the planned jobs, and adds the outcomes to `results`; jobs.csv in `folder` tells of all."""
    durations = measured({Work.of(job).kind for job in left}, session.store.work_dir, session.store)
    if workers.here:
        _look_ahead(left, durations, workers.threads)
    with (folder / "jobs.csv").open("w", newline="", buffering=1) as file:
        board = Board(file, tracked, durations, workers, len(planned), {job.fingerprint: job for job in left})
        for job in planned:
            if job.fingerprint in results:
                board.write(job, results[job.fingerprint])
        print(f"{len(planned)} stage runs, {len(results)} of them done before; {file.name}", file=sys.stderr)
        with closing(workers.run(left, results, session)) as ending:
            for job, outcome in ending:
                board.end(job, outcome)
    tracked.log_artifact(folder / "jobs.csv")


def _look_ahead(left: list[Job], durations: Durations, threads: int) -> None:
    """Has the machine try, on so many threads, a few steps of the models that it has not trained or sampled before."""
    own = torch.get_num_threads()
    torch.set_num_threads(threads)
    for job in {Work.of(job): job for job in left}.values():
        try:
            if durations.seconds(Work.of(job)) is None and (seconds := expected(job)) is not None:
                durations.expect(Work.of(job), seconds)
        except (UserError, ValueError, RuntimeError) as error:  # no such model, or no memory: for the job to tell
            log.warning("%s: how long it takes cannot be told before: %s", job.title, error)
    torch.set_num_threads(own)


def _conclude(
    stage: str, by_cohort: Mapping[str, Config], ended: Mapping[str, Mapping[str, Outcome]], session: Session
) -> tuple[dict[str, dict[str, Outcome]], dict[str, str]]:
    """Each cohort's outcomes with its analysis and, unless only that was asked for, its report; and the reasons of
    those cohorts that have nothing to analyze. Raises UserError where that is all of them."""
    concluded, reasons = {}, {}
    for name, config in by_cohort.items():
        outcomes = dict(ended[name])
        evaluated = {cell: outcome for cell, outcome in outcomes.items() if outcome.stage == "evaluate"}
        try:
            outcomes["analyze"] = pull("analyze", config, session, inputs=evaluated)
        except UserError as error:
            reasons[name] = str(error)
            continue
        if stage != "analyze":
            outcomes["report"] = pull("report", config, session, inputs=outcomes)
        concluded[name] = outcomes
    if not concluded:
        raise UserError("\n".join(reasons.values()))
    return concluded, reasons


def _result(
    stage: str, cohorts: int, concluded: Mapping[str, Mapping[str, Outcome]], folder: Path, tracked: StageRun
) -> CallResult:
    """What the only cohort's last stage came to, or those of several; `benchmark` answers with its own run."""
    last = {name: outcomes["analyze" if stage == "analyze" else "report"] for name, outcomes in concluded.items()}
    if cohorts == 1:
        (only,) = last.values()
        run_id = tracked.run_id if stage == "benchmark" else only.run_id
        return CallResult(stage, run_id, only.path, only.reused, only.headline)
    headlines = {name: result.headline for name, result in last.items()}
    reused = all(result.reused for result in last.values())
    return CallResult(stage, tracked.run_id, folder / "report", reused, headlines)


@dataclass
class Board:
    """Where the whole table stands: a line on the screen and in jobs.csv for each job, counts in MLflow."""

    file: TextIO
    tracked: StageRun
    durations: Durations
    workers: Executor
    total: int
    left: dict[str, Job]  # by fingerprint, parents first
    failed: int = 0
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._rows = csv.DictWriter(self.file, COLUMNS)
        self._rows.writeheader()

    def write(self, job: Job, outcome: Outcome) -> None:
        facts = {"job": job.title, "stage": job.stage, "path": str(outcome.path)}
        if isinstance(outcome, Failure):
            facts |= {"status": "FAILED", "reused": False, "reason": outcome.reason}
        else:
            facts |= {"status": "FINISHED", "reused": outcome.reused, "run_id": outcome.run_id}
            facts["seconds"] = outcome.headline["stage_seconds"]
        self._rows.writerow({column: csv_cell(facts.get(column)) for column in COLUMNS})

    def end(self, job: Job, outcome: Outcome) -> None:
        """A job has ended just now."""
        self.write(job, outcome)
        del self.left[job.fingerprint]
        if isinstance(outcome, Failure):
            self.failed += 1
            told = visible_lines(f"FAILED: {outcome.reason}")
            print(outcome.traceback, end="", file=sys.stderr)
        else:
            self.durations.add(Work.of(job).kind, outcome.headline)
            told = "reused" if outcome.reused else f"done in {in_words(outcome.headline['stage_seconds'])}"
        ended = self.total - len(self.left)
        so_far = in_words(time.monotonic() - self.started)
        say(
            f"[{ended}/{self.total}] {visible(job.title)}: {told} | {so_far} so far, {self._ahead()}",
            shared=self.workers.width > 1,
        )
        self.tracked.log_metrics({"jobs_ended": ended, "jobs_failed": self.failed}, ended)

    def _ahead(self) -> str:
        if not self.left:
            return "nothing left"
        now = time.monotonic()
        running = {digest: now - since for digest, since in self.workers.running.items()}
        seconds, unknown = self.durations.ahead(self.left.values(), self.workers.width, running)
        if unknown == len(self.left):
            return "time left unknown"
        return f"about {in_words(max(1, seconds))} left{never_measured(unknown)}"


def _copy_report(report: Path, out: Path) -> None:
    """Replaces what stands in `out` by this report; the stage's own folder stays as its run recorded it."""
    for folder in (report, *report.iterdir()):  # several cohorts have a folder each
        for name in ("tables", "figures", "cards"):
            shutil.rmtree(out / folder.relative_to(report) / name, ignore_errors=True)
    shutil.copytree(report, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
    print(f"report: {out / 'index.html'}", file=sys.stderr)
