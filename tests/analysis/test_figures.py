import io

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis import drawing, score_figures, set_figures, statistics
from analysis.long_table import Scores
from analysis.second_stage import SEARCHES


def drawn(figure: Figure) -> list[str]:
    """Every text of a figure, after drawing it."""
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text() and text.get_visible()]


def has(texts: list[str], part: str) -> bool:
    return any(part in text for text in texts)


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    patients = rng.uniform(0.5, 0.9, 8)
    kept = {
        ("none", "real"): 1.0,
        ("diffusion", "synthetic"): 0.8,
        ("diffusion", "both"): 1.0,
        ("mine", "synthetic"): 0.6,
    }
    rows = [
        ("phantom", generator, arm, "unet", "on", seed, f"case{k}", "mean", ratio * patients[k] + 0.01 * seed)
        for (generator, arm), ratio in kept.items()
        for seed in range(3)
        for k in range(8)
    ]
    table = pd.DataFrame(rows, columns=[*statistics.ARM, "seed", "subject", "region", "value"])
    return table.assign(metric="dice", real_subjects=1.0, synthetic_share=1.0)


@pytest.fixture
def slices():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (5, 4, 16, 16), dtype=np.uint8), rng.integers(0, 4, (5, 16, 16), dtype=np.uint8)


def test_nothing_global_is_left_behind(scores):
    import matplotlib.pyplot as plt

    before = dict(matplotlib.rcParams)
    drawn(score_figures.forest_plot(statistics.ratios(Scores(scores)), "unet"))
    drawn(set_figures.similarity_histogram(np.linspace(0.5, 0.9, 30), np.linspace(0.4, 0.8, 20), 0.78, 0.79, "mine"))
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []


def test_every_chart_names_its_axes_and_prints_n(scores):
    ratios = statistics.ratios(Scores(scores))
    texts = drawn(score_figures.forest_plot(ratios, "unet"))
    assert has(texts, "relative to real-only training (ratio)")
    assert has(texts, "n = 8 subjects × 3 seeds")
    texts = drawn(score_figures.dice_per_subject(Scores(scores), "unet"))
    assert has(texts, "real-only training")
    assert has(texts, "training with synthetic images")
    assert has(texts, "n = 8 subjects")
    texts = drawn(
        set_figures.similarity_histogram(np.linspace(0.5, 0.9, 30), np.linspace(0.4, 0.8, 20), 0.78, 0.79, "mine")
    )
    assert has(texts, "similarity to the nearest training slice")
    assert not has(texts, "correlation")  # similarities are that of shifted slices and SSIM, too
    assert has(texts, "share of slices")
    assert has(texts, "n = 30")
    assert has(texts, "n = 20")
    assert has(texts, "τ95 0.780")


def test_the_forest_plot_draws_each_interval_at_its_numbers(scores):
    ratios = statistics.ratios(Scores(scores))
    figure = score_figures.forest_plot(ratios, "unet")
    spans = {tuple(line.get_xdata()) for line in figure.axes[0].lines if len(line.get_xdata()) == 2}
    for _, row in ratios.iterrows():
        assert (row["low"], row["high"]) in spans
    verticals = {line.get_xdata()[0] for line in figure.axes[0].lines}
    assert {0.80, 0.90, 0.95, 1} < verticals


def test_an_arm_without_number_keeps_its_line(scores):
    hole = (scores["generator"] == "mine") & (scores["seed"] == 1) & (scores["subject"] == "case2")
    figure = score_figures.forest_plot(statistics.ratios(Scores(scores[~hole])), "unet")
    assert has(drawn(figure), "missing")
    assert len(figure.axes[0].get_yticks()) == 3
    assert has(drawn(score_figures.dice_per_subject(Scores(scores[~hole]), "unet")), "synthetic only: incomplete")


def test_subjects_are_paired_with_themselves(scores):
    figure = score_figures.dice_per_subject(Scores(scores), "unet")
    mean = scores.groupby(["generator", "arm", "subject"])["value"].mean()
    (axis,) = [axis for axis in figure.axes if axis.get_title(loc="left").startswith("mine")]
    (points,) = axis.collections
    expected = np.column_stack([mean["none", "real"], mean["mine", "synthetic"]])
    assert np.asarray(points.get_offsets()) == pytest.approx(expected)


@pytest.fixture
def amounts(scores):
    less = [({"real_subjects": 0.25}, 0.2), ({"synthetic_share": 0.5}, 0.1)]
    parts = [scores.assign(value=scores["value"] - loss, **share) for share, loss in less]
    half = parts[1]["arm"] != "real"
    quarter = parts[0]["arm"] != "synthetic"
    return statistics.amounts(Scores(pd.concat([scores, parts[0][quarter], parts[1][half]], ignore_index=True)))


@pytest.mark.parametrize(
    ("by", "line", "level"), [("real_subjects", "both", "synthetic"), ("synthetic_share", "both", "real")]
)
def test_dice_against_amount_draws_its_numbers_and_a_level_where_there_is_one_amount(amounts, by, line, level):
    figure = score_figures.dice_against_amount(amounts, "unet", by)
    texts = drawn(figure)
    assert has(texts, "n = 8 test subjects × 3 seeds")
    assert has(texts, "mean Dice over NCR, ED, ET")
    assert has(texts, "used [%]")
    assert "100" in texts
    (axis,) = [axis for axis in figure.axes if axis.get_title(loc="left").startswith("Diffusion")]
    full = amounts[(amounts[["real_subjects", "synthetic_share"]] == 1).all(axis=1)].set_index(["generator", "arm"])
    part = amounts[amounts[by] < 1].set_index(["generator", "arm"])
    drawn_lines = [(list(drawn.get_xdata()), list(drawn.get_ydata())) for drawn in axis.lines]
    key = ("diffusion", line)
    assert (
        [part.loc[key, by], 1.0],
        pytest.approx([part.loc[key, "dice"], full.loc[key, "dice"]]),
    ) in drawn_lines
    reference = full.loc[("none", "real") if level == "real" else ("diffusion", level), "dice"]
    assert ([0, 1], [reference, reference]) in drawn_lines


def test_an_amount_whose_seeds_share_a_set_is_marked(amounts):
    assert not has(drawn(score_figures.dice_against_amount(amounts, "unet", "real_subjects")), "‡")
    amounts.loc[amounts["generator"] == "diffusion", "generator_seeds"] = 1
    texts = drawn(score_figures.dice_against_amount(amounts, "unet", "real_subjects"))
    assert has(texts, "Diffusion ‡")
    assert has(texts, "the generator's own variance is left out")


def test_an_amount_without_number_is_left_out_and_named(amounts):
    amounts.loc[(amounts["arm"] == "both") & (amounts["real_subjects"] < 1), ["dice", "low", "high"]] = np.nan
    texts = drawn(score_figures.dice_against_amount(amounts, "unet", "real_subjects"))
    assert "real + synthetic: incomplete" in texts


@pytest.fixture
def curve():
    part = {"seen": [1000, 2000, 3000], "kernel_distance": [0.3, 0.1, 0.2], "memorized_share": [0.02, 0.04, 0.3]}
    part |= {"copied_share": [0.0, 0.01, 0.2], "kept": [False, True, False], "kernel_floor": 0.01, "samples": 96}
    part |= {"judge_dice": [0.1, 0.5, 0.4], "judge_dice_real": 0.6}
    return pd.concat([pd.DataFrame(part).assign(seed=seed) for seed in (0, 1)], ignore_index=True)


def test_the_training_curve_shows_use_fidelity_and_memorization_and_rings_what_was_kept(curve):
    figure = set_figures.training_curve(curve, "a_$name$")
    texts = drawn(figure)
    assert "a_$name$: n = 96 samples a snapshot, 2 trainings" in texts
    assert {"images seen [thousands]", "share of samples [%]", "kernel distance (lower is closer)"} <= set(texts)
    use, fidelity, memorization = figure.axes
    assert [line.get_ydata()[0] for line in use.lines if line.get_linestyle() == "--"] == [0.6]
    assert [line.get_ydata()[0] for line in fidelity.lines if line.get_linestyle() == "--"] == [0.01]
    assert [line.get_ydata()[0] for line in memorization.lines if line.get_linestyle() == ":"] == [5]
    rings = {
        (float(line.get_xdata().item()), round(float(line.get_ydata().item()), 6))
        for axis in figure.axes
        for line in axis.lines
        if line.get_markerfacecolor() == "none"
    }
    assert rings == {(2.0, 0.5), (2.0, 0.1), (2.0, 4.0), (2.0, 1.0)}


def test_a_share_that_was_never_measured_is_named(curve):
    texts = drawn(set_figures.training_curve(curve.assign(copied_share=np.nan), "mine"))
    assert "copied share: not measured" in texts
    with pytest.raises(ValueError, match="mine: no snapshot"):
        set_figures.training_curve(curve[:0], "mine")


def test_shares_of_both_histograms_add_up_to_one():
    figure = set_figures.similarity_histogram(np.linspace(0.5, 0.9, 37), np.linspace(0.4, 0.8, 11), 0.78, 0.79, "mine")
    for outline in figure.axes[0].collections:
        heights = outline.get_paths()[0].vertices[:, 1]
        assert heights.max() <= 1
    bars = set_figures.similarity_histogram(np.full(9, 0.5), np.full(4, 0.9), 0.9, 0.9, "mine").axes[0].collections
    assert [path.get_paths()[0].vertices[:, 1].max() for path in bars] == [1.0, 1.0]


def test_the_sample_sheet_shows_slices_and_the_overlay_their_classes(slices):
    figure = set_figures.sample_sheet(slices, slices, "mine", rows=3)
    texts = drawn(figure)
    for text in ("T1", "T1ce", "T2", "FLAIR", "annotation", "NCR", "ED", "ET", "mine, n = 3", "real, n = 3"):
        assert text in texts
    shown = np.asarray(figure.axes[1].images[0].get_array())  # 16 px tiles stand without gap
    assert shown.shape == (3 * 16, 5 * 16, 3)
    assert shown[16:32, 32:48, 0] == pytest.approx(slices[0][1, 2] / 255)
    picture = drawing.overlay(np.full((1, 4), 100, np.uint8), np.array([[0, 1, 2, 3]]), opacity=1.0)
    colours = [matplotlib.colors.to_rgb(colour) for colour in drawing.CLASS_COLOURS.values()]
    assert picture[0] == pytest.approx(np.array([(100 / 255,) * 3, *colours]))


def test_pairs_are_shown_as_they_were_compared():
    """A copy that is mirrored and moved differs from its original nowhere once aligned."""
    original = np.zeros((4, 32, 32), np.uint8)
    original[:, 10:20, 8:15] = np.arange(1, 5)[:, None, None] * 50
    copy = np.roll(original, (3, -2), (1, 2))[..., ::-1]
    pairs = np.stack([np.stack([copy, original])])
    found = pd.DataFrame({"similarity": [0.99], "shift_y": 3, "shift_x": -2, "mirrored": True, "lies_alike": True})
    figure = set_figures.closest_pairs(pairs, found, "mine")
    size = 2 * 32
    shown = np.asarray(figure.axes[0].images[0].get_array())
    synthetic, training, difference = shown[:, :size], shown[:, size + 2 : 2 * size + 2], shown[:, -size:]
    assert (synthetic == training).all()
    assert np.ptp(synthetic) > 0
    assert difference == pytest.approx(np.broadcast_to(matplotlib.colormaps["RdBu_r"](0.5)[:3], difference.shape))
    texts = drawn(figure)
    assert has(texts, "similarity 0.990 · mirrored · moved +3, -2 px")
    assert has(texts, "8-bit intensity")


def test_pairs_found_otherwise_are_shown_as_stored_and_without_difference():
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 255, (2, 2, 4, 32, 32), np.uint8)
    found = pd.DataFrame({
        "similarity": [0.99, 0.4], "evidence": [40.0, 9.25], "search": ["as is", "lesion"],
        "shift_y": [0, 3], "shift_x": 0, "mirrored": [False, True], "lies_alike": [True, False],
    })  # fmt: skip
    figure = set_figures.closest_pairs(pairs, found, "mine")
    alike, otherwise = (np.asarray(axis.images[0].get_array()) for axis in figure.axes[:2])
    assert np.ptp(alike[:, -64:]) > 0
    assert (otherwise[:, -64:] == 1).all()
    assert otherwise[:32, :32, 0] == pytest.approx(pairs[1, 0, 0] / 255)
    assert otherwise[32:64, 66 + 32 : 66 + 64, 0] == pytest.approx(pairs[1, 1, 3] / 255)
    texts = drawn(figure)
    assert has(texts, "as it lies · evidence 40.0 · similarity 0.990")
    assert has(texts, "its lesion · evidence 9.2 · similarity 0.400")


def test_every_search_has_its_words():
    assert set(set_figures.FOUND) == set(SEARCHES)


def test_a_bar_that_leaves_the_axis_says_that_it_goes_on(scores):
    ratios = statistics.ratios(Scores(scores))
    wide = ratios.assign(high=np.where(ratios["arm"] == "both", 30.0, ratios["high"]))
    axis = score_figures.forest_plot(wide, "unet").axes[0]
    right = axis.get_xlim()[1]
    assert right < 2
    arrows = [line for line in axis.lines if line.get_marker() == ">" and line.get_xdata()[0] == right]
    assert len(arrows) == len(wide.query("region == 'mean' and arm == 'both'"))
    assert not [line for line in score_figures.forest_plot(ratios, "unet").axes[0].lines if line.get_marker() == ">"]


def test_arrays_of_the_wrong_shape_are_refused(slices, scores):
    images, labels = slices
    with pytest.raises(ValueError, match=r"synthetic: images must be|mine: images must be"):
        set_figures.sample_sheet((images[:, :3], labels), slices, "mine")
    with pytest.raises(ValueError, match="pairs must be"):
        set_figures.closest_pairs(images, pd.DataFrame(index=range(5)), "mine")
    with pytest.raises(ValueError, match="finite and at least one"):
        set_figures.similarity_histogram(np.array([]), np.ones(3), 1, 1, "mine")
    with pytest.raises(ValueError, match="no ratios for segmenter 'unknown'"):
        score_figures.forest_plot(statistics.ratios(Scores(scores)), "unknown")
    with pytest.raises(ValueError, match="no arm with a generator"):
        score_figures.dice_per_subject(Scores(scores), "unknown")
    with pytest.raises(ValueError, match="no amounts for segmenter 'unknown'"):
        score_figures.dice_against_amount(statistics.amounts(Scores(scores)), "unknown", "real_subjects")
