"""From analysed tables and arrays to the report's folder: index.html, tables/ and figures/. No statistics in here."""

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import figures, tables
from analysis.statistics import CALIBRATION, MARGINS, caveats, counted

TEMPLATES = Path(__file__).parents[2] / "reports" / "templates"
NOT_PROOF = "Passing this audit is not proof of anonymity."


@dataclass(frozen=True)
class CohortFacts:
    """Whose images these are. subjects and slices are counts per split; rejected: subjects set aside as unreadable."""

    name: str
    simulated: bool
    subjects: dict[str, int]
    slices: dict[str, int]
    rejected: int
    image_size: int


@dataclass(frozen=True)
class ReportInputs:
    """Everything a report shows. Empty tables and dictionaries mean "not there", and the page says so.

    scores: the long table, with the column `case`. ratios, tests, ranks, rank_tests: as `analysis.statistics` returns
    them. audits: per generator, the content of audit.json. nearest: per generator, arrays "synthetic" [n] and "null"
    [m] (similarities), "pairs" uint8 [K, 2, 4, H, W] (synthetic, training slice as stored), "pair_similarity" [K],
    "pair_shift" [K, 2] (down, right) and "pair_mirrored" [K]. sample_images: per generator and for "real", (images
    uint8 [K, 4, H, W], labels uint8 [K, H, W]). costs: stage, model, seed, images, seconds, images_per_second, device.
    missing: cell, reason. versions, hardware, budgets: printed as name and value.
    """

    title: str
    cohort: CohortFacts
    scores: pd.DataFrame
    ratios: pd.DataFrame
    tests: pd.DataFrame
    ranks: pd.DataFrame
    rank_tests: pd.DataFrame
    costs: pd.DataFrame
    missing: pd.DataFrame
    versions: dict[str, object]
    hardware: dict[str, object]
    budgets: dict[str, object]
    commit: str
    audits: dict[str, dict] = field(default_factory=dict)
    nearest: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    sample_images: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    demo_notice: str | None = None
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
    for folder in ("tables", "figures"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    names = _Names()

    sections = {
        name: [(table, _write_table(out, names(table.name), table)) for table in found]
        for name, found in _tables(inputs).items()
    }
    pictures = [
        _write_figure(out, names(name), section, caption, figure) for name, section, caption, figure in _figures(inputs)
    ]
    inputs.scores.to_csv(out / "tables" / "scores.csv", index=False)

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"label": tables.label, "duration": duration, "percent": percent}
    page = environment.get_template("report.html.j2").render(
        report=inputs,
        cards=_cards(inputs),
        tables=sections,
        pictures=pictures,
        warnings=list(dict.fromkeys([*caveats(inputs.ratios), *inputs.warnings])),
        margins=MARGINS,
        versions={"commit": inputs.commit, **inputs.versions},
        not_proof=NOT_PROOF,
    )
    (out / "index.html").write_text(page, encoding="utf-8")
    written = {
        kind: sorted(str(path.relative_to(out)) for path in (out / kind).iterdir()) for kind in ("tables", "figures")
    }
    return {"index": "index.html"} | written


# --- the verdict ----------------------------------------------------------------------------------------------------


def _cards(inputs: ReportInputs) -> list[dict]:
    """Per generator: what it keeps (in a sentence, then a line per arm and setting), who is at risk, what it cost."""
    primary = tables.in_study_order(inputs.ratios[inputs.ratios["region"] == "mean"])
    cards = []
    for name in dict.fromkeys([*primary["generator"], *inputs.audits]):
        rows = primary[primary["generator"] == name]
        cards.append(
            {
                "name": name,
                "verdict": _verdict(rows[rows["arm"] == "synthetic"]),
                "lines": [_line(row) for _, row in rows.iterrows()],
                "audit": inputs.audits.get(name),
                "cost": _cost(inputs.costs, name),
            }
        )
    return cards


def _verdict(rows: pd.DataFrame) -> str:
    """What training on synthetic images alone keeps; the worst setting decides, one without a number passes nothing."""
    measured = rows[rows["ratio"].notna()]
    if measured.empty:
        return "What synthetic images alone keep was not measured."
    low, high = (f"{100 * ratio:.0f}" for ratio in (measured["ratio"].min(), measured["ratio"].max()))
    kept = f"Synthetic images alone keep {low if low == high else f'{low}–{high}'}\u00a0% of real-only Dice"
    passed = {margin: int(rows[f"passes_{margin:.2f}"].eq(True).fillna(False).sum()) for margin in MARGINS}
    everywhere = [margin for margin, count in passed.items() if count == len(rows)]
    if everywhere:
        return f"{kept}; non-inferior at {max(everywhere):.2f}{' in every setting' * (len(rows) > 1)}."
    count = passed[MARGINS[0]]
    return f"{kept}; non-inferior at " + (
        f"{MARGINS[0]:.2f} in {count} of {len(rows)} settings." if count else "no margin."
    )


def _line(row: pd.Series) -> dict:
    """One arm's ratio in words and numbers, with its verdict at each margin."""
    trained = {"synthetic": "Synthetic only", "both": "Real + synthetic"}.get(row["arm"], row["arm"])
    return {
        "setting": f"{trained}, {tables.label(row['segmenter'])}, augmentation {row['augmentation']}",
        "ratio": None if np.isnan(row["ratio"]) else f"{row['ratio']:.2f}",
        "interval": None if np.isnan(row["low"]) else f"{row['low']:.2f}–{row['high']:.2f}",
        "n": f"n = {counted(row['subjects'], 'subject')} × {counted(row['seeds'], 'seed')}",
        "margins": [(f"{margin:.2f}", tables.passes(row[f"passes_{margin:.2f}"])) for margin in MARGINS],
        "reason": row["reason"],
    }


def _cost(costs: pd.DataFrame, name: str) -> dict | None:
    rows = costs[(costs["model"] == name) & (costs["stage"] == "train_generator")]
    if rows.empty:
        return None
    return {
        "seconds": float(rows["seconds"].sum()),
        "images": int(rows["images"].sum()),
        "device": ", ".join(sorted(set(rows["device"].astype(str)))),
        "trainings": len(rows),
    }


def duration(seconds: float) -> str:
    """'42 s', '7.5 min', '3.2 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def percent(share: float) -> str:
    return f"{100 * share:.1f}\u00a0%"  # a no-break space


# --- tables and figures ---------------------------------------------------------------------------------------------


def _tables(inputs: ReportInputs) -> dict[str, list[tables.Table]]:
    """Tables by section of the page."""
    found = {
        "dice": tables.study_tables(inputs.scores, inputs.tests, inputs.ratios),
        "ratio": tables.ratio_tables(inputs.ratios, inputs.tests) + tables.region_ratio_tables(inputs.ratios),
        "ranks": [] if inputs.ranks.empty else [tables.rank_table(inputs.ranks, inputs.rank_tests)],
        "empty": [tables.empty_case_table(inputs.scores)],
        "missing": [],
        "audit": [_audit_table(inputs.audits), _control_table(inputs.audits)] if inputs.audits else [],
        "costs": [],
        "calibration": [_calibration_table()],
    }
    if not inputs.missing.empty:
        found["missing"] = [tables.plain_table("missing", "Missing cells, each with its reason", inputs.missing)]
    if not inputs.costs.empty:
        found["costs"] = [tables.plain_table("costs", "What every stage cost", inputs.costs)]
    return found


def _audit_table(audits: dict[str, dict]) -> tables.Table:
    """Measures down, generators across: a phone shows two columns, a page five."""
    columns = {name: _audit_column(audit) for name, audit in audits.items()}
    measures = next(iter(columns.values()))
    rows = [
        [tables.Cell(measure), *[tables.Cell(column[measure]) for column in columns.values()]] for measure in measures
    ]
    data = pd.DataFrame({name: pd.json_normalize(audit).iloc[0] for name, audit in audits.items()})
    note = (
        "τ95, τ99: similarity that 5 % and 1 % of held-out real slices exceed. Lower bound: exact, one-sided, 95 %. "
        "p: of at least this share if nothing is copied. Patients at risk: training subjects with a synthetic slice "
        "above τ99; in brackets how many chance alone gives. A blurred, average-looking slice can exceed τ without "
        f"being a copy: look at the closest pairs. {NOT_PROOF}"
    )
    head = ["Measure", *map(tables.label, audits)]
    return tables.Table(
        "memorization", "Memorization audit", head, rows, data.rename_axis("field").reset_index(), [note]
    )


def _audit_column(audit: dict) -> dict[str, str]:
    leaked = audit["leaked_patients"]
    column = {
        "Synthetic slices": f"{audit['n_synthetic']:,}",
        "Training slices (subjects)": f"{audit['n_train']:,} ({audit['n_train_subjects']:,})",
        "Held-out slices (subjects)": f"{audit['n_null']:,} ({audit['n_null_subjects']:,})",
    }
    for tau, name, expected in (("tau95", "τ95", "5 %"), ("tau99", "τ99", "1 %")):
        column |= {
            name: f"{audit[tau]:.3f}",
            f"Share above {name} (expected: {expected})": percent(audit["memorized_share"][tau]),
            f"Lower bound of that share, {name}": percent(audit["memorized_interval"][tau][0]),
            f"p of that share, {name}": tables.p_value(audit["p_value"][tau]),
        }
    column["Patients at risk (by chance)"] = f"{leaked['count']} ({leaked['count_by_chance']:.1f})"
    for fixed, count in audit["counts_above"].items():
        column[f"Slices with correlation above {fixed}"] = f"{count:,}"
    for name, key in (("Data-copying statistic C_T (copies: far below 0)", "c_t"), ("Authenticity", "authenticity")):
        column[name] = "not measured" if audit[key] is None else tables.number(audit[key], ".2f")
    return column


def _control_table(audits: dict[str, dict]) -> tables.Table:
    records, rows = [], []
    for kind in next(iter(audits.values()))["controls"]:
        rows.append([tables.Cell(kind.replace("_", " "))])
        for name, audit in audits.items():
            control = audit["controls"][kind]
            rates = control if kind == "held_out" else control["found"]
            records.append((name, kind, rates["tau95"], rates["tau99"]))
            texts = ["not measured" if rate is None else percent(rate) for rate in records[-1][2:]]
            rows[-1].append(tables.Cell(" / ".join(texts)))
    note = (
        "Found at τ95 / at τ99. Planted copies of training slices must be found (near 100 %); held-out real slices, "
        "each against the thresholds of the other held-out subjects, must not (near 5 % / 1 %)."
    )
    data = pd.DataFrame(records, columns=["generator", "control", "tau95", "tau99"])
    return tables.Table(
        "controls", "Controls of the audit", ["Control", *map(tables.label, audits)], rows, data, [note]
    )


def _calibration_table() -> tables.Table:
    names = {
        "seed_sd": "SD of a training's Dice",
        "coverage": "Interval holds the truth [%]",
        "non_inferiority": "Margin passed [%]",
        "wilcoxon": "Wilcoxon [%]",
        "wilcoxon_new_seeds": "Wilcoxon, new seeds [%]",
        "ranks": "Ranks [%]",
        "ranks_new_seeds": "Ranks, new seeds [%]",
    }
    note = (
        "Simulated studies with known truth: how often the 95 % interval of the ratio holds it (should be 95), and how "
        "often a test is significant at 0.05 although its null is true (at most 5): an arm exactly at the margin, arms "
        "without any difference as these trainings went, and arms that differ by nothing but the luck of their seeds."
    )
    title = "How far intervals and tests keep their promises"
    return tables.plain_table("calibration", title, CALIBRATION.rename(columns=names), [note])


def _figures(inputs: ReportInputs) -> Iterator[tuple[str, str, str, Figure]]:
    """(name, section, caption, figure), in the page's order."""
    settings = tables.in_study_order(inputs.ratios)[["cohort", "segmenter"]].drop_duplicates().itertuples(index=False)
    for cohort, segmenter in settings:
        which = f"{tables.label(segmenter)}, {cohort}"
        yield (
            f"forest_{cohort}_{segmenter}",
            "utility",
            f"Dice kept relative to real-only training, against the margins of non-inferiority ({which}).",
            figures.forest_plot(inputs.ratios, cohort, segmenter),
        )
        yield (
            f"subjects_{cohort}_{segmenter}",
            "utility",
            f"Every test subject after training with synthetic images against after real-only training ({which}). "
            "Above the diagonal: better than real-only.",
            figures.dice_per_subject(inputs.scores, cohort, segmenter),
        )
    for name, arrays in inputs.nearest.items():
        audit = inputs.audits[name]
        yield (
            f"similarity_{name}",
            "memorization",
            f"{tables.label(name)}: how close synthetic slices come to training slices, beside held-out real slices.",
            figures.similarity_histogram(arrays["synthetic"], arrays["null"], audit["tau95"], audit["tau99"], name),
        )
        yield (
            f"pairs_{name}",
            "memorization",
            f"{tables.label(name)}: the closest of {len(arrays['synthetic']):,} synthetic slices beside the training "
            "slice they resemble.",
            figures.closest_pairs(
                arrays["pairs"], arrays["pair_similarity"], arrays["pair_shift"], arrays["pair_mirrored"], name
            ),
        )
    for name, samples in inputs.sample_images.items():
        if name != "real":
            yield (
                f"samples_{name}",
                "samples",
                f"Real slices above, slices of {tables.label(name)} below.",
                figures.sample_sheet(samples, inputs.sample_images["real"], name),
            )


# --- files ----------------------------------------------------------------------------------------------------------


class _Names:
    """File names from names that people chose: safe characters only, and never the same twice."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def __call__(self, name: str) -> str:
        safe = re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-") or "unnamed"
        unique, number = safe, 2
        while unique.lower() in self.taken:
            unique, number = f"{safe}-{number}", number + 1
        self.taken.add(unique.lower())
        return unique


def _write_table(out: Path, name: str, table: tables.Table) -> str:
    for suffix, text in (("md", table.markdown()), ("tex", table.latex()), ("csv", table.csv())):
        (out / "tables" / f"{name}.{suffix}").write_text(text, encoding="utf-8")
    return name


def _write_figure(out: Path, name: str, section: str, caption: str, figure: Figure) -> Picture:
    """Line art as SVG, images as PNG at twice the resolution of the page; the same bytes go into the page."""
    pictorial = section == "samples" or name.startswith("pairs_")
    suffix, mime = ("png", "image/png") if pictorial else ("svg", "image/svg+xml")
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):  # the same figure is the same file
        figure.savefig(buffer, format=suffix, dpi=200, metadata={} if pictorial else {"Date": None})
    (out / "figures" / f"{name}.{suffix}").write_bytes(buffer.getvalue())
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    uri = f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(f"{name}.{suffix}", section, caption, uri, width, height)
