"""A set that somebody sent → synthetic SliceSet."""

import hashlib
import logging
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from analysis.progress import progress_bar
from benchmark.config import Config, Need
from benchmark.data.foreign import detect, importing, likeness
from benchmark.data.foreign.detect import set_name
from benchmark.data.foreign.package import Package
from benchmark.data.slices import SliceSet
from benchmark.data.slicing import Frame
from benchmark.errors import UserError
from benchmark.files import content_hashes
from benchmark.report.sheets import save_sheet
from benchmark.stages import Headline, RunningTask, Settings, workers
from benchmark.stages.sample import PREVIEW
from benchmark.tracking.runs import StageRun

SCHEMA = 2  # 153 may be ET; damaged files, labels and grey values of volumes are judged as those of cohorts
log = logging.getLogger(__name__)


def settings(config: Config) -> Settings:
    folder = _folder(config)
    return {
        "synthetic": set_name(folder),
        "content": _content(folder, config.common.work_dir),
        "set_labels": config.import_samples.set_labels,
    }


def _content(folder: Path, work_dir: Path) -> str:
    """One hash over names and contents of a set's files, in every call as they are then.

    100,000 small PNGs take 8 s of a core where they were never hashed, 5 in another process, 1 again in the same.
    """
    state = hashlib.sha256()
    for path in detect.find(folder).files:
        try:
            stat = os.stat(path)
            identity = stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns
        except OSError as error:
            identity = error.errno
        state.update(repr((str(path), identity)).encode())
    return _hashed(folder, work_dir, state.hexdigest())


@cache
def _hashed(folder: Path, work_dir: Path, state: str) -> str:
    """The hash of a set whose files are in this `state`. Pipes, broken links and such count by their name."""
    files = list(detect.find(folder).files)
    hashes = content_hashes([path for path in files if os.path.isfile(path)], work_dir / "hashes.json")
    listing = repr([(str(path.relative_to(folder)), hashes.get(path)) for path in files])
    return hashlib.sha256(listing.encode()).hexdigest()


def needs(config: Config) -> dict[str, Need]:
    return {"prepare": Need("prepare", config)}


def tags(config: Config) -> dict[str, Any]:
    name = set_name(_folder(config))
    return {"model": name, "generator": name, "cohort": config.prepare.cohort}


def run(task: RunningTask) -> Headline:
    config, folder, tracked = task.config, task.folder, task.tracked
    before = settings(config)
    real = SliceSet.open(task.folders["prepare"])
    found, name = detect.find(_folder(config)), set_name(_folder(config))
    frame = Frame(real.meta["image_size"], config.prepare.field_of_view)
    spacing, simulated = np.median(list(real.meta["spacing"].values()), axis=0).tolist(), real.meta["simulated"]
    if isinstance(found, Package):
        spacing, simulated = found.declared.spacing, found.declared.simulated
    meta = {
        "kind": "synthetic",
        "cohort": real.meta["cohort"],
        "simulated": simulated,
        "generator": name,
        "spacing": {name: spacing},
    }
    with progress_bar(found.count, f"check {name}", found.unit) as bar:
        coding = importing.check(found, frame.image_size, workers(config), bar.update, config.import_samples.set_labels)
    if isinstance(found, Package) and (other := frame.contradicted_by(spacing)):
        raise UserError(f"{found.folder}: {other}")
    with progress_bar(found.count, f"import {name}", found.unit) as bar:
        imported = importing.write(
            found, coding, folder, meta, frame=frame, workers=workers(config), progress=bar.update
        )
    if settings(config) != before:
        raise UserError(f"{found.folder}: files changed while they were read. Call again when nothing writes there")

    slices = SliceSet.open(folder)
    lies, differences = likeness.compare(slices, real, frame)
    warnings = [*coding.remarks, *imported.remarks, *_warnings(imported, folder), *differences]
    for warning in warnings:
        log.warning("%s: %s", name, warning)
    tracked.set_tags({"annotation": coding.name, "orientation": lies.name})
    _log_samples(slices, folder, tracked)
    return {
        "samples": len(slices),
        "rejected": len(imported.rejections),
        "off_code_share": float(slices.index["off_code"].mean()),
        "tumour_share": float((slices.index["tumour_pixels"] > 0).mean()),
        "format": found.format,
        "annotation": coding.name,
        "absent_classes": imported.absent,
        "orientation": lies.name,
        "warnings": warnings,
    }


def _warnings(imported: importing.Imported, folder: Path) -> Iterator[str]:
    if imported.rejections:
        yield f"{len(imported.rejections)} set aside, see {folder / 'rejected.csv'}"
    if not imported.pixels[1:].any():
        yield "no slice has any tumour annotated"
    elif imported.absent:
        whole = ". Are these masks of the whole tumour?" if len(imported.absent) == 2 else ""
        yield f"no {' and no '.join(imported.absent)} in the whole set{whole}"


def _log_samples(slices: SliceSet, folder: Path, tracked: StageRun) -> None:
    sheet = save_sheet(slices.images[:8], slices.labels[:8], folder / "samples.png")
    preview = folder / "preview.npz"
    np.savez_compressed(preview, images=slices.images[:PREVIEW], labels=slices.labels[:PREVIEW])
    for path in (sheet, preview, folder / "rejected.csv"):
        tracked.log_artifact(path, "samples")


def _folder(config: Config) -> Path:
    given = config.import_samples.synthetic
    if given is None:
        raise UserError(f"import_samples: give synthetic=FOLDER of a set that somebody sent. Known: {detect.ACCEPTED}")
    path = Path(os.path.expanduser(given))
    if os.path.isfile(path) and path.suffix.lower() == ".zip":
        raise UserError(f"synthetic: '{path!s:.200}' is a zip file: unpack it, and give the folder")
    if not os.path.isdir(path):
        raise UserError(f"synthetic: '{path!s:.200}' is not a folder: give that of a set. Known: {detect.ACCEPTED}")
    return path.resolve()
