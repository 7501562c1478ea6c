"""Tables of the synthetic sets themselves: were patients copied, how like real images are they, how varied."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd

from analysis.arms import ARMS, label
from analysis.tables import Cell, Table, number, p_value, percent

NOT_PROOF = "Passing this audit is not proof of anonymity."
MISSING = "not measured"


# --- memorization ---------------------------------------------------------------------------------------------------


def audit_table(audits: dict[str, dict]) -> Table:
    """Measures down, generators across: a phone shows two columns, a page five. audits: each one's audit.json."""
    columns = {name: _audit_column(audit) for name, audit in audits.items()}
    measures = next(iter(columns.values()))
    rows = [[Cell(measure), *[Cell(column[measure]) for column in columns.values()]] for measure in measures]
    data = pd.DataFrame({name: pd.json_normalize(audit).iloc[0] for name, audit in audits.items()})
    notes = [
        "τ95, τ99: similarity to the nearest training slice that 5 % and 1 % of held-out real slices exceed. "
        "Memorized: above τ, for whichever reason; a blurred, average-looking slice can be. Copied: and its margin, "
        "one minus the distance to the nearest slice over that to the nearest slice of any other training subject, is "
        "above µ, which 5 % and 1 % of held-out real slices exceed: close to one patient, not to brains in general.",
        "Lower bound: exact, one-sided, 95 %. p: of at least this share if nothing is copied. Patients: training "
        "subjects with such a slice at τ99 and µ99; in brackets the number by chance. Look at the closest pairs, too. "
        f"{NOT_PROOF}",
    ]
    head = ["Measure", *map(label, audits)]
    return Table("memorization", "Memorization audit", head, rows, data.rename_axis("field").reset_index(), notes)


def _audit_column(audit: dict) -> dict[str, str]:
    column = {
        "Synthetic slices": f"{audit['n_synthetic']:,}",
        "Training slices (subjects)": f"{audit['n_train']:,} ({audit['n_train_subjects']:,})",
        "Held-out slices (subjects)": f"{audit['n_null']:,} ({audit['n_null_subjects']:,})",
        "Copied patients (by chance at most)": _patients(audit["copied_patients"]),
        "Memorized patients (by chance)": _patients(audit["leaked_patients"]),
    }
    for what, prefix, expected in (("copied", "copied_", "at most "), ("memorized", "", "")):
        for level, name, chance in (("tau95", "τ95", "5\u00a0%"), ("tau99", "τ99", "1\u00a0%")):
            share, interval = f"{what.capitalize()} share, {name}", audit[f"{what}_interval"][level]
            column |= {
                f"{share} (by chance: {expected}{chance})": _or_missing(audit[f"{what}_share"][level], percent),
                f"{share}: lower bound": MISSING if interval is None else percent(interval[0]),
                f"{share}: p": _or_missing(audit[f"{prefix}p_value"][level], p_value),
            }
    column |= {"τ95 / τ99": f"{audit['tau95']:.3f} / {audit['tau99']:.3f}"}
    column |= {"µ95 / µ99": _levels(audit["margin"], "{:.3f}".format)}
    for fixed, count in audit["counts_above"].items():
        column[f"Slices with correlation above {fixed}"] = f"{count:,}"
    for name, key in (("Data-copying statistic C_T (copies: far below 0)", "c_t"), ("Authenticity", "authenticity")):
        column[name] = _or_missing(audit[key], _two)
    return column


def _patients(found: dict) -> str:
    return MISSING if found["count"] is None else f"{found['count']} ({found['count_by_chance']:.1f})"


CONTROLS = {
    "exact": "Exact copies",
    "mirrored": "Mirrored copies",
    "shifted": "Copies shifted by 4 px",
    "blurred": "Blurred copies",
    "noise": "Copies with 5 % noise",
    "gamma": "Copies with gamma 0.8",
    "turned": "Copies turned by 5°",
    "blurred_strangers": "Held-out slices, strongly blurred",
    "held_out": "Held-out slices",
}
FOUND = {"blurred_strangers": ("–", "5 % / 1 %"), "held_out": ("5 % / 1 %", "5 % / 1 %")}  # at most; copies: nearly all


def control_table(audits: dict[str, dict]) -> Table:
    """How often the audit finds planted copies, and how often what is no copy. audits: each one's audit.json."""
    records, rows = [], []
    for kind, control in CONTROLS.items():
        for rule, expected in zip(("memorized", "copied"), FOUND.get(kind, ("100 %", "100 %")), strict=True):
            rows.append([Cell(f"{control}: {rule}"), Cell(expected)])
            for name, audit in audits.items():
                found = audit["controls"][kind]
                held_out = found if kind == "held_out" else found["found"]
                rates = found["copied"] if rule == "copied" else held_out
                records.append((name, kind, rule, rates["tau95"], rates["tau99"]))
                rows[-1].append(Cell(_levels(rates, percent)))
    note = (
        "Rates at τ95 / at τ99. Planted copies of training slices must be found, and nearest to their originals. "
        "Held-out real slices, each against the thresholds of the other held-out subjects, must not; blurred ones come "
        "close to every brain, which is no copy."
    )
    data = pd.DataFrame(records, columns=["generator", "control", "rule", "tau95", "tau99"])
    head = ["Control: counted as", "Should be near", *map(label, audits)]
    return Table("controls", "Controls of the audit", head, rows, data, [note])


def _levels(values: dict[str, float | None], write: Callable[[float], str]) -> str:
    texts = [_or_missing(values[level], write) for level in ("tau95", "tau99")]
    return MISSING if set(texts) == {MISSING} else " / ".join(texts)


def _or_missing(value: float | None, write: Callable[[float], str]) -> str:
    return MISSING if value is None else write(value)


def _digits(value: float) -> str:
    return number(value, ".3g")


def _two(value: float) -> str:
    return number(value, ".2f")


# --- fidelity -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """A fidelity number: how it is called, which direction is better (↓ ↑, or ≈: near the floor), how it is written."""

    name: str
    better: str
    write: Callable[[float], str]


FIDELITY = {
    "frechet": Measure("Fréchet distance", "↓", _digits),
    "kernel": Measure("Kernel distance", "↓", _digits),
    "precision": Measure("Precision: synthetic slices among real ones", "↑", percent),
    "recall": Measure("Recall: real slices among synthetic ones", "↑", percent),
    "density": Measure("Density: real slices around a synthetic one", "↑", _two),
    "coverage": Measure("Coverage: real slices with a synthetic one nearby", "↑", percent),
    **{
        f"ms_ssim_{modality}": Measure(f"MS-SSIM of random pairs, {modality}", "≈", _two)
        for modality in ("T1", "T1ce", "T2", "FLAIR")
    },
    "label_dice": Measure("Annotation: Dice of a real-trained segmenter", "↑", _two),
    **{f"label_dice_{name}": Measure(f"Annotation: Dice, {name}", "↑", _two) for name in ("NCR", "ED", "ET")},
}
ARROWS = "↓: lower is better; ↑: higher is better; ≈: like held-out real is best."


def fidelity_table(fidelity: dict[str, dict]) -> Table:
    """Measures down; the floor, then generators across. fidelity: each one's fidelity.json.

    Floors of sets that differ in size differ, and are printed as their range.
    """
    rows, records = [], []
    for key, measure in FIDELITY.items():
        values = [_or_missing(found["values"][key], measure.write) for found in fidelity.values()]
        floors = [found["floor"][key] for found in fidelity.values()]
        rows.append([Cell(text) for text in (f"{measure.name} {measure.better}", _floor(measure, floors), *values)])
        records += [
            (name, key, found["values"][key], found["floor"][key], found["reasons"].get(key, ""))
            for name, found in fidelity.items()
        ]
    sizes = [f"{label(name)} {found['n']['synthetic']:,}" for name, found in fidelity.items()]
    others = {
        f"{found['n']['reference']:,} training and {found['n']['floor']:,} held-out real slices"
        for found in fidelity.values()
    }
    extractors = {f"{found['extractor']}, {found['features']:,} features" for found in fidelity.values()}
    notes = [
        f"{ARROWS} Held-out real: the floor, the same number for slices of validation and test subjects against "
        "training slices; what reaches it is, to this measure, as good as real. MS-SSIM above it: samples resemble "
        "each other more than patients do.",
        f"Extractor: {'; '.join(sorted(extractors))}. n: {', '.join(sizes)} synthetic, {'; '.join(sorted(others))}.",
        *_reasons(fidelity),
    ]
    data = pd.DataFrame(records, columns=["generator", "measure", "value", "floor", "reason"])
    columns = ["Measure", "Held-out real (floor)", *map(label, fidelity)]
    return Table("fidelity", "Fidelity and diversity", columns, rows, data, notes)


def _floor(measure: Measure, floors: list[float | None]) -> str:
    known = sorted(floor for floor in floors if floor is not None)
    texts = list(dict.fromkeys(map(measure.write, known[:1] + known[-1:])))
    return "–".join(texts) or MISSING


def _reasons(fidelity: dict[str, dict]) -> Iterable[str]:
    """Why numbers are missing: one sentence per reason and measure."""
    names: dict[tuple[str, str], list[str]] = {}
    for name, found in fidelity.items():
        for key, reason in found["reasons"].items():
            names.setdefault((FIDELITY[key].name, reason), []).append(label(name))
    for (measure, reason), generators in names.items():
        yield f"{measure}: {MISSING} for {', '.join(generators)}: {reason}."


def correlation_tables(correlations: pd.DataFrame) -> list[Table]:
    """For every segmenter: fidelity measures down, arms across, Spearman's correlation with the Dice ratio.

    correlations: the table of `analysis.fidelity.rank_correlations`.
    """
    tables = []
    for (cohort, segmenter), data in correlations.groupby(["cohort", "segmenter"], sort=False):
        settings = list(dict.fromkeys(zip(data["arm"], data["augmentation"], strict=True)))
        cells = {(row.measure, row.arm, row.augmentation): row for row in data.itertuples()}
        shown = {key: f"{measure.name} {measure.better}" for key, measure in FIDELITY.items()}
        if data["rho"].isna().all() and data["reason"].nunique() == 1:
            shown = {data.loc[data["generators"].idxmax(), "measure"]: "Every measure"}
        rows = [
            [Cell(name), *[Cell(_correlation(cells[key, *where])) for where in settings]] for key, name in shown.items()
        ]
        head = [f"{ARMS[arm]}, aug. {augmentation}" for arm, augmentation in settings]
        note = (
            "Spearman's ρ over generators with the ratio of the mean Dice to real-only training (p: permutation test, "
            "not adjusted; n: generators). A measure that tells usefulness has a negative ρ where lower is better "
            "(↓), a positive one where higher is (↑)."
        )
        title = f"Does fidelity tell usefulness? Rank correlation with the Dice ratio: {label(segmenter)}, {cohort}"
        tables.append(Table(f"correlations_{cohort}_{segmenter}", title, ["Measure", *head], rows, data, [note]))
    return tables


def _correlation(row: tuple) -> str:
    numbers = f"n = {row.generators}" if row.reason else f"p {p_value(row.p)}, n = {row.generators}"
    return f"{row.reason or number(row.rho, '+.2f')} ({numbers})"
