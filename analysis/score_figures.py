"""Figures of segmentation scores. Each function returns a Figure, draws on nothing global and touches no files."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from analysis.arms import ARMS, Arm, label
from analysis.drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, WIDTH, panel_grid, remark, span, styled
from analysis.long_table import AMOUNT, Scores
from analysis.score_tables import SHARED, is_shared
from analysis.statistics import MARGINS

SHARED_NOTE = f"\n{SHARED} seeds share one synthetic set:\nthe generator's own variance is left out"
WIDEST = 1.5  # ratio to which intervals are drawn at least; beyond, an arrow says that they go on
ARM_STYLES = {
    "real": (GREY, "D"),
    "synthetic": (ORANGE, "o"),
    "synthetic_last": (PURPLE, "v"),
    "both": (BLUE, "s"),
    "pretrain": (GREEN, "^"),
}


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
    figure, axes = panel_grid(len(panels))
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
        remark(axis, incomplete)
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
    figure, axes = panel_grid(len(panels))
    handles: dict[str, Line2D] = {}
    for axis, (generator, augmentation) in zip(axes, panels.itertuples(index=False), strict=True):
        shown = here[(here["augmentation"] == augmentation) & (real | (here["generator"] == generator))]
        for arm, rows in shown.groupby("arm", sort=False):
            handles[arm] = _amount_line(axis, rows, by, arm)
        remark(axis, [f"{ARMS[arm].lower()}: incomplete" for arm in shown.loc[shown["dice"].isna(), "arm"].unique()])
        mark = f" {SHARED}" if shown.apply(is_shared, axis=1).any() else ""
        axis.set_title(f"{'Real only' if generator == 'none' else label(generator)}{mark}, aug. {augmentation}")
        axis.grid(True)
    ticks = sorted(here[by].unique())
    axes[0].set_xscale("log")  # shared: doubling the data is the same step everywhere
    axes[0].set_xticks(ticks, [f"{100 * share:g}" for share in ticks])
    axes[0].xaxis.set_minor_locator(NullLocator())
    what = {"real_subjects": "real training subjects used [%]", "synthetic_share": "synthetic set used [%]"}[by]
    n = f"n = {span(here['subjects'])} test subjects × {span(here['seeds'])} seeds"
    shared = SHARED_NOTE * bool(here.apply(is_shared, axis=1).any())
    figure.supxlabel(f"{what}\nband: 95 % interval; {n}{shared}", fontsize=9)
    figure.supylabel("mean Dice over NCR, ED, ET", fontsize=9)
    figure.legend(handles=[handles[arm] for arm in ARMS if arm in handles], loc="outside upper center", ncols=2)
    return figure


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
    known = rows[["low", "high", "ratio"]].to_numpy(dtype=float)
    low, high = (np.nanmin(known), np.nanmax(known)) if np.isfinite(known).any() else (0.75, 1.0)
    right = min(max(high, 1.0), max(rows["ratio"].max(), WIDEST)) + 0.03  # few seeds: bars of several axes' length
    for y, (_, row) in enumerate(rows.iterrows()):
        text, (colour, marker) = ARMS[row["arm"]].lower(), ARM_STYLES[row["arm"]]
        mark = f" {SHARED}" if is_shared(row) else ""
        names.append(f"{label(row['generator'])}{mark}\n{text}, aug. {row['augmentation']}")
        if np.isnan(row["ratio"]):
            axis.text(1.0, y, "missing: see table ", va="center", ha="right", color=GREY, fontsize=8)
            continue
        if not np.isnan(row["low"]):
            axis.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2, solid_capstyle="round")
            if row["high"] > right:
                axis.plot(right, y, marker=">", color=colour, markersize=6, clip_on=False)
            axis.plot([row["lower_bound"]] * 2, [y - 0.16, y + 0.16], color=colour, linewidth=1.5)
        axis.plot(row["ratio"], y, marker=marker, color=colour, markersize=6.5, markeredgecolor="white")
        handles[text] = Line2D([], [], color=colour, marker=marker, linewidth=2, label=text)
    _margin_lines(axis)
    axis.set(
        yticks=range(len(rows)),
        yticklabels=names,
        ylim=(len(rows) - 0.5, -0.5),
        xlim=(min(low, 0.78) - 0.02, right),
        xlabel="mean Dice relative to real-only training (ratio)\nbar: 95 % interval, tick: lower 5 % bound\n"
        f"n = {span(rows['subjects'])} subjects × {span(rows['seeds'])} seeds"
        + SHARED_NOTE
        * bool(rows.apply(is_shared, axis=1).any()),
    )
    axis.tick_params(axis="y", length=0)
    axis.grid(True, axis="x")
    if len(handles) > 1:
        figure.legend(handles=list(handles.values()), loc="outside upper right", ncols=min(2, len(handles)))
    return figure


def _margin_lines(axis: Axes) -> None:
    """Margins, dotted, and 1, the reference, each with its name above the panel."""
    lines = [*((margin, f"{margin:.2f}", GREY, ":") for margin in MARGINS), (1, "real", "black", "-")]
    for position, text, colour, style in lines:
        axis.axvline(position, color=colour, linewidth=0.8, linestyle=style)
        above = axis.get_xaxis_transform()  # turned: on a wide axis the margins stand close together
        axis.text(position, 1.005, text, transform=above, rotation=60, va="bottom", fontsize=7.5, color=colour)
