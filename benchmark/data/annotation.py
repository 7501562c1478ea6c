"""How the annotation becomes planes of an image, beside the modalities, and how what a generator drew becomes labels.

A coding has `planes`, float32 [B, planes, H, W] in [-1, 1] with −1 far from every tumour, `encode(labels)` of labels
uint8 [B, H, W] (0–3 = background, NCR, ED, ET; IndexError above 3), and `decode(planes)` → labels uint8 [B, H, W] and
off_code float32 [B]: the share of pixels that are no annotation's, between codes or with planes that contradict each
other. `decode(encode(labels))` is `labels` and 0.

In the study's single plane, a soft edge of a class passes through the values of the classes below it, and so decodes to
a rim of these. A plane that is told by its sign alone has no values in between.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.data.layouts import MODALITIES


class Coding(NamedTuple):
    planes: int
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], tuple[Tensor, Tensor]]


def to_network(images: Tensor, labels: Tensor, coding: str) -> Tensor:
    """Images uint8 [B, 4, H, W] and labels uint8 [B, H, W] → float32 [B, 4 + planes, H, W] in [-1, 1], planes last.

    Raises IndexError for a label above 3.
    """
    return torch.cat([images.float().div_(127.5).sub_(1), CODINGS[coding].encode(labels)], dim=1)


def from_network(generated: Tensor, coding: str) -> tuple[Tensor, Tensor, Tensor]:
    """Float [B, 4 + planes, H, W] in [-1, 1] → images uint8 [B, 4, H, W], labels uint8 [B, H, W], off_code float32 [B].

    Raises ValueError for NaN or infinity.
    """
    if not generated.isfinite().all():
        raise ValueError("generated images hold NaN or infinite values: the generator has diverged")
    images, planes = generated.float().split([len(MODALITIES), CODINGS[coding].planes], dim=1)
    return _grey(images).byte(), *CODINGS[coding].decode(planes)


def _grey(values: Tensor) -> Tensor:
    """[-1, 1] → whole numbers 0 … 255."""
    return values.add(1).mul_(127.5).round_().clamp_(0, 255)


def _looked_up(table: list[list[float]], labels: Tensor) -> Tensor:
    """The planes of labels [B, H, W], given those of each label: float32 [B, planes, H, W]."""
    return torch.tensor(table, device=labels.device)[labels.long()].movedim(3, 1).contiguous()


# --- values: the study's (PROTOCOL, section 1) --------------------------------------------------------------------

CODES = (0, 51, 102, 204)  # BraTS value (0, 1, 2, 4) × 51 of each class
THRESHOLDS = (25.5, 76.5, 153.0)  # v = 5 g / 255 > 0.5, 1.5, 3.0 in terms of the 8-bit g = 51 v


def _to_values(labels: Tensor) -> Tensor:
    return _looked_up([[float(code)] for code in CODES], labels).div_(127.5).sub_(1)


def _from_values(planes: Tensor) -> tuple[Tensor, Tensor]:
    """By the study's thresholds; off_code counts pixels whose v is farther than 0.25 from every code (0, 1, 2, 4)."""
    g = _grey(planes[:, 0]).contiguous()
    labels = torch.bucketize(g, torch.tensor(THRESHOLDS, device=g.device))  # strictly above a threshold: next class
    distance = torch.stack([(g - code).abs() for code in CODES]).amin(0)
    return labels.byte(), (distance > 0.25 * 51).float().mean((1, 2))


# --- nested: a plane each for WT = NCR + ED + ET, TC = NCR + ET, and ET; −1 outside and +1 inside -----------------


def _to_nested(labels: Tensor) -> Tensor:
    return _looked_up([[-1.0, -1.0, -1.0], [1.0, 1.0, -1.0], [1.0, -1.0, -1.0], [1.0, 1.0, 1.0]], labels)


def _from_nested(planes: Tensor) -> tuple[Tensor, Tensor]:
    """By sign, the outermost region first: what is no TC is no ET, and what is no WT is background.

    off_code counts pixels that contradict that: TC without WT, or ET without TC.
    """
    whole, core, enhancing = (planes > 0).unbind(1)
    labels = whole.byte() * torch.where(core, torch.where(enhancing, 3, 1), 2).byte()
    return labels, ((core & ~whole) | (enhancing & ~core)).float().mean((1, 2))


# --- onehot: a plane each for NCR, ED and ET; −1 outside and +1 inside --------------------------------------------


def _to_onehot(labels: Tensor) -> Tensor:
    return _looked_up([[-1.0, -1.0, -1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]], labels)


def _from_onehot(planes: Tensor) -> tuple[Tensor, Tensor]:
    """The class of the largest plane, where that is positive; off_code counts pixels where several are."""
    largest, index = planes.max(1)
    return ((index + 1) * (largest > 0)).byte(), ((planes > 0).sum(1) > 1).float().mean((1, 2))


# --- distance: as nested, but each plane the signed distance to its region's border -------------------------------


def _to_distance(labels: Tensor) -> Tensor:
    """Chessboard distance, positive inside, clipped at 2.5 px and divided by it: ±0.2 beside the border, ±0.6, ±1.

    The slice's own edge is no border.
    """
    inside = _to_nested(labels).add_(1).div_(2)
    grown, shrunk = _grown(inside), -_grown(-inside)
    regions = (-_grown(-shrunk), shrunk, inside, grown, _grown(grown))  # each a pixel wider than the one before
    return (sum(regions) - 2.5) / 2.5  # how many hold a pixel tells its distance, from −2.5 in none to 2.5 in all


def _grown(region: Tensor) -> Tensor:
    return F.max_pool2d(region, 3, stride=1, padding=1)


CODINGS = {
    "values": Coding(1, _to_values, _from_values),
    "nested": Coding(3, _to_nested, _from_nested),
    "onehot": Coding(3, _to_onehot, _from_onehot),
    "distance": Coding(3, _to_distance, _from_nested),
}
