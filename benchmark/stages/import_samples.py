"""A set that somebody sent → synthetic SliceSet."""

import hashlib
import logging
from functools import cache
from pathlib import Path

import numpy as np

from benchmark.config import Config
from benchmark.data.foreign import detect, importing
from benchmark.data.slices import SliceSet
from benchmark.errors import UserError
from benchmark.files import content_hashes
from benchmark.progress import progress_bar
from benchmark.report.sheets import save_sheet
from benchmark.stages import workers
from benchmark.stages.prepare import cohort_name
from benchmark.stages.sample import PREVIEW
from benchmark.tracking.runs import StageRun

SCHEMA = 1
log = logging.getLogger(__name__)


def settings(config: Config) -> dict:
    folder = _folder(config)
    return {"synthetic": folder.name, "content": _content(folder, config.common.work_dir)}


@cache
def _content(folder: Path, work_dir: Path) -> str:
    """One hash over names and contents of a set's files."""
    hashes = content_hashes(detect.find(folder).files, work_dir / "hashes.json")
    listing = repr([(str(path.relative_to(folder)), digest) for path, digest in hashes.items()])
    return hashlib.sha256(listing.encode()).hexdigest()


def needs(config: Config) -> dict:
    return {"prepare": ("prepare", config)}


def tags(config: Config) -> dict:
    name = _folder(config).name
    return {"model": name, "generator": name, "cohort": cohort_name(config)}


def run(config: Config, inputs: dict, folder: Path, tracked: StageRun) -> dict:
    real = SliceSet.open(inputs["prepare"].path)
    found, name, image_size = detect.find(_folder(config)), _folder(config).name, real.meta["image_size"]
    meta = {
        "kind": "synthetic",
        "cohort": real.meta["cohort"],
        "simulated": real.meta["simulated"],
        "generator": name,
        "spacing": {name: np.median(list(real.meta["spacing"].values()), axis=0).tolist()},
    }
    with progress_bar(found.count, f"check {name}", found.unit) as bar:
        coding = importing.check(found, image_size, workers(config), bar.update)
    with progress_bar(found.count, f"import {name}", found.unit) as bar:
        rejections = importing.write(
            found, coding, folder, meta, image_size=image_size, workers=workers(config), progress=bar.update
        )

    slices = SliceSet.open(folder)
    tumour_share = float((slices.index["tumour_pixels"] > 0).mean())
    if rejections:
        log.warning("%s: %d set aside, see %s", name, len(rejections), folder / "rejected.csv")
    if tumour_share == 0:
        log.warning("%s: no slice has any tumour annotated", name)
    sheet = save_sheet(slices.images[:8], slices.labels[:8], folder / "samples.png")
    preview = folder / "preview.npz"
    np.savez_compressed(preview, images=slices.images[:PREVIEW], labels=slices.labels[:PREVIEW])
    for path in (sheet, preview, folder / "rejected.csv"):
        tracked.log_artifact(path, "samples")
    return {
        "samples": len(slices),
        "rejected": len(rejections),
        "off_code_share": float(slices.index["off_code"].mean()),
        "tumour_share": tumour_share,
        "format": found.format,
        "annotation": coding,
    }


def _folder(config: Config) -> Path:
    given = config.import_samples.synthetic
    if given is None:
        raise UserError(f"import_samples: give synthetic=FOLDER of a set that somebody sent. Known: {detect.ACCEPTED}")
    return given.expanduser().resolve()
