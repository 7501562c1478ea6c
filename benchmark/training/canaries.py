"""Canaries: training patients whose slices are shown more often, so that attacks can prove that they see at all."""

import json
from pathlib import Path

import numpy as np

from benchmark.errors import UserError
from benchmark.training.order import mix

FILE = "canaries.json"  # beside a generator's weights: how often each canary was shown, by patient
OFTEN = (16, 4)  # times as often as others


def draw_canaries(patients: np.ndarray, count: int, seed: int) -> dict[str, int]:
    """`count` of the patients to show 16 times and as many to show 4 times as often as the others, by seed.

    Raises UserError where that leaves nobody to be shown once.
    """
    names = np.unique(patients)
    if count and len(OFTEN) * count >= len(names):
        raise UserError(
            f"train_generator.canaries: {count} patients 16 times and {count} 4 times leave none of {len(names)} "
            f"training patients to be shown once; give {(len(names) - 1) // len(OFTEN)} at most"
        )
    chosen = names[np.random.default_rng(mix(seed, 2)).permutation(len(names))[: len(OFTEN) * count]]
    return dict(zip(map(str, chosen), np.repeat(OFTEN, count).tolist(), strict=True))


def repeated(rows: np.ndarray, patients: np.ndarray, canaries: dict[str, int]) -> np.ndarray:
    """The rows [N] of these patients [N], those of canaries as often as they are to be shown."""
    return np.repeat(rows, [canaries.get(str(patient), 1) for patient in patients])


def write_canaries(canaries: dict[str, int], folder: Path) -> None:
    """Writes them where there are any."""
    if canaries:
        (folder / FILE).write_text(json.dumps(canaries, indent=1))


def read_canaries(folder: Path) -> dict[str, int]:
    """Those of the training in this folder; {} where it had none."""
    return json.loads((folder / FILE).read_text()) if (folder / FILE).is_file() else {}
