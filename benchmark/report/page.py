"""From analysed tables and arrays to the report's folder: index.html, tables/ and figures/. No statistics in here."""

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import score_figures, score_tables, set_figures, set_tables, tables
from analysis.arms import label
from analysis.attacks_tables import Attacks, attack_figure, attack_table, over_all_sets
from analysis.calibration import calibration_table, caveats
from analysis.long_table import AMOUNT, Scores
from analysis.set_tables import NOT_PROOF, Audits, Fidelities
from analysis.statistics import MARGINS
from analysis.text import csv_frame, visible
from benchmark.names import for_file
from benchmark.report.cards import build_cards

TEMPLATES = Path(__file__).parents[2] / "reports" / "templates"


@dataclass(frozen=True)
class CohortFacts:
    """Whose images these are. subjects (patients) and slices are counts per split; rejected: scans that were
    set aside as unreadable."""

    name: str
    simulated: bool
    subjects: dict[str, int]
    slices: dict[str, int]
    rejected: int
    image_size: int
    field_of_view: int  # mm along both sides of a slice
    card: str = ""  # the page beside the report that shows what was read


@dataclass(frozen=True)
class Nearest:
    """How close a generator's synthetic slices come to training slices, and the pairs that are shown of them.

    synthetic [n], null [m]: similarities. pairs uint8 [K, 2, 4, H, W], closest [K]: see `set_figures.closest_pairs`.
    """

    synthetic: np.ndarray
    null: np.ndarray
    pairs: np.ndarray
    closest: pd.DataFrame


@dataclass(frozen=True)
class CardLink:
    """A set's card for whoever has to sign, HTML and PDF by their paths beside the report, and what it comes to."""

    page: str
    paper: str
    sentence: str


@dataclass(frozen=True)
class ReportInputs:
    """Everything a report shows. Empty tables and dictionaries mean "not there", and the page says so.

    sets: names of generators and sent sets that were asked for, in the order of the cards. scores: of a long table
    with the column `case`. ratios, tests, ranks, rank_tests, amounts: as `analysis.statistics` returns them.
    audits, fidelity, attacks: per name, then per set, by the repeat's seed or "all", the content of audit.json,
    fidelity.json and attack.json. correlations: as `analysis.fidelity` returns them. curves: per generator,
    curve.csv of all its trainings with the columns seed and samples (at a snapshot). nearest: per name, of all its
    sets together. sample_images: of the first set of each name, and for "real", (images uint8 [K, 4, H, W], labels
    uint8 [K, H, W]). costs: stage, model, seed, images, seconds, images_per_second, device. missing: cell, reason.
    versions, hardware, budgets: printed as name and value. truncation: ψ at which each generator was sampled, 1 where
    it knows none. release_cards: by name, where a set was audited or attacked.
    """

    title: str
    cohort: CohortFacts
    sets: list[str]
    scores: Scores
    ratios: pd.DataFrame
    tests: pd.DataFrame
    ranks: pd.DataFrame
    rank_tests: pd.DataFrame
    amounts: pd.DataFrame
    costs: pd.DataFrame
    missing: pd.DataFrame
    versions: dict[str, object]
    hardware: dict[str, object]
    budgets: dict[str, object]
    commit: str
    audits: Audits = field(default_factory=dict)
    fidelity: Fidelities = field(default_factory=dict)
    attacks: Attacks = field(default_factory=dict)
    correlations: pd.DataFrame = field(default_factory=pd.DataFrame)
    curves: dict[str, pd.DataFrame] = field(default_factory=dict)
    nearest: dict[str, Nearest] = field(default_factory=dict)
    sample_images: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    demo_notice: str | None = None
    truncation: dict[str, float] = field(default_factory=dict)
    release_cards: dict[str, CardLink] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Picture:
    """A figure as the page embeds it."""

    name: str
    section: str
    caption: str
    uri: str  # data URI
    width: int  # CSS pixels
    height: int


def build_report(out: Path, inputs: ReportInputs) -> dict:
    """Writes out/index.html (self-contained: no script, nothing fetched), out/tables and out/figures.

    Returns what was written: index, tables and figures (their paths relative to `out`). Raises ValueError where an
    input is not as `ReportInputs` describes.
    """
    inputs = replace(inputs, attacks=over_all_sets(inputs.attacks))
    for folder in ("tables", "figures"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    names = _Names()

    sections = {
        name: [(table, write_table(out, names(table.name), table)) for table in found]
        for name, found in _tables(inputs).items()
    }
    pictures = [
        _write_figure(out, names(name), section, caption, figure) for name, section, caption, figure in _figures(inputs)
    ]
    csv_frame(inputs.scores.table).to_csv(out / "tables" / "scores.csv", index=False)

    page = template("report.html.j2").render(
        report=inputs,
        cards=build_cards(inputs.sets, inputs.ratios, inputs.audits, inputs.fidelity, inputs.attacks, inputs.costs),
        tables=sections,
        pictures=pictures,
        warnings=list(dict.fromkeys([*caveats(inputs.ratios), *_truncated(inputs.truncation)[1], *inputs.warnings])),
        audit_warnings=_audit_warnings(inputs.audits),
        margins=MARGINS,
        versions={"commit": inputs.commit, **inputs.versions},
        not_proof=NOT_PROOF,
    )
    (out / "index.html").write_text(page, encoding="utf-8")
    written = {
        kind: sorted(str(path.relative_to(out)) for path in (out / kind).iterdir()) for kind in ("tables", "figures")
    }
    return {"index": "index.html"} | written


def _audit_warnings(audits: Audits) -> dict[str, list[str]]:
    """Of each name, what its audits warn of, each once."""
    warnings = {name: [text for audit in sets.values() for text in audit["warnings"]] for name, sets in audits.items()}
    return {name: list(dict.fromkeys(texts)) for name, texts in warnings.items() if texts}


def template(name: str) -> jinja2.Template:
    """A page's template, with the filters label, duration, percent and visible."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=lambda value: visible(value) if type(value) is str else value,  # no character that moves others
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"label": label, "duration": duration, "percent": tables.percent, "visible": visible}
    return environment.get_template(name)


def duration(seconds: float) -> str:
    """'42 s', '7.5 min', '3.2 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# --- tables and figures ---------------------------------------------------------------------------------------------


def _tables(inputs: ReportInputs) -> dict[str, list[tables.Table]]:
    """Tables by section of the page."""
    ratio = score_tables.ratio_tables(inputs.ratios, inputs.tests) + score_tables.region_ratio_tables(inputs.ratios)
    found = {
        "dice": score_tables.study_tables(inputs.scores, inputs.tests),
        "missing": [],
        "ratio": ratio,
        "ranks": [],
        "amounts": score_tables.amount_tables(inputs.amounts),
        "empty": [score_tables.empty_case_table(inputs.scores)],
        "fidelity": [],
        "audit": [],
        "attacks": [],
        "calibration": [calibration_table()],
        "costs": [],
    }
    if not inputs.missing.empty:
        found["missing"] += [tables.plain_table("missing", "Missing cells, each with its reason", inputs.missing)]
    if not inputs.ranks.empty:
        found["ranks"] += [score_tables.rank_table(inputs.ranks, inputs.rank_tests)]
    if inputs.fidelity:
        found["fidelity"] += [set_tables.fidelity_table(inputs.fidelity, inputs.scores.seeds)]
    if not inputs.correlations.empty:
        found["fidelity"] += set_tables.correlation_tables(inputs.correlations)
    if inputs.audits:
        found["audit"] += [
            set_tables.audit_table(inputs.audits, inputs.scores.seeds),
            set_tables.control_table(inputs.audits),
        ]
    if inputs.attacks:
        found["attacks"] += [attack_table(inputs.attacks, inputs.scores.seeds)]
    if not inputs.costs.empty:
        found["costs"] += [_cost_table(inputs.costs)]
    names, notes = _truncated(inputs.truncation)
    for note in notes:
        found = {section: [tables.marked(each, names, "§", note) for each in of_it] for section, of_it in found.items()}
    return found


def _truncated(truncation: dict[str, float]) -> tuple[list[str], list[str]]:
    """Printed names of the generators sampled at another ψ than 1, and a sentence about them; none where all have one.

    ψ below 1 trades variety for typical slices: who is compared at another ψ is not compared as a generator alone.
    """
    if len(set(truncation.values())) < 2:
        return [], []
    low = {label(name): psi for name, psi in truncation.items() if psi != 1}
    each = ", ".join(f"{name} at ψ = {psi:g}" for name, psi in low.items())
    return list(low), [f"Sampled with truncation: {each}; all others at 1. Less varied, more typical slices."]


def _cost_table(costs: pd.DataFrame) -> tables.Table:
    printed = costs.assign(stage=costs["stage"].str.replace("_", " "), model=costs["model"].map(label))
    return replace(tables.plain_table("costs", "What every training cost", printed), data=costs)


def _figures(inputs: ReportInputs) -> Iterator[tuple[str, str, str, Figure]]:
    """(name, section, caption, figure), in the page's order."""
    yield from _utility_figures(inputs)
    for name, curve in inputs.curves.items():
        yield (
            f"training_{name}",
            "training",
            f"{label(name)} while it trained, by validation subjects. The snapshot is kept whose samples teach a small "
            "U-Net most (the judge's Dice; dashed: the same U-Net on real slices). Use and fidelity alone would not "
            "show copying.",
            set_figures.training_curve(curve, name),
        )
    yield from _memorization_figures(inputs)
    if any(found["attacks"] for sets in inputs.attacks.values() for found in sets.values()):
        yield (
            "attacks_auc",
            "attacks",
            "How well each attack tells training patients from patients nobody trained on. A line is a 95 % interval "
            "over patients; grey: where the same attack strays between halves of patients nobody trained on.",
            attack_figure(inputs.attacks),
        )
    for name, samples in inputs.sample_images.items():
        if name != "real":
            yield (
                f"samples_{name}",
                "samples",
                f"Real slices above, slices of {label(name)} below{_of_how_many(inputs, name)}.",
                set_figures.sample_sheet(samples, inputs.sample_images["real"], name),
            )


def _of_how_many(inputs: ReportInputs, name: str) -> str:
    sets = max(len(found.get(name, ())) for found in (inputs.audits, inputs.fidelity))
    return f", of the first of its {sets} sets" if sets > 1 else ""


def _utility_figures(inputs: ReportInputs) -> Iterator[tuple[str, str, str, Figure]]:
    cohort = inputs.scores.cohort
    for segmenter in inputs.scores.segmenters:
        which = f"{label(segmenter)}, {cohort}"
        if (inputs.ratios["segmenter"] == segmenter).any():
            yield (
                f"forest_{cohort}_{segmenter}",
                "utility",
                f"Dice kept relative to real-only training, against the margins of non-inferiority ({which}).",
                score_figures.forest_plot(inputs.ratios, segmenter),
            )
            yield (
                f"subjects_{cohort}_{segmenter}",
                "utility",
                f"Every test subject after training with synthetic images against after real-only training ({which}). "
                "Above the diagonal: better than real-only.",
                score_figures.dice_per_subject(inputs.scores, segmenter),
            )
        for by, what in zip(AMOUNT, ("real training subjects", "the synthetic set"), strict=True):
            if inputs.amounts[by].nunique() > 1:
                yield (
                    f"amount_{by}_{cohort}_{segmenter}",
                    "utility",
                    f"Dice against the share of {what} that training used ({which}). Dashed: an arm that uses none "
                    "or all of it.",
                    score_figures.dice_against_amount(inputs.amounts, segmenter, by),
                )


def _memorization_figures(inputs: ReportInputs) -> Iterator[tuple[str, str, str, Figure]]:
    for name, nearest in inputs.nearest.items():
        audit = next(iter(inputs.audits[name].values()))  # nulls of a generator's sets differ in smoothness alone
        yield (
            f"similarity_{name}",
            "memorization",
            f"{label(name)}: how close synthetic slices come to training slices, beside held-out real "
            "slices that were made as smooth.",
            set_figures.similarity_histogram(nearest.synthetic, nearest.null, audit["tau95"], audit["tau99"], name),
        )
        if "evidence" in nearest.closest:
            what = (
                f"those of {len(nearest.synthetic):,} synthetic slices with most evidence of being a copy, beside the "
                "training slice that they resemble, and the search that finds them. Of held-out real slices, 1 % have "
                f"evidence above {audit['evidence']['tau99']:.1f}. The similarity is to the nearest training slice as "
                "both lie."
            )
        else:
            what = (
                f"the closest of {len(nearest.synthetic):,} synthetic slices beside the training slice they resemble."
            )
        yield (
            f"pairs_{name}",
            "memorization",
            f"{label(name)}: {what}",
            set_figures.closest_pairs(nearest.pairs, nearest.closest, name),
        )


# --- files ----------------------------------------------------------------------------------------------------------


class _Names:
    """File names from names that people chose: safe characters only, and never the same twice."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def __call__(self, name: str) -> str:
        safe = for_file(re.sub(r"[ .]+", "-", name))
        unique, number = safe, 2
        while unique.lower() in self.taken:
            unique, number = f"{safe}-{number}", number + 1
        self.taken.add(unique.lower())
        return unique


def write_table(out: Path, name: str, table: tables.Table) -> str:
    """Writes out/tables/<name>, as Markdown, LaTeX and CSV; returns the name."""
    for suffix, text in (("md", table.markdown()), ("tex", table.latex()), ("csv", table.csv())):
        (out / "tables" / f"{name}.{suffix}").write_text(text, encoding="utf-8")
    return name


def _write_figure(out: Path, name: str, section: str, caption: str, figure: Figure) -> Picture:
    pictorial = section == "samples" or name.startswith("pairs_")
    shown, content = picture(figure, name, section, caption, pictorial=pictorial)
    (out / "figures" / shown.name).write_bytes(content)
    return shown


def picture(figure: Figure, name: str, section: str, caption: str, *, pictorial: bool = False) -> tuple[Picture, bytes]:
    """A figure as the page embeds it, and the same bytes for a file: line art as SVG, images as PNG at 200 dpi."""
    suffix, mime = ("png", "image/png") if pictorial else ("svg", "image/svg+xml")
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):  # the same figure is the same file
        figure.savefig(buffer, format=suffix, dpi=200, metadata={} if pictorial else {"Date": None})
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    uri = f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(f"{name}.{suffix}", section, caption, uri, width, height), buffer.getvalue()
