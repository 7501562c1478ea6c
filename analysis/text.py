"""How text that somebody chose is written into Markdown, LaTeX, CSV and on a screen: it may hold anything."""

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# Control and format characters (escape sequences, right-to-left marks, zero widths), separators that break lines, lone
# surrogates (bytes of file names that are no UTF-8), private and unassigned characters.
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # a cell that begins so is computed by a spreadsheet

_LATEX = str.maketrans(
    {
        **{character: rf"\{character}" for character in "&%$#_{}"},
        **{character: f"{{{character}}}" for character in "[]*"},  # after the end of a row they would be its options
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
        "‡": r"$\ddagger$",
        "\u00a0": "~",
    }
)
_MARKDOWN = str.maketrans({**{character: f"\\{character}" for character in "\\`*_[]|#$~"}, "<": "&lt;", "&": "&amp;"})


def visible(text: str) -> str:
    """The text on one line with every character that shows nothing, or moves others, written as ‹U+202E›.

    Line breaks and tabs become spaces. Different texts stay different, but for their white space.
    """
    if text.isprintable():
        return text
    shown = (f"‹U+{ord(char):04X}›" if unicodedata.category(char) in _UNSEEN else char for char in _one_line(text))
    return "".join(shown)


def visible_lines(text: str) -> str:
    """The same for a message of several lines, which stay."""
    return "\n".join(map(visible, text.split("\n")))


def _one_line(text: str) -> str:
    return re.sub(r"[\t\n\r\v\f]+", " ", text)


def latex(text: str) -> str:
    """For LaTeX's text mode, whatever the engine: what Latin fonts lack is written as U+1F600."""
    text = _one_line(text)
    return "".join(char if _in_latin_fonts(char) else f"U+{ord(char):04X}" for char in text).translate(_LATEX)


def _in_latin_fonts(character: str) -> bool:
    common = character <= "\u017f" or "\u2013" <= character <= "\u2026" or ord(character) in _LATEX
    return common and unicodedata.category(character) not in _UNSEEN


def markdown(text: str) -> str:
    return visible(text).translate(_MARKDOWN)


def csv_cell(value: object) -> object:
    """The value itself; text that a spreadsheet would take for a formula gets an apostrophe in front."""
    if isinstance(value, str) and value.startswith(_FORMULA) and not _is_number(value):
        return f"'{value}"
    return value


def csv_frame(data: "pd.DataFrame") -> "pd.DataFrame":
    """The table with every cell of text, and every column's name, as `csv_cell` has it; numbers stay numbers."""
    texts = data.select_dtypes(exclude=["number", "bool"]).columns
    safe = data.assign() if not len(texts) else data.copy()
    for column in texts:
        safe[column] = data[column].map(csv_cell)
    return safe.rename(columns=csv_cell)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
