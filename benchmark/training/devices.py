"""Which device computes."""

import torch

from benchmark.errors import UserError


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
