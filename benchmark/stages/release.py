"""What a filter left of a synthetic set, judged anew → a package for strangers, if it keeps its limits."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.limits import Verdict
from analysis.long_table import Scores
from analysis.progress import progress_bar
from analysis.release_risk import use_row
from analysis.statistics import ratios
from benchmark import stages
from benchmark.config import Config, Need
from benchmark.data import synthetic
from benchmark.data.annotation import CODINGS
from benchmark.data.cohorts import MODALITIES
from benchmark.data.foreign.package import DECLARATION, Declaration
from benchmark.data.slices import SliceSet
from benchmark.errors import UserError
from benchmark.files import content_hash
from benchmark.release.croissant import FILE as CROISSANT
from benchmark.release.croissant import croissant
from benchmark.release.encoding import write_slices
from benchmark.release.pages import LICENCE, Facts, nameless, pages, read_answers, standing_against
from benchmark.release.weights import write_weights
from benchmark.release.writing import PackageFiles, write_zip
from benchmark.report.release_card import CardInputs, build_release_card, worst_patient
from benchmark.stages import PACKAGE, Headline, RunningTask, Settings
from benchmark.stages.judge import KEYS, VERDICTS, read_found
from benchmark.stages.report import cohort_facts, is_demonstration
from benchmark.stages.sample import TRAINING, trainings
from benchmark.tracking import runs as tracking
from benchmark.training.models import WEIGHTS, create_generator

SCHEMA = 3  # 3: the card of a demonstration says so; pages give the field of view
EVALUATION = "evaluate"  # names of parents begin with it, one for each arm and repeat
MOST_LICENCE = 1 << 20  # bytes


def settings(config: Config) -> Settings:
    keys = config.release.model_dump(mode="json", exclude={"synthetic", "licence", "answers", *KEYS})
    answers = json.dumps(read_answers(config.release.answers))
    hashed = hashlib.sha256(answers.encode()).hexdigest()  # contacts and such belong into the package, into no store
    return {**keys, "licence": content_hash(_licence(config)), "answers": hashed}


def needs(config: Config) -> dict[str, Need]:
    """The whole set and what is left of it, each with its audit and attack; trainings, where weights are to leave."""
    whole = config.release.synthetic or config.train_generator.model
    left = synthetic.selected(config, whole)
    found = {"prepare": Need("prepare", config), "judge": Need("judge", config), **stages.needs("judge", config)}
    if config.release.measure_use:
        found |= _evaluations(config, left)
    if config.release.weights:
        if (generator := synthetic.generator_of(config, whole)) is None:
            raise UserError("weights=true: the set was sent without the generator that made it")
        found |= trainings(config.replace({"train_generator.model": generator}))
    return found


def _evaluations(config: Config, left: str) -> dict[str, Need]:
    """Of segmenters that learned from real slices, and of those that learned from what is left alone."""
    found = {}
    for repeat in range(config.analyze.repeats):
        seeded = {"train_segmenter.seed": config.analyze.seed + repeat, "train_segmenter.synthetic": left}
        for arm in ("real", "synthetic"):
            cell = config.replace({**seeded, "train_segmenter.train_on": arm})
            found[f"{EVALUATION} {arm} {repeat}"] = Need("evaluate", cell)
    return found


def tags(config: Config) -> dict[str, Any]:
    return synthetic.tags_of(config, config.release.synthetic)


def run(task: RunningTask) -> Headline:
    """Writes the package into a folder and a .zip of it; whether it may be made, the stage judge has decided."""
    config, folder, tracked, keys = task.config, task.folder, task.tracked, task.config.release
    licence, answers = _licence(config).read_bytes(), read_answers(keys.answers)
    if stages.folder_of("release", config, stages.fingerprint("release", config, task.inputs)) != folder:
        raise UserError("licence, answers or the cohort's files changed since this call began: call again")
    found = read_found(task.folders)
    selection = task.inputs["select"].headline
    judged = json.loads((task.folders["judge"] / VERDICTS).read_text())
    verdicts = [Verdict(**each) for each in judged]
    failed = standing_against(verdicts, keys.weights)

    made = SliceSet.open(task.folders["select"])
    kept = _ratios(task)
    facts = _facts(task, made, found, verdicts, kept, answers, forced=bool(failed))
    package = folder / PACKAGE / facts.name
    with PackageFiles(package) as files:
        with progress_bar(len(made), f"write {facts.name}", "img") as bar:
            write_slices(files, made, facts.declared, facts.name, stages.workers(config), bar.update)
        if keys.weights:
            _write_weights(files, task, facts)
        _write_pages(files, task, facts, kept, licence, folder, task.folders["audit"])
    with (package / "checksums.sha256").open() as lines:
        count = sum(1 for _ in lines)
    zipped = folder / f"{facts.name}.zip"
    with progress_bar(count, f"zip {facts.name}", "file") as bar:
        write_zip(package, zipped, bar.update)
    for page in ("README.md", "datasheet.md", "model_card.md", "card.html", "card.pdf", CROISSANT):
        tracked.log_artifact(package / page, "package")
    tracked.set_tags({"forced": facts.forced})
    return {
        "package": str(package),
        "zip": str(zipped),
        "samples": len(made),
        "removed": selection["removed"],
        "files": count + 1,
        "zip_bytes": zipped.stat().st_size,
        "forced": facts.forced,
        "not_kept": [f"{verdict.about}: {verdict.sentence()}" for verdict in failed],
    }


def _ratios(task: RunningTask) -> pd.DataFrame:
    """What is left of the set alone, against real slices; empty where that is not to be measured."""
    folders = [folder for name, folder in task.folders.items() if name.startswith(EVALUATION)]
    if not folders:
        return pd.DataFrame()
    first = task.config.analyze.seed
    scores = pd.concat([pd.read_parquet(folder / "scores.parquet") for folder in folders], ignore_index=True)
    return ratios(Scores(scores, range(first, first + task.config.analyze.repeats)))


def _licence(config: Config) -> Path:
    """The owner's licence. Raises UserError where there is none, or it is no text."""
    given = config.release.licence
    if given is None:
        raise UserError("licence: give licence=FILE, the terms under which the owner lets the package go")
    path = given.expanduser()
    try:
        content = path.read_bytes() if path.stat().st_size <= MOST_LICENCE else b""
        if not content.decode("utf-8").strip():
            raise ValueError("it is empty, or longer than 1 MiB")
    except (OSError, ValueError) as error:
        raise UserError(f"licence: {path} is no text of a licence ({error})") from error
    return path


def _facts(
    task: RunningTask,
    made: SliceSet,
    found: dict[str, Any],
    verdicts: list[Verdict],
    kept: pd.DataFrame,
    answers: Mapping[str, str | list[str]],
    forced: bool,
) -> Facts:
    config, keys, selection = task.config, task.config.release, task.inputs["select"].headline
    use = use_row(kept)
    generator = synthetic.generator_of(config, keys.synthetic)
    spacing = next(iter(made.meta["spacing"].values()))
    simulated = bool(made.meta["simulated"])
    return Facts(
        name=f"synthetic-{generator.replace('_', '-') if generator else 'set'}",
        generator=generator,
        declared=Declaration(keys.format, made.meta["image_size"], len(made), [float(mm) for mm in spacing], simulated),
        cohort=nameless(cohort_facts(task.folders["prepare"])),
        keep=config.select.keep,
        whole=selection["whole"],
        removed=selection["removed"],
        tumour_share=selection["tumour_share"],
        audit=found["audit"],
        attack=found["attack"],
        whole_audit=found["whole_audit"],
        whole_attack=found["whole_attack"],
        verdicts=verdicts,
        use=" ".join([use.finding, *use.words]).strip(),
        weights=keys.weights,
        forced=forced,
        commit=tracking.commit(),
        training=_training(config) if generator else [],
        answers=answers,
    )


def _training(config: Config) -> list[tuple[str, str]]:
    keys, ensemble = config.train_generator, config.sample.ensemble
    patients = [] if keys.subjects is None else [("patients", f"{keys.subjects} of the training patients")]
    return [
        *patients,
        ("training budget", f"{keys.images:,} images seen, {keys.batch_size} a batch"),
        ("snapshot", f"the best of {keys.snapshots}, by what its samples teach about validation patients"),
        ("annotation", f"drawn as '{keys.annotation}'"),
        *([("ensemble", f"{ensemble} trainings, mixed in turn")] if ensemble > 1 else []),
    ]


def _write_weights(files: PackageFiles, task: RunningTask, facts: Facts) -> None:
    config = task.config.replace({"train_generator.model": facts.generator})
    size, coding = facts.declared.image_size, config.train_generator.annotation
    model = create_generator(config, size)
    write_weights(
        files,
        facts.generator,
        [path / WEIGHTS for name, path in task.folders.items() if name.startswith(TRAINING)],
        annotation=coding,
        channels=len(MODALITIES) + CODINGS[coding].planes,
        size=size,
        config=model.config.model_dump(mode="json"),
    )


def _write_pages(
    files: PackageFiles, task: RunningTask, facts: Facts, kept: pd.DataFrame, licence: bytes, folder: Path, audit: Path
) -> None:
    """All but slices and weights; the card is drawn into `folder` first. audit: where that of the slices lies."""
    for name, content in pages(facts).items():
        files.add(name, lambda content=content: [content])
    inputs = CardInputs(
        name=facts.generator or "a set of a generator elsewhere",
        cohort=facts.cohort,
        audits=[facts.audit],
        attacks=[facts.attack],
        # Which slice comes closest to a patient is no stranger's business.
        worst=worst_patient([audit], pictured=False),
        ratios=kept,
        removed=None if facts.keep == "all" else facts.removed,
        limits=facts.verdicts,
        forced=facts.forced,
        weights=facts.weights,
        sent=facts.generator is None,
        demonstration=is_demonstration(task.config),
    )
    for path in build_release_card(folder, inputs):
        files.add(path.name, lambda path=path: [path.read_bytes()])
    files.add(LICENCE, lambda: [licence])
    files.add(DECLARATION, lambda: [facts.declared.to_json().encode()])
    files.add(CROISSANT, lambda: [croissant(facts, files.digests)])
