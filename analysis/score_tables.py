"""Tables of segmentation scores: the study's own and its companions."""

from dataclasses import astuple
from itertools import product

import numpy as np
import pandas as pd

from analysis.arms import ARM_COLUMNS, ARMS, ORIGINALS, Arm, facts, in_order, label
from analysis.long_table import AMOUNT, Scores
from analysis.statistics import ALPHA, ARM, MARGINS, PASSES, SETTING, STARRED
from analysis.tables import Cell, Table, interval, missing_seeds, number, p_value, passes

STUDY_COLUMNS = {region: region.replace("mean", "Mean") for region in STARRED}
RATIO_NOTE = (
    "Ratio: mean Dice over NCR, ED, ET relative to real-only training, same segmenter and augmentation; its "
    "interval is for other trainings and other patients (crossed, Satterthwaite's degrees of freedom). A "
    "margin is passed when the lower 5 % bound lies above it, after Holm's step-down over the rows. "
    "Difference of mean Dice: crossed t, Holm over the table of Dice. †: of these trainings only, seeds averaged: "
    "matched pairs of subjects (rank sum over all ranks, zeros ranked), Wilcoxon's signed-rank test. n: "
    "subjects × seeds of the arm/of its reference."
)
SHARED = "‡"  # beside rows whose intervals do not know how much another training of the generator would differ


def is_shared(row: pd.Series) -> bool:
    """Whether the row's seeds share a synthetic set. row: with arm, seeds and generator_seeds."""
    return row["arm"] != "real" and 1 < row["seeds"] > row["generator_seeds"]


def shared_notes(table: pd.DataFrame) -> list[str]:
    """Whose intervals leave the generator's own variance out, and why, in one sentence; [] where none does.

    table: rows with generator, arm, seeds, generator_seeds, as of `statistics.ratios` or `amounts`.
    """
    rows = [row for _, row in table.iterrows() if is_shared(row)]
    why = {
        "all seeds share one training of the generator": [row for row in rows if row["generator_seeds"]],
        "made elsewhere and not trained again, so all seeds share it": [r for r in rows if not r["generator_seeds"]],
    }
    parts = [
        f"{', '.join(map(label, in_order(row['generator'] for row in found)))}: {reason}"
        for reason, found in why.items()
        if found
    ]
    if not parts:
        return []
    return [
        f"{SHARED} {'; '.join(parts)}. Intervals, margins and p hold for other patients and other segmenter trainings; "
        "how much another training of the generator would differ is in none of them."
    ]


def chosen_notes(table: pd.DataFrame) -> list[str]:
    """Whose annotations chose the snapshots behind rows that are called synthetic, in one note; [] without such rows.

    table: rows with arm, generator, generator_seeds, as of `statistics.ratios`.
    """
    arms, parts = set(table["arm"]), []
    if "synthetic" in arms:
        parts.append(
            "Synthetic only: no real image was trained on, but of the segmenter's snapshots the one was kept that has "
            "most Dice on annotated validation patients."
        )
    if "synthetic_last" in arms:
        parts.append("Last snapshot: of the same training of the segmenter, and no annotated real patient chose it.")
    if (table.loc[table["arm"] != "real", "generator_seeds"] > 0).any():
        parts.append(
            "Generators: of each training the snapshot was kept that the judge prefers, by Dice on annotated "
            "validation patients."
        )
    return [" ".join(parts)] if parts else []


def _missing_notes(ratios: pd.DataFrame) -> list[str]:
    """Which seeds of which row failed altogether, its reference's included."""
    notes = []
    for _, row in ratios.iterrows():
        for arm, missing in ((_arm(row), row["missing_seeds"]), (_arm(row).reference, row["missing_seeds_real"])):
            notes += [missing_seeds(arm, missing)] * bool(missing)
    return list(dict.fromkeys(notes))


def study_tables(scores: Scores, tests: pd.DataFrame) -> list[Table]:
    """The study's table for every segmenter: Dice as mean ± standard deviation over seeds.

    Rows: real only, then generator × original images × augmentation; columns ET, ED, NCR, mean. Every combination of
    what occurs has its row; cells without (all) their scores say so. tests: of `analysis.statistics`.
    """
    p_holm = tests.set_index([*ARM, "region"])["p_holm"]
    trained = [arm for arm in scores.arms if arm.arm != "real"]
    combinations = [
        ("none", "real"),
        *product(in_order(arm.generator for arm in trained), in_order((arm.arm for arm in trained), ARMS)),
    ]
    augmentations = in_order(arm.augmentation for arm in scores.arms)

    tables = []
    for segmenter in scores.segmenters:
        records, reasons = [], []
        for (generator, kind), augmentation in product(combinations, augmentations):
            arm = Arm(generator, kind, segmenter, augmentation)
            record = {"cohort": scores.cohort, **facts(arm), "seeds": 0, "generator_seeds": 0, "subjects": 0}
            for region in STUDY_COLUMNS:
                matrix = scores.dice(arm, region)
                if matrix is None:
                    continue
                record |= {"seeds": len(matrix.dice), "subjects": len(matrix.subjects)}
                record |= {"generator_seeds": matrix.generator_seeds}
                if matrix.missing:
                    reasons.append(missing_seeds(arm, matrix.missing))
                if matrix.reason:
                    reasons.append(f"{arm}, {region}: {matrix.reason}.")
                    continue
                level, key = matrix.dice.mean(1), tuple(record[column] for column in ARM)
                record[f"{region}_mean"] = level.mean()
                record[f"{region}_sd"] = level.std(ddof=1) if len(level) > 1 else np.nan
                record[f"{region}_p_holm"] = p_holm.get((*key, region), np.nan)
            records.append(record)
        numbers = [f"{region}_{what}" for region in STUDY_COLUMNS for what in ("mean", "sd", "p_holm")]
        data = pd.DataFrame(records, columns=[*ARM, "seeds", "generator_seeds", "subjects", *numbers])
        data = data.astype(dict.fromkeys(numbers, "float64"))
        notes = [*shared_notes(data), *chosen_notes(data[data["seeds"] > 0]), *dict.fromkeys(reasons)]
        tables.append(_study_table(scores.cohort, segmenter, data, notes))
    return tables


def _study_table(cohort: str, segmenter: str, data: pd.DataFrame, more_notes: list[str]) -> Table:
    best = data[data["arm"] != "real"].groupby("arm")[[f"{region}_mean" for region in STUDY_COLUMNS]].max()
    rows = []
    for _, row in data.iterrows():
        cells = [*_arm_cells(row), Cell(str(row["seeds"]))]
        for region in STUDY_COLUMNS:
            mean, sd = row[f"{region}_mean"], row[f"{region}_sd"]
            if np.isnan(mean):
                cells.append(Cell("incomplete" if row["seeds"] else "missing"))
                continue
            bold = row["arm"] != "real" and mean == best.loc[row["arm"], f"{region}_mean"]
            text = f"{mean:.3f}" if np.isnan(sd) else f"{mean:.3f} ± {sd:.3f}"
            mark = "*" if row[f"{region}_p_holm"] < ALPHA else ""
            cells.append(Cell(text, bool(bold), mark))
        rows.append(cells)
    subjects = _range(data.loc[data["subjects"] > 0, "subjects"])
    notes = [
        f"Mean ± standard deviation over seeds (no ± with one seed) of the mean Dice over {subjects} test subjects. "
        "Bold: best of its column among generators with the same original images. *: differs from the real-only row "
        f"with the same augmentation, for other trainings and other patients, too (crossed t, Holm over this "
        f"table, p < {ALPHA})."
    ]
    return Table(
        name=f"dice_{cohort}_{segmenter}",
        title=f"Dice on test subjects: {label(segmenter)}, {cohort}",
        columns=["Generator", "Original images", "Augmentation", "Seeds", *STUDY_COLUMNS.values()],
        rows=rows,
        data=data,
        notes=notes + more_notes,
    )


def ratio_tables(ratios: pd.DataFrame, tests: pd.DataFrame) -> list[Table]:
    """For every segmenter: ratio of the mean Dice with interval, margins, and the paired difference.

    ratios, tests: the tables of `analysis.statistics`. Rows without numbers print their reason.
    """
    on = [*ARM, "region"]
    merged = ratios.merge(
        tests[[*on, "difference", "p", "p_holm", "family", "shift", "rank_biserial", "p_wilcoxon"]], on=on
    )
    tables = []
    primary = merged[merged["region"] == "mean"]
    margins = [f"≥\u00a0{margin:.2f}" for margin in MARGINS]
    head = ["Ratio [95\u00a0% interval]", "Lower 5\u00a0% bound", *margins, "Difference", "p\u00a0(Holm)"]
    columns = ["Generator", "Original images", "Augmentation", *head, "Rank-biserial†", "p,\u00a0Wilcoxon†", "n"]
    for (cohort, segmenter), data in primary.groupby(["cohort", "segmenter"], sort=False):
        reasons = [f"{_arm(row)}: {row['reason']}." for _, row in data.iterrows() if np.isnan(row["ratio"])]
        unknown = data.loc[data["ratio"].notna() & (data["reason"] != ""), "reason"]
        reasons += [f"No interval, no verdict at a margin, no star: {reason}." for reason in dict.fromkeys(unknown)]
        reasons += [*shared_notes(data), *_missing_notes(data)]
        notes = [RATIO_NOTE, *chosen_notes(data), *reasons]
        rows = [_ratio_cells(row) for _, row in data.iterrows()]
        title = f"Dice kept, relative to real-only training: {label(segmenter)}, {cohort}"
        tables.append(Table(f"ratio_{cohort}_{segmenter}", title, columns, rows, data, notes))
    return tables


def _ratio_cells(row: pd.Series) -> list[Cell]:
    if np.isnan(row["ratio"]):
        numbers = [Cell("missing"), *[Cell("–")] * (len(MARGINS) + 5)]
    else:
        numbers = [
            Cell(interval(row, "ratio")),
            Cell(number(row["lower_bound"])),
            *[Cell(passes(row[column])) for column in PASSES],
            Cell(number(row["difference"], "+.3f")),
            Cell(p_value(row["p_holm"])),
            Cell(number(row["rank_biserial"], "+.2f")),
            Cell(p_value(row["p_wilcoxon"])),
        ]
    return [*_arm_cells(row), *numbers, Cell(f"{row['subjects']} × {row['seeds']}/{row['seeds_real']}")]


def region_ratio_tables(ratios: pd.DataFrame) -> list[Table]:
    """For every segmenter: the ratio per class and nested region, with its interval."""
    regions = ["NCR", "ED", "ET", "WT", "TC"]
    tables = []
    secondary = ratios[ratios["region"] != "mean"]
    for (cohort, segmenter), data in secondary.groupby(["cohort", "segmenter"], sort=False):
        by_region = data.set_index([*ARM, "region"])
        rows = []
        for _, arm in data.drop_duplicates(ARM).iterrows():
            found = [by_region.loc[(*arm[ARM], region)] for region in regions]
            rows.append(
                [
                    *_arm_cells(arm),
                    *[Cell("–" if np.isnan(row["ratio"]) else interval(row, "ratio", 2)) for row in found],
                ]
            )
        title = f"Dice kept per class and region, with 95 % interval: {label(segmenter)}, {cohort}"
        columns = ["Generator", "Original images", "Augmentation", *regions]
        note = (
            f"Over {_range(data['subjects'])} test subjects. WT = NCR + ED + ET; TC = NCR + ET. –: no ratio, see data."
        )
        notes = [note, *shared_notes(data)]
        tables.append(Table(f"ratio_regions_{cohort}_{segmenter}", title, columns, rows, data, notes))
    return tables


def rank_table(ranks: pd.DataFrame, rank_tests: pd.DataFrame) -> Table:
    """Generators by mean rank, each with the Holm-adjusted p of its comparison with the generator ranked next."""
    pairs = {
        (*row[SETTING], *order): row
        for _, row in rank_tests.iterrows()
        for order in ((row["generator"], row["other"]), (row["other"], row["generator"]))
    }
    best_first = [group.sort_values(["mean_rank", "generator"]) for _, group in ranks.groupby(SETTING, sort=False)]
    ordered = pd.concat(best_first, ignore_index=True)
    rows, following, reasons = [], [], []
    for index, row in ordered.iterrows():
        setting = (row["cohort"], label(row["segmenter"]), ORIGINALS[row["arm"]], row["augmentation"])
        last = index + 1 == len(ordered) or tuple(ordered.loc[index + 1, SETTING]) != tuple(row[SETTING])
        pair = None if last else pairs[*row[SETTING], row["generator"], ordered.loc[index + 1, "generator"]]
        following.append(np.nan if pair is None else pair["p_holm"])
        if row["reason"]:
            reasons.append(
                f"{', '.join(setting[:2])}, {ARMS[row['arm']].lower()}, augmentation {setting[3]}: {row['reason']}."
            )
            texts = ("missing", "–")
        else:
            texts = (f"{row['mean_rank']:.2f}", "–" if pair is None else pair["reason"] or p_value(pair["p_holm"]))
        rows.append([Cell(text) for text in (*setting, label(row["generator"]), *texts, str(row["subjects"]))])
    head = [
        "Cohort",
        "Segmenter",
        "Original images",
        "Augmentation",
        "Generator",
        "Mean rank",
        "p against next",
        "Subjects",
    ]
    note = (
        "Mean rank over subjects and regions (NCR, ED, ET, WT, TC), 1 is best. p, of these trainings only: permutation "
        "test over subjects of the difference from the generator in the next row, Holm-adjusted over all pairs of the "
        "group."
    )
    data = ordered.assign(p_holm_next=following)
    return Table("ranks", "Ranking of generators", head, rows, data, [note, *dict.fromkeys(reasons)])


def empty_case_table(scores: Scores) -> Table:
    """How often the empty-case rule decided a score: volumes with both, one or none of reference and prediction empty.

    Raises ValueError where the long table lacks the column `case` of `subject_scores`.
    """
    table = scores.on_all_data
    if "case" not in table.columns:
        raise ValueError("the score table lacks the column 'case' (of subject_scores): empty cases cannot be counted")
    dice = table[(table["metric"] == "dice") & (table["region"] != "mean")]
    counts = dice.groupby([*ARM, "region", "case"]).size().unstack("case", fill_value=0)
    counts = counts.reindex(columns=["present", "one empty", "both empty"], fill_value=0)
    regions = [region for region in ("NCR", "ED", "ET", "WT", "TC") if region in counts.index.unique("region")]
    rows = []
    for arm in scores.arms:
        found = [counts.loc[(scores.cohort, *astuple(arm), region)] for region in regions]
        texts = [" / ".join(str(number) for number in row) for row in found]
        rows.append([Cell(scores.cohort), Cell(label(arm.segmenter)), *_cells_of(arm), *map(Cell, texts)])
    note = (
        "Volumes (subjects × seeds): present / one empty / both empty. Both empty: Dice 1, distances 0 mm; exactly one "
        "empty: Dice 0, distances = the volume's diagonal in mm. Nothing is dropped."
    )
    columns = ["Cohort", "Segmenter", "Generator", "Original images", "Augmentation", *regions]
    return Table("empty_cases", "Empty cases behind the scores", columns, rows, counts.reset_index(), [note])


def amount_tables(amounts: pd.DataFrame) -> list[Table]:
    """For every segmenter: mean Dice, a row per share of the synthetic set, a column per share of the real
    subjects; [] where there is one amount only. amounts: the table of `analysis.statistics`."""
    if amounts[AMOUNT].nunique().max() < 2:
        return []
    tables = []
    for (cohort, segmenter), data in amounts.groupby(["cohort", "segmenter"], sort=False):
        shares = sorted(data["real_subjects"].unique())
        rows = []
        for (*_, made), arm in data.groupby([*ARM, "synthetic_share"], sort=False):
            row, by_share = arm.iloc[0], arm.set_index("real_subjects")
            if row["arm"] in ("synthetic", "synthetic_last"):
                dice = [_dice(row), *["–"] * len(shares)]
            else:
                dice = [
                    "–",
                    *[_dice(by_share.loc[share]) if share in by_share.index else "missing" for share in shares],
                ]
            n = f"{_range(arm['subjects'])} × {_range(arm['seeds'])}"
            rows.append([*_arm_cells(row), *map(Cell, ("–" if row["arm"] == "real" else _share(made), *dice, n))])
        reasons = [f"{_amount(row)}: {row['reason']}." for _, row in data[data["reason"] != ""].iterrows()]
        note = (
            "Mean Dice over NCR, ED, ET, seeds and test subjects [95 % interval for other trainings and patients] with "
            "these shares of the synthetic set (rows) and of the real training subjects (columns). n: test "
            "subjects × seeds."
        )
        reasons += [*shared_notes(data), *_amount_notes(data)]
        title = f"Dice against amount of training data: {label(segmenter)}, {cohort}"
        head = ["Synthetic set", "No real", *[f"{_share(share)} real" for share in shares], "n"]
        columns = ["Generator", "Original images", "Augmentation", *head]
        tables.append(Table(f"amounts_{cohort}_{segmenter}", title, columns, rows, data, [note, *reasons]))
    return tables


def _amount_notes(data: pd.DataFrame) -> list[str]:
    return [missing_seeds(_amount(row), row["missing_seeds"]) for _, row in data.iterrows() if row["missing_seeds"]]


def _amount(row: pd.Series) -> str:
    return f"{_arm(row)}, {_share(row['real_subjects'])} real, {_share(row['synthetic_share'])} synthetic"


def _dice(row: pd.Series) -> str:
    return "incomplete" if np.isnan(row["dice"]) else interval(row, "dice", 2)


def _share(share: float) -> str:
    return f"{100 * share:g}\u00a0%"


def _arm(row: pd.Series) -> Arm:
    return Arm(*row[ARM_COLUMNS])


def _arm_cells(row: pd.Series) -> list[Cell]:
    return _cells_of(_arm(row), SHARED if is_shared(row) else "")


def _cells_of(arm: Arm, mark: str = "") -> list[Cell]:
    name = "None (real only)" if arm.arm == "real" else label(arm.generator)
    return [Cell(name, mark=mark), Cell(ORIGINALS[arm.arm]), Cell(arm.augmentation)]


def _range(counts: pd.Series) -> str:
    if counts.empty:
        return "0"
    return str(counts.min()) if counts.min() == counts.max() else f"{counts.min()}–{counts.max()}"
