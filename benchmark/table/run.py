"""A call for one stage, or for the table: runs its jobs, keeps the books, then analyzes and reports."""

import csv
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from analysis.text import csv_cell, visible, visible_lines
from benchmark.config import Config
from benchmark.errors import UserError
from benchmark.stages import MANIFEST, CallResult, Failure, Outcome, fingerprint, pull
from benchmark.table.cells import Job, cohorts, done, jobs
from benchmark.table.executors import EXECUTORS
from benchmark.table.overview import build_overview
from benchmark.table.plan import Durations, Plan, Work, dry_run, in_words, measured
from benchmark.tracking import runs as tracking
from benchmark.tracking.runs import StageRun
from benchmark.tracking.store import connect
from benchmark.training.processes import Team

TABLE_STAGES = ("analyze", "report", "benchmark")
COLUMNS = ("job", "stage", "status", "reused", "seconds", "reason", "run_id", "path")


def call(stage: str, config: Config, team: Team | None = None) -> CallResult | Plan:
    """What the command line asks for: one stage with all that it needs, or the table."""
    if stage in TABLE_STAGES:
        if not config.benchmark.dry_run:
            return run_table(stage, config, team)
        plan = dry_run(config)
        if not config.common.json_:
            print(plan)
        return plan
    fingerprint(stage, config)  # refuses what is wrong before anything is made, the store included
    connect(config.common.work_dir)
    result = pull(stage, config, team=team)
    if result.reused:
        tracking.adopt_reused(stage, result.run_id)
    print(f"{stage}: {'reused' if result.reused else 'done'} → {result.path}", file=sys.stderr)
    return CallResult.of(result)


def run_table(stage: str, config: Config, team: Team | None = None) -> CallResult:
    """Runs what the table needs, then analyze and, unless only that was asked for, report, once for each cohort.

    A job that fails is recorded with its reason and the others go on; the result's status is then FAILED. Which jobs
    have ended, and how, stands in work_dir/benchmark/RUN_ID/jobs.csv at any time. Raises UserError where no cohort has
    anything to report.
    """
    started = time.monotonic()
    planned, by_cohort = jobs(config), cohorts(config)
    connect(config.common.work_dir)
    results = done(planned)
    left = [job for job in planned if job.fingerprint not in results]
    executor_class = EXECUTORS[config.benchmark.executor if left else "serial"]
    tags = {"stage": stage, "cohort": ", ".join(by_cohort), "commit": tracking.commit()}
    with (
        executor_class(config.benchmark, team) as executor,
        tracking.open_run(stage, tags, config.analyze.model_dump(mode="json")) as tracked,
    ):
        folder = config.common.work_dir / "benchmark" / tracked.run_id
        folder.mkdir(parents=True, exist_ok=True)
        durations = measured({Work.of(job).kind for job in left}, config.common.work_dir)
        with (folder / "jobs.csv").open("w", newline="", buffering=1) as file:
            board = Board(file, tracked, durations, executor.width, len(planned), Counter(map(Work.of, left)))
            for job in planned:
                if job.fingerprint in results:
                    board.write(job, results[job.fingerprint])
            print(f"{len(planned)} stage runs, {len(results)} of them done before; {file.name}", file=sys.stderr)
            with closing(executor.run(left, results, tracked.run_id)) as ending:
                for job, result in ending:
                    board.end(job, result)
        tracked.log_artifact(folder / "jobs.csv")

        of_cohorts = {
            name: {job.name: results[job.fingerprint] for job in planned if job.cohort == name} for name in by_cohort
        }
        concluded, reasons = _conclude(stage, by_cohort, of_cohorts)
        last = {name: list(ended.values())[-1] for name, ended in concluded.items()}
        if len(by_cohort) == 1:
            (only,) = last.values()
            path, headline, run_id = only.path, only.headline, only.run_id
        else:
            path, headline, run_id = folder / "report", {n: r.headline for n, r in last.items()}, tracked.run_id
            if stage != "analyze":
                build_overview(path, config.report.title, concluded, reasons)
        if stage != "analyze":
            tracked.log_artifact(path, "report")
            _copy_report(path, config.report.out)
        tracked.log_summary({**headline, "table_seconds": time.monotonic() - started})
        failed = [job.title for job in planned if isinstance(results[job.fingerprint], Failure)]
        tracked.set_tags({"failed_jobs": len(failed)})
    reused = not left and all(result.reused for result in last.values())
    status = "FAILED" if failed or reasons else "FINISHED"
    run_id = tracked.run_id if stage == "benchmark" else run_id
    return CallResult(stage, run_id, path, reused, headline, status)


def _conclude(
    stage: str, by_cohort: Mapping[str, Config], of_cohorts: Mapping[str, Mapping[str, Outcome]]
) -> tuple[dict[str, dict[str, Outcome]], dict[str, str]]:
    """Each cohort's results with its analysis and, unless only that was asked for, its report last; and the reasons of
    those cohorts that have nothing to analyze. Raises UserError where that is all of them."""
    concluded, reasons = {}, {}
    for name, config in by_cohort.items():
        ended = of_cohorts[name]
        evaluated = {cell: result for cell, result in ended.items() if result.stage == "evaluate"}
        try:
            ended = {**ended, "analyze": pull("analyze", config, evaluated)}
        except UserError as error:
            reasons[name] = str(error)
            continue
        concluded[name] = ended if stage == "analyze" else {**ended, "report": pull("report", config, ended)}
    if not concluded:
        raise UserError("\n".join(reasons.values()))
    return concluded, reasons


@dataclass
class Board:
    """Where the whole table stands: a line on the screen and in jobs.csv for each job, counts in MLflow."""

    file: TextIO
    tracked: StageRun
    durations: Durations
    width: int  # jobs at once
    total: int
    left: Counter[Work]
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
        work = Work.of(job)
        self.left[work] -= 1
        if isinstance(outcome, Failure):
            self.failed += 1
            told = visible_lines(f"FAILED: {outcome.reason}")
            print(outcome.traceback, end="", file=sys.stderr)
        else:
            self.durations.add(work.kind, outcome.headline)
            told = "reused" if outcome.reused else f"done in {in_words(outcome.headline['stage_seconds'])}"
        ended = self.total - self.left.total()
        so_far = in_words(time.monotonic() - self.started)
        print(
            f"[{ended}/{self.total}] {visible(job.title)}: {told} | {so_far} so far, {self._ahead()}",
            file=sys.stderr,
        )
        self.tracked.log_metrics({"jobs_ended": ended, "jobs_failed": self.failed}, ended)

    def _ahead(self) -> str:
        if not self.left.total():
            return "nothing left"
        seconds, unknown = self.durations.total(+self.left)
        if unknown == self.left.total():
            return "time left unknown"
        return f"{'at least' if unknown else 'about'} {in_words(max(1, seconds / self.width))} left"


def _copy_report(report: Path, out: Path) -> None:
    """Replaces what stands in `out` by this report; the stage's own folder stays as its run recorded it."""
    for folder in (report, *report.iterdir()):  # several cohorts have a folder each
        for name in ("tables", "figures"):
            shutil.rmtree(out / folder.relative_to(report) / name, ignore_errors=True)
    shutil.copytree(report, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
    print(f"report: {out / 'index.html'}", file=sys.stderr)
