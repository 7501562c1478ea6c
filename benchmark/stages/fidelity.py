"""A synthetic set beside real slices: how like them, how varied, how well its annotations fit."""

import json
from typing import Any

import numpy as np
import torch

from analysis import fidelity
from analysis.neighbours import Rows
from benchmark.config import Config, Need
from benchmark.data import synthetic
from benchmark.data.slices import CLASSES, MODALITIES, SliceSet
from benchmark.stages import Headline, RunningTask, Settings
from benchmark.training import devices, models
from segmenters.base import Segmenter

SCHEMA = 4  # 4: the floor is of test subjects alone
READ = 256  # slices in memory at once
HEADLINE = ("frechet", "kernel", "precision", "recall", "density", "coverage", "label_dice")


def settings(config: Config) -> Settings:
    keys = config.fidelity.model_dump(mode="json", exclude={"synthetic"})
    return {**keys, "synthetic": synthetic.settings_of(config, config.fidelity.synthetic)}


def needs(config: Config) -> dict[str, Need]:
    extractor = Need("train_segmenter", models.extractor_config(config))
    wanted = synthetic.needs_of(config, config.fidelity.synthetic)
    return {"prepare": Need("prepare", config), "extractor": extractor, **wanted}


def tags(config: Config) -> dict[str, Any]:
    name = synthetic.name_of(config, config.fidelity.synthetic)
    own = synthetic.seed_of(config, config.fidelity.synthetic)
    return {"model": name, "generator": name, "cohort": config.prepare.cohort, **own}


def run(task: RunningTask) -> Headline:
    """Writes fidelity.json: `values` of the synthetic set against training slices, `floor` of the slices of test
    subjects against the same, equally many of each; what cannot be measured is null, with its reason."""
    config, folder, tracked = task.config, task.folder, task.tracked
    keys = config.fidelity
    device = devices.pick_device(config.common.device)
    real = SliceSet.open(task.folders["prepare"])
    made = synthetic.open_synthetic(config, keys.synthetic, task.folders)
    size, trained_in = real.meta["image_size"], task.folders["extractor"]
    model = models.load_segmenter(models.extractor_config(config), size, trained_in).to(device)
    trained, held_out = real.rows("train"), real.rows("test")  # validation subjects chose the snapshot
    drawn = fidelity.equal_draws((len(made), len(trained), len(held_out)), keys.samples, keys.seed)
    sampled, reference, floor = drawn[0], trained[drawn[1]], np.sort(held_out[drawn[2]])

    compared = ((made, sampled), (real, reference), (real, floor))
    features = [models.features(model, Rows(slices.images, rows)) for slices, rows in compared]
    result = fidelity.compare(*features)
    each_its_own = np.arange(len(made))  # no two synthetic slices are one patient's
    for part, name, slices, rows, patients in (
        ("values", "synthetic", made, sampled, each_its_own),
        ("floor", "held-out", real, floor, real.index["patient"].to_numpy(str)),
    ):
        for numbers, reasons in (
            _similarity(slices, rows, patients[rows], keys.seed, device),
            _label_consistency(model, slices, rows, name),
        ):
            result[part] |= numbers
            result["reasons"] = reasons | result["reasons"]

    found = {
        "extractor": f"U-Net encoder (spread of all channels), trained on real slices of {config.prepare.cohort}",
        "features": features[0].shape[1],
        "n": {"synthetic": len(sampled), "reference": len(reference), "floor": len(floor)},
        "ms_ssim_scales": fidelity.scales(real.meta["image_size"]),
        **result,
    }
    (folder / "fidelity.json").write_text(json.dumps(found, indent=1, allow_nan=False))
    tracked.log_artifact(folder / "fidelity.json")
    return {
        **{key: found["values"][key] for key in HEADLINE},
        **{f"{key}_floor": found["floor"][key] for key in HEADLINE},
        "slices": len(sampled),
    }


def _similarity(
    slices: SliceSet, rows: np.ndarray, patients: np.ndarray, seed: int, device: torch.device
) -> tuple[dict, dict]:
    """MS-SSIM of random pairs within a set, by modality, and why it is missing."""
    keys = [f"ms_ssim_{modality}" for modality in MODALITIES]
    try:
        pairs = rows[fidelity.random_pairs(patients, seed)]
    except fidelity.TooFewSamples as error:
        return dict.fromkeys(keys), dict.fromkeys(keys, str(error))
    return dict(zip(keys, fidelity.ms_ssim(slices.images, pairs, device).tolist(), strict=True)), {}


def _label_consistency(model: Segmenter, slices: SliceSet, rows: np.ndarray, name: str) -> tuple[dict, dict]:
    """Dice between a set's annotation and what a segmenter trained on real slices sees, over all pixels together, by
    class and their mean; and why it is missing: a class that is nowhere annotated has none."""
    dice = dict(zip(CLASSES[1:], models.pooled_dice(model, slices, rows).tolist(), strict=True))
    pixels = sum(
        np.bincount(slices.labels[rows[start : start + READ]].ravel(), minlength=len(CLASSES))
        for start in range(0, len(rows), READ)
    )
    absent = [label for label, count in zip(CLASSES, pixels, strict=True) if count == 0 and label in dice]
    numbers = {"label_dice": None if absent else float(np.mean(list(dice.values())))}
    numbers |= {f"label_dice_{label}": None if label in absent else value for label, value in dice.items()}
    reason = f"no {name} slice is annotated {' or '.join(absent)}"
    return numbers, {key: reason for key, value in numbers.items() if value is None}
