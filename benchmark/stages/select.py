"""A synthetic set, its audit and its attack → what may be left of it, as a SliceSet."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.neighbours import masked
from analysis.progress import progress_bar
from analysis.selection import COPIED, NEAREST, left_out
from benchmark.config import Config, Need
from benchmark.data import synthetic
from benchmark.data.slices import COLUMNS, SliceWriter
from benchmark.errors import UserError
from benchmark.report.sheets import save_sheet
from benchmark.stages import Headline, RunningTask, Settings

SCHEMA = 2  # 2: black outside the brain
BATCH = 256  # slices in memory at once
REMOVED = "removed.csv"  # rows of the whole set, and why each was left out


def settings(config: Config) -> Settings:
    return {"keep": config.select.keep, "synthetic": synthetic.settings_of(config, config.select.synthetic)}


def needs(config: Config) -> dict[str, Need]:
    """The whole set, and what was found of it."""
    whole = whole_set(config)
    judged = config.replace({"audit.synthetic": whole, "attack.synthetic": whole})
    return {
        "prepare": Need("prepare", config),
        **synthetic.needs_of(config, whole),
        "audit": Need("audit", judged),
        "attack": Need("attack", judged),
    }


def tags(config: Config) -> dict[str, Any]:
    return synthetic.tags_of(config, synthetic.selected(config, whole_set(config)))


def whole_set(config: Config) -> str:
    """What is filtered: a generator, or a folder. Raises UserError for what was filtered before."""
    given = config.select.synthetic
    if synthetic.whole_of(given) is not None:
        raise UserError(f"synthetic: '{given:.200}' is filtered already: name the whole set")
    return given or config.train_generator.model


def run(task: RunningTask) -> Headline:
    config, folder, tracked = task.config, task.folder, task.tracked
    made = synthetic.open_synthetic(config, whole_set(config), task.folders)
    audit = json.loads((task.folders["audit"] / "audit.json").read_text())
    slices, people = (
        read_table(task.folders["audit"] / "nearest.csv"),
        read_table(task.folders["attack"] / "patients.csv"),
    )
    reasons = left_out(slices, audit, people, config.select.keep)
    kept = np.flatnonzero(reasons == "")
    if not len(kept):
        raise UserError(f"keep={config.select.keep} leaves no slice of {len(made)}: this set is no set to release")

    meta = {key: value for key, value in made.meta.items() if key != "image_size"} | {"keep": config.select.keep}
    more = [column for column in made.index.columns if column not in COLUMNS]
    (folder / "meta.json").unlink(missing_ok=True)  # complete, but its run was killed before it could say so
    with (
        SliceWriter(folder, made.meta["image_size"], meta, resume=True) as writer,
        progress_bar(len(kept), "select", "img", writer.count) as bar,
    ):
        for start in range(writer.count, len(kept), BATCH):
            rows = kept[start : start + BATCH]
            index = made.index.iloc[rows]
            columns = {column: index[column].tolist() for column in ("subject", "seed", "z", *more)}
            # What the audit does not look at does not leave: signals could hide there.
            images = masked(made.images[rows], torch.device("cpu"))[0].to(torch.uint8).numpy()
            writer.append(images, made.labels[rows], split="synthetic", **columns)
            bar.update(len(rows))
    out = np.flatnonzero(reasons != "")
    pd.DataFrame({"row": out, "reason": reasons[out]}).to_csv(folder / REMOVED, index=False)
    sheet = save_sheet(made.images[kept[:8]], made.labels[kept[:8]], folder / "samples.png")
    tracked.log_artifact(sheet, "samples")
    counts = Counter(reasons[out].tolist())
    return {
        "samples": len(kept),
        "whole": len(made),
        "removed": {reason: counts[reason] for reason in (COPIED, NEAREST)},
        "tumour_share": float((made.index["tumour_pixels"].to_numpy()[kept] > 0).mean()),
    }


def read_table(path: Path) -> pd.DataFrame:
    """A table of audit or attack, with the names of patients as text, and numbers as they were written."""
    names = dict.fromkeys(("patient", "training_subject", "second_subject", "copied_subject"), str)
    return pd.read_csv(path, dtype=names, keep_default_na=False, na_values=[""])
