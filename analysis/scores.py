"""Segmentation scores of one subject's volume (PROTOCOL, section 2): overlaps and surface distances."""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

CLASSES = ("NCR", "ED", "ET")  # labels 1, 2, 3
REGIONS = {"NCR": (1,), "ED": (2,), "ET": (3,), "WT": (1, 2, 3), "TC": (1, 3)}
METRICS = ("dice", "precision", "recall", "hd95", "asd")


def subject_scores(prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> pd.DataFrame:
    """Scores of a predicted volume against its annotation, after the empty-case rule: never NaN, nothing dropped.

    prediction, reference: integers [Z, H, W] with labels 0..3 = background, NCR, ED, ET; spacing: voxel size (z, y, x)
    in mm. Returns the columns region (NCR, ED, ET, WT, TC, and "mean" = mean Dice over NCR, ED, ET), metric (dice,
    precision, recall in 0..1; hd95 = the larger of the two directed 95th percentiles, asd = mean over both surfaces'
    voxels, both in mm), value, and case ("present", "one empty", "both empty"; "mean" for the mean). Both empty: 1 for
    overlaps, 0 mm for distances; exactly one empty: 0 for overlaps, the volume's diagonal in mm for distances.

    Raises ValueError where shapes, labels or spacing are not as described.
    """
    _check(prediction, reference, spacing)
    diagonal = float(np.linalg.norm(np.multiply(prediction.shape, spacing)))
    prediction, reference = _crop(prediction, reference)
    # confusion[p, r] = number of voxels predicted p whose reference is r
    confusion = np.bincount(4 * prediction.ravel().astype(np.int64) + reference.ravel(), minlength=16).reshape(4, 4)

    rows = []
    for region, labels in REGIONS.items():
        predicted, present = confusion[labels, :].sum(), confusion[:, labels].sum()
        if predicted and present:
            case, overlap = "present", confusion[np.ix_(labels, labels)].sum()
            values = (
                2 * overlap / (predicted + present),
                overlap / predicted,
                overlap / present,
                *_surface_distances(np.isin(prediction, labels), np.isin(reference, labels), spacing),
            )
        elif predicted or present:
            case, values = "one empty", (0.0, 0.0, 0.0, diagonal, diagonal)
        else:
            case, values = "both empty", (1.0, 1.0, 1.0, 0.0, 0.0)
        rows += [(region, metric, float(value), case) for metric, value in zip(METRICS, values, strict=True)]

    dice = [value for region, metric, value, _ in rows if metric == "dice" and region in CLASSES]
    rows.append(("mean", "dice", float(np.mean(dice)), "mean"))
    return pd.DataFrame(rows, columns=["region", "metric", "value", "case"])


def _check(prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> None:
    if prediction.ndim != 3 or prediction.shape != reference.shape:
        raise ValueError(
            f"prediction {prediction.shape} and reference {reference.shape} must be volumes [Z, H, W] of one shape"
        )
    for name, volume in (("prediction", prediction), ("reference", reference)):
        if volume.dtype.kind not in "iu":
            raise ValueError(f"{name} must hold integer labels, got {volume.dtype}")
        if volume.size == 0 or volume.min() < 0 or volume.max() > 3:
            raise ValueError(f"{name} must hold labels 0..3, got {np.unique(volume).tolist()}")
    if len(spacing) != 3 or not all(np.isfinite(spacing)) or min(spacing) <= 0:
        raise ValueError(f"spacing must be three positive numbers (z, y, x) in mm, got {tuple(spacing)}")


def _crop(*volumes: np.ndarray) -> tuple[np.ndarray, ...]:
    """Volumes cut to the bounding box of everything labelled in any of them: no surface lies outside it."""
    union = np.logical_or.reduce([volume > 0 for volume in volumes])
    if not union.any():
        return volumes
    box = []
    for axis in range(3):
        filled = np.flatnonzero(union.any(tuple({0, 1, 2} - {axis})))
        box.append(slice(filled[0], filled[-1] + 1))
    return tuple(volume[tuple(box)] for volume in volumes)


def _surface_distances(prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> tuple[float, float]:
    """(HD95, symmetric average surface distance) in mm of two non-empty masks [Z, H, W], computed by MONAI."""
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance  # a slow import

    masks = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    spacing = [float(size) for size in spacing]
    with warnings.catch_warnings():  # MONAI warns about a deprecated argument that MONAI itself passes
        warnings.filterwarnings("ignore", message=".*get_mask_edges", category=FutureWarning)
        hd95 = compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=spacing)
        asd = compute_average_surface_distance(*masks, include_background=True, symmetric=True, spacing=spacing)
    return hd95.item(), asd.item()
