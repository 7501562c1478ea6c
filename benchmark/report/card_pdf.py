"""A card as a PDF of one A4 page: text that can be selected, no browser, the same bytes from the same card."""

import io
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import matplotlib
from reportlab.graphics.shapes import Circle, Drawing, Line, Rect, String
from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Frame, Image, Paragraph, Table

from analysis.release_risk import READING, SIGN, SOURCES, Card, Row, Scale
from analysis.text import visible

COLOURS = {  # of a row's status: ink, wash
    "good": (HexColor("#14532d"), HexColor("#dcfce7")),
    "open": (HexColor("#78350f"), HexColor("#fef3c7")),
    "bad": (HexColor("#7f1d1d"), HexColor("#fee2e2")),
    "none": (HexColor("#374151"), HexColor("#e5e7eb")),
}
MARGIN = 11 * mm
COLUMNS = (33 * mm, 30 * mm)  # questions, answers; the words take the rest
LINE = HexColor("#d9dee4")
INK, SOFT, DOT = HexColor("#1f2933"), HexColor("#52606d"), HexColor("#0072b2")


def card_pdf(card: Card, pictures: Sequence[tuple[str, bytes]]) -> bytes:
    """The PDF's bytes. pictures: caption and PNG, shown in the row that is `pictured`. What is too long for the
    page is set smaller as a whole."""
    _register_fonts()
    for percent in range(100, 30, -2):
        buffer, scale = io.BytesIO(), percent / 100
        canvas = Canvas(buffer, pagesize=A4, invariant=1)  # no date, and an identifier of the content alone
        canvas.setTitle(visible(card.title))
        canvas.setAuthor("Stand-In")
        canvas.translate(MARGIN, MARGIN)
        canvas.scale(scale, scale)
        width, height = ((side - 2 * MARGIN) / scale for side in A4)
        left = _story(card, pictures, width)
        Frame(0, 0, width, height, 0, 0, 0, 0).addFromList(left, canvas)
        if not left:
            break
    else:
        raise ValueError("the card is too long for one page")
    canvas.save()
    return buffer.getvalue()


def _register_fonts() -> None:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for name, file in (("Card", "DejaVuSans.ttf"), ("Card-Bold", "DejaVuSans-Bold.ttf")):
        pdfmetrics.registerFont(TTFont(name, folder / file))
    pdfmetrics.registerFontFamily("Card", normal="Card", bold="Card-Bold")


def _style(size: float, ink: HexColor = INK, bold: bool = False, **keys) -> ParagraphStyle:
    font = "Card-Bold" if bold else "Card"
    return ParagraphStyle("", fontName=font, fontSize=size, leading=1.28 * size, textColor=ink, **keys)


def _text(words: str, style: ParagraphStyle) -> Paragraph:
    return Paragraph(_escaped(words), style)


def _escaped(words: str) -> str:
    """For a paragraph; a character that the font lacks is written as U+1F600."""
    known = pdfmetrics.getFont("Card").face.charToGlyph
    return escape("".join(char if ord(char) in known else f"U+{ord(char):04X}" for char in visible(words)))


def _story(card: Card, pictures: Sequence[tuple[str, bytes]], width: float) -> list:
    story = [_text(card.title, _style(14, bold=True)), _text(card.lead, _style(7.6, SOFT, spaceAfter=3, spaceBefore=2))]
    ink, wash = COLOURS["open"]
    for banner in card.banners:
        story.append(_text(banner, _style(7.6, ink, bold=True, backColor=wash, borderPadding=2.5, spaceBefore=5)))
    story.append(_text(READING, _style(6.6, SOFT, spaceBefore=4)))
    cells, styles = [], []
    for place, row in enumerate(card.rows):
        cells.append([_question(row), _text(row.verdict, _style(7.4, COLOURS[row.status][0], bold=True)), _words(row)])
        if row.pictured:
            cells[-1][2] += _shown(pictures)
        styles += [
            ("BACKGROUND", (1, place), (1, place), COLOURS[row.status][1]),
            ("LINEABOVE", (0, place), (-1, place), 0.5, LINE),
        ]
    styles += [("VALIGN", (0, 0), (-1, -1), "TOP"), ("LEFTPADDING", (0, 0), (0, -1), 0)]
    styles += [("TOPPADDING", (0, 0), (-1, -1), 2.5), ("BOTTOMPADDING", (0, 0), (-1, -1), 3)]
    story.append(Table(cells, [*COLUMNS, width - sum(COLUMNS)], style=styles, spaceBefore=5, spaceAfter=4))
    story.append(_text(f"{SIGN} {'_' * 34}", _style(7, spaceBefore=4, spaceAfter=5)))
    sources = " ".join(f"[{place}] {source}" for place, source in enumerate(SOURCES, 1))
    story.append(_text(sources, _style(5.8, SOFT)))
    return story


def _question(row: Row) -> list[Paragraph]:
    asked = [_text(row.asked, _style(6.6, SOFT))] if row.asked else []
    return [_text(row.title, _style(8, bold=True)), *asked]


def _words(row: Row) -> list:
    scale = [_scale(row.scale)] if row.scale else []
    numbers = [_text(row.numbers, _style(5.8, SOFT, spaceBefore=1))] if row.numbers else []
    finding = f"<b>{_escaped(row.finding)}</b> " if row.finding else ""
    return [Paragraph(f"{finding}{_escaped(' '.join(row.words))}", _style(7)), *scale, *numbers]


def _scale(scale: Scale) -> Drawing:
    """Pairs named rightly, 0 to 100: the control's grey bar, the coin's line, the interval and its dot."""
    wide, high = 100 * mm, 4.6 * mm
    drawing, middle = Drawing(wide, high), 3.1 * mm
    low, top = (wide * bound for bound in scale.control)
    drawing.add(Rect(low, middle - 3, top - low, 6, fillColor=HexColor("#d1d5db"), strokeColor=None))
    drawing.add(Line(0, middle, wide, middle, strokeColor=LINE, strokeWidth=0.5))
    drawing.add(Line(wide / 2, middle - 4, wide / 2, middle + 4, strokeColor=INK, strokeWidth=0.6))
    drawing.add(Line(*(wide * scale.interval[0], middle), *(wide * scale.interval[1], middle), strokeColor=DOT))
    drawing.add(Circle(wide * scale.value, middle, 2.2, fillColor=DOT, strokeColor=None))
    for place, text, anchor in ((0, "0", "start"), (0.5, "50, a coin", "middle"), (1, "100 of 100 pairs", "end")):
        drawing.add(String(place * wide, 0, text, fontName="Card", fontSize=4.8, fillColor=SOFT, textAnchor=anchor))
    return drawing


def _shown(pictures: Sequence[tuple[str, bytes]]) -> list:
    if not pictures:
        return []
    shown = []
    for caption, png in pictures:
        wide, high = ImageReader(io.BytesIO(png)).getSize()
        width = 58 * mm
        shown.append([Image(io.BytesIO(png), width, width * high / wide), _text(caption, _style(5.8, SOFT))])
    return [Table([shown], 61 * mm, hAlign="LEFT", style=[("LEFTPADDING", (0, 0), (-1, -1), 0)], spaceBefore=3)]
