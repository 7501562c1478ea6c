"""A cohort of NIfTI subjects, or the phantom → SliceSet."""

import hashlib
import logging
from dataclasses import replace
from functools import cache
from pathlib import Path

from benchmark.config import Config
from benchmark.data import cohorts, phantom, preparation
from benchmark.data.slices import SliceSet
from benchmark.errors import UserError
from benchmark.files import content_hash, content_hashes
from benchmark.progress import progress_bar
from benchmark.report.sheets import save_sheet
from benchmark.stages import workers
from benchmark.tracking.runs import StageRun

SCHEMA = 1
log = logging.getLogger(__name__)
PHANTOM = "phantom"


def settings(config: Config) -> dict:
    own = config.prepare.model_dump(mode="json")
    own["split"] = config.prepare.split and content_hash(_existing(config.prepare.split))
    if config.prepare.data == PHANTOM:
        return {**own, "recipe": phantom.RECIPE}
    own = {key: value for key, value in own.items() if not key.startswith("phantom_")}
    folder = _existing(Path(config.prepare.data).expanduser())
    return {**own, "data": folder.resolve().name, "content": _content(folder, config.common.work_dir)}


@cache
def _content(folder: Path, work_dir: Path) -> str:
    """One hash over names, sizes and contents of a cohort's files."""
    files = sorted(path for path in folder.rglob("*") if path.name.endswith((".nii", ".nii.gz", "dataset.json")))
    hashes = content_hashes(files, work_dir / "hashes.json")
    listing = repr([(str(path.relative_to(folder)), path.stat().st_size, hashes[path]) for path in files])
    return hashlib.sha256(listing.encode()).hexdigest()


def needs(config: Config) -> dict:
    return {}


def tags(config: Config) -> dict:
    return {"cohort": cohort_name(config), "seed": config.prepare.seed}


def cohort_name(config: Config) -> str:
    """What the cohort is called in tables."""
    return PHANTOM if config.prepare.data == PHANTOM else Path(config.prepare.data).resolve().name


def run(config: Config, inputs: dict, folder: Path, tracked: StageRun) -> dict:
    own = config.prepare
    source = _write_phantom(config) if own.data == PHANTOM else Path(own.data).expanduser()
    cohort = replace(cohorts.find(source, own.layout), name=cohort_name(config))
    with progress_bar(len(cohort.subjects), "prepare", "subject") as bar:
        result = preparation.prepare(
            cohort,
            folder,
            image_size=own.image_size,
            split_file=own.split,
            seed=own.seed,
            test_share=own.test_share,
            validation_share=own.validation_share,
            workers=workers(config),
            strict=own.strict,
            simulated=own.data == PHANTOM,
            progress=lambda *_: bar.update(),
        )
    for warning in result.warnings:
        log.warning(warning)
    slices = SliceSet.open(folder)
    tumour = slices.index["tumour_pixels"].nlargest(200).index[::25]
    sheet = save_sheet(slices.images[tumour], slices.labels[tumour], folder / "slices.png")
    tracked.log_artifact(sheet)
    tracked.log_artifact(folder / "rejected.csv")
    return {
        "subjects": result.subjects,
        "slices": result.slices,
        "rejected": len(result.rejections),
        "image_size": own.image_size,
    }


def _write_phantom(config: Config) -> Path:
    own = config.prepare
    grid = "x".join(map(str, own.phantom_grid))
    folder = (
        config.common.work_dir / PHANTOM / f"recipe{phantom.RECIPE}-seed{own.seed}-grid{grid}-{own.phantom_subjects}"
    )
    with progress_bar(own.phantom_subjects, "simulate phantom", "subject") as bar:
        phantom.write_cohort(
            folder, own.phantom_subjects, own.seed, own.phantom_grid, workers(config), lambda _: bar.update()
        )
    return folder


def _existing(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"'{path}' does not exist: give the folder of a NIfTI cohort, or data=phantom")
    return path
