"""What a training leaves on disk: checkpoints to go on from, the best weights in them, and weights to give away."""

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmark.files import content_hash, sync_folder
from benchmark.training.devices import device_name

log = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2


class Trainable(Protocol):
    """What the loop asks of a generator or segmenter."""

    def train_step(self, *batch: Any) -> dict[str, Tensor]: ...
    def state_dict(self) -> dict: ...
    def load_state_dict(self, state: dict) -> None: ...
    def weights(self) -> dict[str, Tensor]: ...


@dataclass
class Progress:
    """What a checkpoint holds beside the model."""

    seen: int = 0
    seconds: float = 0.0  # of training, over all starts, without snapshots
    best_score: float = -math.inf
    best_seen: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)  # in memory of the CPU
    snapshots: int = 0
    since_best: int = 0  # snapshots
    stopped: bool = False  # by what a snapshot showed
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    loss_sums: dict[str, float] = field(default_factory=dict)  # since the last point of the curve
    loss_counts: dict[str, int] = field(default_factory=dict)  # lazy regularizers report only now and then

    def record(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Adds a point to the curve; returns it."""
        self.history.append((self.seen, dict(metrics)))
        return dict(metrics)

    def judge(self, score: float, counts: bool) -> bool:
        """Notes a snapshot and, where it counts, its score; whether that is the best so far."""
        self.snapshots += 1
        if not counts:
            return False
        self.since_best += 1
        if not score > self.best_score:  # nor where it is not a number
            return False
        self.best_score, self.best_seen, self.since_best = score, self.seen, 0
        return True

    def keep(self, weights: Mapping[str, Tensor]) -> None:
        """Keeps a copy of the weights as the best. They stand with their score in one file, so that the two agree
        wherever a training is killed."""
        self.best_weights = {name: value.detach().to("cpu", copy=True) for name, value in weights.items()}

    def cost(self, device: torch.device) -> dict[str, Any]:
        """What the training took, for a stage's headline."""
        return {
            "images": self.seen,
            "seconds": round(self.seconds, 2),
            "images_per_second": round(self.seen / self.seconds, 2),
            "device": device_name(device),
        }


class Checkpoints:
    """Files '<images seen>-<sha256>.pt' in a folder: written beside, synced, renamed; the two newest are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.restored = ""  # name of the file that `restore` has loaded
        self._saved = time.monotonic()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*-*.pt"), reverse=True)

    def newest(self) -> Path | None:
        return next(iter(self._files()), None)

    def due(self, seconds: float) -> bool:
        """Whether the last one was saved that long ago."""
        return time.monotonic() - self._saved >= seconds

    def save(self, model: Trainable, progress: Progress) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / "writing.partial"
        with partial.open("wb") as file:
            torch.save({"model": model.state_dict(), "progress": vars(progress)}, file)
            file.flush()
            os.fsync(file.fileno())
        path = self.folder / f"{progress.seen:012d}-{content_hash(partial)}.pt"
        partial.replace(path)
        sync_folder(self.folder)
        for old in self._files()[KEPT_CHECKPOINTS:]:
            old.unlink()
        self._saved = time.monotonic()
        return path

    def restore(
        self, model: Trainable, missing: Callable[[Progress], Path | None] = lambda progress: None
    ) -> Progress | None:
        """Loads the newest checkpoint that can be gone on from into the model. One that is damaged, or whose training
        had left a file that is `missing`, is removed with a warning: kept, it would count as newer than those to come.
        """
        for path in self._files():
            if content_hash(path) != path.stem.partition("-")[2]:
                log.warning("checkpoint %s is damaged (its checksum disagrees); going back to the one before", path)
            else:
                state, progress = self._read(path.name)
                if not (gone := missing(progress)):
                    self.restored = path.name
                    model.load_state_dict(state)
                    return progress
                log.warning("%s is missing: the training goes back to a checkpoint before it, or begins anew", gone)
            path.unlink()
        return None

    def load(self, name: str, model: Trainable) -> Progress:
        """Loads the checkpoint of this name into the model."""
        state, progress = self._read(name)
        model.load_state_dict(state)
        return progress

    def _read(self, name: str) -> tuple[dict, Progress]:
        content = torch.load(self.folder / name, map_location="cpu", weights_only=True)
        return content["model"], Progress(**content["progress"])


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Safetensors: written beside, synced, renamed."""
    partial = path.with_suffix(".partial")
    save_file(dict(weights), partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)
