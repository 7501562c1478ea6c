"""`synthetic` names a set of slices wherever one is wanted: a generator, or a folder, of a SliceSet or to import.

With `selected:` before either, it is what a filter leaves of that set (the stage select).
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import generators
from benchmark.config import Config, Need
from benchmark.data.foreign import likeness
from benchmark.data.foreign.detect import ACCEPTED, is_slice_set, recognised, set_name
from benchmark.data.slices import CLASSES, SliceSet
from benchmark.data.slicing import Frame
from benchmark.errors import UserError
from benchmark.files import content_hashes
from benchmark.parsing import nearest

log = logging.getLogger(__name__)
BATCH = 256  # slices in memory at once
SMALLEST_HEAD = 60  # mm: who gives pixels of which as many span less has filled in any number
SELECTED = "selected:"


def generator_of(config: Config, synthetic: str | None) -> str | None:
    """The generator's name, or None where `synthetic` names a folder."""
    name = (synthetic or config.train_generator.model).removeprefix(SELECTED)
    return name if name in generators.names() else None


def name_of(config: Config, synthetic: str | None) -> str:
    """What the set is called in tables."""
    if whole := whole_of(synthetic):
        return f"{name_of(config, whole)} (selected)"
    return generator_of(config, synthetic) or set_name(_path(str(synthetic)).resolve())


def selected(config: Config, synthetic: str | None) -> str:
    """The name of what a filter leaves of this set."""
    return f"{SELECTED}{synthetic or config.train_generator.model}"


def whole_of(synthetic: str | None) -> str | None:
    """The set that was filtered, or None where this one is whole."""
    return synthetic.removeprefix(SELECTED) if synthetic and synthetic.startswith(SELECTED) else None


def seed_of(config: Config, synthetic: str | None) -> dict[str, int]:
    """{"seed": the first seed of its generator}, which tells the sets of a table's repeats apart; {} for a folder."""
    return {"seed": config.train_generator.seed} if generator_of(config, synthetic) else {}


def tags_of(config: Config, synthetic: str | None) -> dict[str, object]:
    """What the runs of stages that look at the set are found by."""
    name = name_of(config, synthetic)
    return {"model": name, "generator": name, "cohort": config.prepare.cohort, **seed_of(config, synthetic)}


def needs_of(config: Config, synthetic: str | None) -> dict[str, Need]:
    """The sample stage for a generator; for a folder its import, or nothing where it is a SliceSet already; for what is
    left of either, the stage that filters it."""
    if whole := whole_of(synthetic):
        return {"synthetic": Need("select", config.replace({"select.synthetic": whole}))}
    if generator := generator_of(config, synthetic):
        return {"synthetic": Need("sample", config.replace({"train_generator.model": generator}))}
    folder = _folder(str(synthetic))
    if is_slice_set(folder):
        return {}
    return {"synthetic": Need("import_samples", config.replace({"import_samples.synthetic": folder}))}


def settings_of(config: Config, synthetic: str | None) -> dict[str, str]:
    """Name and content of a SliceSet, hashed; nothing where another stage makes it, which has its own fingerprint."""
    if needs_of(config, synthetic):
        return {}
    folder = _folder(str(synthetic))
    files = [folder / name for name in ("images.npy", "labels.npy", "index.parquet", "meta.json")]
    if not all(os.path.isfile(path) for path in files):  # a pipe or a device would be hashed for ever
        SliceSet.open(folder)  # says which
    hashes = content_hashes(files, config.common.work_dir / "hashes.json")
    return {"name": name_of(config, synthetic), **{path.name: value for path, value in hashes.items()}}


def people_of(made: SliceSet) -> np.ndarray:
    """Whose each synthetic slice is [N]: a generator's are each of their own, one of a sent volume of that volume's."""
    names = made.index["patient"].to_numpy(str)
    return np.arange(len(made)).astype(str) if len(np.unique(names)) == 1 else names


def open_synthetic(config: Config, synthetic: str | None, folders: Mapping[str, Path]) -> SliceSet:
    """The set itself; a warning says where one made elsewhere lies otherwise than the cohort.

    folders: where the results of the needed stages lie, "synthetic" and "prepare" among them.
    Raises UserError where its slices are real ones, or not of the cohort's size, or such a set has a label that is no
    class.
    """
    folder = folders["synthetic"] if "synthetic" in folders else _folder(str(synthetic))
    slices = SliceSet.open(folder)
    if (kind := slices.meta["kind"]) != "synthetic":
        raise UserError(
            f"{folder}: meta.json says that its slices are '{kind:.100}', not 'synthetic': a cohort's slices are no "
            "synthetic set"
        )
    size = config.prepare.image_size
    if slices.images.shape[2:] != (size, size):
        height, width = slices.images.shape[2:]
        raise UserError(
            f"{folder}: slices of {height} × {width} px, but the cohort is prepared at {size} px: "
            f"give image_size={height}, or a set of that size"
        )
    if "synthetic" not in folders:  # made elsewhere
        _refuse_unknown_labels(slices)
        frame = Frame(size, config.prepare.field_of_view)
        _, differences = likeness.compare(slices, SliceSet.open(folders["prepare"]), frame)
        spacings = [each for each in slices.meta["spacing"].values() if size * min(each[1:]) > SMALLEST_HEAD]
        if spacings and (other := frame.contradicted_by(np.median(spacings, axis=0))):
            differences.append(other)
        for difference in differences:
            log.warning("%s: %s", folder, difference)
    return slices


def _refuse_unknown_labels(slices: SliceSet) -> None:
    for start in range(0, len(slices), BATCH):
        highest = slices.labels[start : start + BATCH].max((1, 2))
        if (unknown := np.flatnonzero(highest >= len(CLASSES))).size:
            number = unknown[0]
            raise UserError(
                f"{slices.folder / 'labels.npy'}: label {highest[number]} in slice {start + number}; "
                f"expected 0–3 = {', '.join(CLASSES)}"
            )


def _path(name: str) -> Path:
    return Path(os.path.expanduser(name))  # Path.expanduser raises where there is no such user


def _folder(name: str) -> Path:
    folder = _path(name)
    if not (is_slice_set(folder) or recognised(folder)):
        known = ", ".join(generators.names())
        if not folder.exists() and len(Path(name).parts) > 1:
            raise UserError(f"synthetic: '{name:.200}' does not exist")
        raise UserError(
            f"synthetic: '{name:.200}' is neither a generator ({known}) nor the folder of a SliceSet (images.npy, "
            f"labels.npy, index.parquet, meta.json) or of a set to import ({ACCEPTED})"
            f"{nearest(name, generators.names())}"
        )
    return folder
