"""Contact sheets of slices, drawn in milliseconds while training waits."""

from pathlib import Path

import numpy as np
from PIL import Image

from analysis.drawing import overlay

SMALLEST = 96  # px a slice on the sheet; smaller slices are enlarged by whole pixels


def save_sheet(images: np.ndarray, labels: np.ndarray, path: Path) -> Path:
    """Saves a PNG with a column per slice: T1, T1ce, T2, FLAIR, and the annotation over FLAIR.

    images uint8 [N, 4, H, W], labels uint8 [N, H, W].
    """
    columns = []
    for slice_, label in zip(images, labels, strict=True):
        grey = np.repeat(slice_[..., None], 3, axis=3)
        annotated = (overlay(slice_[3], label) * 255).astype(np.uint8)
        columns.append(np.concatenate([*grey, annotated], axis=0))
    sheet = np.concatenate(columns, axis=1)
    scale = -(-SMALLEST // images.shape[-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.repeat(np.repeat(sheet, scale, axis=0), scale, axis=1)).save(path)
    return path
