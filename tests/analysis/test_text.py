"""Text that somebody chose, in every form that it is written in."""

import csv
import io

import pandas as pd
import pytest

from analysis.tables import Cell, Table, plain_table
from analysis.text import csv_cell, csv_frame, latex, markdown, visible, visible_lines

OVERRIDE, ZERO_WIDTH, ESCAPE = "\u202e", "\u200b", "\x1b[2J"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain Müller 5 %", "plain Müller 5 %"),
        (f"a{OVERRIDE}b", "a‹U+202E›b"),
        (f"a{ZERO_WIDTH}b", "a‹U+200B›b"),
        (ESCAPE, "‹U+001B›[2J"),
        ("\0\x7f\udcff", "‹U+0000›‹U+007F›‹U+DCFF›"),
        ("two\r\nlines\tand more", "two lines and more"),
        ("\u2028\u2029", "‹U+2028›‹U+2029›"),
        ("5\u00a0% 🧠", "5\u00a0% 🧠"),
    ],
)
def test_what_shows_nothing_is_shown(text, written):
    assert visible(text) == written


def test_a_message_keeps_its_lines():
    assert visible_lines(f"one\n{OVERRIDE}two") == "one\n‹U+202E›two"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (r"$\input{x}$", r"\$\textbackslash{}input\{x\}\$"),
        ("a_b%c#d&e~f^g", r"a\_b\%c\#d\&e\textasciitilde{}f\textasciicircum{}g"),
        ("[8pt] x*", "{[}8pt{]} x{*}"),  # after the end of a row it would be its option
        ("a\nb\tc", "a b c"),
        (f"a{OVERRIDE}b\0", "aU+202EbU+0000"),
        ("Süd 🧠 脑", "Süd U+1F600 U+8111".replace("1F600", "1F9E0")),
        ("1 ± 2 ≥ τ – x", r"1 $\pm$ 2 $\geq$ $\tau$ -- x"),
    ],
)
def test_latex_takes_no_name_for_a_command(text, written):
    assert latex(text) == written


def test_markdown_takes_no_name_for_markup():
    assert markdown("<b>|[x](y)*_`$a$~~b\nc") == r"&lt;b>\|\[x\](y)\*\_\`\$a\$\~\~b c"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+x", "'+x"),
        ("-x", "'-x"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\tx", "'\tx"),
        ("\rx", "'\rx"),
        ("＝x", "'＝x"),
        ("x=1", "x=1"),
        ("-1.5", "-1.5"),
        ("1e-3", "1e-3"),
        ("", ""),
        (-1.5, -1.5),
        (None, None),
    ],
)
def test_a_spreadsheet_computes_no_name(value, written):
    assert csv_cell(value) == written


def test_in_a_table_of_csv_only_texts_change():
    data = pd.DataFrame({"=a": ["=1+1", "b"], "n": [-1, 2], "x": [-0.5, float("nan")], "yes": [True, False]})
    written = csv_frame(data)
    assert list(written.columns) == ["'=a", "n", "x", "yes"]
    assert list(written["'=a"]) == ["'=1+1", "b"]
    pd.testing.assert_frame_equal(written[["n", "x", "yes"]], data[["n", "x", "yes"]])
    assert list(data.columns) == ["=a", "n", "x", "yes"]  # left as it was
    rows = list(csv.reader(io.StringIO(plain_table("t", "T", data).csv())))
    assert rows[1] == ["'=1+1", "-1", "-0.5", "True"]


def test_a_page_shows_a_name_as_it_is_spelt():
    name = f"<script>{OVERRIDE}"
    table = Table("t", name, [name], [[Cell(name)], [Cell(name, bold=True)]], pd.DataFrame(), [name])
    html = str(table.html())
    assert "<script>" not in html
    assert OVERRIDE not in html
    assert html.count("&lt;script&gt;‹U+202E›") == 6  # title and its label, head, two cells, note
