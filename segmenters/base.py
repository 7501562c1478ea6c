"""What every segmenter is: one network, its optimizer, and three calls; and the input normalization of all."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from segmenters import parallel


class SegmenterConfig(BaseModel):
    """Base of every segmenter's configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # What tuning may choose, by key: (low, high), (low, high, "log"), or a list of choices.
    search_space: ClassVar[dict[str, tuple | list]] = {}

    bf16_on_cpu: ClassVar[bool] = True  # whether it trains faster in bf16 on a processor with instructions for it

    images: int = Field(20_000, ge=1, description="length of the learning-rate schedule [images seen]")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="arithmetic inside the network; auto: bf16 where the device gains by it, else fp32 [name]"
    )


class Segmenter(ABC):
    """A trainable map from normalized images [B, channels, H, W] to logits [B, classes, H, W].

    A subclass fills `networks` (its network under the name "segmenter") and `optimizers` in its constructor. The
    training loop hands it batches and `seen`, the number of training images so far, and seeds torch's global random
    state before each step. Under torch.distributed the batch is the process's share (see `segmenters.parallel`), `seen`
    counts the images of all, and the loss is to be that of the whole batch.
    """

    Config: ClassVar[type[SegmenterConfig]]

    def __init__(self, channels: int, classes: int, resolution: int, config: SegmenterConfig) -> None:
        self.channels, self.classes, self.resolution, self.config = channels, classes, resolution, config
        self.networks: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}

    @abstractmethod
    def train_step(self, images: Tensor, labels: Tensor, seen: int) -> dict[str, Tensor]:
        """One step on images [B, channels, H, W] (see `normalize`) and labels [B, H, W] int64; detached losses."""

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """Logits [B, classes, H, W] of images [B, channels, H, W] (see `normalize`), the network being in eval mode."""

    def encode(self, images: Tensor) -> Tensor:
        """Features [B, D] of images [B, channels, H, W], the network being in eval mode."""
        raise NotImplementedError(
            f"{type(self).__name__} has no encoder, so it cannot extract features; take another segmenter, such as unet"
        )

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Logits [B, classes, H, W], float32, of images [B, channels, H, W] (see `normalize`), without gradients.

        Outside the foreground, where `normalize` left all channels zero, nothing but background: training slices all
        show a good part of a brain; on nearly empty ones instance norm makes a network invent tumours in the air,
        which nnU-Net keeps out by cropping to the foreground.
        """
        self.networks["segmenter"].eval()
        with self.autocast():
            logits = self.logits(images).float()
        air = (images == 0).all(1, keepdim=True)
        logits[:, 1:].masked_fill_(air, torch.finfo(logits.dtype).min)
        return logits

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features [B, D], float32, of images [B, channels, H, W] (see `normalize`), without gradients.

        What the encoder sees, averaged over space. Raises NotImplementedError where a segmenter has no encoder.
        """
        self.networks["segmenter"].eval()
        with self.autocast():
            return self.encode(images).float()

    def step(self, loss: Tensor, learning_rate: float, clip: float = math.inf) -> dict[str, Tensor]:
        """One optimizer step down the loss's gradient, its norm clipped; returns what `train_step` does, and
        repaired_gradients: 1 where the gradient was not finite, else 0."""
        parameters, optimizer = list(self.networks["segmenter"].parameters()), self.optimizers["segmenter"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parallel.average_gradients(parameters)
        repaired = repair([parameter.grad for parameter in parameters if parameter.grad is not None])
        norm = nn.utils.clip_grad_norm_(parameters, clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        return {"loss": loss.detach(), "gradient_norm": norm.detach(), "repaired_gradients": repaired}

    def autocast(self) -> torch.autocast:
        """The configured precision, as a context."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    @property
    def device(self) -> torch.device:
        return next(self.networks["segmenter"].parameters()).device

    def to(self, device: torch.device | str) -> "Segmenter":
        """Moves network and optimizer state; returns self."""
        for module in self.networks.values():
            module.to(device)
        for optimizer in self.optimizers.values():
            optimizer.load_state_dict(optimizer.state_dict())  # moves its state to its parameters' device
        return self

    def state_dict(self) -> dict:
        """Everything that a bit-exact resume needs; tensors and plain values only."""
        return {
            "networks": {name: module.state_dict() for name, module in self.networks.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`; raises RuntimeError where names or shapes disagree."""
        for parts, loaded in ((self.networks, state["networks"]), (self.optimizers, state["optimizers"])):
            if parts.keys() != loaded.keys():
                raise RuntimeError(f"state holds {sorted(loaded)}, this model has {sorted(parts)}")
            for name, part in parts.items():
                part.load_state_dict(loaded[name])

    def weights(self) -> dict[str, Tensor]:
        """What prediction needs, for release: tensors named 'segmenter.<tensor>'."""
        return {
            f"segmenter.{key}": tensor.detach().cpu().contiguous()
            for key, tensor in self.networks["segmenter"].state_dict().items()
        }

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Inverse of `weights`; raises RuntimeError where names or shapes disagree."""
        self.networks["segmenter"].load_state_dict({k.removeprefix("segmenter."): v for k, v in weights.items()})


def repair(gradients: Sequence[Tensor]) -> Tensor:
    """Replaces what is no number by 0 and what is infinite by ±1e5, in place; 1 where there was any such, else 0.

    One infinite entry would otherwise make the norm infinite, and clipping by it every gradient NaN.
    """
    finite = torch.stack(torch._foreach_norm(gradients)).isfinite().all()
    for gradient in gradients:
        torch.nan_to_num(gradient, nan=0.0, posinf=1e5, neginf=-1e5, out=gradient)
    return 1 - finite.float()


BRAIN_THRESHOLD = 10  # of 255: generators leave a faint background (PROTOCOL, section 4)


def normalize(images: Tensor) -> Tensor:
    """Z-scores each slice and channel over the slice's foreground, where any modality exceeds 10 of 255; zero outside.

    images [B, 4, H, W] uint8 or float in 0..255 → float32 [B, 4, H, W]. A channel that is constant over the
    foreground becomes zero; a slice without foreground becomes all zero.
    """
    images = images.float()
    mask = (images > BRAIN_THRESHOLD).any(1, keepdim=True)
    count = mask.sum((2, 3), keepdim=True).clamp(min=1)
    mean = (images * mask).sum((2, 3), keepdim=True) / count
    centred = (images - mean) * mask
    std = (centred.square().sum((2, 3), keepdim=True) / count).sqrt()
    return centred / std.clamp(min=1e-3)
