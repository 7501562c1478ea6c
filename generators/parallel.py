"""One model on several devices: each process works on its share of a batch, and all of them take the same step.

Process r of n has samples r, r + n, r + 2n, … of the batch and of every random draw: all have the same random state,
draw for the whole batch and keep their share, so the number of processes changes no sample, no noise and no group of
samples. Everything here does nothing in a single process, that is, without torch.distributed's process group.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn


def world() -> int:
    """Number of processes that train the model together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def total(count: int) -> int:
    """Of the whole batch, where this process has `count`."""
    return count * world()


def share(drawn: Tensor, dim: int = 0) -> Tensor:
    """This process's part of what was drawn for the whole batch, whose samples lie along `dim`."""
    if world() == 1:
        return drawn
    return drawn.unflatten(dim, (-1, world())).select(dim + 1, distributed.get_rank())


def randn(count: int, *shape: int, **options) -> Tensor:
    """torch.randn for `count` samples of this process, [count, *shape]."""
    return share(torch.randn(total(count), *shape, **options))


def rand(count: int, *shape: int, **options) -> Tensor:
    """torch.rand for `count` samples of this process, [count, *shape]."""
    return share(torch.rand(total(count), *shape, **options))


def randint(low: int, high: int, count: int, **options) -> Tensor:
    """torch.randint for `count` samples of this process, [count]."""
    return share(torch.randint(low, high, (total(count),), **options))


def part_ways() -> None:
    """From here to the end of the step each process draws its own numbers: for layers that draw by themselves."""
    if world() > 1:
        torch.manual_seed(torch.initial_seed() + 1 + distributed.get_rank())


def summed(value: Tensor) -> Tensor:
    """Sum of the processes' values, without gradient."""
    if world() > 1:
        value = value.detach().clone()
        distributed.all_reduce(value)
    return value


def mean(value: Tensor) -> Tensor:
    """Mean of the processes' values, without gradient."""
    return summed(value) / world() if world() > 1 else value


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Means over the processes, in one message. Which parameters have a gradient must be the same everywhere.

    After backward, and not by hooks within it: regularizers differentiate twice.
    """
    if world() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    averaged = mean(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, values in zip(gradients, averaged.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(values.view_as(gradient))
