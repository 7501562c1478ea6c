"""What every generator is: networks, their averaged copies, optimizers, and four calls."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from generators import parallel


class GeneratorConfig(BaseModel):
    """Base of every generator's configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # What tuning may choose, by key: (low, high), (low, high, "log"), or a list of choices.
    search_space: ClassVar[dict[str, tuple | list]] = {}

    bf16_on_cpu: ClassVar[bool] = True  # whether it trains faster in bf16 on a processor with instructions for it


class Generator(ABC):
    """A trainable source of images [N, channels, resolution, resolution] with values in [-1, 1].

    A subclass fills the three dicts below in its constructor; everything that has state stands in one of them, or in
    `extra_state`. It never asks how it is run: the training loop hands it batches and `seen`, the number of training
    images so far, and seeds torch's global random state before each step. Under torch.distributed the batch is the
    process's share (see `generators.parallel`); `seen` counts the images of all.
    """

    Config: ClassVar[type[GeneratorConfig]]
    share_multiple: ClassVar[int] = 1  # what a process's share of a batch must be a multiple of [images]
    critic: ClassVar[str | None] = None  # which of `networks` tells training images from others, if one does

    def __init__(self, channels: int, resolution: int, config: GeneratorConfig) -> None:
        self.channels, self.resolution, self.config = channels, resolution, config
        self.networks: dict[str, nn.Module] = {}
        self.ema: dict[str, nn.Module] = {}  # averaged copies, keyed like `networks`; what sampling uses
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._repaired = torch.zeros(())  # whether a gradient of this train_step had to be

    @abstractmethod
    def train_step(self, images: Tensor, seen: int) -> dict[str, Tensor]:
        """One optimization step on images [B, C, H, W] in [-1, 1]; returns detached scalar losses by name."""

    @abstractmethod
    def sample(self, seeds: Sequence[int]) -> Tensor:
        """Images [len(seeds), C, H, W], float32, clamped to [-1, 1]; image i depends on seeds[i] alone."""

    def familiarity(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """How sure the `critic` is that it was trained on images [B, C, H, W] in [-1, 1]: float32 [B], higher is surer.

        What whoever has the network can ask it, to tell members of the training set from others. Score i depends on
        images[i] and seeds[i] alone. Of a critic with an averaged copy that one is asked, so that released weights are
        enough; any other is in checkpoints only. Raises NotImplementedError where there is no critic.
        """
        raise NotImplementedError(f"{type(self).__name__} has no network that tells training images from others")

    def step(self, name: str, loss: Tensor, clip: float = math.inf) -> Tensor:
        """One optimizer step of the named network down its loss's gradient, shortened to a norm of `clip` at most.

        Parameters without a gradient stay as they are; one that is not finite is repaired, see `repaired`. Returns the
        norm that the gradient then had.
        """
        parameters = list(self.networks[name].parameters())
        self.optimizers[name].zero_grad(set_to_none=True)
        loss.backward()
        parallel.average_gradients(parameters)
        broken = repair([parameter.grad for parameter in parameters if parameter.grad is not None])
        self._repaired = self._repaired.to(broken.device).maximum(broken)
        norm = nn.utils.clip_grad_norm_(parameters, clip)
        self.optimizers[name].step()
        return norm

    def repaired(self) -> dict[str, Tensor]:
        """repaired_gradients: 1 where a gradient was not finite since the last call, else 0. For `train_step`."""
        flag, self._repaired = self._repaired, torch.zeros(())
        return {"repaired_gradients": flag}

    def update_averages(self, batch: int, seen: int, half_life: float, ramp: float) -> None:
        """EMA after a step on `batch` images: a weight's share halves every `half_life` images, or every `ramp` (a
        share) of the images seen, whichever is less, so that a young network is not averaged with its initial noise."""
        batch = parallel.total(batch)
        decay = half_life_decay(batch, min(half_life, ramp * (seen + batch)))
        for name, averaged in self.ema.items():
            update_ema(averaged, self.networks[name], decay)

    def extra_state(self) -> dict:
        """Plain values and tensors beyond networks, EMA and optimizers that a bit-exact resume needs."""
        return {}

    def load_extra_state(self, state: dict) -> None:
        """Inverse of `extra_state`; raises RuntimeError for state that nothing here has a place for."""
        if state:
            raise RuntimeError(f"state holds {sorted(state)}, this model has no extra state")

    @property
    def device(self) -> torch.device:
        return next(next(iter(self.networks.values())).parameters()).device

    def to(self, device: torch.device | str) -> "Generator":
        """Moves all networks, EMA copies and optimizer state; returns self."""
        for module in (*self.networks.values(), *self.ema.values()):
            module.to(device)
        for optimizer in self.optimizers.values():
            optimizer.load_state_dict(optimizer.state_dict())  # moves its state to its parameters' device
        return self

    def state_dict(self) -> dict:
        """Everything that a bit-exact resume needs; tensors and plain values only."""
        return {
            "networks": {name: module.state_dict() for name, module in self.networks.items()},
            "ema": {name: module.state_dict() for name, module in self.ema.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "extra": self.extra_state(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`; raises RuntimeError where names or shapes disagree."""
        for parts, loaded in (
            (self.networks, state["networks"]),
            (self.ema, state["ema"]),
            (self.optimizers, state["optimizers"]),
        ):
            if parts.keys() != loaded.keys():
                raise RuntimeError(f"state holds {sorted(loaded)}, this model has {sorted(parts)}")
            for name, part in parts.items():
                part.load_state_dict(loaded[name])
        self.load_extra_state(state["extra"])

    def weights(self) -> dict[str, Tensor]:
        """What sampling needs and nothing else, for release: the EMA copies' tensors, named '<network>.<tensor>'."""
        return {
            f"{name}.{key}": tensor.detach().cpu().contiguous()
            for name, module in self.ema.items()
            for key, tensor in module.state_dict().items()
        }

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Inverse of `weights`; raises RuntimeError where names or shapes disagree."""
        for name, module in self.ema.items():
            prefix = f"{name}."
            module.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})


def is_due(seen: int, batch: int, interval: int) -> bool:
    """Whether the step that starts at `seen` training images is one of every `interval`-th; `batch`: this process's."""
    return seen // parallel.total(batch) % interval == 0


def repair(gradients: Sequence[Tensor]) -> Tensor:
    """Replaces what is no number by 0 and what is infinite by ±1e5, in place; 1 where there was any such, else 0.

    One infinite entry would otherwise make the norm infinite, and clipping by it every gradient NaN.
    """
    finite = torch.stack(torch._foreach_norm(gradients)).isfinite().all()
    for gradient in gradients:
        torch.nan_to_num(gradient, nan=0.0, posinf=1e5, neginf=-1e5, out=gradient)
    return 1 - finite.float()


def latents(seeds: Sequence[int], *shape: int) -> Tensor:
    """Standard normal [len(seeds), *shape] on the CPU; row i is a function of seeds[i] alone."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds])


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """ema ← decay · ema + (1 − decay) · network for parameters; buffers are copied."""
    torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), 1 - decay)
    for averaged, buffer in zip(ema.buffers(), network.buffers(), strict=True):
        averaged.copy_(buffer)


def half_life_decay(batch: int, half_life_images: float) -> float:
    """Per-step EMA decay with which a weight's share halves every `half_life_images` training images."""
    return 0.5 ** (batch / max(half_life_images, 1e-8))
