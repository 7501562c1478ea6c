"""Figures of a cohort as it was read: class volumes, intensities, annotated slices."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator
from scipy import ndimage

from analysis.drawing import BLUE, CLASS_COLOURS, GREY, MODALITIES, ORANGE, WIDTH, styled
from analysis.text import visible

NAMED = 4  # outliers of a class that are named beside their dot; all of them stand in the table
MOST_LINES = (
    300  # faint ones in a panel: with more, every second, every third, … subject is drawn; the median is of all
)
LONGEST = 22  # characters of a name in a figure
GOLDEN = 0.618034  # its multiples, modulo 1, spread evenly however many there are


def outlined(image: np.ndarray, labels: np.ndarray, scale: int) -> np.ndarray:
    """A grey slice with the outline of each class, enlarged `scale` times; palette indices uint8 [H·scale, W·scale].

    image: uint8 [H, W]; labels: [H, W], classes 0..3. Colours as in `PALETTE`: grey up to 252, then the three classes.
    """
    enlarged = np.ones((scale, scale), np.uint8)
    grey = np.kron((image.astype(np.uint16) * 252 // 255).astype(np.uint8), enlarged)
    classes = np.kron(labels.astype(np.uint8), enlarged)
    width = 2 * max(1, scale // 4) + 1  # the line stays visible where a pixel becomes a large square
    inside = ndimage.minimum_filter(classes, width) == ndimage.maximum_filter(classes, width)
    return np.where((classes > 0) & ~inside, 252 + classes, grey)


def palette() -> np.ndarray:
    """RGB uint8 [256, 3] of the indices that `outlined` gives."""
    grey = np.repeat(np.minimum(np.arange(256) * 255 // 252, 255).astype(np.uint8)[:, None], 3, axis=1)
    for index, colour in enumerate(CLASS_COLOURS.values(), 253):
        grey[index] = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return grey


@styled
def volume_strips(volumes: pd.DataFrame, unusual: pd.DataFrame) -> Figure:
    """Each subject's volume of each class as a dot on a log scale, the median as a line, outliers ringed and named.

    volumes: mL, subjects as index, columns NCR, ED, ET; unusual: as `analysis.outliers.unusual_volumes` returns it.
    Subjects without the class stand at the left.
    """
    positive = volumes.to_numpy(float)[volumes.to_numpy(float) > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (1.0, 10.0)
    absent = low / (high / low) ** 0.1 / 1.6
    figure = Figure(figsize=(WIDTH, 3.4))
    axis = figure.subplots()
    small = np.clip(1500 / len(volumes), 5, 22)  # points²: many dots must not become one
    spread = ((np.arange(len(volumes)) * GOLDEN) % 1 - 0.5) * 0.44
    for row, (name, colour) in enumerate(CLASS_COLOURS.items()):
        ml = volumes[name].to_numpy(float)
        far = unusual[unusual["class"] == name]
        ringed = volumes.index.isin(far["subject"])
        x = np.where(ml > 0, ml, absent)
        for which, size, edge, width in ((~ringed, small, GREY, 0.4), (ringed, 46, "black", 1.4)):
            y = row + np.where(ringed, 0, spread)
            axis.scatter(
                x[which], y[which], s=size, c=colour, edgecolors=edge, linewidths=width, alpha=0.85, rasterized=True
            )
        if (ml > 0).any():
            axis.plot([np.median(ml[ml > 0])] * 2, [row - 0.36, row + 0.36], color="black", linewidth=1.6)
        _name_dots(axis, row, far.head(NAMED), absent, np.sqrt(absent * high))
    counts = (volumes[list(CLASS_COLOURS)] == 0).sum()
    axis.set(
        xscale="log",
        xlim=(absent / 1.35, high * 1.5),
        ylim=(2.6, -0.6),
        xlabel="volume [mL]; line: median of the subjects that have the class",
        yticks=range(3),
        yticklabels=[f"{name}\n{count:,} absent" for name, count in counts.items()],
    )
    axis.axvline(np.sqrt(absent * low), color=GREY, linewidth=0.8, linestyle=":")
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    ticks = [tick for tick in np.outer(decades, (1, 3)).ravel() if low <= tick <= high * 1.5]
    axis.set_xticks([absent, *ticks], ["absent", *(f"{tick:g}" for tick in ticks)])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.tick_params(axis="y", length=0)
    axis.grid(True, axis="x")
    return figure


def _name_dots(axis: Axes, row: int, far: pd.DataFrame, absent: float, middle: float) -> None:
    for place, subject, ml in zip((-0.3, 0.42, -0.44, 0.3), far["subject"], far["ml"], strict=False):
        x = ml or absent
        left = x < middle
        axis.annotate(
            drawable(subject),
            (x, row + place),
            xytext=(-4 if left else 4, 0),
            textcoords="offset points",
            ha="left" if left else "right",
            va="center",
            fontsize=7.5,
        )


def drawable(name: str) -> str:
    """A subject's name for a figure, shortened."""
    shown = visible(name)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


@styled
def intensity_lines(
    before: dict[str, np.ndarray], after: dict[str, np.ndarray], far: dict[str, list[tuple[int, str]]]
) -> Figure:
    """Histograms of each modality before and after conversion: every subject faint, the median bold.

    before, after: per modality, shares [n, bins] over 0..1 of a subject's own range and over the 8-bit values above 0;
    a row of NaN is not drawn. far: per modality, (position, name) of subjects that clearly differ: drawn in colour.
    """
    figure = Figure(figsize=(WIDTH, 6.6))
    axes = figure.subplots(len(MODALITIES), 2, sharex="col")
    styles = ["-", "--", ":", "-."]
    handles = {}
    for (left, right), name in zip(axes, MODALITIES, strict=True):
        for axis, shares, top in ((left, before[name], 1.0), (right, after[name], 255.0)):
            bins = shares.shape[1]
            x = (np.arange(bins) + 0.5) * top / bins
            lines = [np.column_stack([x, 100 * line]) for line in shares[np.isfinite(shares).all(axis=1)]]
            faint = lines[:: 1 + len(lines) // MOST_LINES]
            opacity = np.clip(6 / max(len(faint), 1), 0.03, 0.5)
            axis.add_collection(LineCollection(faint, colors=BLUE, alpha=opacity, linewidths=0.8, rasterized=True))
            if lines:
                axis.plot(x, np.median([line[:, 1] for line in lines], axis=0), color="black", linewidth=1.8)
            for position, subject in far.get(name, []):
                order = list(handles).index(subject) if subject in handles else len(handles)
                style = {"color": ORANGE, "linestyle": styles[order % len(styles)], "linewidth": 1.4}
                axis.plot(x, 100 * shares[position], **style)
                handles.setdefault(subject, Line2D([], [], label=drawable(subject), **style))
            axis.set(xlim=(0, top), ylim=(0, 1.25 * _tall(lines)))
            axis.grid(True)
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        left.set_title(name)
    axes[0, 0].set_title(f"{MODALITIES[0]}\nas stored")
    axes[0, 1].set_title("\nas used (8 bit)")
    axes[-1, 0].set_xlabel("share of the subject's own range")
    axes[-1, 1].set_xlabel("8-bit value, brain only")
    common = [
        Line2D([], [], color=BLUE, alpha=0.5, linewidth=0.8, label="one subject"),
        Line2D([], [], color="black", linewidth=1.8, label="median"),
    ]
    figure.legend(handles=[*common, *handles.values()], loc="outside lower center", ncols=2)
    return figure


def _tall(lines: list[np.ndarray]) -> float:
    """Where nearly all lines have their peak [%], so that one spike does not flatten the others."""
    return float(np.quantile([line[:, 1].max() for line in lines], 0.95)) if lines else 1.0
