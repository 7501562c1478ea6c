"""The study's tables and their companions, as Markdown, LaTeX (booktabs), HTML and CSV."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from analysis.statistics import ALPHA, ARM, MARGINS, dice_matrices

STUDY_COLUMNS = {"ET": "ET", "ED": "ED", "NCR": "NCR", "mean": "Mean"}
ORIGINALS = {"real": "yes", "synthetic": "no", "both": "yes"}  # the study's column "original images"
LABELS = {
    "none": "none",
    "progressive_gan": "Progressive GAN",
    "stylegan1": "StyleGAN 1",
    "stylegan2": "StyleGAN 2",
    "stylegan3": "StyleGAN 3",
    "diffusion": "Diffusion",
    "unet": "U-Net",
    "swin": "Swin",
}


def label(name: str) -> str:
    """A model's name as it is printed; a model from outside keeps its own."""
    return LABELS.get(name, name)


def originals(arm: str) -> str:
    """Whether an arm trains on original images: the study's column; an arm that the study lacks keeps its name."""
    return ORIGINALS.get(arm, arm)


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, whether it is best of its block, and a mark of significance set as a superscript."""

    text: str
    bold: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table for people (`rows` of cells under `columns`, `notes` below) and for programs (`data`, full precision)."""

    name: str  # of its files
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    data: pd.DataFrame
    notes: Sequence[str] = field(default_factory=tuple)

    def markdown(self) -> str:
        def render(cell: Cell) -> str:
            text = _markdown_escape(cell.text)
            return (f"**{text}**" if cell.bold else text) + _markdown_escape(cell.mark)

        lines = [f"**{_markdown_escape(self.title)}**", ""]
        lines += ["| " + " | ".join(map(_markdown_escape, self.columns)) + " |", "|" + " --- |" * len(self.columns)]
        lines += ["| " + " | ".join(map(render, row)) + " |" for row in self.rows]
        lines += [text for note in self.notes for text in ("", _markdown_escape(note))]
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        r"""A floating table; needs \usepackage{booktabs} and nothing else."""

        def render(cell: Cell) -> str:
            text = rf"\textbf{{{_latex_escape(cell.text)}}}" if cell.bold else _latex_escape(cell.text)
            return text + (rf"\textsuperscript{{{_latex_escape(cell.mark)}}}" if cell.mark else "")

        def line(cells: Iterable[str]) -> str:
            return "    " + " & ".join(cells) + r" \\"

        lines = [r"\begin{table}", r"  \centering", rf"  \caption{{{_latex_escape(self.title)}}}", r"  \smallskip"]
        lines += [rf"  \begin{{tabular}}{{{'l' * len(self.columns)}}}", r"    \toprule"]
        lines += [line(map(_latex_escape, self.columns)), r"    \midrule"]
        lines += [line(map(render, row)) for row in self.rows]
        lines += [r"    \bottomrule", r"  \end{tabular}"]
        lines += [rf"  \par\smallskip\footnotesize {_latex_escape(note)}" for note in self.notes]
        return "\n".join([*lines, r"\end{table}"]) + "\n"

    def html(self) -> Markup:
        """Title, table inside a box that scrolls by itself, notes; everything escaped."""

        def render(tag: str, cell: Cell) -> Markup:
            text = Markup("<b>{}</b>").format(cell.text) if cell.bold else escape(cell.text)
            mark = Markup("<sup>{}</sup>").format(cell.mark) if cell.mark else ""
            prose = Markup(' class="prose"') if len(cell.text) > 40 else ""  # may break into lines
            return Markup("<{0}{1}>{2}{3}</{0}>").format(tag, prose, text, mark)

        def line(tag: str, cells: Iterable[Cell]) -> Markup:
            return Markup("<tr>{}</tr>").format(Markup("").join(render(tag, cell) for cell in cells))

        head = line("th", map(Cell, self.columns))
        body = Markup("\n").join(line("td", row) for row in self.rows)
        table = Markup("<table>\n<thead>{}</thead>\n<tbody>\n{}\n</tbody>\n</table>").format(head, body)
        notes = Markup("").join(Markup('\n<p class="note">{}</p>').format(note) for note in self.notes)
        box = Markup(
            '<p class="title">{0}</p>\n<div class="scroll" role="region" aria-label="{0}" tabindex="0">\n{1}\n</div>'
        )
        return box.format(self.title, table) + notes

    def csv(self) -> str:
        return self.data.to_csv(index=False)


def study_tables(scores: pd.DataFrame, tests: pd.DataFrame, ratios: pd.DataFrame) -> list[Table]:
    """The study's table for every cohort and segmenter: Dice as mean ± standard deviation over seeds.

    Rows: real only, then generator × original images × augmentation; columns ET, ED, NCR, mean. Every combination of
    what occurs has its row; cells without (all) their scores say so. scores: the long table; tests, ratios: of
    `analysis.statistics`. Raises ValueError where the long table is not as described there.
    """
    matrices = dice_matrices(scores)
    p_holm = tests.set_index([*ARM, "region"])["p_holm"]
    apart = ratios.set_index([*ARM, "region"]).eval("low > 1 or high < 1")
    arms = in_study_order(pd.DataFrame(list(matrices), columns=ARM))
    trained = arms[arms["arm"] != "real"]
    combinations = [
        ("none", "real"),
        *product(_ordered(trained["generator"], LABELS), _ordered(trained["arm"], ORIGINALS)),
    ]
    augmentations = _ordered(arms["augmentation"], ("off", "on"))

    tables = []
    for cohort, segmenter in arms[["cohort", "segmenter"]].drop_duplicates().itertuples(index=False):
        records, reasons = [], []
        for (generator, arm), augmentation in product(combinations, augmentations):
            key = (cohort, generator, arm, segmenter, augmentation)
            record = dict(zip(ARM, key, strict=True)) | {"seeds": 0, "subjects": 0}
            for region in STUDY_COLUMNS:
                matrix = matrices.get(key, {}).get(region)
                if matrix is None:
                    continue
                record |= {"seeds": len(matrix.dice), "subjects": len(matrix.subjects)}
                if matrix.reason:
                    reasons.append(f"{_name(record)}, {region}: {matrix.reason}.")
                    continue
                level = matrix.dice.mean(1)
                record[f"{region}_mean"] = level.mean()
                record[f"{region}_sd"] = level.std(ddof=1) if len(level) > 1 else np.nan
                record[f"{region}_p_holm"] = p_holm.get((*key, region), np.nan)
                record[f"{region}_apart"] = bool(apart.get((*key, region), False))
            records.append(record)
        numbers = [f"{region}_{what}" for region in STUDY_COLUMNS for what in ("mean", "sd", "p_holm")]
        apart_columns = [f"{region}_apart" for region in STUDY_COLUMNS]
        data = pd.DataFrame(records, columns=[*ARM, "seeds", "subjects", *numbers, *apart_columns])
        data = data.astype(dict.fromkeys(numbers, "float64") | dict.fromkeys(apart_columns, "boolean"))
        tables.append(_study_table(cohort, segmenter, data, reasons))
    return tables


def _study_table(cohort: str, segmenter: str, data: pd.DataFrame, reasons: list[str]) -> Table:
    best = data[data["arm"] != "real"].groupby("arm")[[f"{region}_mean" for region in STUDY_COLUMNS]].max()
    rows = []
    for _, row in data.iterrows():
        name = "None (real only)" if row["arm"] == "real" else label(row["generator"])
        cells = [Cell(name), Cell(originals(row["arm"])), Cell(row["augmentation"]), Cell(str(row["seeds"]))]
        for region in STUDY_COLUMNS:
            mean, sd = row[f"{region}_mean"], row[f"{region}_sd"]
            if np.isnan(mean):
                cells.append(Cell("incomplete" if row["seeds"] else "missing"))
                continue
            bold = row["arm"] != "real" and mean == best.loc[row["arm"], f"{region}_mean"]
            text = f"{mean:.3f}" if np.isnan(sd) else f"{mean:.3f} ± {sd:.3f}"
            mark = "" if not row[f"{region}_p_holm"] < ALPHA else "*†" if row[f"{region}_apart"] else "*"
            cells.append(Cell(text, bool(bold), mark))
        rows.append(cells)
    subjects = _range(data.loc[data["subjects"] > 0, "subjects"])
    notes = [
        f"Mean ± standard deviation over segmenter seeds (no ± with one seed) of the mean Dice over {subjects} test "
        "subjects. Bold: best of its column among generators with the same original images. "
        "*: differs from the real-only row with the same augmentation (Wilcoxon over subjects, Holm over each column, "
        f"p < {ALPHA}), as these trainings went. †: and the 95 % interval of its ratio excludes 1, so other seeds are "
        "expected to differ, too."
    ]
    return Table(
        name=f"dice_{cohort}_{segmenter}",
        title=f"Dice on test subjects: {label(segmenter)}, {cohort}",
        columns=["Generator", "Original images", "Augmentation", "Seeds", *STUDY_COLUMNS.values()],
        rows=rows,
        data=data,
        notes=notes + reasons,
    )


def ratio_tables(ratios: pd.DataFrame, tests: pd.DataFrame) -> list[Table]:
    """For every cohort and segmenter: ratio of the mean Dice with interval, margins, and the paired difference.

    ratios, tests: the tables of `analysis.statistics`. Rows without numbers print their reason.
    """
    on = [*ARM, "region"]
    merged = ratios.merge(
        tests[[*on, "shift", "rank_biserial", "p", "p_holm", "family", "reason"]], on=on, suffixes=("", "_test")
    )
    tables = []
    primary = in_study_order(merged[merged["region"] == "mean"])
    for (cohort, segmenter), data in primary.groupby(["cohort", "segmenter"], sort=False):
        rows, reasons = [], []
        for _, row in data.iterrows():
            if row["reason"]:
                reasons.append(f"{_name(row)}: {row['reason']}.")
            if np.isnan(row["ratio"]):
                numbers = [Cell("missing"), *[Cell("–")] * (len(MARGINS) + 4)]
            else:
                numbers = [
                    Cell(interval(row)),
                    Cell(number(row["lower_bound"])),
                    *[Cell(passes(row[f"passes_{margin:.2f}"])) for margin in MARGINS],
                    Cell(number(row["shift"], "+.3f")),
                    Cell(number(row["rank_biserial"], "+.2f")),
                    Cell(row["reason_test"] or p_value(row["p_holm"])),
                ]
            n = f"{row['subjects']} × {row['seeds']}/{row['seeds_real']}"
            rows.append([*_arm_cells(row), *numbers, Cell(n)])
        margins = [f"≥\u00a0{margin:.2f}" for margin in MARGINS]
        head = [
            "Ratio [95\u00a0% interval]",
            "Lower 5\u00a0% bound",
            *margins,
            "Shift",
            "Rank-biserial",
            "p\u00a0(Holm)",
            "n",
        ]
        note = (
            "Ratio: mean Dice over NCR, ED, ET relative to real-only training, same segmenter and augmentation; "
            "crossed bootstrap over subjects and seeds. A margin is passed when the lower 5 % bound lies above it. "
            "Shift: Hodges–Lehmann shift of Dice per subject. n: subjects × seeds of the arm/of its reference."
        )
        title = f"Dice kept, relative to real-only training: {label(segmenter)}, {cohort}"
        columns = ["Generator", "Original images", "Augmentation", *head]
        tables.append(Table(f"ratio_{cohort}_{segmenter}", title, columns, rows, data, [note, *reasons]))
    return tables


def region_ratio_tables(ratios: pd.DataFrame) -> list[Table]:
    """For every cohort and segmenter: the ratio per class and nested region, with its interval."""
    regions = ["NCR", "ED", "ET", "WT", "TC"]
    tables = []
    secondary = in_study_order(ratios[ratios["region"] != "mean"])
    for (cohort, segmenter), data in secondary.groupby(["cohort", "segmenter"], sort=False):
        by_region = data.set_index([*ARM, "region"])
        rows = []
        for _, arm in data.drop_duplicates(ARM).iterrows():
            found = [by_region.loc[(*arm[ARM], region)] for region in regions]
            rows.append(
                [*_arm_cells(arm), *[Cell("–" if np.isnan(row["ratio"]) else interval(row, 2)) for row in found]]
            )
        title = f"Dice kept per class and region, with 95 % interval: {label(segmenter)}, {cohort}"
        columns = ["Generator", "Original images", "Augmentation", *regions]
        note = (
            f"Over {_range(data['subjects'])} test subjects. WT = NCR + ED + ET; TC = NCR + ET. –: no ratio, see data."
        )
        tables.append(Table(f"ratio_regions_{cohort}_{segmenter}", title, columns, rows, data, [note]))
    return tables


def rank_table(ranks: pd.DataFrame, rank_tests: pd.DataFrame) -> Table:
    """Generators by mean rank, each with the Holm-adjusted p of its comparison with the generator ranked next."""
    group = ["cohort", "segmenter", "arm", "augmentation"]
    pairs = {
        (*row[group], *order): row
        for _, row in rank_tests.iterrows()
        for order in ((row["generator"], row["other"]), (row["other"], row["generator"]))
    }
    groups = in_study_order(ranks.assign(generator="")).drop_duplicates(group)[group]
    ordered = groups.merge(ranks.sort_values(["mean_rank", "generator"]), on=group, how="left")[ranks.columns]
    rows, following, reasons = [], [], []
    for index, row in ordered.iterrows():
        setting = (row["cohort"], label(row["segmenter"]), originals(row["arm"]), row["augmentation"])
        last = index + 1 == len(ordered) or tuple(ordered.loc[index + 1, group]) != tuple(row[group])
        pair = None if last else pairs[*row[group], row["generator"], ordered.loc[index + 1, "generator"]]
        following.append(np.nan if pair is None else pair["p_holm"])
        if row["reason"]:
            reasons.append(f"{', '.join(setting[:2])}, {row['arm']}, augmentation {setting[3]}: {row['reason']}.")
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
        "Mean rank over subjects and regions (NCR, ED, ET, WT, TC), 1 is best. p: permutation test over subjects of "
        "the difference from the generator in the next row, Holm-adjusted over all pairs of the group."
    )
    data = ordered.assign(p_holm_next=following)
    return Table("ranks", "Ranking of generators", head, rows, data, [note, *dict.fromkeys(reasons)])


def empty_case_table(scores: pd.DataFrame) -> Table:
    """How often the empty-case rule decided a score: volumes with both, one or none of reference and prediction empty.

    Raises ValueError where the long table lacks the column `case` of `subject_scores`.
    """
    if "case" not in scores.columns:
        raise ValueError("the score table lacks the column 'case' (of subject_scores): empty cases cannot be counted")
    dice = scores[(scores["metric"] == "dice") & (scores["region"] != "mean")]
    counts = dice.groupby([*ARM, "region", "case"]).size().unstack("case", fill_value=0)
    counts = counts.reindex(columns=["present", "one empty", "both empty"], fill_value=0)
    regions = [region for region in ("NCR", "ED", "ET", "WT", "TC") if region in counts.index.unique("region")]
    rows = []
    for _, arm in in_study_order(counts.reset_index().drop_duplicates(ARM)).iterrows():
        found = [counts.loc[(*arm[ARM], region)] for region in regions]
        texts = [" / ".join(str(number) for number in row) for row in found]
        rows.append([Cell(arm["cohort"]), Cell(label(arm["segmenter"])), *_arm_cells(arm), *map(Cell, texts)])
    note = (
        "Volumes (subjects × seeds): present / one empty / both empty. Both empty: Dice 1, distances 0 mm; exactly one "
        "empty: Dice 0, distances = the volume's diagonal in mm. Nothing is dropped."
    )
    columns = ["Cohort", "Segmenter", "Generator", "Original images", "Augmentation", *regions]
    return Table("empty_cases", "Empty cases behind the scores", columns, rows, counts.reset_index(), [note])


def plain_table(name: str, title: str, data: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """Any DataFrame as it stands; numbers to three significant digits, empty cells as "–"."""
    rows = [[Cell(_plain(value)) for value in row] for row in data.itertuples(index=False)]
    columns = [column[:1].upper() + column[1:].replace("_", " ") for column in data.columns]
    return Table(name, title, columns, rows, data, notes)


def interval(row: pd.Series, digits: int = 3) -> str:
    """'0.840 [0.800, 0.880]', or the ratio alone where it has no interval."""
    if np.isnan(row["low"]):
        return f"{row['ratio']:.{digits}f}"
    return f"{row['ratio']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"


def passes(value: object) -> str:
    """A non-inferiority verdict in words."""
    return "undecided" if pd.isna(value) else "yes" if value else "no"


def p_value(p: float) -> str:
    return "–" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def number(value: float, spec: str = ".3f") -> str:
    return "–" if np.isnan(value) else format(value, spec).replace("-", "−")


def _plain(value: object) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _name(arm: Mapping[str, str]) -> str:
    return f"{label(arm['generator'])}, {arm['arm']}, augmentation {arm['augmentation']}"


def _arm_cells(row: pd.Series) -> list[Cell]:
    name = "None (real only)" if row["arm"] == "real" else label(row["generator"])
    return [Cell(name), Cell(originals(row["arm"])), Cell(row["augmentation"])]


def _ordered(values: Iterable[str], order: Iterable[str]) -> list[str]:
    """Distinct values, those of `order` first and in its order, the others after them by name."""
    order = list(order)
    return sorted(set(values), key=lambda value: (order.index(value) if value in order else len(order), value))


def in_study_order(data: pd.DataFrame) -> pd.DataFrame:
    """Rows by cohort, segmenter, generator, original images and augmentation, models in the order of LABELS."""
    orders = {"cohort": (), "segmenter": LABELS, "generator": LABELS, "arm": ORIGINALS, "augmentation": ("off", "on")}
    position = {column: data[column].map(_ordered(data[column], order).index) for column, order in orders.items()}
    return data.loc[pd.DataFrame(position).sort_values(list(orders), kind="stable").index]


def _range(counts: pd.Series) -> str:
    if counts.empty:
        return "0"
    return str(counts.min()) if counts.min() == counts.max() else f"{counts.min()}–{counts.max()}"


_LATEX = str.maketrans(
    {
        **{character: rf"\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        "×": r"$\times$",
        "≥": r"$\geq$",
        "≤": r"$\leq$",
        "−": r"$-$",
        "–": "--",
        "…": r"\ldots{}",
        "τ": r"$\tau$",
        "†": r"$\dagger$",
        "\u00a0": "~",
        "\n": " ",
    }
)
_MARKDOWN = str.maketrans(
    {**{character: f"\\{character}" for character in "\\`*_[]|#"}, "<": "&lt;", "&": "&amp;", "\n": " "}
)


def _latex_escape(text: str) -> str:
    return text.translate(_LATEX)


def _markdown_escape(text: str) -> str:
    return text.translate(_MARKDOWN)
