"""The cohort card's mosaic: of each subject, the slice with the most tumour and the annotation's outline."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from analysis import cohort_figures
from benchmark.data.slices import SliceSet

TILES = 24  # half of them at most show outliers, so that the others are seen too
TILE_HEIGHT = 240  # px at least
FLAIR = 3


@dataclass(frozen=True)
class Tile:
    """A subject's slice with the most tumour, as the mosaic shows it."""

    subject: str
    z: int
    remark: str  # what is unusual about the subject; empty where nothing is
    uri: str
    width: int  # px
    height: int


def mosaic(slices: SliceSet, remarks: dict[str, str]) -> list[Tile]:
    """The slice with the most tumour (the middle one where there is none) of evenly spaced subjects, outliers first."""
    rows_of = slices.index.groupby("subject", sort=False).indices
    far = [name for name in remarks if name in rows_of][: TILES // 2]
    others = [name for name in rows_of if name not in far]
    spaced = np.linspace(0, len(others) - 1, min(TILES - len(far), len(others))).astype(int)
    shown = [*far, *(others[place] for place in spaced)]
    rows = [_middle_tumour_row(slices.index["tumour_pixels"].to_numpy(), rows_of[name]) for name in shown]
    images, labels = slices.images[rows][:, FLAIR], slices.labels[rows]
    frame = _common_frame(images)
    return [
        Tile(name, int(slices.index["z"].iloc[row]), remarks.get(name, ""), *_tile(image[frame], label[frame]))
        for name, row, image, label in zip(shown, rows, images, labels, strict=True)
    ]


def _middle_tumour_row(tumour_pixels: np.ndarray, rows: np.ndarray) -> int:
    tumour = tumour_pixels[rows]
    return int(rows[tumour.argmax() if tumour.any() else len(rows) // 2])


def _common_frame(images: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that hold something in any of the images [K, H, W], with a margin for the letters."""
    present = images.max(axis=0, initial=0) > 0
    frame = []
    for axis in (1, 0):
        found = np.flatnonzero(present.any(axis=axis))
        margin = len(present) // 20
        low, high = (found[0], found[-1] + 1) if len(found) else (0, len(present))
        frame.append(slice(max(low - margin, 0), min(high + margin, len(present))))
    return tuple(frame)


def _tile(image: np.ndarray, labels: np.ndarray) -> tuple[str, int, int]:
    """A PNG as a data URI, its width and height."""
    indices = cohort_figures.outlined(image, labels, max(1, -(-TILE_HEIGHT // len(image))))
    drawn = Image.fromarray(indices)
    drawn.putpalette(cohort_figures.palette().tobytes())
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}", drawn.width, drawn.height
