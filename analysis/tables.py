"""What a table is, and how its cells are written: Markdown, LaTeX (booktabs), HTML and CSV."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

ARMS = {
    "real": "Real only",
    "synthetic": "Synthetic only",
    "both": "Real + synthetic",
    "pretrain": "Synthetic, then real",
}
ORIGINALS = {"real": "yes", "synthetic": "no", "both": "yes", "pretrain": "afterwards"}  # the study's column
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


def plain_table(name: str, title: str, data: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """Any DataFrame as it stands; numbers to three significant digits, empty cells as "–"."""
    rows = [[Cell(_plain(value)) for value in row] for row in data.itertuples(index=False)]
    columns = [column[:1].upper() + column[1:].replace("_", " ") for column in data.columns]
    return Table(name, title, columns, rows, data, notes)


def interval(row: pd.Series, column: str, digits: int = 3) -> str:
    """'0.840 [0.800, 0.880]' of the column and of low and high, or the number alone where it has no interval."""
    if np.isnan(row["low"]):
        return f"{row[column]:.{digits}f}"
    return f"{row[column]:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"


def passes(value: object) -> str:
    """A non-inferiority verdict in words."""
    return "undecided" if pd.isna(value) else "yes" if value else "no"


def p_value(p: float) -> str:
    return "–" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def percent(share: float) -> str:
    """'5.0 %' of 0.05."""
    return f"{100 * share:.1f}\u00a0%"  # a no-break space


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


def ordered(values: Iterable[str], order: Iterable[str]) -> list[str]:
    """Distinct values, those of `order` first and in its order, the others after them by name."""
    order = list(order)
    return sorted(set(values), key=lambda value: (order.index(value) if value in order else len(order), value))


def in_study_order(data: pd.DataFrame) -> pd.DataFrame:
    """Rows by cohort, segmenter, generator, arm and augmentation, models in the order of LABELS."""
    orders = {"cohort": (), "segmenter": LABELS, "generator": LABELS, "arm": ARMS, "augmentation": ("off", "on")}
    position = {column: data[column].map(ordered(data[column], order).index) for column, order in orders.items()}
    return data.loc[pd.DataFrame(position).sort_values(list(orders), kind="stable").index]


def in_arm_order(data: pd.DataFrame) -> pd.DataFrame:
    """Rows by arm, those of an arm in the study's order: what synthetic images do alone comes before what they add."""
    return in_study_order(data).sort_values("arm", key=lambda arms: arms.map(list(ARMS).index), kind="stable")


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
        "≈": r"$\approx$",
        "↓": r"$\downarrow$",
        "↑": r"$\uparrow$",
        "τ": r"$\tau$",
        "µ": r"$\mu$",
        "ρ": r"$\rho$",
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
