import csv
import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from analysis import ranks, score_tables, set_tables, statistics, tables
from analysis.fidelity import rank_correlations
from analysis.long_table import Scores

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
    return pd.DataFrame(rows, columns=columns).assign(real_subjects=1.0, synthetic_share=1.0)


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
    return score_tables.study_tables(Scores(scores), statistics.paired_tests(Scores(scores)))


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


def test_stars_are_holm_s_and_never_on_the_reference(scores, study):
    key = ["generator", "arm", "augmentation", "region"]
    tests = statistics.paired_tests(Scores(scores)).set_index(key)
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
            marks.add(cell.mark)
    assert marks == {"", "*"}


def test_rows_say_whose_annotations_chose_their_snapshot(scores):
    alone = scores[scores["arm"].isin(["real", "synthetic"])]
    last = alone[alone["arm"] == "synthetic"].assign(arm="synthetic_last")
    for table, arms, told in (
        (scores[scores["arm"] != "synthetic"], {"yes"}, ["Generators: "]),
        (alone, {"yes", "no"}, ["Synthetic only: no real image", "Generators: "]),
        (
            pd.concat([alone, last]),
            {"yes", "no", "no, last snapshot"},
            ["Synthetic only: no real image", "Last snapshot: of the same training", "Generators: "],
        ),
    ):
        found = Scores(table)
        ratios, tests = statistics.ratios(found), statistics.paired_tests(found)
        for printed in (*score_tables.study_tables(found, tests), *score_tables.ratio_tables(ratios, tests)):
            assert {row[1].text for row in printed.rows} | {"yes"} == arms
            sentences = ("Synthetic only: no real image", "Last snapshot: of the same training", "Generators: ")
            assert [text for text in sentences if any(text in note for note in printed.notes)] == told


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
    ratios, tests = statistics.ratios(Scores(scores)), statistics.paired_tests(Scores(scores))
    row = ratios.query(
        "generator == 'diffusion' and arm == 'synthetic' and augmentation == 'on' and region == 'mean'"
    ).iloc[0]
    (table,) = score_tables.ratio_tables(ratios, tests)
    (cells,) = [[c.text for c in r] for r in table.rows if [c.text for c in r[:3]] == ["Diffusion", "no", "on"]]
    assert cells[3] == f"{row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    assert cells[5:8] == ["yes" if row["lower_bound"] > margin else "no" for margin in (0.80, 0.90, 0.95)]
    assert cells[-1] == "10 × 3/3"

    alone = scores[scores["arm"] != "real"]
    (table,) = score_tables.ratio_tables(statistics.ratios(Scores(alone)), statistics.paired_tests(Scores(alone)))
    assert {row[3].text for row in table.rows} == {"missing"}
    assert sum("no real-only arm" in note for note in table.notes) == len(table.rows) == 8


def test_too_few_subjects_are_printed_as_such():
    matrix = np.random.default_rng(0).uniform(0.2, 0.8, (2, 4))
    scores = long_table({("none", "real", "on"): matrix, ("diffusion", "synthetic", "on"): 0.5 * matrix})
    (table,) = score_tables.ratio_tables(statistics.ratios(Scores(scores)), statistics.paired_tests(Scores(scores)))
    assert table.notes[-1] == "No interval, no verdict at a margin, no star: n too small."
    assert [cell.text for cell in table.rows[0][5:8]] == ["undecided"] * 3
    assert table.rows[0][9].text == "–"  # p


def test_ranks_are_ordered_and_compared_with_the_next(scores):
    ranked, pairs = ranks.ranks(Scores(scores)), ranks.rank_tests(Scores(scores))
    table = score_tables.rank_table(ranked, pairs)
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
    table = score_tables.empty_case_table(Scores(scores))
    cells = {tuple(cell.text for cell in row[2:5]): row[5].text for row in table.rows}
    assert cells.pop(("Diffusion", "yes", "on")) == "27 / 3 / 0"
    assert set(cells.values()) == {"30 / 0 / 0"}
    with pytest.raises(ValueError, match="lacks the column 'case'"):
        score_tables.empty_case_table(Scores(scores.drop(columns="case")))


def test_every_amount_stands_in_the_row_of_its_synthetic_and_the_column_of_its_real_share(scores):
    assert score_tables.amount_tables(statistics.amounts(Scores(scores))) == []
    real = scores["generator"] == "none"
    halves = [scores.assign(real_subjects=0.5), scores[~real].assign(synthetic_share=0.1)]
    parts = [part.assign(value=(part["value"] - 0.3).clip(0)) for part in halves]
    synthetic_half = (parts[0]["arm"] == "synthetic") | (parts[0]["generator"] == "stylegan3")
    amounts = statistics.amounts(Scores(pd.concat([scores, parts[0][~synthetic_half], parts[1]], ignore_index=True)))
    (table,) = score_tables.amount_tables(amounts)
    assert list(table.columns[3:]) == ["Synthetic set", "No real", "50\u00a0% real", "100\u00a0% real", "n"]
    cells = {tuple(cell.text for cell in row[:4]): [cell.text for cell in row[4:]] for row in table.rows}
    mean = scores[scores["region"] == "mean"].groupby(["generator", "arm", "augmentation"])["value"].mean()
    both = cells["Diffusion", "yes", "on", "100\u00a0%"]
    assert both[0] == "–"
    assert both[1].startswith(f"{mean['diffusion', 'both', 'on'] - 0.3:.2f} [")
    assert both[2].startswith(f"{mean['diffusion', 'both', 'on']:.2f} [")
    assert cells["StyleGAN 3", "yes", "on", "100\u00a0%"][1] == "missing"
    assert cells["Diffusion", "no", "on", "10\u00a0%"][0].startswith(
        f"{mean['diffusion', 'synthetic', 'on'] - 0.3:.2f} ["
    )
    assert cells["Diffusion", "no", "on", "10\u00a0%"][1:] == ["–", "–", "10 × 3"]
    assert cells["None (real only)", "yes", "off", "–"][2].startswith(f"{mean['none', 'real', 'off']:.2f} [")


def test_synthetic_then_real_is_an_arm_of_its_own(scores):
    later = scores[scores["arm"] == "both"].assign(arm="pretrain")
    (table,) = study_tables(pd.concat([scores, later], ignore_index=True))
    arms = [row[1].text for row in table.rows if row[0].text == "Diffusion"]
    assert arms == ["no", "no", "yes", "yes", "afterwards", "afterwards"]
    best = [row[0].text for row in table.rows if row[1].text == "afterwards" and row[7].bold]
    assert len(best) == 1


# --- synthetic sets -------------------------------------------------------------------------------------------------


def fidelity(n: int = 100, floor: float = 0.004, **values) -> dict:
    numbers = dict.fromkeys(set_tables.FIDELITY, 0.5) | values
    missing = {key: f"too few for {n}" for key, value in numbers.items() if value is None}
    return {
        "extractor": HOSTILE,
        "features": 256,
        "draws": 50,
        "per_draw": 26,
        "n": {"synthetic": n, "reference": 900, "floor": 80},
        "people": {"synthetic": n, "reference": 128, "floor": 26},
        "components": 2,
        "explained": 0.615,
        "ms_ssim_scales": 3,
        "values": numbers,
        "values_sd": {"kernel": 0.002},
        "floor_sd": {"kernel": 0.001},
        "floor": dict.fromkeys(set_tables.FIDELITY, 0.75) | {"kernel": floor, "frechet": numbers["frechet"]},
        "reasons": missing,
    }


def test_fidelity_stands_beside_its_floor_and_a_missing_number_beside_its_reason():
    table = set_tables.fidelity_table(
        {
            "stylegan3": {"0": fidelity(kernel=0.02345, frechet=None)},
            "diffusion": {"0": fidelity(50, 0.006, coverage=0.123)},
        }
    )
    cells = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert list(table.columns) == ["Measure", "Held-out real (floor)", "StyleGAN 3", "Diffusion"]
    assert cells["Kernel distance ↓"] == ["0.004 ± 0.001; 0.006 ± 0.001", "0.0234 ± 0.002", "0.5 ± 0.002"]
    assert cells["Coverage: real slices with a synthetic one nearby ↑"] == ["75.0\u00a0%", "50.0\u00a0%", "12.3\u00a0%"]
    assert cells["Fréchet distance ↓"] == ["not measured; 0.5", "not measured", "0.5"]
    assert "Fréchet distance: not measured for StyleGAN 3: too few for 100." in table.notes
    assert any(HOSTILE in note for note in table.notes)
    (first, second) = (note for note in table.notes if "draws of 26 slices, each of another person" in note)
    assert first.startswith("StyleGAN 3: Means over 50 draws")
    assert "900 slices of 128 training patients and 80 of 26 test patients" in first
    assert "principal components" not in first
    assert second.startswith("Diffusion: ")
    assert "in the 2 leading principal components of training slices, with 61.5\u00a0% of their variance" in second
    assert len(table.data) == 2 * len(set_tables.FIDELITY)
    assert r"$\downarrow$" in table.latex()


def test_a_mark_stands_beside_every_cell_and_head_that_names_it():
    table = tables.Table(
        "t", "T", ["A", "one"], [[tables.Cell("one", mark="*"), tables.Cell("one more")]], pd.DataFrame()
    )
    found = tables.marked(table, ["one"], "§", "because.")
    assert list(found.columns) == ["A", "one §"]
    assert [(cell.text, cell.mark) for cell in found.rows[0]] == [("one", "*§"), ("one more", "")]
    assert found.notes == ["§ because."]
    assert tables.marked(table, ["two"], "§", "because.") == table


def shared_by(scores: pd.DataFrame, trainings: dict[str, int | None]) -> pd.DataFrame:
    """The table with the seed of the training that made each generator's set; None for a set made elsewhere."""
    seeds = scores["generator"].map(trainings).where(scores["generator"].isin(trainings), scores["seed"])
    return scores.assign(generator_seed=seeds.where(scores["arm"] != "real").astype("Int64"))


def test_rows_whose_seeds_share_a_set_say_what_their_interval_leaves_out(scores):
    marked = {}
    for case, trainings in (("own", {}), ("shared", {"diffusion": 4}), ("sent", {"stylegan3": None})):
        found = Scores(shared_by(scores, trainings))
        ratios, tests = statistics.ratios(found), statistics.paired_tests(found)
        printed = [*score_tables.study_tables(found, tests), *score_tables.ratio_tables(ratios, tests)]
        printed += score_tables.region_ratio_tables(ratios)
        for table in printed:
            marked.setdefault(case, set()).add(tuple(sorted({row[0].text for row in table.rows if row[0].mark})))
            notes = [note for note in table.notes if note.startswith("‡")]
            assert len(notes) == len(trainings)
            assert all("another training of the generator" in note for note in notes)
            if case == "sent":
                assert "StyleGAN 3: made elsewhere" in notes[0]
    assert marked == {"own": {()}, "shared": {("Diffusion",)}, "sent": {("StyleGAN 3",)}}


def test_one_seed_needs_no_word_about_sharing(scores):
    table = shared_by(scores[scores["seed"] == 0], {"diffusion": 0})
    assert score_tables.shared_notes(statistics.ratios(Scores(table))) == []


def test_a_seed_that_failed_is_named_beside_the_table(scores):
    lost = (scores["generator"] == "diffusion") & (scores["arm"] == "both") & (scores["augmentation"] == "on")
    kept = scores[~(lost & (scores["seed"] == 1)) & ~((scores["arm"] == "real") & (scores["seed"] > 0))]
    found = Scores(kept, seeds=range(4))
    tests = statistics.paired_tests(found)
    for table in (
        *score_tables.study_tables(found, tests),
        *score_tables.ratio_tables(statistics.ratios(found), tests),
    ):
        assert "Diffusion, real + synthetic, augmentation on: seeds 1, 3 missing, see the missing cells." in table.notes
        assert "Diffusion, real + synthetic, augmentation off: seed 3 missing, see the missing cells." in table.notes
        assert "Real only, augmentation on: seeds 1, 2, 3 missing, see the missing cells." in table.notes
    whole = Scores(scores)
    assert not any("missing" in note for table in score_tables.study_tables(whole, tests) for note in table.notes)


def audit(copied: float, patients: int, n: int = 100) -> dict:
    rates = {"tau95": copied, "tau99": copied / 2}
    bounds = {level: [0.5 * value, 1.0] for level, value in rates.items()}
    who = {"count": patients, "share": patients / 40, "count_by_chance": 2.0}
    same = ("memorized_share", "copied_share", "p_value", "copied_p_value", "evidence")
    kinds = ("exact", "turned 10°", *set_tables.STRANGERS)
    return dict.fromkeys(same, rates) | {
        "n_synthetic": n,
        "n_train": 900,
        "n_train_subjects": 40,
        "n_null": 200,
        "n_null_subjects": 9,
        "tau95": 0.9,
        "tau99": 0.95,
        "memorized_interval": bounds,
        "copied_interval": bounds,
        "honest_share": {"tau95": 0.04, "tau99": 0.02},
        "honest_memorized_share": {"tau95": 0.12, "tau99": 0.06},
        "copied_patients": who,
        "leaked_patients": who,
        "counts_above": {"0.90": 3},
        "c_t": -copied,
        "authenticity": None,
        "sharpness": 0.8,
        "controls": {kind: {"n": 10, "memorized": rates, "copied": rates} for kind in kinds},
    }


def test_audits_of_a_generator_s_repeats_are_one_column(scores):
    found = {"diffusion": {"0": audit(0.1, 1), "2": audit(0.3, 4)}, "sent": {"all": audit(0.2, 0, 50)}}
    table = set_tables.audit_table(found, seeds=range(3))
    cells = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert list(table.columns) == ["Measure", "Diffusion", "sent"]
    assert cells["Synthetic slices"] == ["2 × 100", "50"]
    assert cells["Copied patients"] == ["2.5 (1 to 4)", "0"]
    share = [text for name, text in cells.items() if name.startswith("Copied share, τ95 (")]
    assert share == [["20.0\u00a0% (10.0\u00a0% to 30.0\u00a0%)", "20.0\u00a0%"]]
    assert cells["Copied share, τ95: p"] == ["0.100–0.300", "0.200"]
    assert cells["Copied share, τ95: interval"][0] == "5.0\u00a0%–100.0\u00a0%"  # a mean of intervals is none
    assert cells["Slices with correlation above 0.90"] == ["6", "3"]
    honest = {what: f"1 in 20 honest sets exceed as {what} share, τ95 / τ99" for what in ("copied", "memorized")}
    assert cells[honest["copied"]][0] == "4.0\u00a0% / 2.0\u00a0%"
    assert cells[honest["memorized"]][0] == "12.0\u00a0% / 6.0\u00a0%"
    assert "Diffusion: seed 1 missing, see the missing cells." in table.notes
    assert not any(note.startswith("sent: seed") for note in table.notes)
    assert list(zip(table.data["generator"], table.data["seed"], strict=True)) == [
        ("diffusion", "0"), ("diffusion", "2"), ("sent", "all"),
    ]  # fmt: skip
    assert table.data["copied_share.tau95"].tolist() == [0.1, 0.3, 0.2]
    controls = set_tables.control_table(found)
    assert controls.rows[0][2].text == "20.0\u00a0% / 10.0\u00a0% (20.0\u00a0% / 10.0\u00a0%)"
    assert len(controls.data) == 3 * 2 * 4


def test_fidelity_of_a_generator_s_repeats_is_one_column():
    repeats = {"0": fidelity(kernel=0.01), "1": fidelity(kernel=0.03, frechet=None), "2": fidelity(kernel=0.02)}
    table = set_tables.fidelity_table({"diffusion": repeats}, seeds=range(4))
    cells = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert cells["Kernel distance ↓"] == ["0.004 ± 0.001", "0.02 ± 0.002 (0.01 to 0.03)"]
    assert cells["Fréchet distance ↓"][1] == "0.5"
    assert "Fréchet distance: not measured for Diffusion (seed 1): too few for 100." in table.notes
    assert "Diffusion: seed 3 missing, see the missing cells." in table.notes
    assert set_tables.mean_values(repeats)["kernel"] == pytest.approx(0.02)
    assert set_tables.mean_values(repeats)["frechet"] == pytest.approx(0.5)
    assert table.data.groupby("seed").size().tolist() == [len(set_tables.FIDELITY)] * 3


def test_correlations_print_their_sign_p_and_n_and_collapse_where_there_are_none(scores):
    names = ["a", "b", "c", "d", "e"]
    rng = np.random.default_rng(0)
    dice = {("none", "real", "on"): rng.uniform(0.6, 0.8, (1, 8))}
    dice |= {(name, "synthetic", "on"): np.full((1, 8), 0.2 + 0.1 * index) for index, name in enumerate(names)}
    ratios = statistics.ratios(Scores(long_table(dice)))
    rows = [
        {"cohort": "phantom", "generator": name, **dict.fromkeys(set_tables.FIDELITY, index), "kernel": 1 / (1 + index)}
        for index, name in enumerate(names)
    ]
    measured = pd.DataFrame(rows).assign(frechet=None)
    (table,) = set_tables.correlation_tables(rank_correlations(measured, ratios))
    cells = {row[0].text: row[1].text for row in table.rows}
    assert list(table.columns) == ["Measure", "Synthetic only, aug. on"]
    assert cells["Kernel distance ↓"] == "−1.00 (p 0.017, n = 5)"  # 2 of 5! orders are as extreme
    assert cells["Fréchet distance ↓"] == "n too small (n = 0)"
    (table,) = set_tables.correlation_tables(rank_correlations(measured[:2], ratios))
    assert [[cell.text for cell in row] for row in table.rows] == [["Every measure", "n too small (n = 2)"]]


# --- formats --------------------------------------------------------------------------------------------------------


def test_html_shows_hostile_text_and_obeys_none_of_it():
    parsed = Parsed(str(simple(HOSTILE).html()))
    assert parsed.tags == {"p", "div", "table", "thead", "tbody", "tr", "th", "td", "b", "sup"}
    assert parsed.text.count(HOSTILE.replace("\n", " ")) == 4  # title, column, cell, note


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
