"""Whose slices a generator was trained on: whatever is compared with its training images asks here."""

import numpy as np

from benchmark.config import Config
from benchmark.data import synthetic
from benchmark.data.slices import SliceSet
from benchmark.errors import UserError
from benchmark.training.order import drawn


def trained_on(config: Config, slices: SliceSet) -> np.ndarray:
    """Rows, ascending, of the training slices of the first `train_generator.subjects` patients, in an order drawn from
    the generator's seed: with the same seed, fewer patients lie within more.

    Raises UserError where there are not so many training patients.
    """
    rows, count = slices.rows("train"), config.train_generator.subjects
    if count is None:
        return rows
    patients = slices.index["patient"].to_numpy(str)[rows]
    names = np.unique(patients)
    if count > len(names):
        raise UserError(
            f"train_generator.subjects: {count} patients were asked for, but {slices.meta['cohort']} has {len(names)} "
            "for training; give fewer, or a larger cohort"
        )
    return rows[np.isin(patients, drawn(names, count / len(names), config.train_generator.seed))]


def seen_by(config: Config, given: str | None, slices: SliceSet) -> np.ndarray:
    """Rows, ascending, of the training slices behind a synthetic set: those that any generator of its ensemble was
    trained on; all of them where the set was sent."""
    if synthetic.generator_of(config, given) is None:
        return slices.rows("train")
    first = config.train_generator.seed
    members = (config.replace({"train_generator.seed": seed}) for seed in range(first, first + config.sample.ensemble))
    return np.unique(np.concatenate([trained_on(member, slices) for member in members]))
