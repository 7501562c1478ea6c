"""Figures of a report. Every function returns a matplotlib Figure, draws on nothing global and touches no files."""

from collections.abc import Callable
from functools import wraps

import matplotlib
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator
from scipy import ndimage

from analysis.arms import ARMS, Arm, label
from analysis.long_table import AMOUNT, Scores
from analysis.statistics import MARGINS, counted

MODALITIES = ("T1", "T1ce", "T2", "FLAIR")
# Okabe & Ito's colours, distinguishable with every common colour vision, in print and on grey.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#6B7280"
CLASS_COLOURS = {"NCR": "#D55E00", "ED": "#56B4E9", "ET": "#F0E442"}
ARM_STYLES = {"real": (GREY, "D"), "synthetic": (ORANGE, "o"), "both": (BLUE, "s"), "pretrain": (GREEN, "^")}
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
KEPT = {"color": "black", "marker": "o", "markersize": 9, "markerfacecolor": "none", "linestyle": ""}
WIDTH = 4.8  # inches: 9 pt text stays readable on a phone


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draws under STYLE and leaves matplotlib's settings as they were."""

    @wraps(function)
    def draw(*args, **kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return draw


@styled
def sample_sheet(
    synthetic: tuple[np.ndarray, np.ndarray], real: tuple[np.ndarray, np.ndarray], name: str, rows: int = 4
) -> Figure:
    """Real slices above, synthetic slices below: four modalities, and the annotation over FLAIR.

    synthetic, real: (images uint8 [K, 4, H, W] in the order T1, T1ce, T2, FLAIR, labels uint8 [K, H, W] with classes
    0..3); the first `rows` of each are shown. Raises ValueError where shapes differ from that.
    """
    blocks = []
    for source, (images, labels) in (("real", real), (label(name), synthetic)):
        if images.ndim != 4 or images.shape[1] != 4 or labels.shape != (len(images), *images.shape[2:]):
            raise ValueError(
                f"{source}: images must be [K, 4, H, W] and labels [K, H, W], got {images.shape} and {labels.shape}"
            )
        grey = np.repeat(images[:rows, ..., None] / 255, 3, axis=-1)
        annotated = [overlay(image[3], label) for image, label in zip(images[:rows], labels[:rows], strict=True)]
        blocks.append((f"{source}, n = {len(grey)}", np.concatenate([grey, np.stack(annotated)[:, None]], 1)))

    figure = Figure(figsize=(WIDTH, 0.75 + 0.88 * sum(len(tiles) for _, tiles in blocks)))
    axes = figure.subplots(2, 1, height_ratios=[len(tiles) for _, tiles in blocks])
    for axis, (source, tiles) in zip(axes, blocks, strict=True):
        _show(axis, tiles)
        axis.set_ylabel(source)
    axes[0].xaxis.tick_top()
    axes[0].set_xticks(_centres(tiles.shape[1], tiles.shape[3]), [*MODALITIES, "annotation"])
    handles = [Patch(color=colour, label=text) for text, colour in CLASS_COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def overlay(image: np.ndarray, labels: np.ndarray, opacity: float = 0.55) -> np.ndarray:
    """RGB float [H, W, 3] of a grey uint8 image [H, W] with classes 1..3 of labels [H, W] laid over it in colour."""
    grey = np.repeat(image[..., None] / 255, 3, axis=2)
    colours = ListedColormap(["black", *CLASS_COLOURS.values()])(labels)[..., :3]
    return np.where(labels[..., None] > 0, (1 - opacity) * grey + opacity * colours, grey)


@styled
def dice_per_subject(scores: Scores, segmenter: str) -> Figure:
    """Each test subject's mean Dice after real-only training against that after an arm's training, seeds averaged.

    One panel per generator and augmentation; points above the diagonal gained. Arms whose subjects differ from their
    reference's, or with missing cells, are left to the tables, which say why; the panel says "incomplete". Raises
    ValueError where nothing of this segmenter is there.
    """
    panels: dict[tuple[str, str], list[Arm]] = {}
    for arm in scores.of_segmenter(segmenter):
        if arm.arm != "real":
            panels.setdefault((arm.generator, arm.augmentation), []).append(arm)
    if not panels:
        raise ValueError(f"no arm with a generator for segmenter {segmenter!r}")
    figure, axes = _panels(len(panels))
    handles: dict[str, Line2D] = {}
    lowest = 1.0
    for axis, ((generator, augmentation), arms) in zip(axes, panels.items(), strict=True):
        real = scores.dice(arms[0].reference, "mean")
        subjects, incomplete = 0, []
        for arm in arms:
            matrix = scores.dice(arm, "mean")
            text, (colour, marker) = ARMS[arm.arm].lower(), ARM_STYLES[arm.arm]
            if real is None or real.reason or matrix.reason or real.subjects != matrix.subjects:
                incomplete.append(f"{text}: incomplete")
                continue
            x, y = real.dice.mean(0), matrix.dice.mean(0)
            axis.scatter(x, y, s=18, c=colour, marker=marker, alpha=0.75, linewidths=0)
            handles[text] = Line2D([], [], color=colour, marker=marker, linestyle="", label=text)
            subjects, lowest = len(matrix.subjects), min(lowest, x.min(), y.min())
        _remark(axis, incomplete)
        axis.axline((0, 0), (1, 1), color=GREY, linewidth=0.8, linestyle="--")
        axis.set_title(f"{label(generator)}, aug. {augmentation}\nn = {subjects} subjects")
        axis.grid(True)
    lower = max(0.0, np.floor(10 * lowest) / 10) - 0.02
    for axis in axes:
        axis.set(xlim=(lower, 1.02), ylim=(lower, 1.02), aspect="equal")
    figure.supxlabel("mean Dice of a subject, real-only training", fontsize=9)
    figure.supylabel("mean Dice, training with synthetic images", fontsize=9)
    if handles:
        figure.legend(handles=list(handles.values()), loc="outside upper center", ncols=min(2, len(handles)))
    return figure


@styled
def dice_against_amount(amounts: pd.DataFrame, segmenter: str, by: str) -> Figure:
    """Mean Dice with its 95 % interval against the amount of training data, one panel per generator and augmentation.

    amounts: the table of `analysis.statistics`; by: "real_subjects" or "synthetic_share", of which the other is whole.
    An arm that has but one amount, as real-only training has no synthetic set, is a level to compare with. An amount
    without a number is left out, and the panel says so. Raises ValueError where nothing of this segmenter is there.
    """
    (other,) = set(AMOUNT) - {by}
    here = amounts[(amounts["segmenter"] == segmenter) & (amounts[other] == 1)]
    if here.empty:
        raise ValueError(f"no amounts for segmenter {segmenter!r}")
    real = here["arm"] == "real"
    panels = (here if real.all() else here[~real])[["generator", "augmentation"]].drop_duplicates()
    figure, axes = _panels(len(panels))
    handles: dict[str, Line2D] = {}
    for axis, (generator, augmentation) in zip(axes, panels.itertuples(index=False), strict=True):
        shown = here[(here["augmentation"] == augmentation) & (real | (here["generator"] == generator))]
        for arm, rows in shown.groupby("arm", sort=False):
            handles[arm] = _amount_line(axis, rows, by, arm)
        _remark(axis, [f"{ARMS[arm].lower()}: incomplete" for arm in shown.loc[shown["dice"].isna(), "arm"].unique()])
        axis.set_title(f"{'Real only' if generator == 'none' else label(generator)}, aug. {augmentation}")
        axis.grid(True)
    ticks = sorted(here[by].unique())
    axes[0].set_xscale("log")  # shared: doubling the data is the same step everywhere
    axes[0].set_xticks(ticks, [f"{100 * share:g}" for share in ticks])
    axes[0].xaxis.set_minor_locator(NullLocator())
    what = {"real_subjects": "real training subjects used [%]", "synthetic_share": "synthetic set used [%]"}[by]
    n = f"n = {_span(here['subjects'])} test subjects × {_span(here['seeds'])} seeds"
    figure.supxlabel(f"{what}\nband: 95 % interval; {n}", fontsize=9)
    figure.supylabel("mean Dice over NCR, ED, ET", fontsize=9)
    figure.legend(handles=[handles[arm] for arm in ARMS if arm in handles], loc="outside upper center", ncols=2)
    return figure


@styled
def forest_plot(ratios: pd.DataFrame, segmenter: str) -> Figure:
    """Ratio of the mean Dice to real-only training with 95 % interval, one line per arm, against the margins.

    ratios: the table of `analysis.statistics.ratios`. An arm without a number keeps its line and says so. What
    synthetic images do alone comes before what they add. Raises ValueError where nothing of this segmenter is there.
    """
    here = ratios[(ratios["segmenter"] == segmenter) & (ratios["region"] == "mean")]
    if here.empty:
        raise ValueError(f"no ratios for segmenter {segmenter!r}")
    rows = pd.concat([here[here["arm"] == arm] for arm in ARMS])
    figure = Figure(figsize=(WIDTH, 1.3 + 0.42 * len(rows)))
    axis = figure.subplots()
    names, handles = [], {}
    for y, (_, row) in enumerate(rows.iterrows()):
        text, (colour, marker) = ARMS[row["arm"]].lower(), ARM_STYLES[row["arm"]]
        names.append(f"{label(row['generator'])}\n{text}, aug. {row['augmentation']}")
        if np.isnan(row["ratio"]):
            axis.text(1.0, y, "missing: see table ", va="center", ha="right", color=GREY, fontsize=8)
            continue
        if not np.isnan(row["low"]):
            axis.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2, solid_capstyle="round")
            axis.plot([row["lower_bound"]] * 2, [y - 0.16, y + 0.16], color=colour, linewidth=1.5)
        axis.plot(row["ratio"], y, marker=marker, color=colour, markersize=6.5, markeredgecolor="white")
        handles[text] = Line2D([], [], color=colour, marker=marker, linewidth=2, label=text)
    for margin in MARGINS:
        axis.axvline(margin, color=GREY, linewidth=0.8, linestyle=":")
        axis.text(
            margin,
            1.005,
            f"{margin:.2f}",
            transform=axis.get_xaxis_transform(),
            rotation=60,  # on a wide axis the margins stand close together
            va="bottom",
            fontsize=7.5,
            color=GREY,
        )
    axis.axvline(1, color="black", linewidth=0.8)
    axis.text(1, 1.005, "real", transform=axis.get_xaxis_transform(), rotation=60, va="bottom", fontsize=7.5)
    known = rows[["low", "high", "ratio"]].to_numpy(dtype=float)
    low, high = (np.nanmin(known), np.nanmax(known)) if np.isfinite(known).any() else (0.75, 1.0)
    axis.set(
        yticks=range(len(rows)),
        yticklabels=names,
        ylim=(len(rows) - 0.5, -0.5),
        xlim=(min(low, 0.78) - 0.02, max(high, 1.0) + 0.03),
        xlabel="mean Dice relative to real-only training (ratio)\nbar: 95 % interval, tick: lower 5 % bound\n"
        f"n = {_span(rows['subjects'])} subjects × {_span(rows['seeds'])} seeds",
    )
    axis.tick_params(axis="y", length=0)
    axis.grid(True, axis="x")
    if len(handles) > 1:
        figure.legend(handles=list(handles.values()), loc="outside upper right", ncols=min(2, len(handles)))
    return figure


@styled
def similarity_histogram(synthetic: np.ndarray, null: np.ndarray, tau95: float, tau99: float, name: str) -> Figure:
    """Nearest-training-slice similarity of synthetic slices [n] beside that of held-out real slices [m] (the null).

    tau95, tau99: the null's 95th and 99th percentile. Raises ValueError where an array is empty or not finite.
    """
    for what, values in (("synthetic", synthetic), ("null", null)):
        if values.size == 0 or not np.isfinite(values).all():
            raise ValueError(f"{name}: the {what} similarities must be finite and at least one, got {values.size}")
    figure = Figure(figsize=(WIDTH, 3.0))
    axis = figure.subplots()
    bins = np.linspace(min(synthetic.min(), null.min(), tau95), max(synthetic.max(), null.max(), tau99), 41)
    for values, text, colour in (
        (null, f"held-out real slices, the null (n = {null.size:,})", GREY),
        (synthetic, f"synthetic slices (n = {synthetic.size:,})", ORANGE),
    ):
        seaborn.histplot(
            x=values, bins=bins, stat="probability", element="step", alpha=0.35, color=colour, label=text, ax=axis
        )
    for tau, text, style, side in ((tau95, "τ95", "--", "right"), (tau99, "τ99", ":", "left")):
        axis.axvline(tau, color="black", linewidth=1, linestyle=style)
        axis.text(
            tau, 1.0, f" {text} {tau:.3f} ", transform=axis.get_xaxis_transform(), va="bottom", ha=side, fontsize=8
        )
    axis.set(xlabel="similarity to the nearest training slice (correlation)", ylabel="share of slices")
    axis.set_title(label(name), pad=16)
    axis.grid(True, axis="y")
    figure.legend(loc="outside lower center", ncols=1)
    return figure


@styled
def training_curve(curve: pd.DataFrame, name: str) -> Figure:
    """Fidelity and memorization of a generator against training length, one line per training (seed), side by side.

    curve: a row per snapshot with seed, seen (images), kernel_distance and kernel_floor (to held-out real slices, of
    samples and of real training slices), memorized_share and copied_share (of samples, 0..1), kept (whether these
    weights were released) and samples (their number). Raises ValueError where it is empty.
    """
    if curve.empty:
        raise ValueError(f"{name}: no snapshot was measured")
    figure = Figure(figsize=(WIDTH, 3.5))
    fidelity, memorization = figure.subplots(1, 2, sharex=True)
    shares = curve.assign(**{column: 100 * curve[column] for column in ("memorized_share", "copied_share")})
    for axis, column, colour, marker in (
        (fidelity, "kernel_distance", BLUE, "o"),
        (memorization, "memorized_share", ORANGE, "s"),
        (memorization, "copied_share", GREEN, "^"),
    ):
        for _, training in shares.groupby("seed"):
            seen, kept = training["seen"] / 1000, training["kept"].to_numpy(bool)
            axis.plot(seen, training[column], color=colour, marker=marker, markersize=4, linewidth=1.5)
            axis.plot(seen[kept], training[column][kept], **KEPT)
        if shares[column].isna().all():
            _remark(axis, [f"{column.replace('_', ' ')}: not measured"])
    fidelity.axhline(curve["kernel_floor"].mean(), color=GREY, linestyle="--", linewidth=1)
    memorization.axhline(5, color="black", linestyle=":", linewidth=1)
    fidelity.set(title="Fidelity", ylabel="kernel distance (lower is closer)")
    memorization.set(title="Memorization", ylabel="share of samples [%]")
    memorization.set_ylim(0, max(10, 1.08 * np.nan_to_num(memorization.get_ylim()[1])))
    for axis in (fidelity, memorization):
        axis.set(xlim=(0, None), xlabel="images seen [thousands]")
        axis.grid(True)
    handles = [
        Line2D([], [], color=BLUE, marker="o", markersize=4, label="synthetic slices"),
        Line2D([], [], color=GREY, linestyle="--", label="real training slices (floor)"),
        Line2D([], [], label="kept snapshot", **KEPT),
        Line2D([], [], color=ORANGE, marker="s", markersize=4, label="memorized (above τ95)"),
        Line2D([], [], color=GREEN, marker="^", markersize=4, label="copied (close to one patient)"),
        Line2D([], [], color="black", linestyle=":", label="expected without copying: 5 %"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    n = f"n = {_span(curve['samples'])} samples a snapshot, {counted(curve['seed'].nunique(), 'training')}"
    figure.suptitle(f"{label(name)}: {n}", fontsize=9, fontweight="bold", x=0.01, ha="left")
    return figure


@styled
def closest_pairs(
    pairs: np.ndarray, similarity: np.ndarray, shift: np.ndarray, mirrored: np.ndarray, name: str
) -> Figure:
    """The synthetic slices closest to a training slice, that slice, and their signed difference once aligned.

    pairs: uint8 [K, 2, 4, H, W], synthetic and training slice as they are stored, modalities T1, T1ce, T2, FLAIR, each
    slice shown as a 2 × 2 mosaic. A pair is shown as it was compared: the synthetic slice mirrored left–right where
    mirrored [K], the training slice moved by shift [K, 2] (down, right, in pixels). similarity [K]. Raises ValueError
    where the shapes differ from that.
    """
    k = len(pairs)
    lengths = (len(similarity), np.shape(shift), len(mirrored))
    if pairs.ndim != 5 or pairs.shape[1:3] != (2, 4) or not k or lengths != (k, (k, 2), k):
        raise ValueError(
            f"{name}: pairs must be [K, 2, 4, H, W] with K similarities, shifts (K, 2) and mirrored flags, "
            f"got {pairs.shape}, {lengths}"
        )
    compared = pairs.astype(np.int16)
    how = []
    for index, (close, (down, right), flip) in enumerate(zip(similarity, shift, mirrored, strict=True)):
        if flip:
            compared[index, 0] = compared[index, 0, ..., ::-1]
        compared[index, 1] = ndimage.shift(compared[index, 1], (0, down, right), order=0)
        moved = [f"moved {down:+d},\n{right:+d} px"] * bool(down or right)
        how.append("\n".join([f"{close:.3f}", *["mirrored"] * bool(flip), *moved]))
    mosaics = np.block([[compared[:, :, 0], compared[:, :, 1]], [compared[:, :, 2], compared[:, :, 3]]])

    colours = ScalarMappable(Normalize(-128, 128), "RdBu_r")
    difference = colours.to_rgba(mosaics[:, :1] - mosaics[:, 1:])[..., :3]
    tiles = np.concatenate([np.repeat(mosaics[..., None] / 255, 3, axis=-1), difference], axis=1)

    figure = Figure(figsize=(WIDTH, 1.1 + 1.35 * k))
    axis = figure.subplots()
    _show(axis, tiles)
    size = mosaics.shape[-1]
    axis.set_xticks(_centres(3, size), ["synthetic", "training", "difference"])
    axis.set_yticks(_centres(k, size), how)
    bar = figure.colorbar(colours, ax=axis, location="bottom", shrink=0.6, aspect=40, pad=0.02)
    bar.set_label("synthetic − training [8-bit intensity]\neach mosaic: T1, T1ce / T2, FLAIR", fontsize=8)
    figure.suptitle(
        f"{label(name)}: the {k} closest pairs and their similarity", fontsize=9, fontweight="bold", x=0.01, ha="left"
    )
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
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


def _amount_line(axis: Axes, rows: pd.DataFrame, by: str, arm: str) -> Line2D:
    """An arm's mean Dice with its interval over the shares of the data, a level where there is but one; its handle."""
    colour, marker = ARM_STYLES[arm]
    known, text = rows[rows["dice"].notna()], ARMS[arm].lower()
    if len(rows) > 1:
        axis.fill_between(known[by], known["low"], known["high"], color=colour, alpha=0.18, linewidth=0)
        axis.plot(known[by], known["dice"], color=colour, marker=marker, markersize=4.5)
        return Line2D([], [], color=colour, marker=marker, markersize=4.5, label=text)
    for row in known.itertuples():
        axis.axhspan(row.low, row.high, color=colour, alpha=0.12, linewidth=0)
        axis.axhline(row.dice, color=colour, linestyle="--", linewidth=1.2)
    return Line2D([], [], color=colour, linestyle="--", label=text)


def _remark(axis: Axes, texts: list[str]) -> None:
    """What a panel cannot show, in its lower right corner."""
    axis.annotate("\n".join(texts), (0.97, 0.03), xycoords="axes fraction", ha="right", color=GREY, fontsize=8)


def _show(axis: Axes, tiles: np.ndarray) -> None:
    """RGB tiles in 0..1 [rows, columns, H, W, 3] as one image with white gaps and no frame."""
    gap = tiles.shape[3] // GAP_SHARE
    padded = np.pad(tiles, [(0, 0), (0, 0), (0, gap), (0, gap), (0, 0)], constant_values=1.0)
    image = np.concatenate(np.concatenate(padded, axis=1), axis=1)[: -gap or None, : -gap or None]
    axis.imshow(image, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _centres(count: int, size: int) -> np.ndarray:
    """Where the tiles of a row (or column) of `_show` have their middle, in pixels."""
    return np.arange(count) * (size + size // GAP_SHARE) + size / 2


def _span(counts: pd.Series) -> str:
    low, high = counts.min(), counts.max()
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"
