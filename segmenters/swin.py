"""The study's transformer: Swin (Liu et al. 2021, 2103.14030) under UPerNet (Xiao et al. 2018, 1807.10221)."""

from typing import Annotated, ClassVar

import torch
from monai.losses.dice import DiceCELoss
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F
from transformers import SwinConfig, UperNetConfig, UperNetForSemanticSegmentation
from transformers.models.upernet.modeling_upernet import UperNetConvModule

from segmenters import parallel
from segmenters.base import Segmenter, SegmenterConfig

Depth = Annotated[int, Field(ge=1, le=48)]
Heads = Annotated[int, Field(ge=1, le=128)]


class SwinSegmenterConfig(SegmenterConfig):
    """A small network for minutes on a CPU.

    The study's set-up, Swin-B: patch 4, width 128, depths [2, 2, 18, 2], heads [4, 8, 16, 32], window 7, drop_path 0.3,
    decoder_width 512, auxiliary_width 256, learning_rate 6e-5, warm_up 12,000 (1,500 batches of 8), images 25 epochs.
    """

    search_space: ClassVar = {
        "learning_rate": (1e-5, 1e-2, "log"),
        "weight_decay": (1e-3, 0.1, "log"),
        "drop_path": (0.0, 0.4),
    }

    patch: int = Field(2, ge=1, le=16, description="side of the square that becomes one token [px]")
    width: int = Field(32, ge=4, le=1024, description="width of the first stage; doubles with every stage [channels]")
    depths: tuple[Depth, ...] = Field(
        (1, 1, 2, 1), min_length=4, max_length=4, description="depth of each stage, finest first [blocks]"
    )
    heads: tuple[Heads, ...] = Field(
        (1, 2, 4, 8), min_length=4, max_length=4, description="attention heads of each stage, finest first [heads]"
    )
    window: int = Field(4, ge=2, le=32, description="side of the window that attention is confined to [tokens]")
    drop_path: float = Field(
        0.1, ge=0, lt=1, description="chance that an image skips the last attention; falls to 0 at the first [1]"
    )
    decoder_width: int = Field(64, ge=4, le=4096, description="width of UPerNet's maps [channels]")
    auxiliary_width: int = Field(32, ge=4, le=4096, description="width of the auxiliary head's maps [channels]")
    auxiliary_weight: float = Field(0.4, ge=0, description="weight of the auxiliary head's loss [1]")
    learning_rate: float = Field(3e-3, gt=0, le=1, description="step size that warm-up leads to [1]")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay, per step size [1]")
    warm_up: int = Field(1000, ge=0, description="length of the linear rise of the step size [images seen]")

    @model_validator(mode="after")
    def _heads_divide_widths(self) -> "SwinSegmenterConfig":
        for stage, heads in enumerate(self.heads):
            if self.width * 2**stage % heads:
                raise ValueError(
                    f"heads: {heads} at stage {stage + 1} do not divide its {self.width * 2**stage} channels "
                    f"(width {self.width}, doubled with every stage)"
                )
        return self


class SwinUPerNet(UperNetForSemanticSegmentation):
    """Images [B, channels, H, W] → logits [B, classes, H, W] of UPerNet; in training mode also those of the auxiliary
    FCN head, which sees the third stage alone."""

    def __init__(self, channels: int, classes: int, resolution: int, config: SwinSegmenterConfig) -> None:
        backbone = SwinConfig(
            image_size=resolution,
            patch_size=config.patch,
            num_channels=channels,
            embed_dim=config.width,
            depths=config.depths,
            num_heads=config.heads,
            window_size=config.window,
            drop_path_rate=config.drop_path,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )
        super().__init__(
            UperNetConfig(
                backbone_config=backbone,
                num_labels=classes,
                hidden_size=config.decoder_width,
                auxiliary_channels=config.auxiliary_width,
            )
        )
        for block in self.modules():
            if isinstance(block, UperNetConvModule):
                block.batch_norm = parallel.BatchNorm2d(block.batch_norm.num_features)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        stages = self.encode(images)
        if not self.training:
            return self._resized(self.decode_head(stages), images)
        return tuple(self._resized(head(stages), images) for head in (self.decode_head, self.auxiliary_head))

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Each stage's output, finest first: [B, width · 2^i, H / (patch · 2^i), W / (patch · 2^i)] for i = 0 … 3."""
        return self.backbone(images).feature_maps

    @staticmethod
    def _resized(logits: Tensor, images: Tensor) -> Tensor:
        return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)


class Swin(Segmenter):
    """Swin transformer under UPerNet with an auxiliary head, soft Dice of the tumour's classes + cross-entropy, AdamW
    with linear warm-up and decay.
    """

    Config = SwinSegmenterConfig

    def __init__(self, channels: int, classes: int, resolution: int, config: SwinSegmenterConfig) -> None:
        super().__init__(channels, classes, resolution, config)
        network = SwinUPerNet(channels, classes, resolution, config)
        self.networks["segmenter"] = network
        # as Swin's authors train it: biases, normalizations and relative positions do not decay
        decayed, free = [], []
        for name, parameter in network.named_parameters():
            kept = parameter.ndim == 1 or name.endswith("relative_position_bias_table")
            (free if kept else decayed).append(parameter)
        groups = [{"params": decayed}, {"params": free, "weight_decay": 0.0}]
        self.optimizers["segmenter"] = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
        self.loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)

    def train_step(self, images: Tensor, labels: Tensor, seen: int) -> dict[str, Tensor]:
        """As declared; raises ValueError for a single image, which batch normalization cannot learn from."""
        if parallel.total(len(images)) < 2:
            raise ValueError("batch_size is 1; a Swin transformer's decoder normalizes over the batch: take 2 or more")
        network = self.networks["segmenter"].train()
        parallel.part_ways()  # drop path
        with self.autocast():
            logits, auxiliary = network(images)
        labels = parallel.gather(labels)[:, None]
        loss = self.loss(parallel.gather(logits.float()), labels)
        loss = loss + self.config.auxiliary_weight * self.loss(parallel.gather(auxiliary.float()), labels)
        return self.step(loss, self._learning_rate(seen))

    def logits(self, images: Tensor) -> Tensor:
        return self.networks["segmenter"](images)

    def encode(self, images: Tensor) -> Tensor:
        return self.networks["segmenter"].encode(images)[-1].mean((2, 3))

    def _learning_rate(self, seen: int) -> float:
        """Linear decay to zero, held down at first by a linear rise."""
        risen = min(1.0, (seen + 1) / (self.config.warm_up + 1))
        return self.config.learning_rate * risen * max(0.0, 1 - seen / self.config.images)
