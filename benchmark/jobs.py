"""The table's jobs: every stage run behind it, once each, parents first."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from benchmark.config import Config
from benchmark.errors import UserError
from benchmark.stages import StageResult, fingerprint, finished, folder_of, needs, run_name
from benchmark.stages.synthetic import name_of


@dataclass(frozen=True)
class Job:
    """One stage run that the table needs."""

    name: str  # its own among the table's
    stage: str
    config: Config
    fingerprint: str
    parents: Mapping[str, str]  # their fingerprints, by what the stage calls them

    @property
    def folder(self) -> Path:
        return folder_of(self.stage, self.config, self.fingerprint)


def jobs(config: Config) -> list[Job]:
    """Every stage run behind the table, once each, parents first.

    A cell is (synthetic set, arm, segmenter, augmentation, seed, shares of the data), and each has one evaluation;
    real-only cells have no synthetic set. The real arm is always there: it is every other arm's reference. Each
    synthetic set is audited, and its fidelity measured, once. Shares below 1 of what an arm does not use give no cells
    of their own.

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
    names: set[str] = set()

    def add(stage: str, config: Config, role: str) -> Job:
        parents = {name: add(*need, name) for name, need in needs(stage, config).items()}
        mark = fingerprint(stage, config, parents)
        if mark not in found:
            name = run_name(stage, config)
            if name in names:  # the extractor is a U-Net on real slices, as a cell's may be
                name = f"{name} as {role}"
            names.add(name)
            marks = {name: parent.fingerprint for name, parent in parents.items()}
            found[mark] = Job(name, stage, config, mark, marks)
        return found[mark]

    for stage, cell in wanted:
        add(stage, cell, stage)
    return list(found.values())


def done(planned: list[Job]) -> dict[str, StageResult]:
    """Results of the jobs that finished before and whose files are there, by fingerprint."""
    results = {job.fingerprint: finished(job.stage, job.fingerprint, job.folder) for job in planned}
    return {mark: result for mark, result in results.items() if result}
