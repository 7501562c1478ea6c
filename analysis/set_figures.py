"""Figures of synthetic sets and of the generators that made them: samples, similarity, closest pairs, training."""

import numpy as np
import pandas as pd
import seaborn
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy import ndimage

from analysis.arms import label
from analysis.drawing import (
    BLUE,
    CLASS_COLOURS,
    GREEN,
    GREY,
    MODALITIES,
    ORANGE,
    WIDTH,
    centres,
    overlay,
    remark,
    show_tiles,
    span,
    styled,
)
from analysis.statistics import counted

KEPT = {"color": "black", "marker": "o", "markersize": 9, "markerfacecolor": "none", "linestyle": ""}
FOUND = {  # how a training slice was found: the searches of `second_stage`, in words
    "as is": "as it lies",
    "pose": "in another pose",
    "bent": "bent",
    "lesion": "its lesion",
    "tumour": "its tumour, in place",
    "half": "a part of it",
    "swap": "modalities in another order",
    "pair": "two patients at once",
    "single": "one modality of it",
    "blend": "in a blend",
}


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
        show_tiles(axis, tiles)
        axis.set_ylabel(source)
    axes[0].xaxis.tick_top()
    axes[0].set_xticks(centres(tiles.shape[1], tiles.shape[3]), [*MODALITIES, "annotation"])
    handles = [Patch(color=colour, label=text) for text, colour in CLASS_COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
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
    axis.set(xlabel="similarity to the nearest training slice", ylabel="share of slices")
    axis.set_title(label(name), pad=16)
    axis.grid(True, axis="y")
    figure.legend(loc="outside lower center", ncols=1)
    return figure


@styled
def training_curve(curve: pd.DataFrame, name: str) -> Figure:
    """Use, fidelity and memorization of a generator against training length, a line per training (seed), side by side.

    curve: a row per snapshot with seed, seen (images), judge_dice and judge_dice_real (0..1, on validation subjects, of
    a U-Net briefly trained on samples and on real training slices), kernel_distance and kernel_floor (to held-out real
    slices, of samples and of real training slices), memorized_share and copied_share (of samples, 0..1), kept (whether
    these weights were released) and samples (their number). Raises ValueError where it is empty.
    """
    if curve.empty:
        raise ValueError(f"{name}: no snapshot was measured")
    figure = Figure(figsize=(WIDTH, 3.7))
    use, fidelity, memorization = figure.subplots(1, 3, sharex=True)
    shares = curve.assign(**{column: 100 * curve[column] for column in ("memorized_share", "copied_share")})
    for axis, column, colour, marker in (
        (use, "judge_dice", BLUE, "o"),
        (fidelity, "kernel_distance", BLUE, "o"),
        (memorization, "memorized_share", ORANGE, "s"),
        (memorization, "copied_share", GREEN, "^"),
    ):
        for _, training in shares.groupby("seed"):
            seen, kept = training["seen"] / 1000, training["kept"].to_numpy(bool)
            axis.plot(seen, training[column], color=colour, marker=marker, markersize=4, linewidth=1.5)
            axis.plot(seen[kept], training[column][kept], **KEPT)
        if shares[column].isna().all():
            remark(axis, [f"{column.replace('_', ' ')}: not measured"])
    use.axhline(curve["judge_dice_real"].mean(), color=GREY, linestyle="--", linewidth=1)
    fidelity.axhline(curve["kernel_floor"].mean(), color=GREY, linestyle="--", linewidth=1)
    memorization.axhline(5, color="black", linestyle=":", linewidth=1)
    use.set(title="Use", ylabel="judge's Dice (higher is better)", ylim=(0, None))
    fidelity.set(title="Fidelity", ylabel="kernel distance (lower is closer)")
    memorization.set(title="Memorized", ylabel="share of samples [%]")
    memorization.set_ylim(0, max(10, 1.08 * np.nan_to_num(memorization.get_ylim()[1])))
    for axis in (use, fidelity, memorization):
        axis.set(xlim=(0, 1.06 * curve["seen"].max() / 1000))
        axis.grid(True)
    fidelity.set_xlabel("images seen [thousands]")  # of all three
    handles = [
        Line2D([], [], color=BLUE, marker="o", markersize=4, label="synthetic slices"),
        Line2D([], [], color=GREY, linestyle="--", label="real training slices"),
        Line2D([], [], label="kept snapshot", **KEPT),
        Line2D([], [], color=ORANGE, marker="s", markersize=4, label="memorized (above τ95)"),
        Line2D([], [], color=GREEN, marker="^", markersize=4, label="copied (close to one patient)"),
        Line2D([], [], color="black", linestyle=":", label="expected without copying: 5 %"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    n = f"n = {span(curve['samples'])} samples a snapshot, {counted(curve['seed'].nunique(), 'training')}"
    figure.suptitle(f"{label(name)}: {n}", fontsize=9, fontweight="bold", x=0.01, ha="left")
    return figure


@styled
def closest_pairs(pairs: np.ndarray, closest: pd.DataFrame, name: str) -> Figure:
    """The synthetic slices closest to a training slice, that slice, and, where both lie alike, their difference.

    pairs: uint8 [K, 2, 4, H, W], synthetic and training slice as they are stored, modalities T1, T1ce, T2, FLAIR, each
    slice shown as a 2 × 2 mosaic. closest: their rows [K] of `memorization.Audit.slices`, with the column lies_alike:
    whether a pair is shown as it was compared, the synthetic slice mirrored left–right where it says mirrored, the
    training slice moved by shift_y, shift_x (down, right, in pixels), and their signed difference beside. Where search
    and evidence are missing, the similarity stands alone. Raises ValueError where the shapes differ from that.
    """
    k = len(pairs)
    if pairs.ndim != 5 or pairs.shape[1:3] != (2, 4) or not k or len(closest) != k:
        raise ValueError(
            f"{name}: pairs must be [K, 2, 4, H, W] with K rows of what was found, got {pairs.shape}, {len(closest)}"
        )
    colours = ScalarMappable(Normalize(-128, 128), "RdBu_r")
    figure = Figure(figsize=(WIDTH, 1.15 + 1.65 * k))
    axes = figure.subplots(k, 1, squeeze=False)[:, 0]
    for axis, pair, (_, found) in zip(axes, pairs.astype(np.int16), closest.iterrows(), strict=True):
        synthetic, training = pair
        how = [f"similarity {found['similarity']:.3f}"]
        if "search" in found:
            how = [FOUND[found["search"]], f"evidence {found['evidence']:.1f}", *how]
        if found["lies_alike"]:
            down, right = int(found["shift_y"]), int(found["shift_x"])
            synthetic = synthetic[..., ::-1] if found["mirrored"] else synthetic
            training = ndimage.shift(training, (0, down, right), order=0)
            how += ["mirrored"] * bool(found["mirrored"])
            how += [f"moved {down:+d}, {right:+d} px"] * bool(down or right)
        synthetic, training = (np.block([[x[0], x[1]], [x[2], x[3]]]) for x in (synthetic, training))
        tiles = [np.repeat(mosaic[..., None] / 255, 3, axis=-1) for mosaic in (synthetic, training)]
        size = len(synthetic)
        difference = colours.to_rgba(synthetic - training)[..., :3] if found["lies_alike"] else np.ones_like(tiles[0])
        show_tiles(axis, np.stack([*tiles, difference])[None])
        axis.set_title(" · ".join(how), fontsize=8, fontweight="normal", pad=3)
        if not found["lies_alike"]:
            middle = centres(3, size)[2], size / 2
            axis.text(*middle, "not comparable\npixel by pixel", color=GREY, fontsize=8, ha="center", va="center")
    axes[-1].set_xticks(centres(3, size), ["synthetic", "training", "difference"])
    if closest["lies_alike"].any():
        bar = figure.colorbar(colours, ax=axes, location="bottom", shrink=0.6, aspect=40, pad=0.02)
        bar.set_label("synthetic − training [8-bit intensity]\neach mosaic: T1, T1ce / T2, FLAIR", fontsize=8)
    else:
        figure.supxlabel("each mosaic: T1, T1ce / T2, FLAIR", fontsize=8)
    which = "pairs with most evidence" if "search" in closest else "closest pairs"
    figure.suptitle(f"{label(name)}: the {k} {which}", fontsize=9, fontweight="bold", x=0.01, ha="left")
    return figure
