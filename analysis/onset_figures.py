"""Figures of when generators begin to copy: measures while they train, and onset against number of patients."""

import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator

from analysis.arms import label
from analysis.attacks_statistics import auc_interval
from analysis.drawing import BLUE, GREEN, GREY, ORANGE, WIDTH, remark, styled
from analysis.onset import Slope

MEASURES = {  # column, title of its axis, scale, what chance gives, limits
    "test_copied_share": ("copied [%]", 100, 5, (-4, 104)),
    "test_memorized_share": ("memorized [%]", 100, 5, (-4, 104)),
    "test_membership_auc": ("membership AUC", 1, 0.5, (0, 1)),
}
MARKERS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (GREY, "D"), ("black", "v"))


@styled
def measures_while_training(snapshots: pd.DataFrame, test_patients: int) -> Figure:
    """Copied and memorized share, and membership AUC where it was measured, against images seen: a column per model, a
    line per number of patients (mean over trainings; thin: each of several), dotted what chance gives. Shaded: 95 %
    interval of that AUC, of so many patients against the test patients.

    snapshots: as `analysis.onset.onsets` takes them, with the columns of MEASURES.
    """
    shown = {name: told for name, told in MEASURES.items() if name in snapshots and snapshots[name].notna().any()}
    models, sizes = sorted(snapshots["model"].unique()), sorted(snapshots["subjects"].unique())
    colours = dict(zip(sizes, seaborn.color_palette("viridis_r", len(sizes) + 1)[1:], strict=True))
    figure = Figure(figsize=(WIDTH * max(1, len(models) / 2), 0.9 + 1.75 * len(shown)))
    grid = figure.subplots(len(shown), len(models), squeeze=False, sharex=True, sharey="row")
    for column, model in enumerate(models):
        for row, (name, (title, scale, chance, limits)) in enumerate(shown.items()):
            axis = grid[row, column]
            for subjects, group in snapshots[snapshots["model"] == model].groupby("subjects"):
                lines = group.pivot(index="seen", columns="seed", values=name) * scale
                if lines.shape[1] > 1:
                    axis.plot(lines.index, lines, color=colours[subjects], linewidth=0.6, alpha=0.6)
                mean = lines.mean(axis=1)
                axis.plot(mean.index, mean, color=colours[subjects], marker="o", markersize=3, linewidth=1.6)
                if name == "test_membership_auc":
                    known = mean.dropna()
                    band = np.array([auc_interval(value, subjects, test_patients) for value in known]).reshape(-1, 2)
                    axis.fill_between(known.index, *band.T, color=colours[subjects], alpha=0.13, linewidth=0)
            axis.axhline(chance, color="black", linestyle=":", linewidth=1)
            axis.set(xscale="log", ylabel=title if column == 0 else "", ylim=limits)
            axis.grid(True)
        grid[0, column].set_title(label(model))
        grid[-1, column].set_xlabel("images seen [thousands]")
        grid[-1, column].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        grid[-1, column].xaxis.set_major_formatter(lambda images, _: f"{images / 1000:g}")
        grid[-1, column].xaxis.set_minor_locator(NullLocator())
    handles = [Line2D([], [], color=colours[n], marker="o", markersize=3, label=f"{n} patients") for n in sizes]
    handles.append(Line2D([], [], color="black", linestyle=":", label="by chance"))
    if "test_membership_auc" in shown:
        handles.append(Patch(color=GREY, alpha=0.3, linewidth=0, label="95 % interval over patients"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


@styled
def onset_against_patients(onsets: pd.DataFrame, slopes: dict[str, Slope]) -> Figure:
    """Images seen until copying begins against number of patients, on log-log axes, with each model's fitted power and,
    dashed, the power 1 of theory through diffusion's. Open: the onset is not between two snapshots, but before the
    first one (down) or after the last one (up). Thin lines: from the last snapshot that does not copy.

    onsets, slopes by model: as `analysis.onset` returns them.
    """
    figure = Figure(figsize=(WIDTH, 3.6))
    axis = figure.subplots()
    axis.set(xscale="log", yscale="log")
    handles = []
    sizes = np.array(sorted(onsets["subjects"].unique()), float)
    for place, ((model, group), (colour, marker)) in enumerate(zip(onsets.groupby("model"), MARKERS, strict=False)):
        aside = 1.03**place  # so that no mark hides another model's
        for when, pointing, seen, face in (
            ("at", marker, group["onset"], colour),
            ("by", "v", group["onset"], "none"),
            ("after", "^", 1.12 * group["last"], "none"),  # above those that copy at the last snapshot
        ):
            chosen, look = group["when"] == when, {"color": colour, "markerfacecolor": face, "linestyle": ""}
            axis.plot(aside * group["subjects"][chosen], seen[chosen], marker=pointing, markersize=6, **look)
        between = group[group["when"] == "at"]
        axis.vlines(aside * between["subjects"], between["not_by"], between["onset"], color=colour, linewidth=1)
        text, fit = label(model), slopes[model]
        if fit.value is not None:
            axis.plot(sizes, np.exp(fit.intercept) * sizes**fit.value, color=colour, linewidth=1.5)
            text += f": power {fit.value:.2f}" + ("" if fit.low is None else f" ({fit.low:.2f} to {fit.high:.2f})")
        handles.append(Line2D([], [], color=colour, marker=marker, label=text))
    fitted = next((s for model, s in slopes.items() if model == "diffusion" and s.value is not None), None)
    if fitted is not None:
        middle = np.exp(np.log(sizes).mean())
        through = np.exp(fitted.intercept) * middle**fitted.value
        axis.plot(sizes, through * sizes / middle, color="black", linestyle="--", linewidth=1)
        handles.append(Line2D([], [], color="black", linestyle="--", label="theory, for diffusion: power 1"))
    if onsets["onset"].isna().all():
        known = (onsets["when"] == "after").all()
        remark(axis, ["no training copied more than chance gives" if known else "not known: too few test patients"])
    handles.append(Line2D([], [], color=GREY, marker="^", markerfacecolor="none", linestyle="", label="not by the end"))
    if (onsets["when"] == "by").any():
        text = "at the first snapshot already"
        handles.append(Line2D([], [], color=GREY, marker="v", markerfacecolor="none", linestyle="", label=text))
    axis.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(lambda images, _: f"{images:,.0f}")
    axis.minorticks_off()
    axis.set(xlabel="training patients", ylabel="images seen until copying begins")
    axis.grid(True)
    figure.legend(handles=handles, loc="outside lower center", ncols=1)
    return figure
