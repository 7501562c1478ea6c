"""The table's jobs: every stage run behind it, once each, parents first."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from benchmark.config import PHANTOM, Config
from benchmark.data.synthetic import generator_of, name_of, whole_of
from benchmark.errors import UserError
from benchmark.stages import READ_FILES, StageResult, fingerprint, finished, folder_of, needs, run_name, seed_of, topic
from benchmark.tracking.store import Store

MOST_CELLS = 100_000
RESERVED = ("real", "none")  # what the tables call the cohort's own slices, and no synthetic set


@dataclass(frozen=True)
class Job:
    """One stage run that the table needs."""

    name: str  # its own among its cohort's
    title: str  # its own among the table's
    topic: str  # what it is about, whatever its seed
    stage: str
    config: Config
    fingerprint: str
    parents: Mapping[str, str]  # their fingerprints, by what the stage calls them

    @property
    def folder(self) -> Path:
        return folder_of(self.stage, self.config, self.fingerprint)

    @property
    def cohort(self) -> str:
        return self.config.prepare.cohort


def cohorts(config: Config) -> dict[str, Config]:
    """The table's cohorts by name, each with the configuration of its cells.

    Raises UserError where two share a name, and where there are split files, but not one for each.
    """
    data = config.analyze.data or (config.prepare.data,)
    splits = [path.expanduser() for path in config.analyze.split] or [config.prepare.split] * len(data)
    if len(splits) != len(data):
        raise UserError(f"split: {len(splits)} files for {len(data)} cohorts; give one for each, in the order of data")
    each = [
        config.replace({"prepare.data": folder, "prepare.split": split})
        for folder, split in zip(data, splits, strict=True)
    ]
    names = [one.prepare.cohort for one in each]
    _refuse_twins("cohorts", names)
    _refuse_missing("data", [folder for folder in data if folder != PHANTOM])
    return dict(zip(names, each, strict=True))


def _refuse_twins(what: str, names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"two {what} are called '{twice[0]}' in the tables: name each once, or rename a folder")


def _refuse_missing(key: str, paths: Sequence[str]) -> None:
    """Of a list, for which a comma inside a path is the likeliest reason; of one path whoever reads it says so."""
    missing = [path for path in paths if not os.path.exists(os.path.expanduser(path))]
    if missing and len(paths) > 1:
        raise UserError(
            f"{key}: '{missing[0]}' does not exist. Commas separate, so {len(paths)} paths were read; one that holds a "
            "comma is taken whole where it is there"
        )


def _refuse_too_many(config: Config, cells: int) -> None:
    planned = cells * config.sample.ensemble  # each cell's chain is followed through all of them
    if planned > MOST_CELLS:
        raise UserError(
            f"the table has {cells:,} cells, with ensembles of {config.sample.ensemble}: more than {MOST_CELLS:,} are "
            "not planned; give fewer models, shares, repeats or cohorts"
        )


def jobs(config: Config) -> list[Job]:
    """Every stage run behind the table, once each, parents first.

    A cell is (cohort, synthetic set, arm, segmenter, augmentation, seed, shares of the data), and each has one
    evaluation; real-only cells have no synthetic set. The real arm is always there: it is every other arm's reference.
    For each cohort and repeat, each synthetic set is audited and attacked, and its fidelity measured. Shares below 1 of
    what an arm does not use give no cells of their own. A repeat comes whole before the next: a table that is stopped
    has some.

    Raises UserError where two cohorts or two sets would share a name in the tables, and as `cohorts` does.
    """
    sets = [*config.analyze.model, *config.analyze.synthetic]
    _refuse_twins("synthetic sets", [*(name_of(config, given) for given in sets), *RESERVED])
    folders = [given for given in config.analyze.synthetic if generator_of(config, given) is None]
    _refuse_missing("synthetic", [whole_of(given) or given for given in folders])
    by_cohort = cohorts(config)
    cells = _cells(config, sets, len(by_cohort))
    planner = Planner(several_cohorts=len(by_cohort) > 1)
    for of_cohort in by_cohort.values():
        for repeat in map(of_cohort.of_repeat, range(config.analyze.repeats)):
            for cell in cells:
                planner.add("evaluate", repeat.replace(cell), "evaluate")
            for stage in ("audit", "fidelity", "attack"):
                for given in sets:
                    planner.add(stage, repeat.replace({f"{stage}.synthetic": given}), stage)
    return list(planner.jobs.values())


def _cells(config: Config, sets: list[str], cohorts: int) -> list[dict[str, Any]]:
    """What is set for each cell of one cohort and repeat, by key; of two cells that come to the same, and of real-only
    cells and sent sets, which no generator's seed changes, `Planner` plans one."""
    table = config.analyze
    arms = [("real", None), *((arm, given) for given in sets for arm in table.train_on if arm != "real")]
    shares = sorted(product({1.0, *table.real_subjects}, {1.0, *table.synthetic_share}), reverse=True)
    axes = (arms, table.segmenter, table.augment, shares)
    _refuse_too_many(config, prod(map(len, axes)) * table.repeats * cohorts)
    return [
        {
            "train_segmenter.segmenter": segmenter,
            "train_segmenter.train_on": arm.removesuffix("_last"),
            "evaluate.snapshot": "last" if arm.endswith("_last") else "best",
            "train_segmenter.synthetic": given,
            "train_segmenter.augment": augment,
            "train_segmenter.real_subjects": 1.0 if arm in ("synthetic", "synthetic_last") else real_subjects,
            "train_segmenter.synthetic_share": 1.0 if arm == "real" else synthetic_share,
        }
        for (arm, given), segmenter, augment, (real_subjects, synthetic_share) in product(*axes)
    ]


class Planner:
    """Follows stages to their parents, and plans each run once."""

    def __init__(self, *, several_cohorts: bool) -> None:
        self.jobs: dict[str, Job] = {}  # by fingerprint, parents first
        self._several_cohorts = several_cohorts
        self._titles: set[str] = set()
        self._read: dict[tuple, Job] = {}  # of stages that read many files: once for this call, not for every cell

    def add(self, stage: str, config: Config, role: str) -> Job:
        """The stage's job, new or planned before; `role` is what it is to the one that needs it."""
        files = (stage, config.prepare, config.import_samples)
        if files in self._read:
            return self._read[files]
        parents = {name: self.add(*need, name) for name, need in needs(stage, config).items()}
        parent_fingerprints = {name: parent.fingerprint for name, parent in parents.items()}
        key = fingerprint(stage, config, parents)
        if key not in self.jobs:
            name, title, about = self._names(stage, config, role)
            self.jobs[key] = Job(name, title, about, stage, config, key, parent_fingerprints)
        if stage in READ_FILES:
            self._read[files] = self.jobs[key]
        return self.jobs[key]

    def _names(self, stage: str, config: Config, role: str) -> tuple[str, str, str]:
        """Name, title and topic of a job."""
        name, about = run_name(stage, config), topic(stage, config)
        if self._several_cohorts:
            about = f"{config.prepare.cohort} {about}".strip()
        title = " ".join(filter(None, (stage, about, seed_of(stage, config))))
        if title in self._titles:  # the extractor is a U-Net on real slices, as a cell's may be
            name, title = f"{name} as {role}", f"{title} as {role}"
        self._titles.add(title)
        return name, title, about


def done(planned: list[Job], store: Store) -> dict[str, StageResult]:
    """Results of the jobs that finished before and whose files are there, by fingerprint."""
    results = {job.fingerprint: finished(job.stage, job.fingerprint, job.folder, store) for job in planned}
    return {digest: result for digest, result in results.items() if result}
