"""The table: its cells, and a call for one stage or for all of them."""

import logging
import shutil
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pandas as pd

from benchmark import tracking
from benchmark.config import Config
from benchmark.errors import UserError
from benchmark.stages import MANIFEST, StageResult, fingerprint, needs, pull, run_name
from benchmark.stages.synthetic import name_of

TABLE_STAGES = ("analyze", "report", "benchmark")

log = logging.getLogger(__name__)


def call(stage: str, config: Config) -> StageResult:
    """What the command line asks for: one stage with all that it needs, or the table."""
    if stage in TABLE_STAGES:
        return run_table(stage, config)
    fingerprint(stage, config)  # refuses what is wrong before anything is made, the store included
    tracking.connect()
    result = pull(stage, config)
    if result.reused:
        tracking.adopt_reused(stage, result.run_id)
    print(f"{stage}: {'reused' if result.reused else 'done'} → {result.path}", file=sys.stderr)
    return result


@dataclass(frozen=True)
class Job:
    """One stage run that the table needs."""

    stage: str
    config: Config
    fingerprint: str

    @property
    def name(self) -> str:
        return run_name(self.stage, self.config)


def jobs(config: Config) -> list[Job]:
    """Every stage run behind the table, once each, parents first.

    A cell is (synthetic set, arm, segmenter, augmentation, seed, shares of the data); real-only cells have no synthetic
    set. The real arm is always there: it is every other arm's reference. Each synthetic set is audited, and its
    fidelity measured, once. Shares below 1 of what an arm does not use give no cells of their own.

    Raises UserError where two sets would share a name in the tables.
    """
    table = config.analyze
    sets = [*table.model, *table.synthetic]
    twice = [name for name, count in Counter(name_of(config, given) for given in sets).items() if count > 1]
    if twice:
        raise UserError(f"two synthetic sets are called '{twice[0]}' in the tables: name each once, or rename a folder")
    arms = [("real", None), *((arm, name) for name in sets for arm in table.train_on if arm != "real")]
    wanted = []
    amounts = list(product({1.0, *table.real_subjects}, {1.0, *table.synthetic_share}))
    spans = product(arms, table.segmenter, table.augment, range(table.repeats), sorted(amounts, reverse=True))
    for (arm, name), segmenter, augment, repeat, (real_subjects, synthetic_share) in spans:
        cell = {
            "train_segmenter.segmenter": segmenter,
            "train_segmenter.train_on": arm,
            "train_segmenter.synthetic": name,
            "train_segmenter.augment": augment,
            "train_segmenter.real_subjects": 1.0 if arm == "synthetic" else real_subjects,
            "train_segmenter.synthetic_share": 1.0 if arm == "real" else synthetic_share,
            "train_segmenter.seed": table.seed + repeat,
        }
        wanted.append(("evaluate", config.replace(cell)))
    for stage in ("audit", "fidelity"):
        wanted += [(stage, config.replace({f"{stage}.synthetic": name})) for name in sets]

    found: dict[str, Job] = {}

    def add(stage: str, config: Config) -> None:
        mark = fingerprint(stage, config)
        if mark not in found:
            for need in needs(stage, config).values():
                add(*need)
            found[mark] = Job(stage, config, mark)

    for stage, cell in wanted:
        add(stage, cell)
    return list(found.values())


def run_table(stage: str, config: Config) -> StageResult:
    """Runs what the table needs, then analyze and, unless only that was asked for, report.

    A job that fails is recorded with its reason and the others go on; the result's status is then FAILED.
    """
    started = time.monotonic()
    planned = jobs(config)
    tracking.connect()
    own = config.analyze
    tags = {"stage": stage, "cohort": config.prepare.data, "commit": tracking.commit()}
    with tracking.open_run(stage, tags, own.model_dump(mode="json")) as tracked:
        results: dict[str, StageResult] = {}
        for number, job in enumerate(planned, 1):
            begun = time.monotonic()
            results[job.fingerprint] = _attempt(job, results)
            outcome = results[job.fingerprint]
            word = "reused" if outcome.reused else "done" if outcome.status == "FINISHED" else "FAILED"
            seconds = time.monotonic() - begun
            print(f"[{number}/{len(planned)}] {job.name}: {word}, {seconds:.1f} s", file=sys.stderr)
        by_name = {job.name: results[job.fingerprint] for job in planned}
        table = pd.DataFrame({"job": name, **result.summary()} for name, result in by_name.items())
        cells = config.common.work_dir / "jobs.csv"
        table.to_csv(cells, index=False)
        tracked.log_artifact(cells)

        evaluated = {name: result for name, result in by_name.items() if result.stage == "evaluate"}
        last = pull("analyze", config, evaluated)
        if stage != "analyze":
            last = pull("report", config, {**by_name, "analyze": last})
            tracked.log_artifact(last.path, "report")
            _copy_report(last.path, config.report.out)
        tracked.log_summary({**last.headline, "table_seconds": time.monotonic() - started})
        failed = [name for name, result in by_name.items() if result.status != "FINISHED"]
        tracked.set_tags({"failed_jobs": len(failed)})
    status = "FAILED" if failed else last.status
    reused = last.reused and all(result.reused for result in by_name.values())
    run_id = tracked.run_id if stage == "benchmark" else last.run_id
    return StageResult(stage, run_id, last.fingerprint, last.path, reused, last.headline, {}, status)


def _copy_report(report: Path, out: Path) -> None:
    """Replaces what stands in `out` by this report; the stage's own folder stays as its run recorded it."""
    for name in ("tables", "figures"):
        shutil.rmtree(out / name, ignore_errors=True)
    shutil.copytree(report, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
    print(f"report: {out / 'index.html'}", file=sys.stderr)


def _attempt(job: Job, results: dict[str, StageResult]) -> StageResult:
    """The job's result; one with status FAILED and its reason where it, or a job before it, failed."""
    for stage, config in needs(job.stage, job.config).values():
        parent = results[fingerprint(stage, config)]
        if parent.status != "FINISHED":
            return _failed(job, parent.headline["reason"])
    try:
        return pull(job.stage, job.config)
    except UserError as error:
        reason = str(error)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    log.error("%s failed: %s", job.name, reason)
    return _failed(job, reason)


def _failed(job: Job, reason: str) -> StageResult:
    folder = job.config.common.work_dir / job.stage / job.fingerprint[:16]
    return StageResult(job.stage, "", f"failed: {reason}", folder, False, {"reason": reason}, {}, "FAILED")
