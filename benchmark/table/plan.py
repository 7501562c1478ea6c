"""How long the table's jobs take, from what was measured, and the dry run that says so."""

import json
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from heapq import heappop, heappush
from pathlib import Path
from statistics import median
from textwrap import wrap
from typing import Any, NamedTuple

from benchmark.config import Config
from benchmark.stages import MANIFEST, TRAININGS, tags_of
from benchmark.table.cells import Job, done
from benchmark.tracking.store import Store, existing_store

BY_MODEL = (*TRAININGS, "sample", "evaluate")  # the others take as long whatever the model
KEPT = 10  # newest measurements of a kind: what this machine does now soon outweighs what another one did
COLUMN = 54  # of names in the printed tables, of 80 [characters]


class Kind(NamedTuple):
    """Stage runs of one speed."""

    stage: str
    model: str
    image_size: str

    @classmethod
    def of(cls, stage: str, tags: Mapping[str, Any]) -> "Kind":
        return cls(stage, tags.get("model", "") if stage in BY_MODEL else "", str(tags.get("image_size", "")))


class Work(NamedTuple):
    """Stage runs that take as long as each other."""

    kind: Kind
    images: int  # training budget; 0 for what is not a training

    @classmethod
    def of(cls, job: Job) -> "Work":
        images = getattr(job.config, job.stage).images if job.stage in TRAININGS else 0
        return cls(Kind.of(job.stage, tags_of(job.stage, job.config)), images)

    def __str__(self) -> str:
        budget = f", {self.images:,} images" if self.images else ""
        return f"{self.kind.stage} {self.kind.model}".strip() + budget


class Durations:
    """What stage runs took: medians for each kind, per image for trainings, per run for the rest. Where none of a kind
    was measured, what is expected of it."""

    def __init__(self) -> None:
        self._measured: dict[Kind, deque[float]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._expected: dict[Work, float] = {}

    def add(self, kind: Kind, headline: Mapping[str, Any]) -> None:
        """One finished run, from its headline numbers."""
        if kind.stage not in TRAININGS:
            self._measured[kind].append(headline["stage_seconds"])
        elif headline["images"]:  # snapshots take time, too; of a training that was resumed, the last call did a part
            whole = max(headline["seconds"], headline["stage_seconds"])
            self._measured[kind].append(whole / headline["images"])

    def expect(self, work: Work, seconds: float) -> None:
        """Has one such run counted with these seconds until one of its kind is measured."""
        self._expected[work] = seconds

    def seconds(self, work: Work) -> float | None:
        """Of one such run; None where nothing is known of its kind."""
        if not (measured := self._measured.get(work.kind)):
            return self._expected.get(work)
        return median(measured) * (work.images or 1)

    def total(self, left: Mapping[Work, int]) -> tuple[float, int]:
        """Seconds of those runs one after another that can be told, and how many cannot."""
        each = {work: self.seconds(work) for work in left}
        known = sum(seconds * left[work] for work, seconds in each.items() if seconds is not None)
        return known, sum(left[work] for work, seconds in each.items() if seconds is None)

    def ahead(self, left: Collection[Job], width: int, running: Mapping[str, float]) -> tuple[float, int]:
        """Seconds until these jobs, in the order of the plan, have all ended where `width` run at once, each as soon as
        those that it needs have ended; and how many of them nothing is known of: they count as if they took no time.
        running: for how long those have run that do, by fingerprint."""
        if width == 1:
            return self.total(Counter(map(Work.of, left)))
        known = {job.fingerprint: self.seconds(Work.of(job)) for job in left}
        takes = {digest: max((seconds or 0) - running.get(digest, 0), 0) for digest, seconds in known.items()}
        order = {digest: (digest not in running, place) for place, digest in enumerate(known)}
        graph = TopologicalSorter({job.fingerprint: known.keys() & set(job.parents.values()) for job in left})
        graph.prepare()
        clock, ready, ends = 0.0, [], []
        while graph.is_active():
            ready = sorted([*ready, *graph.get_ready()], key=order.__getitem__)
            while ready and len(ends) < width:
                digest = ready.pop(0)
                heappush(ends, (clock + takes[digest], digest))
            clock, ended = heappop(ends)
            graph.done(ended)
        return clock, sum(seconds is None for seconds in known.values())


def measured(kinds: Iterable[Kind], work_dir: Path, store: Store | None) -> Durations:
    """From finished runs in the tracking store, if there is one, and from manifests in `work_dir`."""
    durations = Durations()
    for kind in set(kinds):
        tags = {key: value for key, value in kind._asdict().items() if value}
        runs = store.finished_runs(tags, KEPT) if store else {}
        for path in work_dir.glob(f"{kind.stage}/*/{MANIFEST}"):
            manifest = json.loads(path.read_text())
            if manifest["run_id"] not in runs and Kind.of(kind.stage, manifest["tags"]) == kind:
                durations.add(kind, manifest["headline"])
        for metrics in reversed(runs.values()):  # the newest last
            durations.add(kind, metrics)
    return durations


def never_measured(runs: int) -> str:
    """What follows a time in which so many runs do not count."""
    if not runs:
        return ""
    return f", and {runs} run{'s' * (runs > 1)} the like of which {'were' if runs > 1 else 'was'} never measured"


def in_words(seconds: float) -> str:
    """'42 s', '12 min', '3.4 h'."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 1 else "< 1 s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class Plan:
    """The table before it runs."""

    planned: list[Job]
    done: frozenset[str]  # fingerprints
    durations: Durations
    at_once: int  # jobs
    status: str = "FINISHED"

    @property
    def left(self) -> list[Job]:
        return [job for job in self.planned if job.fingerprint not in self.done]

    @property
    def cells(self) -> list[Job]:
        return [job for job in self.planned if job.stage in ("evaluate", "snapshots")]

    def summary(self) -> dict[str, Any]:
        """What `--json` prints; seconds until all have ended are null where a run's time is unknown."""
        seconds, unknown = self.durations.ahead(self.left, self.at_once, {})
        runs = {"done": len(self.done), "left": len(self.left), "unmeasured": unknown}
        return {"cells": len(self.cells), "runs": runs, "seconds": None if unknown else round(seconds, 1)}

    def __str__(self) -> str:
        """Cells that differ in their seed alone share a line, as do stage runs that take as long as each other."""
        cells, runs = defaultdict(list), defaultdict(list)
        for job in self.cells:
            cells[job.topic].append(job)
        for job in self.planned:
            runs[Work.of(job)].append(job)
        lines = [_row("cells, all seeds together", "done", "left")]
        for name, group in cells.items():
            lines += [_row(name, *self._counts(group))]
        lines += ["", _row("stage runs", "done", "left", "time")]
        for work, group in runs.items():
            ended, left = self._counts(group)
            each = self.durations.seconds(work)
            time = "unknown" if each is None else in_words(left * each)
            lines += [_row(str(work), ended, left, time if left else "")]
        return "\n".join([*lines, "", *wrap(self._conclusion(), 80)])

    def _counts(self, group: list[Job]) -> tuple[int, int]:
        ended = sum(job.fingerprint in self.done for job in group)
        return ended, len(group) - ended

    def _conclusion(self) -> str:
        counts = (
            f"{len(self.cells)} cells, {len(self.planned)} stage runs: {len(self.done)} done, {len(self.left)} left"
        )
        seconds, unknown = self.durations.ahead(self.left, self.at_once, {})
        if not self.left:
            return f"{counts}."
        together = "one after another" if self.at_once == 1 else f"up to {self.at_once} at once"
        time = f"{in_words(seconds)}, {together}" if unknown < len(self.left) else "unknown"
        more = never_measured(unknown) if unknown < len(self.left) else ""
        return (
            f"{counts}. Time of what is left: {time}{more}. A time is the median of finished runs of the same stage, "
            "model and slice size, a training's per image of its budget, whatever else was set."
        )


def _row(name: str, *columns: Any) -> str:
    first, *more = wrap(name, COLUMN)
    numbers = "".join(f"{column:>{width}}" for column, width in zip(columns, (7, 7, 10), strict=False))
    return "\n  ".join([f"{first:<{COLUMN}}{numbers}".rstrip(), *more])


def dry_run(config: Config, planned: list[Job], at_once: int) -> Plan:
    """What a call for the table, with these jobs, so many at once, would do. Runs nothing, and writes nothing."""
    store = existing_store(config.common.work_dir)
    ended = frozenset(done(planned, store)) if store else frozenset()
    kinds = [Work.of(job).kind for job in planned if job.fingerprint not in ended]
    return Plan(planned, ended, measured(kinds, config.common.work_dir, store), at_once)
