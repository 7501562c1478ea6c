"""Stages pull: asked for one, `pull` finds its finished result or runs what it needs and then the stage itself.

A stage is a module of this package: see `Stage`, and `TrainingStage` for one that trains.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from benchmark.config import Config, Need
from benchmark.cores import cores
from benchmark.data.foreign.package import CHECKSUMS
from benchmark.files import content_hash, locked, write_atomically
from benchmark.names import for_file
from benchmark.tracking import runs as tracking
from benchmark.tracking.package import package
from benchmark.tracking.runs import StageRun
from benchmark.tracking.session import Session
from benchmark.tracking.store import Store
from benchmark.training import processes
from benchmark.training.loop import Watch
from benchmark.training.processes import Team

log = logging.getLogger(__name__)

MANIFEST = "stage.json"
TRAININGS = ("train_generator", "train_segmenter")
PACKAGE = "package"  # folder of a release: of its files only the list of their checksums, written last, is looked for
CHOSEN_BY = {  # the number of a training's headline that names the champion of several, and how people call it
    "train_generator": ("kept_judge_dice", "the judge's Dice on validation subjects"),
    "train_segmenter": ("best_validation_dice", "Dice on validation subjects"),
}
MEASURED = {  # the parent whose model a headline speaks of
    "evaluate": "train_segmenter",
    **dict.fromkeys(("audit", "fidelity", "attack"), "synthetic"),
}
MADE_OR_READ = (*TRAININGS, "sample")  # stages that have a model; a set that was filtered is no longer a model's own
READ_FILES = ("prepare", "import_samples")  # stages whose settings are found in files that people gave


Settings = dict[str, Any]  # what determines a stage's result, beside its parents
Headline = dict[str, Any]  # a stage's numbers for people, by name; nested ones become dotted metrics


@dataclass(frozen=True)
class StageResult:
    """A finished stage: where it lies, which run made it, its headline."""

    stage: str
    run_id: str
    fingerprint: str
    path: Path
    reused: bool
    headline: Headline = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)  # model, arm, seed, …


@dataclass(frozen=True)
class Failure:
    """A stage run of the table that came to nothing, and why."""

    stage: str
    reason: str
    path: Path
    traceback: str = ""

    @property
    def fingerprint(self) -> str:
        """What depends on it is made anew once the reason is another."""
        return f"failed: {self.reason}"


Outcome = StageResult | Failure
Inputs = Mapping[str, Outcome]  # what came of a stage's parents, by the names that it knows them by


@dataclass(frozen=True)
class CallResult:
    """What came of a call, for `--json` and the exit code."""

    stage: str
    run_id: str
    path: Path
    reused: bool
    headline: Headline
    status: str = "FINISHED"

    @classmethod
    def of(cls, result: StageResult) -> "CallResult":
        return cls(result.stage, result.run_id, result.path, result.reused, result.headline)

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        fixed = {"stage": self.stage, "run_id": self.run_id, "status": self.status, "reused": self.reused}
        return {**fixed, "path": str(self.path), **self.headline}


@dataclass(frozen=True)
class Task:
    """What a stage works on: its configuration, its parents' results by name, the folder that is its own."""

    config: Config
    inputs: Inputs
    folder: Path

    @property
    def folders(self) -> dict[str, Path]:
        """Where its parents' results lie, by name."""
        return {name: result.path for name, result in self.inputs.items()}


@dataclass(frozen=True)
class RunningTask(Task):
    """A task whose MLflow run is open. The team helps it with a training, which `watch` is told the scores of."""

    tracked: StageRun
    team: Team
    watch: Watch | None


class Stage(Protocol):
    """What a module of this package has."""

    SCHEMA: int  # raised whenever the same settings would give another result

    def settings(self, config: Config) -> Settings: ...  # part of its fingerprint
    def needs(self, config: Config) -> dict[str, Need]: ...  # analyze and report are handed theirs by the table
    def tags(self, config: Config) -> dict[str, Any]: ...  # what its MLflow run is found by: model, cohort, arm, seed
    def run(self, task: RunningTask) -> Headline: ...


class TrainingStage(Stage, Protocol):
    """A stage in which the helpers of a team take part."""

    def assist(self, task: Task) -> None: ...  # a helper's part of `run`


def fingerprint(stage: str, config: Config, inputs: Inputs | None = None, known: dict[tuple, str] | None = None) -> str:
    """The stage's fingerprint; runs nothing, hashes a cohort's files at most.

    `known` holds those of the stages that read files, once read in this call: several parents need the same cohort.
    """
    known = {} if known is None else known
    files = (stage, config.prepare, config.import_samples)
    if files in known:
        return known[files]
    if inputs is None:
        parents = {name: fingerprint(*need, known=known) for name, need in needs(stage, config).items()}
    else:
        parents = {name: parent.fingerprint for name, parent in inputs.items()}
    digest = tracking.fingerprint(stage, _module(stage).settings(config), parents, _module(stage).SCHEMA)
    if stage in READ_FILES:
        known[files] = digest
    return digest


def needs(stage: str, config: Config) -> dict[str, Need]:
    """The stage's parents by name."""
    return _module(stage).needs(config)


def trained(stage: str, config: Config) -> set[str]:
    """The models that the stage trains, or those behind it."""
    own = {tags_of(stage, config)["model"]} if stage in TRAININGS else set()
    return own.union(*(trained(*need) for need in needs(stage, config).values()))


def pull(
    stage: str,
    config: Config,
    session: Session,
    *,
    inputs: Inputs | None = None,
    watch: Watch | None = None,
) -> StageResult:
    """The stage's result, reused where a finished run with the same fingerprint and its files are there.

    Its parents are pulled first, unless they are handed in as `inputs`. `watch` is told the scores of the stage's own
    training, not those of its parents.
    """
    digest = fingerprint(stage, config, inputs)
    folder = folder_of(stage, config, digest)
    if (result := finished(stage, digest, folder, session.store)) is not None:
        return result
    with locked(folder.with_suffix(".lock"), waiting_for=str(folder)):
        session.close_abandoned(digest)  # one of them may have finished, and only could not say so
        if (result := finished(stage, digest, folder, session.store)) is not None:  # or a quicker process did
            return result
        return _run(stage, config, digest, folder, session, inputs, watch)


def _run(
    stage: str, config: Config, digest: str, folder: Path, session: Session, inputs: Inputs | None, watch: Watch | None
) -> StageResult:
    module = _module(stage)
    tags = {"stage": stage, "fingerprint": digest, "commit": tracking.commit(), "path": str(folder.resolve())}
    about = " ".join((module.__doc__ or stage).partition("\n\n")[0].split())
    tags["mlflow.note.content"] = f"{about}\n\nFiles: `{folder.resolve()}`"
    if (folder / MANIFEST).is_file() and session.store.finished_run(digest) is None:
        log.warning(
            "%s is finished, but the tracking store %s knows no finished run of it: the store was deleted, or it is "
            "another one (MLFLOW_TRACKING_URI). This %s runs again",
            folder,
            session.store,
            stage,
        )
    (folder / MANIFEST).unlink(missing_ok=True)
    with session.open_run(run_name(stage, config), tags | tags_of(stage, config), module.settings(config)) as tracked:
        if inputs is None:
            nested = session.within(tracked)
            inputs = {name: pull(*need, nested) for name, need in module.needs(config).items()}
        _log_parents(tracked, inputs)
        folder.mkdir(parents=True, exist_ok=True)
        log.info("%s → %s", run_name(stage, config), folder)
        started = time.monotonic()
        headline = module.run(RunningTask(config, inputs, folder, tracked, session.team, watch))
        _log_scores(stage, config, tracked, inputs, headline)
        headline = {**headline, "stage_seconds": round(time.monotonic() - started, 3)}
        tracked.log_summary(headline)
        result = StageResult(stage, tracked.run_id, digest, folder, False, headline, tags_of(stage, config))
        _write_manifest(result)
        tracked.log_artifact(folder / MANIFEST)
    return result


def _log_parents(tracked: StageRun, inputs: Inputs) -> None:
    """Whose results a run reads; a failure has none."""
    results = {name: parent for name, parent in inputs.items() if isinstance(parent, StageResult)}
    tracked.set_tags({f"parent.{name}": parent.run_id for name, parent in results.items()})
    for name, parent in results.items():
        if parent.stage in ("prepare", "sample", "import_samples", "select"):
            called = parent.tags["cohort"] if parent.stage == "prepare" else f"{parent.tags['model']} samples"
            tracked.log_dataset(called, parent.fingerprint, parent.path, name)
        if parent.stage in MADE_OR_READ:
            tracked.log_model_read(parent.run_id)


def _log_scores(stage: str, config: Config, tracked: StageRun, inputs: Inputs, headline: Headline) -> None:
    """The numbers of a training, or of what measures one, belong to its model and the cohort."""
    prepared = inputs.get("prepare")
    cohort = (config.prepare.cohort, prepared.fingerprint if prepared else "")
    if stage in TRAININGS:
        tracked.log_scores(headline, tracked.run_id, cohort)
        metric, words = CHOSEN_BY[stage]
        rule = f"the highest of {words} among the trainings on the same prepared cohort; no test subject decides"
        tracked.end_model(_registered_name(stage, config), metric, rule)
    elif isinstance(measured := inputs.get(MEASURED.get(stage, "")), StageResult) and measured.stage in MADE_OR_READ:
        tracked.log_scores(headline, measured.run_id, cohort)


def log_model(stage: str, task: RunningTask, model: Any, **facts: Any) -> None:
    """What a training made, with its weights in the task's folder, for MLflow to show, compare and serve. facts: a
    generator's annotation coding, or how many classes a segmenter tells apart."""
    config, tags = task.config, tags_of(stage, task.config)
    called = " ".join(filter(None, (topic(stage, config), seed_of(stage, config))))
    built = {"name": tags["model"], "channels": model.channels, "resolution": model.resolution}
    files = package(task.folder, {**built, "config": model.config.model_dump(mode="json"), **facts})
    registered = {"registered_name": _registered_name(stage, config)}
    cohort = {"cohort_digest": task.inputs["prepare"].fingerprint}
    kind = stage.removeprefix("train_")
    task.tracked.log_model(
        called, kind, files, _module(stage).settings(config), stage=stage, **tags, **registered, **cohort
    )


def _registered_name(stage: str, config: Config) -> str:
    tags = tags_of(stage, config)
    return for_file(f"stand-in-{tags['model']}-{tags['cohort']}-{tags['image_size']}px")


def folder_of(stage: str, config: Config, digest: str) -> Path:
    """Where the stage's run of this fingerprint works."""
    return config.common.work_dir / stage / digest[:16]


def tags_of(stage: str, config: Config) -> dict[str, Any]:
    """What the stage's run is found by: its own tags, and the size of its slices, which decides how long it takes."""
    return {**_module(stage).tags(config), "image_size": config.prepare.image_size}


def run_name(stage: str, config: Config) -> str:
    """'train_segmenter unet real aug on seed 0'."""
    return " ".join(filter(None, (stage, topic(stage, config), seed_of(stage, config))))


def topic(stage: str, config: Config) -> str:
    """'unet real aug on', 'diffusion 8 subjects': what the stage's run is about, whatever its seed."""
    tags = _module(stage).tags(config)
    augmentation = [f"aug {tags['augmentation']}"] if "augmentation" in tags else []
    subjects = [f"{tags['subjects']} subjects"] if "subjects" in tags else []
    return " ".join([*(tags[key] for key in ("model", "arm") if key in tags), *augmentation, *subjects])


def seed_of(stage: str, config: Config) -> str:
    """'seed 0', or nothing where the stage has none."""
    tags = _module(stage).tags(config)
    return f"seed {tags['seed']}" if "seed" in tags else ""


def _module(stage: str) -> Stage:
    return cast(Stage, import_module(f"benchmark.stages.{stage}"))


def finished(stage: str, digest: str, folder: Path, store: Store) -> StageResult | None:
    """The finished run of this fingerprint, if every file that it wrote is still there in its size."""
    if not (folder / MANIFEST).is_file() or (run := store.finished_run(digest)) is None:
        return None
    manifest = json.loads((folder / MANIFEST).read_text())
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["size"]:
            log.warning("%s: %s is missing or has changed; this %s runs again", folder, name, stage)
            return None
    return StageResult(stage, run.info.run_id, digest, folder, True, manifest["headline"], manifest["tags"])


def _write_manifest(result: StageResult) -> None:
    folder = result.path
    files = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": content_hash(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name != MANIFEST
        and (top := path.relative_to(folder).parts[0]) != "checkpoints"
        and (top != PACKAGE or path.name == CHECKSUMS)
    }
    facts = {key: getattr(result, key) for key in ("stage", "fingerprint", "run_id", "tags", "headline")}
    write_atomically(folder / MANIFEST, json.dumps({**facts, "files": files}, indent=1))


def call_helpers(stage: str, task: RunningTask) -> None:
    """Under torchrun, has the other processes call the stage's `assist`."""
    task.team.call(
        {
            "stage": stage,
            "config": task.config.model_dump(mode="json", by_alias=True),
            "inputs": {name: str(result.path) for name, result in task.inputs.items()},
            "folder": str(task.folder),
        }
    )


def assist() -> None:
    """What every process but the leader does under torchrun: helps with trainings until there are no more."""
    while (order := processes.announce()) is not None:
        inputs = {name: StageResult(name, "", "", Path(path), True) for name, path in order["inputs"].items()}
        task = Task(Config.model_validate(order["config"]), inputs, Path(order["folder"]))
        cast(TrainingStage, _module(order["stage"])).assist(task)


def workers(config: Config) -> int:
    """Processes that read data: as configured, or one per core that this process may use."""
    return config.common.workers or cores()
