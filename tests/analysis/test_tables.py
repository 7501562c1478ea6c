import csv
import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from analysis import statistics, tables

HOSTILE = '<img src=x onerror="alert(1)">|*_`$&%#{}~^\\ \n50%'


def long_table(dice: dict[tuple[str, str, str], np.ndarray], cohort="phantom") -> pd.DataFrame:
    """{(generator, arm, augmentation): Dice [seeds, subjects]}; regions differ from each other by constants."""
    offsets = {"NCR": -0.1, "ED": 0.05, "ET": 0.05, "WT": 0.1, "TC": 0.0, "mean": 0.0}
    rows = [
        (
            cohort,
            generator,
            arm,
            "unet",
            augmentation,
            seed,
            f"case{subject}",
            region,
            "dice",
            value + offset,
            "present",
        )
        for (generator, arm, augmentation), matrix in dice.items()
        for (seed, subject), value in np.ndenumerate(matrix)
        for region, offset in offsets.items()
    ]
    columns = [*statistics.ARM, "seed", "subject", "region", "metric", "value", "case"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture(scope="module")
def scores():
    rng = np.random.default_rng(0)
    patients = rng.uniform(0.6, 0.8, 10)
    kept = {("none", "real"): 1.0, ("diffusion", "synthetic"): 0.8, ("stylegan3", "synthetic"): 0.7}
    kept |= {("diffusion", "both"): 1.0, ("stylegan3", "both"): 1.01}
    return long_table(
        {
            (*key, augmentation): ratio * patients + rng.normal(0, 0.01, (3, 10))
            for key, ratio in kept.items()
            for augmentation in ("on", "off")
        }
    )


def study_tables(scores: pd.DataFrame) -> list[tables.Table]:
    return tables.study_tables(scores, statistics.paired_tests(scores), statistics.ratios(scores, 200))


@pytest.fixture(scope="module")
def study(scores):
    (table,) = study_tables(scores)
    return table


def simple(text: str) -> tables.Table:
    cell = tables.Cell(text, bold=True, mark="*")
    return tables.Table(
        "name", text, [text, "b"], [[cell, tables.Cell("0.5 ± 0.1")]], pd.DataFrame({"a": [text]}), [text]
    )


class Parsed(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


# --- the study's table ----------------------------------------------------------------------------------------------


def test_rows_and_columns_are_the_study_s(study):
    assert list(study.columns) == ["Generator", "Original images", "Augmentation", "Seeds", "ET", "ED", "NCR", "Mean"]
    found = [tuple(cell.text for cell in row[:3]) for row in study.rows]
    generators = [(name, original) for name in ("StyleGAN 3", "Diffusion") for original in ("no", "yes")]
    expected = [
        (*row, augmentation) for row in [("None (real only)", "yes"), *generators] for augmentation in ("off", "on")
    ]
    assert found == expected


def test_a_cell_is_mean_and_deviation_over_seeds_of_the_mean_over_subjects(scores, study):
    arm = scores.query("generator == 'diffusion' and arm == 'synthetic' and augmentation == 'on' and region == 'ED'")
    per_seed = [arm.loc[arm["seed"] == seed, "value"].mean() for seed in range(3)]
    row = next(row for row in study.rows if [cell.text for cell in row[:3]] == ["Diffusion", "no", "on"])
    assert row[5].text == f"{np.mean(per_seed):.3f} ± {np.std(per_seed, ddof=1):.3f}"


def test_bold_marks_the_best_generator_among_those_with_the_same_originals(study):
    bold = {tuple(cell.text for cell in row[:3]): row[7].bold for row in study.rows}
    means = {key: float(row[7].text.split()[0]) for key, row in zip(bold, study.rows, strict=True)}
    for original in ("no", "yes"):
        rivals = [key for key in means if key[0] != "None (real only)" and key[1] == original]
        assert [key for key in rivals if bold[key]] == [max(rivals, key=means.get)]
    assert not any(bold[key] for key in bold if key[0] == "None (real only)")


def test_marks_are_holm_s_and_the_interval_s_and_never_on_the_reference(scores, study):
    key = ["generator", "arm", "augmentation", "region"]
    tests, ratios = statistics.paired_tests(scores).set_index(key), statistics.ratios(scores, 200).set_index(key)
    marks = set()
    for row in study.rows:
        if row[0].text == "None (real only)":
            assert {cell.mark for cell in row} == {""}
            continue
        generator = {"StyleGAN 3": "stylegan3", "Diffusion": "diffusion"}[row[0].text]
        arm = {"no": "synthetic", "yes": "both"}[row[1].text]
        for region, cell in zip(("ET", "ED", "NCR", "mean"), row[4:], strict=True):
            where = (generator, arm, row[2].text, region)
            assert ("*" in cell.mark) == (tests.loc[where, "p_holm"] < 0.05)
            assert ("†" in cell.mark) <= (not ratios.loc[where, "low"] <= 1 <= ratios.loc[where, "high"])
            marks.add(cell.mark)
    assert {"", "*†"} <= marks


def test_missing_and_incomplete_cells_are_shown_with_their_reason(scores):
    gone = (scores["generator"] == "diffusion") & (scores["arm"] == "both") & (scores["augmentation"] == "on")
    hole = (scores["generator"] == "stylegan3") & (scores["arm"] == "both") & (scores["subject"] == "case3")
    kept = scores[~gone & ~(hole & (scores["seed"] == 2))]
    (table,) = study_tables(kept)
    cells = {tuple(cell.text for cell in row[:3]): [cell.text for cell in row[3:]] for row in table.rows}
    assert cells["Diffusion", "yes", "on"] == ["0", *["missing"] * 4]
    assert cells["StyleGAN 3", "yes", "on"] == ["3", *["incomplete"] * 4]
    assert any("1 of 30 seed × subject cells are missing, for example seed 2, subject case3" in n for n in table.notes)


def test_one_seed_has_no_deviation():
    scores = long_table(
        {("none", "real", "on"): np.full((1, 7), 0.5), ("diffusion", "synthetic", "on"): np.full((1, 7), 0.4)}
    )
    (table,) = study_tables(scores)
    assert [row[7].text for row in table.rows] == ["0.500", "0.400"]


# --- the other tables -----------------------------------------------------------------------------------------------


def test_ratio_cells_print_the_statistics_and_the_reason_of_a_missing_one(scores):
    ratios, tests = statistics.ratios(scores, 100), statistics.paired_tests(scores)
    row = ratios.query(
        "generator == 'diffusion' and arm == 'synthetic' and augmentation == 'on' and region == 'mean'"
    ).iloc[0]
    (table,) = tables.ratio_tables(ratios, tests)
    (cells,) = [[c.text for c in r] for r in table.rows if [c.text for c in r[:3]] == ["Diffusion", "no", "on"]]
    assert cells[3] == f"{row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    assert cells[5:8] == ["yes" if row["lower_bound"] > margin else "no" for margin in (0.80, 0.90, 0.95)]
    assert cells[-1] == "10 × 3/3"

    alone = scores[scores["arm"] != "real"]
    (table,) = tables.ratio_tables(statistics.ratios(alone, 100), statistics.paired_tests(alone))
    assert {row[3].text for row in table.rows} == {"missing"}
    assert sum("no real-only arm" in note for note in table.notes) == len(table.rows) == 8


def test_too_few_subjects_are_printed_as_such():
    matrix = np.random.default_rng(0).random((2, 4))
    scores = long_table({("none", "real", "on"): matrix, ("diffusion", "synthetic", "on"): 0.5 * matrix})
    (table,) = tables.ratio_tables(statistics.ratios(scores, 50), statistics.paired_tests(scores))
    assert "n too small" in [cell.text for cell in table.rows[0]]


def test_ranks_are_ordered_and_compared_with_the_next(scores):
    ranks, pairs = statistics.ranks(scores), statistics.rank_tests(scores)
    table = tables.rank_table(ranks, pairs)
    first, second = [[cell.text for cell in row] for row in table.rows[:2]]
    assert [first[4], second[4]] == ["Diffusion", "StyleGAN 3"]
    assert float(first[5]) < float(second[5])
    p = pairs.query("arm == 'synthetic' and augmentation == 'off'")["p_holm"].item()
    assert first[6] == ("< 0.001" if p < 0.001 else f"{p:.3f}")
    assert second[6] == "–"


def test_empty_cases_are_counted_once_per_volume(scores):
    scores = pd.concat([scores, scores.assign(metric="hd95")])
    hit = (scores["generator"] == "diffusion") & (scores["region"] == "NCR") & (scores["subject"] == "case1")
    scores.loc[hit & (scores["arm"] == "both") & (scores["augmentation"] == "on"), "case"] = "one empty"
    table = tables.empty_case_table(scores)
    cells = {tuple(cell.text for cell in row[2:5]): row[5].text for row in table.rows}
    assert cells.pop(("Diffusion", "yes", "on")) == "27 / 3 / 0"
    assert set(cells.values()) == {"30 / 0 / 0"}
    with pytest.raises(ValueError, match="lacks the column 'case'"):
        tables.empty_case_table(scores.drop(columns="case"))


# --- formats --------------------------------------------------------------------------------------------------------


def test_html_shows_hostile_text_and_obeys_none_of_it():
    parsed = Parsed(str(simple(HOSTILE).html()))
    assert parsed.tags == {"p", "div", "table", "thead", "tbody", "tr", "th", "td", "b", "sup"}
    assert parsed.text.count(HOSTILE) == 4  # title, column, cell, note


def test_latex_escapes_every_active_character():
    latex = simple(HOSTILE).latex()
    for written in (r"\textless{}img", r"\$", r"\&", r"\%", r"\#", r"\{\}", r"\textasciitilde{}", r"\textbackslash{}"):
        assert written in latex
    body = latex.split(r"\midrule")[1].split(r"\bottomrule")[0]
    assert len(re.findall(r"(?<!\\)&", body)) == 1  # one separator for two columns
    assert body.count("\\\\\n") == 1
    assert len(re.findall(r"(?<!\\)[%#_~^]", body)) == 0
    assert r"$\pm$" in body
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", latex):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0


def test_markdown_keeps_its_columns_and_carries_no_html():
    lines = simple(HOSTILE).markdown().splitlines()
    (row,) = [line for line in lines if line.startswith("| **")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert "<" not in row


def test_csv_is_the_data_at_full_precision(study):
    parsed = list(csv.DictReader(io.StringIO(study.csv())))
    assert len(parsed) == len(study.rows)
    assert float(parsed[0]["mean_mean"]) == study.data["mean_mean"].iloc[0]
    hostile = list(csv.reader(io.StringIO(simple(HOSTILE).csv())))
    assert hostile[1] == [HOSTILE]


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345, "12,345"), (0.012345, "0.0123"), (410.0, "410"), (np.nan, "–"), (True, "yes"), ("x", "x")],
)
def test_plain_values(value, text):
    assert tables.plain_table("n", "t", pd.DataFrame({"a_b": [value]})).rows[0][0].text == text
