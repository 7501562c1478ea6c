"""One model on several devices: each process works on its share of a batch, and all of them take the same step.

Process r of n has samples r, r + n, r + 2n, … of the batch and of every random draw: all have the same random state,
draw for the whole batch and keep their share. Losses and normalizations over a batch see the whole one. So all
processes have the same loss; what flows back through `gather` and `mean` is the gradient of the sum of those n, and the
mean of the processes' gradients is that of one. Everything here does nothing in a single process, that is, without
torch.distributed's process group.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn


def world() -> int:
    """Number of processes that train the model together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return distributed.get_rank() if world() > 1 else 0


def total(count: int) -> int:
    """Of the whole batch, where this process has `count`."""
    return count * world()


def share(drawn: Tensor) -> Tensor:
    """This process's rows of what was drawn for the whole batch."""
    return drawn[rank() :: world()]


def part_ways() -> None:
    """From here to the end of the step each process draws its own numbers: for layers that draw by themselves."""
    if world() > 1:
        torch.manual_seed(torch.initial_seed() + 1 + rank())


def gather(values: Tensor) -> Tensor:
    """The whole batch [n B, …] of each process's values [B, …], in its order; differentiable."""
    return _Gather.apply(values) if world() > 1 else values


def mean(values: Tensor) -> Tensor:
    """Mean of the processes' values; differentiable."""
    return _Mean.apply(values) if world() > 1 else values


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Means over the processes, in one message. Which parameters have a gradient must be the same everywhere."""
    if world() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    averaged = mean(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, values in zip(gradients, averaged.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(values.view_as(gradient))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(world())]
        distributed.all_gather(parts, values.contiguous())
        return torch.stack(parts, 1).flatten(0, 1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return share(gradient) * world()  # all processes have the same loss, so the same gradient


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        summed = values.contiguous().clone()
        distributed.all_reduce(summed)
        return summed / world()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return mean(gradient)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalization over the whole batch. (torch's SyncBatchNorm is for GPUs only.)"""

    def forward(self, x: Tensor) -> Tensor:
        if world() == 1 or not self.training:
            return super().forward(x)
        values = x.float()
        average = mean(values.mean((0, 2, 3)))
        variance = mean((values - average[:, None, None]).square().mean((0, 2, 3)))
        with torch.no_grad():
            count = total(x.numel() // x.shape[1])
            self.running_mean.lerp_(average, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return torch.addcmul((self.bias - average * scale)[:, None, None], values, scale[:, None, None]).to(x.dtype)
