import numpy as np
import pandas as pd
import pytest

from analysis.cohort_figures import intensity_lines, outlined, palette, volume_strips
from analysis.drawing import CLASS_COLOURS, MODALITIES
from analysis.outliers import modified_z, turned, unusual_histograms, unusual_volumes


def test_modified_z_is_that_of_iglewicz_and_hoaglin():
    """Their score is 0.6745 (x − median) / MAD."""
    values = np.array([2.1, 2.6, 2.4, 2.5, 2.3, 2.1, 2.3, 2.6, 8.2, 8.3])  # the example of their book
    deviation = np.median(np.abs(values - 2.45))
    assert modified_z(values) == pytest.approx(0.6745 * (values - 2.45) / deviation, rel=1e-4)


def test_few_or_equal_values_have_no_outlier():
    assert (modified_z(np.array([1.0, 2.0, 3.0, 400.0])) == 0).all()
    assert (modified_z(np.full(9, 3.0)) == 0).all()


def volumes(n=20):
    ml = np.exp(np.linspace(-0.3, 0.3, n))
    return pd.DataFrame({"NCR": 5 * ml, "ED": 40 * ml[::-1], "ET": 10 * ml}, index=[f"s{i:02d}" for i in range(n)])


def test_volumes_far_from_the_others_and_rare_absences_are_named():
    table = volumes()
    table.loc["s03", "ED"], table.loc["s07", "NCR"], table.loc["s11", "ET"] = 4000.0, 0.01, 0.0
    found = unusual_volumes(table)
    assert found[["subject", "class", "why"]].to_numpy().tolist() == [
        ["s11", "ET", "absent"],
        ["s07", "NCR", "far smaller"],
        ["s03", "ED", "far larger"],
    ]
    assert found["usual_ml"].tolist() == pytest.approx([10, 5, 40], rel=0.05)


def test_a_class_that_many_lack_is_missed_in_nobody():
    table = volumes()
    table.iloc[:6, 0] = 0.0
    assert unusual_volumes(table).empty


def test_a_histogram_away_from_the_others_is_found():
    centres = np.full(30, 12.0) + np.linspace(-1, 1, 30)
    centres[[4, 9]] = 20, 27
    shares = np.exp(-0.5 * ((np.arange(32) - centres[:, None]) / 3) ** 2)
    shares /= shares.sum(axis=1, keepdims=True)
    assert unusual_histograms(shares).tolist() == [9, 4]
    assert unusual_histograms(np.delete(shares, [4, 9], axis=0)).tolist() == []


@pytest.mark.parametrize("turn", [lambda p: p[::-1], lambda p: np.rot90(p), lambda p: np.rot90(p, 2)])
def test_a_picture_that_lies_otherwise_is_found_and_a_mirrored_one_is_not(turn):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    head = (x / (0.6 + 0.15 * y)) ** 2 + (y / 0.9) ** 2 < 1  # wider behind than in front, and the same on both sides
    pictures = 100.0 * head + rng.normal(0, 10, (12, 32, 32))
    pictures[3], pictures[5] = turn(pictures[3]).copy(), pictures[5][:, ::-1].copy()
    assert turned(pictures).tolist() == [3]


def test_the_outline_stands_on_the_border_of_its_class_in_its_colour():
    labels = np.zeros((9, 9), np.uint8)
    labels[2:7, 2:7] = 2
    indices = outlined(np.full((9, 9), 255, np.uint8), labels, 1)
    edge = np.zeros((9, 9), bool)
    edge[2:7, 2:7] = True
    edge[3:6, 3:6] = False
    assert (palette()[indices[edge]] == [0x56, 0xB4, 0xE9]).all()  # Okabe & Ito's sky blue, as in every other figure
    assert (palette()[indices[~edge]] == 255).all()
    assert outlined(np.zeros((9, 9), np.uint8), labels, 4).shape == (36, 36)


def test_grey_keeps_its_order_and_is_never_a_class():
    indices = outlined(np.arange(256, dtype=np.uint8)[None], np.zeros((1, 256), np.uint8), 1)[0]
    assert indices.max() == 252
    assert (np.diff(palette()[indices][:, 0].astype(int)) >= 0).all()
    assert np.abs(palette()[indices][:, 0].astype(int) - np.arange(256)).max() <= 2


def test_figures_name_subjects_as_they_are():
    """A dollar sign starts no formula, a mark that reverses text is spelled out, a long name is cut."""
    table = volumes()
    names = ["$\\frac{$", "a\u202eb", "n" * 60]
    table.index = [*names, *table.index[3:]]
    table.loc[names, ["NCR", "ED", "ET"]] = [[900, 40, 10], [5, 9000, 10], [5, 40, 4000]]
    figure = volume_strips(table, unusual_volumes(table))
    figure.canvas.draw()
    drawn = [text.get_text() for text in figure.axes[0].texts]
    assert sorted(drawn) == sorted(["$\\frac{$", "a‹U+202E›b", "n" * 21 + "…"])
    assert not any(text.get_parse_math() for text in figure.axes[0].texts)


def test_intensities_draw_every_subject_and_the_median():
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.ones(32), 7)
    shares[2] = np.nan
    both = dict.fromkeys(MODALITIES, shares)
    figure = intensity_lines(both, both, {"T2": [(4, "odd one")]})
    assert len(figure.axes) == 8
    for axis in figure.axes:
        (faint,) = axis.collections
        assert len(faint.get_segments()) == 6
        known = shares[[0, 1, 3, 4, 5, 6]]
        assert axis.lines[0].get_ydata() == pytest.approx(100 * np.median(known, axis=0))
    assert [len(axis.lines) for axis in figure.axes] == [1, 1, 1, 1, 2, 2, 1, 1]
    assert "odd one" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_an_empty_cohort_of_tumours_is_still_drawn():
    table = pd.DataFrame(0.0, index=["only"], columns=list(CLASS_COLOURS))
    figure = volume_strips(table, unusual_volumes(table))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "NCR\n1 absent",
        "ED\n1 absent",
        "ET\n1 absent",
    ]
