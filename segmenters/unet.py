"""The study's U-Net: MONAI's DynUNet with nnU-Net's loss and deep supervision (Isensee et al. 2021, 1809.10486)."""

from typing import Annotated, ClassVar, Literal

import torch
from monai.losses.dice import DiceCELoss
from monai.networks.blocks.dynunet_block import UnetBasicBlock
from monai.networks.blocks.upsample import UpSample
from monai.networks.nets.dynunet import DynUNet
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from segmenters import parallel
from segmenters.base import Segmenter, SegmenterConfig

Width = Annotated[int, Field(ge=4, le=4096)]


class UNetConfig(SegmenterConfig):
    """A small network for minutes on a CPU.

    The study's set-up: widths [64, 128, 256, 512, 1024, 2048], optimizer sgd, learning_rate 0.01, images 32,000,000.
    SGD with that momentum needs long schedules: in 4,000 images of the phantom cohort it reached a mean Dice of 0.43
    where AdamW reached 0.70.
    """

    search_space: ClassVar = {"learning_rate": (3e-4, 1e-2, "log"), "optimizer": ["adamw", "sgd"]}

    widths: tuple[Width, ...] = Field(
        (16, 32, 64, 128), min_length=3, max_length=8, description="width of each level, finest first [channels]"
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="AdamW, or SGD with Nesterov momentum 0.99 [name]")
    learning_rate: float = Field(3e-3, gt=0, le=1, description="step size at the start of its polynomial decay [1]")


class StudyUNet(DynUNet):
    """DynUNet built as the study built it: with convolution biases, bilinear upsampling, and heads without bias.

    In training mode the output is a list of logits from full resolution down to the level above the bottleneck
    (deep supervision), each at its own resolution; in evaluation mode it is the first of them, [B, classes, H, W].
    """

    def __init__(self, channels: int, classes: int, widths: tuple[int, ...]) -> None:
        levels = len(widths)
        super().__init__(
            spatial_dims=2,
            in_channels=channels,
            out_channels=classes,
            filters=widths,
            kernel_size=[3] * levels,
            strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1),
            norm_name=("INSTANCE", {"affine": True}),
            act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
            deep_supervision=True,
            deep_supr_num=levels - 2,
        )
        for block in self.modules():
            if isinstance(block, UnetBasicBlock):
                for convolution in (block.conv1.conv, block.conv2.conv):
                    convolution.bias = nn.Parameter(torch.zeros(convolution.out_channels))
        # DynUNet registers every block a second time in this tree, which its own forward walks; safetensors refuses
        # tensors under two names.
        del self.skip_layers

    def get_upsamples(self) -> nn.ModuleList:
        blocks = super().get_upsamples()
        for block, deep, shallow in zip(blocks, self.filters[:0:-1], self.filters[-2::-1], strict=True):
            # 1×1 convolution, then interpolation: the same map as in the other order, at a quarter of the cost
            block.transp_conv = UpSample(2, deep, shallow, mode="nontrainable", align_corners=False)
        return blocks

    def get_output_block(self, idx: int) -> nn.Conv2d:
        return nn.Conv2d(self.filters[idx], self.out_channels, kernel_size=1, bias=False)

    def encode(self, x: Tensor) -> list[Tensor]:
        """The output of each level, finest first; the last is the bottleneck's, [B, widths[-1], H / 2^L, W / 2^L]."""
        outputs = [self.input_block(x)]
        for block in (*self.downsamples, self.bottleneck):
            outputs.append(block(outputs[-1]))
        return outputs

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        *skips, bottleneck = self.encode(x)
        features = [bottleneck]
        for block, skip in zip(self.upsamples, reversed(skips), strict=True):
            features.append(block(features[-1], skip))
        logits = self.output_block(features[-1])
        if not self.training:
            return logits
        return [logits, *(h(f) for h, f in zip(self.deep_supervision_heads, features[-2:0:-1], strict=True))]


class UNet(Segmenter):
    """U-Net with deep supervision, soft Dice over the batch + cross-entropy, and polynomial decay.

    Raises ValueError for a resolution that the levels cannot halve down to at least 2 px.
    """

    Config = UNetConfig

    def __init__(self, channels: int, classes: int, resolution: int, config: UNetConfig) -> None:
        super().__init__(channels, classes, resolution, config)
        stride = 2 ** (len(config.widths) - 1)
        if resolution % stride or resolution < 2 * stride:
            raise ValueError(
                f"resolution is {resolution} px; a U-Net of {len(config.widths)} levels needs a multiple of {stride}, "
                f"at least {2 * stride}: pad the images, or give fewer `widths`"
            )
        network = StudyUNet(channels, classes, config.widths)
        self.networks["segmenter"] = network
        self.optimizers["segmenter"] = (
            torch.optim.AdamW(network.parameters(), weight_decay=1e-2, fused=True)
            if config.optimizer == "adamw"
            else torch.optim.SGD(network.parameters(), momentum=0.99, nesterov=True, weight_decay=3e-5, fused=True)
        )
        # the study leaves the background out of its Swin transformer's Dice, and says nothing of that for the U-Net
        self.loss = DiceCELoss(include_background=True, to_onehot_y=True, softmax=True, batch=True)

    def train_step(self, images: Tensor, labels: Tensor, seen: int) -> dict[str, Tensor]:
        network = self.networks["segmenter"].train()
        with self.autocast():
            outputs = network(images)
        loss = self._deep_loss([parallel.gather(logits.float()) for logits in outputs], parallel.gather(labels))
        learning_rate = self.config.learning_rate * max(0.0, 1 - seen / self.config.images) ** 0.9
        return self.step(loss, learning_rate, clip=12)

    def logits(self, images: Tensor) -> Tensor:
        return self.networks["segmenter"](images)

    def encode(self, images: Tensor) -> Tensor:
        """Standard deviation over space of every level's channels [B, sum of widths].

        Their means say nothing: instance norm makes them constant. Statistics from before the norm mislead: by those,
        noise and shapeless blobs lay closer to real slices than generated heads did.
        """
        levels = self.networks["segmenter"].encode(images)
        return torch.cat([level.float().std((2, 3)) for level in levels], 1)

    def _deep_loss(self, outputs: list[Tensor], labels: Tensor) -> Tensor:
        """Weighted mean over the heads with weights 1, 1/2, 1/4, …; coarse heads see the labels at their resolution."""
        labels = labels[:, None].float()
        weights = [2.0**-level for level in range(len(outputs))]
        losses = [self.loss(o, F.interpolate(labels, o.shape[2:], mode="nearest-exact")) for o in outputs]
        return sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)
