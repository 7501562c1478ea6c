"""The only training loop: budget in images seen, logging, checkpoints, resume.

The batch at a step and every random number drawn in it are a function of (seed, images seen), so a run that was killed
and is started again repeats nothing, skips nothing, and ends in the same weights.
"""

import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmark import distributed
from benchmark.errors import UserError
from benchmark.progress import progress_bar

log = logging.getLogger(__name__)

LOG_POINTS = 200  # points of a training curve
KEPT_CHECKPOINTS = 2


class Trainable(Protocol):
    """What the loop asks of a generator or segmenter."""

    def train_step(self, *batch: Any) -> dict[str, Tensor]: ...
    def state_dict(self) -> dict: ...
    def load_state_dict(self, state: dict) -> None: ...
    def weights(self) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Budget:
    """How long and how often; images count what the network has seen, whole batches."""

    images: int
    batch_size: int
    seed: int
    snapshots: int
    checkpoint_seconds: float
    patience: int = 0  # snapshots without a better score before training stops; 0: never

    @property
    def snapshot_at(self) -> set[int]:
        """Images seen at each snapshot; the last is the training's end."""
        return {
            math.ceil(self.images * i / self.snapshots / self.batch_size) * self.batch_size
            for i in range(1, self.snapshots + 1)
        }

    def ended(self, progress: "Progress") -> bool:
        """Whether a training that has come this far is over."""
        return progress.seen >= self.images or 0 < self.patience <= progress.since_best


@dataclass
class Progress:
    """What a checkpoint holds beside the model."""

    seen: int = 0
    seconds: float = 0.0  # of training, over all starts, without snapshots
    best_score: float = -math.inf
    best_seen: int = 0
    snapshots: int = 0
    since_best: int = 0  # snapshots
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    loss_sums: dict[str, float] = field(default_factory=dict)  # since the last point of the curve
    loss_counts: dict[str, int] = field(default_factory=dict)  # lazy regularizers report only now and then

    def cost(self, device: torch.device) -> dict[str, Any]:
        """What the training took, for a stage's headline."""
        return {
            "images": self.seen,
            "seconds": round(self.seconds, 2),
            "images_per_second": round(self.seen / self.seconds, 2),
            "device": str(device),
        }


class Diverged(UserError):
    """A loss stopped being a number."""


def advice(name: str, config: Any) -> str:
    """What to lower when a model of this name and configuration has diverged."""
    rates = [f"{name}.{key} ({value:g})" for key, value in dict(config).items() if key.endswith("learning_rate")]
    precise = f", or use {name}.precision=fp32" if getattr(config, "precision", "fp32") != "fp32" else ""
    return f"Lower {' and '.join(rates)}{precise}."


_watchers: list[Callable[[int, float], None]] = []


@contextmanager
def watched(on_score: Callable[[int, float], None]) -> Iterator[None]:
    """Within, on_score(number of the snapshot, score) is called at every snapshot; what it raises ends the training."""
    _watchers.append(on_score)
    try:
        yield
    finally:
        _watchers.remove(on_score)


def pick_device(name: str) -> torch.device:
    """'auto' is a GPU where there is one. Raises UserError for a GPU that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device: '{name}' asked for, but this torch ({torch.__version__}) sees no GPU; use device=cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device: '{name}' asked for, but there are {torch.cuda.device_count()} GPUs, from cuda:0")
    return device


def pick_devices(name: str) -> list[torch.device]:
    """All devices that independent pieces of work are shared by: every GPU for 'auto' and 'cuda', else the named one.

    Raises UserError for a GPU that is not there.
    """
    first = pick_device(name)
    if first.type == "cuda" and first.index is None:
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [first]


def mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers; different numbers give unrelated seeds."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def shuffled_rows(count: int, start: int, size: int, seed: int) -> np.ndarray:
    """Positions start … start + size of an endless stream that visits all `count` rows once an epoch, each epoch in its
    own order; a pure function of its arguments."""
    positions = np.arange(start, start + size)
    epochs = positions // count
    orders = {epoch: np.random.default_rng(mix(seed, int(epoch))).permutation(count) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][position % count] for epoch, position in zip(epochs, positions, strict=True)])


def train(
    model: Trainable,
    read: Callable[[int], Any],
    to_batch: Callable[[Any], tuple[Tensor, ...]],
    budget: Budget,
    folder: Path,
    *,
    name: str,
    on_metrics: Callable[[Mapping[str, float], int], None],
    on_snapshot: Callable[[int], Mapping[str, float]],
    score: Callable[[Mapping[str, float]], float],
    advice: str,
    keep_from: int = 0,
) -> Progress:
    """Trains `model` until the budget is seen, going on from the newest sound checkpoint in folder/checkpoints.

    read(seen) fetches the batch that starts at `seen`, in a thread of its own while the step before it runs, so it must
    not touch torch's random state; to_batch(what was read) → train_step's tensors, and may. on_snapshot(seen) returns
    metrics, of which `score` makes one number: the weights where it was highest, from `keep_from` images on, are kept
    in folder/best.safetensors, and training ends early once budget.patience of those in a row have not raised it.
    All metrics, those before a restart included, go to on_metrics(metrics, seen).

    Of several processes (see benchmark.distributed) the leader is here and the others are in `assist`; the batch that
    each reads is its share.

    Raises Diverged, naming the step, the last good checkpoint and the `advice`, when a loss is not finite.
    """
    checkpoints = Checkpoints(folder / "checkpoints")
    progress = checkpoints.restore(model) or Progress()
    distributed.announce(checkpoints.restored)
    for seen, metrics in progress.history:
        on_metrics(metrics, seen)
    log_every = math.ceil(budget.images / LOG_POINTS / budget.batch_size) * budget.batch_size
    snapshot_at = budget.snapshot_at
    pending: list[tuple[int, dict[str, Tensor]]] = []  # losses not yet fetched from the device
    started, resumed_at, saved = time.monotonic(), progress.seconds, time.monotonic()

    def record(metrics: Mapping[str, float]) -> None:
        progress.history.append((progress.seen, dict(metrics)))
        on_metrics(metrics, progress.seen)

    def settle() -> None:
        """Fetches pending losses. Nothing is logged or saved before they are known to be finite."""
        for seen, losses in pending:
            for key, value in losses.items():
                number = float(value)
                if not math.isfinite(number):
                    last = checkpoints.newest() or "none yet"
                    raise Diverged(
                        f"{name}: '{key}' is {number} at {seen:,} images (step {seen // budget.batch_size:,}); "
                        f"last good checkpoint: {last}. {advice}"
                    )
                progress.loss_sums[key] = progress.loss_sums.get(key, 0.0) + number
                progress.loss_counts[key] = progress.loss_counts.get(key, 0) + 1
        pending.clear()

    with (
        progress_bar(budget.images, name, "img", min(progress.seen, budget.images)) as bar,
        ThreadPoolExecutor(1) as reader,
    ):
        upcoming = reader.submit(read, progress.seen)
        logged_seen, logged_at = progress.seen, time.monotonic()
        stopped = distributed.agree(budget.ended(progress))
        while not stopped:
            fetched = upcoming.result()
            upcoming = reader.submit(read, progress.seen + budget.batch_size)
            pending.append((progress.seen, _step(model, to_batch, fetched, budget.seed, progress.seen)))
            progress.seen += budget.batch_size
            progress.seconds = resumed_at + time.monotonic() - started
            bar.update(min(budget.batch_size, budget.images - int(bar.n)))
            finished = progress.seen >= budget.images
            if progress.seen % log_every == 0 or finished:
                settle()
                losses = {key: value / progress.loss_counts[key] for key, value in progress.loss_sums.items()}
                speed = (progress.seen - logged_seen) / (time.monotonic() - logged_at)
                record({**losses, "images_per_second": speed})
                progress.loss_sums, progress.loss_counts = {}, {}
                logged_seen, logged_at = progress.seen, time.monotonic()
            if progress.seen in snapshot_at:
                settle()
                paused = time.monotonic()
                with distributed.releasing():
                    metrics = on_snapshot(progress.seen)
                    record(metrics)
                    reached = score(metrics)
                    if progress.seen >= keep_from:
                        progress.since_best += 1
                        if reached > progress.best_score:
                            progress.best_score, progress.best_seen, progress.since_best = reached, progress.seen, 0
                            save_weights(model.weights(), folder / "best.safetensors")
                    progress.snapshots += 1
                    for watch in _watchers:
                        watch(progress.snapshots, reached)
                stopped = distributed.agree(budget.ended(progress))
                paused = time.monotonic() - paused  # snapshots are not training
                logged_at, started = logged_at + paused, started + paused
            if finished or stopped or time.monotonic() - saved >= budget.checkpoint_seconds:
                settle()
                checkpoints.save(model, progress)
                saved = time.monotonic()
    return progress


def assist(
    model: Trainable,
    read: Callable[[int], Any],
    to_batch: Callable[[Any], tuple[Tensor, ...]],
    budget: Budget,
    folder: Path,
) -> None:
    """What a helper does while the leader is in `train` with the same arguments: its steps, and nothing else."""
    checkpoint = distributed.announce()
    progress = Checkpoints(folder / "checkpoints").load(checkpoint, model) if checkpoint else Progress()
    seen, snapshot_at = progress.seen, budget.snapshot_at
    with ThreadPoolExecutor(1) as reader:
        upcoming = reader.submit(read, seen)
        stopped = distributed.agree()
        while not stopped:
            fetched = upcoming.result()
            upcoming = reader.submit(read, seen + budget.batch_size)
            _step(model, to_batch, fetched, budget.seed, seen)
            seen += budget.batch_size
            if seen in snapshot_at:
                stopped = distributed.agree()


def _step(model: Trainable, to_batch: Callable, fetched: Any, seed: int, seen: int) -> dict[str, Tensor]:
    torch.manual_seed(mix(seed, seen))
    return distributed.averaged(model.train_step(*to_batch(fetched), seen))


class Checkpoints:
    """Files '<images seen>-<sha256>.pt' in a folder: written beside, synced, renamed; the two newest are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.restored = ""  # name of the file that `restore` has loaded

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*-*.pt"), reverse=True)

    def newest(self) -> Path | None:
        return next(iter(self._files()), None)

    def save(self, model: Trainable, progress: Progress) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / "writing.partial"
        with partial.open("wb") as file:
            torch.save({"model": model.state_dict(), "progress": vars(progress)}, file)
            file.flush()
            os.fsync(file.fileno())
        path = self.folder / f"{progress.seen:012d}-{_sha256(partial)}.pt"
        partial.replace(path)
        _sync_folder(self.folder)
        for old in self._files()[KEPT_CHECKPOINTS:]:
            old.unlink()
        return path

    def restore(self, model: Trainable) -> Progress | None:
        """Loads the newest sound checkpoint into the model; a damaged one is skipped with a warning."""
        for path in self._files():
            if _sha256(path) != path.stem.partition("-")[2]:
                log.warning("checkpoint %s is damaged (its checksum disagrees); going back to the one before", path)
                continue
            self.restored = path.name
            return self.load(path.name, model)
        return None

    def load(self, name: str, model: Trainable) -> Progress:
        """Loads the checkpoint of this name into the model."""
        content = torch.load(self.folder / name, map_location="cpu", weights_only=True)
        model.load_state_dict(content["model"])
        return Progress(**content["progress"])


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Safetensors, written beside and renamed."""
    partial = path.with_suffix(".partial")
    save_file(dict(weights), partial)
    partial.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
