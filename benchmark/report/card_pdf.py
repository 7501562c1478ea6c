"""A card as a PDF of one A4 page: text that can be selected, no browser, the same bytes from the same card."""

import io
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import matplotlib
from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Image, KeepInFrame, Paragraph, Table

from analysis.release_risk import Card, Row
from analysis.text import visible

COLOURS = {  # of a row's status: ink, wash
    "good": (HexColor("#14532d"), HexColor("#dcfce7")),
    "open": (HexColor("#78350f"), HexColor("#fef3c7")),
    "bad": (HexColor("#7f1d1d"), HexColor("#fee2e2")),
    "none": (HexColor("#374151"), HexColor("#e5e7eb")),
}
MARGIN = 11 * mm
WIDTHS = (33 * mm, 30 * mm, 125 * mm)
LINE = HexColor("#d9dee4")
INK, SOFT = HexColor("#1f2933"), HexColor("#52606d")


def card_pdf(card: Card, pictures: Sequence[tuple[str, bytes]]) -> bytes:
    """The PDF's bytes. pictures: caption and PNG, shown beside the row "The worst patient". What is too long for the
    page is set smaller as a whole."""
    _register_fonts()
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=A4, invariant=1)  # no date, and an identifier of the content alone
    canvas.setTitle(visible(card.title))
    width, height = A4[0] - 2 * MARGIN, A4[1] - 2 * MARGIN
    frame = KeepInFrame(width, height, _story(card, pictures), mode="shrink")
    used = frame.wrapOn(canvas, width, height)[1]
    frame.drawOn(canvas, MARGIN, A4[1] - MARGIN - used)
    canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def _register_fonts() -> None:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for name, file in (("Card", "DejaVuSans.ttf"), ("Card-Bold", "DejaVuSans-Bold.ttf")):
        pdfmetrics.registerFont(TTFont(name, folder / file))


def _style(size: float, ink: HexColor = INK, bold: bool = False, **keys) -> ParagraphStyle:
    font = "Card-Bold" if bold else "Card"
    return ParagraphStyle("", fontName=font, fontSize=size, leading=1.28 * size, textColor=ink, **keys)


def _text(words: str, style: ParagraphStyle) -> Paragraph:
    """Escaped; a character that the font lacks is written as U+1F600."""
    known = pdfmetrics.getFont(style.fontName).face.charToGlyph
    return Paragraph(
        escape("".join(char if ord(char) in known else f"U+{ord(char):04X}" for char in visible(words))), style
    )


def _story(card: Card, pictures: Sequence[tuple[str, bytes]]) -> list:
    story = [_text(card.title, _style(14, bold=True)), _text(card.lead, _style(7.6, SOFT, spaceAfter=3, spaceBefore=2))]
    ink, wash = COLOURS["open"]
    for banner in card.banners:
        story.append(_text(banner, _style(7.6, ink, bold=True, backColor=wash, borderPadding=2.5, spaceBefore=5)))
    cells, styles = [], []
    for place, row in enumerate(card.rows):
        cells.append([_question(row), _text(row.verdict, _style(7.4, COLOURS[row.status][0], bold=True)), _words(row)])
        if row.title == "The worst patient":
            cells[-1][2] = [*cells[-1][2], *_shown(pictures)]
        styles += [
            ("BACKGROUND", (1, place), (1, place), COLOURS[row.status][1]),
            ("LINEABOVE", (0, place), (-1, place), 0.5, LINE),
        ]
    styles += [("VALIGN", (0, 0), (-1, -1), "TOP"), ("LEFTPADDING", (0, 0), (0, -1), 0)]
    styles += [("TOPPADDING", (0, 0), (-1, -1), 2.5), ("BOTTOMPADDING", (0, 0), (-1, -1), 3)]
    story.append(Table(cells, WIDTHS, style=styles, spaceBefore=5, spaceAfter=4))
    sources = " ".join(f"[{place}] {source}" for place, source in enumerate(card.sources, 1))
    story.append(_text(sources, _style(5.8, SOFT)))
    return story


def _question(row: Row) -> list[Paragraph]:
    asked = [_text(row.asked, _style(6.6, SOFT))] if row.asked else []
    return [_text(row.title, _style(8, bold=True)), *asked]


def _words(row: Row) -> list[Paragraph]:
    numbers = [_text(row.numbers, _style(5.8, SOFT, spaceBefore=1))] if row.numbers else []
    return [_text(" ".join(row.words), _style(7)), *numbers]


def _shown(pictures: Sequence[tuple[str, bytes]]) -> list:
    if not pictures:
        return []
    shown = []
    for caption, png in pictures:
        wide, high = ImageReader(io.BytesIO(png)).getSize()
        width = 58 * mm
        shown.append([Image(io.BytesIO(png), width, width * high / wide), _text(caption, _style(5.8, SOFT))])
    return [Table([shown], 61 * mm, hAlign="LEFT", style=[("LEFTPADDING", (0, 0), (-1, -1), 0)], spaceBefore=3)]
