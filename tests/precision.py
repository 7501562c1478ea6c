"""In which precision networks really compute."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Convolutions(TorchDispatchMode):
    """Within, counts the convolutions that each of the named networks computes in its forward passes, by dtype."""

    def __init__(self, networks: dict[str, torch.nn.Module]) -> None:
        super().__init__()
        self.counts: dict[str, Counter[torch.dtype]] = {name: Counter() for name in networks}
        self.inside: list[str] = []  # the network's name, once for each of its modules whose pass has begun
        for name, network in networks.items():
            for module in network.modules():  # for some models call a network's parts
                module.register_forward_pre_hook(lambda *_, name=name: self.inside.append(name))
                module.register_forward_hook(lambda *_: self.leave())

    def leave(self) -> None:
        self.inside.pop()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if self.inside and operation.overloadpacket is torch.ops.aten.convolution:
            self.counts[self.inside[-1]][result.dtype] += 1
        return result
