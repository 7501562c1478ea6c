"""A synthetic set against the training slices behind it: was anybody copied?"""

import json
import logging
from typing import Any

import numpy as np

from analysis import memorization
from analysis.contamination import contamination
from analysis.memorization import Slices
from analysis.neighbours import Rows
from analysis.text import csv_frame
from benchmark.config import Config, Need
from benchmark.data import synthetic
from benchmark.data.slices import SliceSet
from benchmark.stages import Headline, RunningTask, Settings
from benchmark.training import devices
from benchmark.training.cohort import seen_by

SCHEMA = 12  # 12: modalities apart, blends, tumours in place; sent sets beside test patients
PAIRS = 6  # kept for the report
log = logging.getLogger(__name__)


def settings(config: Config) -> Settings:
    keys = config.audit.model_dump(mode="json", exclude={"synthetic", "memory_gib"})
    return {**keys, "synthetic": synthetic.settings_of(config, config.audit.synthetic)}


def needs(config: Config) -> dict[str, Need]:
    return {"prepare": Need("prepare", config), **synthetic.needs_of(config, config.audit.synthetic)}


def tags(config: Config) -> dict[str, Any]:
    return synthetic.tags_of(config, config.audit.synthetic)


def _real(real: SliceSet, rows: np.ndarray) -> Slices:
    people = real.index["patient"].to_numpy(str)[rows]
    return Slices(Rows(real.images, rows), people, Rows(real.labels[:, None], rows))


def run(task: RunningTask) -> Headline:
    config, folder, tracked = task.config, task.folder, task.tracked
    real = SliceSet.open(task.folders["prepare"])
    made = synthetic.open_synthetic(config, config.audit.synthetic, task.folders)
    trained = seen_by(config, config.audit.synthetic, real)
    held_out = real.rows("test")  # validation subjects chose the snapshot
    given, tested = Slices(made.images, synthetic.people_of(made), made.labels[:, None]), _real(real, held_out)
    how = {
        "seed": config.audit.seed,
        "device": devices.pick_device(config.common.device),
        "memory_gib": config.audit.memory_gib,
    }
    result = memorization.audit(given, _real(real, trained), tested, **how)
    sent = synthetic.generator_of(config, config.audit.synthetic) is None
    beside_test = contamination(given, tested, _real(real, trained), **how) if sent else None
    if beside_test and beside_test["warning"]:
        log.warning("%s: %s", synthetic.name_of(config, config.audit.synthetic), beside_test["warning"])
    if "evidence" in result.slices:
        closest, original = result.slices.nlargest(PAIRS, "evidence"), "copied_row"
        lies_alike = (closest["copied_row"] == closest["training_row"]) & (closest["similarity"] > result.tau95)
    else:  # a single training subject
        closest, original = result.slices.nlargest(PAIRS, "similarity"), "training_row"
        lies_alike = np.ones(len(closest), bool)
    copies, originals = made.images[closest["row"]], real.images[trained[closest[original]]]
    np.savez_compressed(
        folder / "pairs.npz",
        images=np.stack([copies, originals], axis=1),
        row=closest["row"].to_numpy(),
        lies_alike=lies_alike,
    )
    csv_frame(result.slices).to_csv(folder / "nearest.csv", index=False)
    csv_frame(result.null).to_csv(folder / "null.csv", index=False)
    (folder / "audit.json").write_text(json.dumps(result.to_json() | {"test_patients": beside_test}, indent=1))
    for name in ("audit.json", "nearest.csv", "null.csv"):
        tracked.log_artifact(folder / name)
    return {
        "memorized_share": result.memorized_share,
        "tau95": result.tau95,
        "tau99": result.tau99,
        "copied_share": result.copied_share,
        "leaked_patients": result.leaked_patients["count"],
        "copied_patients": result.copied_patients["count"],
        "synthetic_slices": result.n_synthetic,
        "training_slices": result.n_train,
    }
