"""Memory that training a preset's generators takes on a GPU, counted without one.

    python tests/bench/bench_memory.py [NAME ...] [--preset brats2020] [--batch 8]

One training step, with all its regularizers due, runs on torch's meta device, where tensors have shapes but no data.
Every storage is counted from its making to its end: parameters, averages, gradients, all that is kept for the backward
passes, and temporaries. What that first step leaves behind, Adam's moments and gradients, is added to its peak as if it
had been there all along. Not counted: the CUDA context, workspaces of cuDNN, fragmentation.
The diffusion model is left out: it runs under autocast, which knows no meta device.
"""

import argparse
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import generators
from benchmark.parsing import parse, resolve_model

GIB = 2**30
GANS = [name for name in generators.names() if name != "diffusion"]
FULLY_GROWN = 16 * 10**7  # steps: past all growth, and a multiple of every regularization interval


class Memory(TorchDispatchMode):
    """Bytes in storages that operations have made: `now`, and at most so far."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.storages: set[int] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor.untyped_storage())
        return result

    def count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address not in self.storages:  # else a view, or an operation in place
            self.storages.add(address)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.release, address, size)

    def release(self, address: int, size: int) -> None:
        self.storages.remove(address)
        self.now -= size


def measure(name: str, size: int, batch: int, config: dict) -> tuple[int, int]:
    """Bytes that stay between steps, and at the peak of one."""
    with torch.device("meta"), Memory() as memory:
        model = generators.create(name, 5, size, **config).to("meta")
        for optimizer in model.optimizers.values():
            optimizer.param_groups[0]["fused"] = False  # which meta tensors have not
        images, made = torch.empty(batch, 5, size, size), memory.now
        model.train_step(images, batch * FULLY_GROWN)
        return memory.now, memory.peak + memory.now - made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=GANS, metavar="NAME")
    parser.add_argument("--preset", default="brats2020")
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    config = parse("train_generator", {"preset": arguments.preset})
    size = config.prepare.image_size
    print(f"preset {arguments.preset}: {size}×{size}×5, batch {arguments.batch}")
    print(f"{'generator':<16} between steps [GiB]   peak of a step [GiB]")
    for name in arguments.names:
        between, peak = measure(name, size, arguments.batch, resolve_model(config, name, precision="bf16"))
        print(f"{name:<16} {between / GIB:19.2f}   {peak / GIB:20.2f}", flush=True)


if __name__ == "__main__":
    main()
