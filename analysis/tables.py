"""What a table is, and how its cells are written: Markdown, LaTeX (booktabs), HTML and CSV."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from analysis.text import csv_frame, latex, markdown, visible


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
            text = markdown(cell.text)
            return (f"**{text}**" if cell.bold else text) + markdown(cell.mark)

        lines = [f"**{markdown(self.title)}**", ""]
        lines += ["| " + " | ".join(map(markdown, self.columns)) + " |", "|" + " --- |" * len(self.columns)]
        lines += ["| " + " | ".join(map(render, row)) + " |" for row in self.rows]
        lines += [text for note in self.notes for text in ("", markdown(note))]
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        r"""A floating table; needs \usepackage{booktabs} and nothing else."""

        def render(cell: Cell) -> str:
            text = rf"\textbf{{{latex(cell.text)}}}" if cell.bold else latex(cell.text)
            return text + (rf"\textsuperscript{{{latex(cell.mark)}}}" if cell.mark else "")

        def line(cells: Iterable[str]) -> str:
            return "    " + " & ".join(cells) + r" \\"

        lines = [r"\begin{table}", r"  \centering", rf"  \caption{{{latex(self.title)}}}", r"  \smallskip"]
        lines += [rf"  \begin{{tabular}}{{{'l' * len(self.columns)}}}", r"    \toprule"]
        lines += [line(map(latex, self.columns)), r"    \midrule"]
        lines += [line(map(render, row)) for row in self.rows]
        lines += [r"    \bottomrule", r"  \end{tabular}"]
        lines += [rf"  \par\smallskip\footnotesize {latex(note)}" for note in self.notes]
        return "\n".join([*lines, r"\end{table}"]) + "\n"

    def html(self) -> Markup:
        """Title, table inside a box that scrolls by itself, notes; everything escaped."""

        def render(tag: str, cell: Cell) -> Markup:
            text = Markup("<b>{}</b>").format(visible(cell.text)) if cell.bold else escape(visible(cell.text))
            mark = Markup("<sup>{}</sup>").format(cell.mark) if cell.mark else ""
            prose = Markup(' class="prose"') if len(cell.text) > 40 else ""  # may break into lines
            return Markup("<{0}{1}>{2}{3}</{0}>").format(tag, prose, text, mark)

        def line(tag: str, cells: Iterable[Cell]) -> Markup:
            return Markup("<tr>{}</tr>").format(Markup("").join(render(tag, cell) for cell in cells))

        head = line("th", map(Cell, self.columns))
        body = Markup("\n").join(line("td", row) for row in self.rows)
        table = Markup("<table>\n<thead>{}</thead>\n<tbody>\n{}\n</tbody>\n</table>").format(head, body)
        notes = Markup("").join(Markup('\n<p class="note">{}</p>').format(visible(note)) for note in self.notes)
        box = Markup(
            '<p class="title">{0}</p>\n<div class="scroll" role="region" aria-label="{0}" tabindex="0">\n{1}\n</div>'
        )
        return box.format(visible(self.title), table) + notes

    def csv(self) -> str:
        return csv_frame(self.data).to_csv(index=False)


def plain_table(name: str, title: str, data: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """Any DataFrame as it stands; numbers to three significant digits, empty cells as "–"."""
    rows = [[Cell(_plain(value)) for value in row] for row in data.itertuples(index=False)]
    columns = [column[:1].upper() + column[1:].replace("_", " ") for column in data.columns]
    return Table(name, title, columns, rows, data, notes)


def marked(table: Table, names: Iterable[str], mark: str, note: str) -> Table:
    """The table with a mark beside every cell and column head that is one of the names, and a note that says what the
    mark means; as it is where none of them stands in it."""
    names = set(names)
    rows = [
        [replace(cell, mark=cell.mark + mark) if cell.text in names else cell for cell in row] for row in table.rows
    ]
    columns = [f"{column} {mark}" if column in names else column for column in table.columns]
    if rows == [list(row) for row in table.rows] and columns == list(table.columns):
        return table
    return replace(table, columns=columns, rows=rows, notes=[*table.notes, f"{mark} {note}"])


def interval(row: pd.Series, column: str, digits: int = 3) -> str:
    """'0.840 [0.800, 0.880]' of the column and of low and high, or the number alone where it has no interval."""
    if np.isnan(row["low"]):
        return f"{row[column]:.{digits}f}"
    return f"{row[column]:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"


def spread(values: Sequence[float | None], write: Callable[[float], str], missing: str) -> str:
    """The mean of what is known, and its range where single values differ as they are written: '2.1 (1.8 to 2.5)'."""
    known = [value for value in values if value is not None]
    if not known:
        return missing
    mean, low, high = write(float(np.mean(known))), write(min(known)), write(max(known))
    return mean if low == high else f"{mean} ({low} to {high})"


def sizes(counts: Sequence[int]) -> str:
    """'800', '3 × 800' of equal sets, '800 + 750' of others."""
    texts = [f"{count:,}" for count in counts]
    if len(set(texts)) > 1:
        return " + ".join(texts)
    return texts[0] if len(texts) == 1 else f"{len(texts)} × {texts[0]}"


def missing_seeds(of: object, seeds: str) -> str:
    """A sentence for the notes of a table; seeds: '2', '1, 2'."""
    return f"{of}: {'seeds' if ',' in seeds else 'seed'} {seeds} missing, see the missing cells."


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
