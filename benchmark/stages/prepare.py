"""A cohort of NIfTI subjects, or the phantom → SliceSet."""

import hashlib
import json
import logging
import os
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

from analysis.progress import progress_bar
from benchmark.config import PHANTOM, Config, Need
from benchmark.data import cohorts, phantom, preparation
from benchmark.data.cohorts import Cohort, shown
from benchmark.data.preparation import PreparationResult
from benchmark.data.slices import SliceSet
from benchmark.errors import UserError
from benchmark.files import content_hash, content_hashes, locked, write_atomically
from benchmark.report.cohort_card import write_card
from benchmark.report.sheets import save_sheet
from benchmark.stages import Headline, RunningTask, Settings, workers

SCHEMA = 2  # what is hashed is what finding gives; labels are decided for the cohort, grey values and grids checked
log = logging.getLogger(__name__)


def settings(config: Config) -> Settings:
    keys = config.prepare.model_dump(mode="json")
    keys["split"] = config.prepare.split and content_hash(_split_file(config.prepare.split))
    if config.prepare.data == PHANTOM:
        return {**keys, "recipe": phantom.RECIPE}
    keys = {key: value for key, value in keys.items() if not key.startswith("phantom_")}
    cohort = _find(config)
    content = _content(cohort, config.common.work_dir)
    return {**keys, "data": cohort.name, "layout": cohort.layout, "content": content}


def _find(config: Config) -> Cohort:
    folder = Path(config.prepare.data).expanduser()
    if not os.path.exists(folder):  # unlike Path.exists, False for a name that is too long
        raise UserError(f"'{folder}' does not exist: give the folder of a NIfTI cohort, or data=phantom")
    cohort = cohorts.find(folder, config.prepare.layout)
    simulated = (config.common.work_dir / PHANTOM).resolve()
    if simulated.is_relative_to(folder.resolve()):
        count = sum(subject.annotation.resolve().is_relative_to(simulated) for subject in cohort.subjects)
        if count:
            raise UserError(
                f"'{folder}' holds {count} simulated subjects, in {simulated}: give the folder of the real ones alone, "
                "or a work_dir outside it"
            )
    return cohort


def _content(cohort: Cohort, work_dir: Path) -> str:
    """One hash over what is read, file by file, and over what was set aside before anything is read."""
    hashes = content_hashes(cohort.files, work_dir / "hashes.json")
    listing = [
        *((source.name, hashes[source]) for source in cohort.sources),
        *(
            (subject.name, subject.patient, role, shown(path, cohort.folder), hashes[path])
            for subject in cohort.subjects
            for role, path in enumerate(subject.files)
        ),
        *(astuple(rejection) for rejection in cohort.rejections),
    ]
    return hashlib.sha256(repr(listing).encode()).hexdigest()


def needs(config: Config) -> dict[str, Need]:
    return {}


def tags(config: Config) -> dict[str, Any]:
    return {"cohort": config.prepare.cohort, "seed": config.prepare.seed}


def run(task: RunningTask) -> Headline:
    config, folder, tracked = task.config, task.folder, task.tracked
    keys, before = config.prepare, settings(config)
    cohort = cohorts.find(_write_phantom(config)) if keys.data == PHANTOM else _find(config)
    cohort = replace(cohort, name=config.prepare.cohort)
    with progress_bar(len(cohort.subjects), "prepare", "subject") as bar:
        result = preparation.prepare(
            cohort,
            folder,
            image_size=keys.image_size,
            field_of_view=keys.field_of_view,
            split_file=keys.split,
            seed=keys.seed,
            test_share=keys.test_share,
            validation_share=keys.validation_share,
            workers=workers(config),
            strict=keys.strict,
            simulated=keys.data == PHANTOM,
            convention=keys.labels,
            progress=lambda *_: bar.update(),
        )
    if settings(config) != before:
        raise UserError(f"{keys.data}: files changed while they were read. Call again when nothing writes there")
    warnings = [*cohort.notes, *result.warnings]
    _say(result, warnings, folder / "rejected.csv")
    write_atomically(folder / "cohort.json", json.dumps(result.cohort, ensure_ascii=False))
    slices = SliceSet.open(folder)
    tumour = slices.index["tumour_pixels"].nlargest(200).index[::25]
    sheet = save_sheet(slices.images[tumour], slices.labels[tumour], folder / "slices.png")
    tracked.log_artifact(sheet)
    tracked.log_artifact(folder / "rejected.csv")
    tracked.log_artifact(folder / "cohort.json")
    tracked.log_artifact(write_card(folder, warnings))
    return {
        "subjects": result.subjects,
        "patients": result.patients,
        "slices": result.slices,
        "rejected": len(result.rejections),
        "labels": result.cohort["labels"]["name"],
        "image_size": keys.image_size,
    }


def _say(result: PreparationResult, warnings: list[str], rejected: Path) -> None:
    """On the screen: which scans were grouped, what is odd, and who was set aside."""
    for text in (result.grouping, *warnings):
        if text:
            log.warning(text)
    if result.rejections:
        first, count = result.rejections[0], len(result.rejections)
        more = f"; all are in {rejected}" if count > 1 else ""
        log.warning("%d set aside: %s (%s: %s)%s", count, first.subject, first.file, first.reason, more)


def _write_phantom(config: Config) -> Path:
    keys = config.prepare
    grid = "x".join(map(str, keys.phantom_grid))
    folder = (
        config.common.work_dir / PHANTOM / f"recipe{phantom.RECIPE}-seed{keys.seed}-grid{grid}-{keys.phantom_subjects}"
    )
    with (  # calls that differ in what they make of the phantom share its files
        locked(folder.with_suffix(".lock"), waiting_for=str(folder)),
        progress_bar(keys.phantom_subjects, "simulate phantom", "subject") as bar,
    ):
        phantom.write_cohort(
            folder, keys.phantom_subjects, keys.seed, keys.phantom_grid, workers(config), lambda _: bar.update()
        )
    return folder


def _split_file(path: Path) -> Path:
    if not os.path.isfile(path):  # no folder, and nothing that never ends, such as /dev/zero
        raise UserError(f"split: '{path}' is no file: give the study's .mat file, or a CSV with subject and split")
    return path
