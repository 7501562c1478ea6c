"""The judge of a generator's snapshots: Dice on real validation subjects of a small U-Net, briefly trained on samples.

It asks of a snapshot what the table will ask of the finished set. `tests/bench/bench_quality.py` sets it against the
alternatives: how well each ranks snapshots as their synthetic-only Dice on test subjects does.
"""

import hashlib
import json

import numpy as np
import torch

from benchmark.config import Config
from benchmark.data.slices import SliceSet
from benchmark.files import locked, write_atomically
from benchmark.training.models import create_segmenter, extractor_config, pooled_dice
from benchmark.training.order import mix, shuffled_rows
from benchmark.training.processes import alone
from segmenters.augment import augment
from segmenters.base import normalize

SCHEMA = 1  # raised whenever the same settings would give another number
BATCH = 16  # small, so that a short budget has many steps


def judge(
    config: Config,
    images: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    real: SliceSet,
    device: torch.device,
    split: str = "validation",
) -> float:
    """Mean Dice of NCR, ED and ET over all pixels of the split's real slices, after `train_generator.judge_images` of
    training on these rows of images uint8 [N, 4, H, W] and labels uint8 [N, H, W].

    The network is the extractor's U-Net, always of one seed.
    """
    budget = config.train_generator.judge_images
    torch.manual_seed(mix(0, 0))
    model = create_segmenter(extractor_config(config).replace({"train_segmenter.images": budget}), images.shape[-1])
    model.to(device)
    with alone():
        for seen in range(0, budget, BATCH):
            torch.manual_seed(mix(0, seen))
            chosen = rows[shuffled_rows(len(rows), seen, BATCH, 0)]
            batch, annotation = (torch.from_numpy(array[chosen]).to(device) for array in (images, labels))
            model.train_step(*augment(normalize(batch), annotation.long()), seen)
    return float(pooled_dice(model, real, real.rows(split)).mean())


def judge_of_real(config: Config, real: SliceSet, rows: np.ndarray, extractor: str, device: torch.device) -> float:
    """The judge's Dice after training on these real rows: what a snapshot of perfect samples could reach.

    Every generator of a cohort asks for the same number, so it is measured once for each work folder.
    extractor: fingerprint of the extractor's training, which stands for the cohort's slices and the judge's network.
    """
    depends_on = [SCHEMA, extractor, config.train_generator.judge_images, rows.tolist()]
    digest = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()
    path = config.common.work_dir / "judge" / f"{digest[:16]}.json"
    with locked(path.with_suffix(".lock"), waiting_for="the judge of real slices"):
        if not path.is_file():
            dice = judge(config, real.images, real.labels, rows, real, device)
            write_atomically(path, json.dumps({"judge_dice_real": dice}))
        return json.loads(path.read_bytes())["judge_dice_real"]
