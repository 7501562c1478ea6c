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

SCHEMA = 5  # 5: draws of one slice a patient; MS-SSIM inside the brain
READ = 256  # slices in memory at once, and those that tell how wide brains are
HEADLINE = ("frechet", "kernel", "precision", "recall", "density", "coverage", "label_dice")


def settings(config: Config) -> Settings:
    keys = config.fidelity.model_dump(mode="json", exclude={"synthetic"})
    return {**keys, "synthetic": synthetic.settings_of(config, config.fidelity.synthetic)}


def needs(config: Config) -> dict[str, Need]:
    extractor = Need("train_segmenter", models.extractor_config(config))
    wanted = synthetic.needs_of(config, config.fidelity.synthetic)
    return {"prepare": Need("prepare", config), "extractor": extractor, **wanted}


def tags(config: Config) -> dict[str, Any]:
    return synthetic.tags_of(config, config.fidelity.synthetic)


def run(task: RunningTask) -> Headline:
    """Writes fidelity.json: `values` of the synthetic set and `floor` of test subjects, both against training slices,
    as means over draws of one slice a person, equally many of each; what cannot be measured is null and has its reason.
    """
    config, folder, tracked = task.config, task.folder, task.tracked
    keys = config.fidelity
    device = devices.pick_device(config.common.device)
    real = SliceSet.open(task.folders["prepare"])
    made = synthetic.open_synthetic(config, keys.synthetic, task.folders)
    size, trained_in = real.meta["image_size"], task.folders["extractor"]
    model = models.load_segmenter(models.extractor_config(config), size, trained_in).to(device)
    patients = real.index["patient"].to_numpy(str)
    trained, held_out = real.rows("train"), real.rows("test")  # validation subjects chose the snapshot
    sets = {
        "synthetic": (made, np.arange(len(made)), synthetic.people_of(made)),
        "reference": (real, trained, patients[trained]),
        "floor": (real, held_out, patients[held_out]),
    }
    people = [whose for *_, whose in sets.values()]
    draws = fidelity.equal_draws(people, keys.samples, keys.seed)
    drawn = {name: rows[drawn] for (name, (_, rows, _)), drawn in zip(sets.items(), draws, strict=True)}

    features = [_features(model, sets[name][0], rows) for name, rows in drawn.items()]
    result = fidelity.compare(*features)
    some = trained[np.linspace(0, len(trained) - 1, min(len(trained), READ)).astype(int)]
    levels = fidelity.scales(fidelity.brain_width(Rows(real.images, some)))
    for part, name, called in (("values", "synthetic", "synthetic"), ("floor", "floor", "held-out")):
        slices = sets[name][0]
        for numbers, reasons in (
            _similarity(slices, drawn[name], levels, keys.seed, device),
            _label_consistency(model, slices, np.unique(drawn[name]), called),
        ):
            result[part] |= numbers
            result["reasons"] = reasons | result["reasons"]

    found = {
        "extractor": f"U-Net encoder (spread of all channels), trained on real slices of {config.prepare.cohort}",
        "features": features[0].features.shape[1],
        "draws": len(draws[0]),
        "per_draw": draws[0].shape[1],
        "n": {name: len(np.unique(rows)) for name, rows in drawn.items()},
        "people": {name: len(np.unique(whose)) for name, whose in zip(sets, people, strict=True)},
        "ms_ssim_scales": levels,
        **result,
    }
    (folder / "fidelity.json").write_text(json.dumps(found, indent=1, allow_nan=False))
    tracked.log_artifact(folder / "fidelity.json")
    return {
        **{key: found["values"][key] for key in HEADLINE},
        **{f"{key}_floor": found["floor"][key] for key in HEADLINE},
        "slices": found["n"]["synthetic"],
        "slices_per_draw": found["per_draw"],
    }


def _features(model: Segmenter, slices: SliceSet, draws: np.ndarray) -> fidelity.Drawn:
    """Features of the drawn slices, each read once. draws: rows [draws, n]."""
    rows, places = np.unique(draws, return_inverse=True)
    return fidelity.Drawn(models.features(model, Rows(slices.images, rows)), places.reshape(draws.shape))


def _similarity(slices: SliceSet, draws: np.ndarray, levels: int, seed: int, device: torch.device) -> tuple[dict, dict]:
    """MS-SSIM of random pairs within a set, by modality, and why it is missing."""
    keys = [f"ms_ssim_{modality}" for modality in MODALITIES]
    try:
        pairs = fidelity.random_pairs(draws, seed)
    except fidelity.TooFewSamples as error:
        return dict.fromkeys(keys), dict.fromkeys(keys, str(error))
    return dict(zip(keys, fidelity.ms_ssim(slices.images, pairs, levels, device).tolist(), strict=True)), {}


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
