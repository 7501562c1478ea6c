"""How every figure looks: colours, style, panels, tiles of slices."""

from collections.abc import Callable
from functools import wraps

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

MODALITIES = ("T1", "T1ce", "T2", "FLAIR")
# Okabe & Ito's colours, distinguishable with every common colour vision, in print and on grey.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#6B7280"
CLASS_COLOURS = {"NCR": "#D55E00", "ED": "#56B4E9", "ET": "#F0E442"}
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "grid.color": "#E5E7EB",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
}
GAP_SHARE = 32  # tiles stand one 32nd of their width apart
WIDTH = 4.8  # inches: 9 pt text stays readable on a phone


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draws under STYLE and leaves matplotlib's settings as they were."""

    @wraps(function)
    def draw(*args, **kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return draw


def overlay(image: np.ndarray, labels: np.ndarray, opacity: float = 0.55) -> np.ndarray:
    """RGB float [H, W, 3] of a grey uint8 image [H, W] with classes 1..3 of labels [H, W] laid over it in colour."""
    grey = np.repeat(image[..., None] / 255, 3, axis=2)
    colours = ListedColormap(["black", *CLASS_COLOURS.values()])(labels)[..., :3]
    return np.where(labels[..., None] > 0, (1 - opacity) * grey + opacity * colours, grey)


def panel_grid(count: int) -> tuple[Figure, list[Axes]]:
    """Panels that share their axes, two a line."""
    columns = min(2, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(WIDTH * columns / 2 + 0.6 * (columns == 1), 1.0 + 2.35 * lines))
    axes = list(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axis in axes[count:]:
        axis.remove()
    for axis in axes[:count][-columns:]:  # nothing stands below them
        axis.tick_params(labelbottom=True)
    return figure, axes[:count]


def remark(axis: Axes, texts: list[str]) -> None:
    """What a panel cannot show, in its lower right corner."""
    axis.annotate("\n".join(texts), (0.97, 0.03), xycoords="axes fraction", ha="right", color=GREY, fontsize=8)


def show_tiles(axis: Axes, tiles: np.ndarray) -> None:
    """RGB tiles in 0..1 [rows, columns, H, W, 3] as one image with white gaps and no frame."""
    gap = tiles.shape[3] // GAP_SHARE
    padded = np.pad(tiles, [(0, 0), (0, 0), (0, gap), (0, gap), (0, 0)], constant_values=1.0)
    image = np.concatenate(np.concatenate(padded, axis=1), axis=1)[: -gap or None, : -gap or None]
    axis.imshow(image, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def centres(count: int, size: int) -> np.ndarray:
    """Where the tiles of a row (or column) of `show_tiles` have their middle, in pixels."""
    return np.arange(count) * (size + size // GAP_SHARE) + size / 2


def span(counts: pd.Series) -> str:
    low, high = counts.min(), counts.max()
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"
