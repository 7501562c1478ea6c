"""The only training loop: budget in images seen, logging, checkpoints, resume.

The batch at a step and every random number drawn in it are a function of (seed, images seen), so a run that was killed
and is started again repeats nothing, skips nothing, and ends in the same weights.

Of several processes (see benchmark.training.processes) the leader is in `train` and the others are in `assist`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from analysis.progress import progress_bar
from benchmark.errors import UserError
from benchmark.training import processes
from benchmark.training.checkpoints import Checkpoints, Progress, Trainable
from benchmark.training.meter import Meter, NotFinite
from benchmark.training.order import mix
from benchmark.training.processes import Team

LOG_POINTS = 200  # points of a training curve
OLDER_BEST = "best.safetensors"  # where earlier versions had the best weights, whose checkpoints have none

Model = TypeVar("Model", bound=Trainable)
Metrics = Mapping[str, float]
# Is told number and score of every snapshot that counts; what it raises ends the training.
Watch = Callable[[int, float], None]
# The files that the snapshot at so many images seen leaves behind, and the finished training is to have.
Kept = Callable[[int], Iterable[Path]]


class Diverged(UserError):
    """A loss stopped being a number."""


@dataclass(frozen=True)
class Budget:
    """How long and how often; images count what the network has seen, whole batches."""

    images: int
    batch_size: int
    seed: int
    snapshots: int
    checkpoint_seconds: float
    patience: int = 0  # snapshots in a row that are no better than one before, until training ends; 0: never
    spacing: Literal["even", "geometric"] = "even"  # of snapshots; geometric: each √2 times as late as the one before

    @property
    def snapshot_at(self) -> set[int]:
        """Images seen at each snapshot; the last is the training's end."""
        numbers = range(1, self.snapshots + 1)
        if self.spacing == "geometric":
            planned = [self.images * 2 ** ((i - self.snapshots) / 2) for i in numbers]
        else:
            planned = [self.images * i / self.snapshots for i in numbers]
        return {math.ceil(images / self.batch_size) * self.batch_size for images in planned}

    @property
    def log_every(self) -> int:
        """Images between two points of the curve."""
        return math.ceil(self.images / LOG_POINTS / self.batch_size) * self.batch_size

    def ended(self, progress: Progress) -> bool:
        """Whether a training that has come this far is over."""
        return progress.stopped or progress.seen >= self.images or 0 < self.patience <= progress.since_best


@dataclass(frozen=True)
class Training(Generic[Model]):
    """What is trained, on what and for how long: the same in every process that takes part.

    read(seen) fetches this process's share of the batch that starts at `seen`, in a thread of its own while the step
    before it runs, so it must not touch torch's random state; to_batch(what was read) → train_step's tensors, and may.
    """

    name: str  # as progress and errors show it
    model: Model
    read: Callable[[int], Any]
    to_batch: Callable[[Any], tuple[Tensor, ...]]
    budget: Budget
    advice: str = ""  # what to do when a loss is not finite

    def steps(self, seen: int) -> Iterator[dict[str, Tensor]]:
        """Takes steps without end, from `seen` images on; gives each one's losses, the means over all processes."""
        batch_size, seed = self.budget.batch_size, self.budget.seed
        with ThreadPoolExecutor(1) as reader:
            upcoming = reader.submit(self.read, seen)
            while True:
                fetched = upcoming.result()
                upcoming = reader.submit(self.read, seen + batch_size)
                torch.manual_seed(mix(seed, seen))
                yield processes.averaged(self.model.train_step(*self.to_batch(fetched), seen))
                seen += batch_size


def train(
    training: Training,
    folder: Path,
    *,
    on_metrics: Callable[[Metrics, int], None],
    on_snapshot: Callable[[int], Metrics],
    score: Callable[[Metrics], float],
    keep_from: int = 0,
    kept: Kept = lambda seen: (),
    stop: Callable[[Metrics], bool] | None = None,
    team: Team | None = None,
    watch: Watch | None = None,
) -> Progress:
    """Trains until the budget is seen, going on from the newest sound checkpoint in folder/checkpoints whose training
    still has the files that are to be `kept`.

    on_snapshot(seen) measures; the weights whose `score` is highest, from `keep_from` images on, are the progress's
    best_weights. A snapshot of whose metrics `stop` is true ends the training and is not kept.
    on_metrics(metrics, seen) gets every point of the curve, those from before a restart too.
    Raises Diverged, with the step and the last good checkpoint, for a loss that is not finite.
    """
    model, budget, team = training.model, training.budget, team or Team()
    checkpoints, progress = _restored(training, folder, kept)
    for seen, metrics in progress.history:
        on_metrics(metrics, seen)
    meter = Meter(progress, budget.batch_size)
    ended = team.agree(budget.ended(progress))
    with (
        progress_bar(budget.images, training.name, "img", min(progress.seen, budget.images)) as bar,
        closing(training.steps(progress.seen)) as steps,
        _named_divergence(training, checkpoints),
    ):
        while not ended:
            meter.step(next(steps))
            bar.update(min(budget.batch_size, budget.images - int(bar.n)))

            if progress.seen % budget.log_every == 0 or progress.seen >= budget.images:
                on_metrics(progress.record(meter.means()), progress.seen)

            if progress.seen in budget.snapshot_at:
                with team.releasing(), meter.paused():
                    metrics = progress.record(on_snapshot(progress.seen) | {"training_seconds": progress.seconds})
                    on_metrics(metrics, progress.seen)
                    progress.stopped = stop is not None and stop(metrics)
                    if progress.judge(score(metrics), counts=progress.seen >= keep_from and not progress.stopped):
                        progress.keep(model.weights())
                    if watch and not progress.stopped:  # what is not kept is nobody's score
                        watch(progress.snapshots, score(metrics))
                ended = team.agree(budget.ended(progress))

            if ended or checkpoints.due(budget.checkpoint_seconds):
                meter.settle()
                checkpoints.save(model, progress)
    return progress


def assist(training: Training, folder: Path) -> None:
    """What a helper does while the leader is in `train` with the same arguments: its steps, and nothing else."""
    seen = _restored(training, folder)[1].seen
    ended = processes.announce()
    with closing(training.steps(seen)) as steps:
        while not ended:
            next(steps)
            seen += training.budget.batch_size
            if seen in training.budget.snapshot_at:
                ended = processes.announce()


def advice(name: str, config: Any) -> str:
    """What to lower when a model of this name and configuration has diverged."""
    rates = [f"{name}.{key} ({value:g})" for key, value in dict(config).items() if key.endswith("learning_rate")]
    precise = f", or use {name}.precision=fp32" if getattr(config, "precision", "fp32") == "bf16" else ""
    return f"Lower {' and '.join(rates)}{precise}."


def _restored(training: Training, folder: Path, kept: Kept = lambda seen: ()) -> tuple[Checkpoints, Progress]:
    """Loads the newest checkpoint to go on from into the model, in every process the one that the leader finds."""
    checkpoints, older_best = Checkpoints(folder / "checkpoints"), folder / OLDER_BEST

    def missing(progress: Progress) -> Path | None:
        passed = sorted(seen for seen in training.budget.snapshot_at if seen <= progress.seen)
        files = [path for seen in passed for path in kept(seen)]
        files += [older_best] if progress.best_seen and not progress.best_weights else []
        return next((path for path in files if not path.is_file()), None)

    progress = checkpoints.restore(training.model, missing) if processes.leads() else None
    name = processes.announce(checkpoints.restored)
    if name and progress is None:
        progress = checkpoints.load(name, training.model)
    elif progress and progress.best_seen and not progress.best_weights:
        progress.best_weights = load_file(older_best)
    return checkpoints, progress or Progress()


@contextmanager
def _named_divergence(training: Training, checkpoints: Checkpoints) -> Iterator[None]:
    """Within, a loss that is not finite ends the training with all that its user needs to know."""
    try:
        yield
    except NotFinite as loss:
        last = checkpoints.newest() or "none yet"
        raise Diverged(f"{training.name}: {loss}; last good checkpoint: {last}. {training.advice}") from loss
