"""One training on several devices: `torchrun --nproc_per_node N -m benchmark STAGE …`.

Process 0 leads: it does everything that a single process does. The others wait for its orders and help in the inner
loop of a training, where each works on its share of every batch (see generators.parallel and segmenters.parallel).
What they tell each other are tensors and JSON; nothing is pickled. In a single process all of this does nothing.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, distributed

from benchmark.errors import UserError
from generators.parallel import world

PATIENCE = timedelta(days=7)  # for which helpers wait while the leader prepares, samples or measures


class Team:
    """The leader's hold on its helpers in one call of the program: when they hear orders, and when they do not."""

    def __init__(self) -> None:
        self.training = False  # whether the helpers are inside a training, where they hear no orders

    def call(self, order: Mapping[str, Any]) -> None:
        """Calls the helpers to a training. Raises UserError where one before it failed and left them in its midst."""
        if world() == 1:
            return
        if self.training:
            raise UserError(
                "a training before this one failed, and under torchrun nothing can be trained after that; "
                "start the same command again: what is done is not done twice"
            )
        announce(order)
        self.training = True

    def agree(self, stopped: bool) -> bool:
        """Tells the helpers, at the start and at each snapshot, whether the training ends here; returns the same."""
        announce(stopped)
        self.training = world() > 1 and not stopped
        return stopped

    @contextmanager
    def releasing(self) -> Iterator[None]:
        """Within, the helpers wait for the leader to `agree`; an error ends the training for them too."""
        try:
            yield
        except Exception:
            self.agree(True)
            raise


@contextmanager
def alone() -> Iterator[None]:
    """Within, models see no other process: what the leader trains then, it trains by itself."""
    if world() == 1:
        yield
        return
    group, distributed.group.WORLD = distributed.group.WORLD, None
    try:
        yield
    finally:
        distributed.group.WORLD = group


@contextmanager
def joined(device: str) -> Iterator[Team | None]:
    """Within, the processes that torchrun started work together; gives the leader its team, a helper None.

    `device` as configured; with 'auto', each process has a GPU of its own where there are any. Raises UserError where
    there are too few. When the leader is done, so are the helpers; an error ends its process, and torchrun all others.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.startswith("cuda:"):
        raise UserError(f"device: '{device}' is one GPU, but torchrun started several processes; use device=auto")
    if device != "cpu" and torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise UserError(
                f"torchrun: process {local + 1} on this machine has no GPU: there are {torch.cuda.device_count()}; "
                "give --nproc_per_node no more than that, or use device=cpu"
            )
        torch.cuda.set_device(local)
    import_module("torch._dynamo")  # by optimizers, too: imported later, it would hold the group, whose threads then
    # outlive its destruction and may abort the process as it ends
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    team = Team() if leads() else None
    yield team
    if team and team.training:  # the helpers hear no order now; when this process ends, torchrun ends them
        return
    if team:
        announce(None)
    distributed.all_reduce(torch.zeros(()))  # no process leaves while another still communicates
    distributed.destroy_process_group()


def announce(message: Any = None) -> Any:
    """The leader's message, plain values, in every process; the helpers' arguments do not count."""
    if world() == 1:
        return message
    content = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8)
    length = torch.tensor(len(content))
    distributed.broadcast(length, 0)
    if not leads():
        content = torch.empty(int(length), dtype=torch.uint8)
    distributed.broadcast(content, 0)
    return json.loads(content.numpy().tobytes())


def leads() -> bool:
    """Whether this process leads, as a single one does."""
    return world() == 1 or distributed.get_rank() == 0


def share() -> slice:
    """This process's samples of a batch: every n-th, from its own number on."""
    return slice(distributed.get_rank() if world() > 1 else 0, None, world())


def check_share(batch_size: int, multiple: int = 1) -> None:
    """Raises UserError unless a batch falls into equal shares for all processes, each a multiple of `multiple`."""
    if world() > 1 and batch_size % (world() * multiple):
        raise UserError(
            f"batch_size: {batch_size} images cannot be shared by {world()} processes; this model takes a multiple of "
            f"{world() * multiple}"
        )


def averaged(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Means over the processes of scalars that each has under the same names."""
    if world() == 1:
        return losses
    device = max((loss.device for loss in losses.values()), key=lambda device: device.type == "cuda")
    values = torch.stack([loss.detach().to(device, torch.float32) for loss in losses.values()])
    distributed.all_reduce(values)
    return dict(zip(losses, values / world(), strict=True))
