"""Tables of the synthetic sets themselves: were patients copied, how like real images are they, how varied."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.arms import ARMS, label
from analysis.statistics import counted
from analysis.tables import Cell, Table, missing_seeds, number, p_value, percent, sizes, spread

ALL = "all"  # in place of a seed: the set that all repeats share
Audits = Mapping[str, Mapping[str, dict]]  # by generator, then by the repeat's seed, or ALL
Fidelities = Mapping[str, Mapping[str, dict]]

NOT_PROOF = "Passing this audit is not proof of anonymity."
MISSING = "not measured"


# --- memorization ---------------------------------------------------------------------------------------------------


def audit_table(audits: Audits, seeds: Iterable[int] = ()) -> Table:
    """Measures down, generators across: a phone shows two columns, a page five; repeats are pooled.

    audits: audit.json of each set of each generator; seeds: of the repeats that were asked for.
    """
    columns = {name: _audit_column([*sets.values()]) for name, sets in audits.items()}
    measures = next(iter(columns.values()))
    rows = [[Cell(measure), *[Cell(column[measure]) for column in columns.values()]] for measure in measures]
    records = [
        {"generator": name, "seed": seed, **pd.json_normalize(audit).iloc[0]}
        for name, sets in audits.items()
        for seed, audit in sets.items()
    ]
    notes = [
        "Copied: one training subject, a part of one or a blend, in any pose, contrast or small deformation, "
        "stands out among all of them more clearly than it does for 95 % and 99 % (τ95, τ99) of held-out real slices. "
        "Memorized: more similar to a training slice than 95 % and 99 % of them are, for whichever reason. Held-out "
        "slices are first made as smooth as the set; sharpness 1: it is as sharp as they are.",
        "Interval: 95 %, of draws of people, synthetic and held-out. p: of at least this share if nothing is copied; "
        "1 in 20 honest sets, which copy nothing, exceed the share named so. Patients: training subjects with such a "
        f"slice at τ99, and the number by chance. Look at the closest pairs, too. {NOT_PROOF}",
        *pooling(audits, "Counts of slices are summed; intervals and p are those of single sets, lowest to highest."),
        *missing_sets(audits, seeds),
    ]
    head = ["Measure", *map(label, audits)]
    return Table("memorization", "Memorization audit", head, rows, pd.DataFrame(records), notes)


def pooling(sets: Mapping[str, Mapping[str, dict]], more: str = "") -> list[str]:
    """What stands for several sets of a generator; nothing where each has one."""
    if max(map(len, sets.values())) == 1:
        return []
    return [f"Each repeat trained its own generator: mean over their sets (lowest to highest). {more}".strip()]


def missing_sets(sets: Mapping[str, Mapping[str, dict]], seeds: Iterable[int]) -> list[str]:
    notes = []
    for name, found in sets.items():
        missing = [] if ALL in found else [seed for seed in map(str, seeds) if seed not in found]
        notes += [missing_seeds(label(name), ", ".join(missing))] * bool(missing)
    return notes


def _audit_column(audits: list[dict]) -> dict[str, str]:
    def patients(key: str, what: str) -> Iterable[tuple[str, str]]:
        found = [audit[key] for audit in audits]
        yield what, spread([each["count"] for each in found], count, MISSING)
        yield f"{what}: by chance", spread([each["count_by_chance"] for each in found], "{:.1f}".format, MISSING)

    column = {
        "Synthetic slices": sizes([audit["n_synthetic"] for audit in audits]),
        "Training slices (subjects)": _distinct(f"{a['n_train']:,} ({a['n_train_subjects']:,})" for a in audits),
        "Held-out slices (subjects)": _distinct(f"{a['n_null']:,} ({a['n_null_subjects']:,})" for a in audits),
        **dict(patients("copied_patients", "Copied patients")),
        **dict(patients("leaked_patients", "Memorized patients")),
    }
    for what, prefix in (("copied", "copied_"), ("memorized", "")):
        for level, name, chance in (("tau95", "τ95", "5\u00a0%"), ("tau99", "τ99", "1\u00a0%")):
            share = f"{what.capitalize()} share, {name}"
            ends = [end for audit in audits for end in audit[f"{what}_interval"][level] or ()]
            column |= {
                f"{share} (by chance: {chance})": spread(
                    [audit[f"{what}_share"][level] for audit in audits], percent, MISSING
                ),
                f"{share}: interval": reach(ends, percent),
                f"{share}: p": reach([audit[f"{prefix}p_value"][level] for audit in audits], p_value),
            }
    for what, key in (("copied", "honest_share"), ("memorized", "honest_memorized_share")):
        reached = _levels([audit[key] for audit in audits], percent)
        column |= {f"1 in 20 honest sets exceed as {what} share, τ95 / τ99": reached}
    column |= {"Sharpness beside held-out slices": spread([audit["sharpness"] for audit in audits], _two, MISSING)}
    column |= {"Similarity at τ95 / τ99": _levels(audits, "{:.3f}".format)}
    column |= {"Evidence of a copy at τ95 / τ99": _levels([audit["evidence"] for audit in audits], "{:.2f}".format)}
    for fixed in audits[0]["counts_above"]:
        total = sum(audit["counts_above"][fixed] for audit in audits)
        column[f"Slices with correlation above {fixed}"] = f"{total:,}"
    for name, key in (("Data-copying statistic C_T (copies: far below 0)", "c_t"), ("Authenticity", "authenticity")):
        column[name] = spread([audit[key] for audit in audits], _two, MISSING)
    return column


def count(value: float) -> str:
    """Of patients; a mean over repeats has a digit more."""
    return f"{round(value, 1):g}"


def _distinct(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


def reach(values: Iterable[float | None], write: Callable[[float], str]) -> str:
    """'0.02–0.4': lowest and highest, where they differ as they are written."""
    known = sorted(value for value in values if value is not None)
    return "–".join(dict.fromkeys(map(write, known[:1] + known[-1:]))) or MISSING


STRANGERS = {
    "blurred_strangers": ("Held-out slices, strongly blurred", "5 % / 1 %"),
    "held_out": ("Held-out slices", "5 % / 1 %"),
}


def control_table(audits: Audits) -> Table:
    """How often the audit finds planted copies, and how often what is no copy; mean over repeats.

    audits: audit.json of each set of each generator.
    """
    every = [(name, seed, audit["controls"]) for name, sets in audits.items() for seed, audit in sets.items()]
    kinds = dict.fromkeys(kind for *_, controls in every for kind in controls)
    kinds = [*(kind for kind in kinds if kind not in STRANGERS), *(kind for kind in STRANGERS if kind in kinds)]
    rows, records = [], []
    for kind in kinds:
        planted, expected = STRANGERS.get(kind, (f"Copies, {kind}", "100 %"))
        rows.append([Cell(planted), Cell(expected)])
        for sets in audits.values():
            found = [audit["controls"][kind] for audit in sets.values() if kind in audit["controls"]]
            copied, memorized = (
                _levels([control[rule] for control in found], percent, ranges=False) for rule in ("copied", "memorized")
            )
            rows[-1].append(Cell(f"{copied} ({memorized})"))
        for name, seed, controls in every:
            for rule in ("copied", "memorized") if kind in controls else ():
                records.append((name, seed, kind, controls[kind]["n"], rule, *controls[kind][rule].values()))
    numbers = {controls[kind]["n"] for *_, controls in every for kind in controls if kind not in STRANGERS}
    span = f"{min(numbers)} to {max(numbers)}" if len(numbers) > 1 else f"{min(numbers, default=0)}"
    notes = [
        "Counted as copied at τ95 / at τ99 (in brackets: as memorized, which compares slices as they lie). Planted: "
        f"{span} copies of each kind, made of training slices and as smooth as the set; they must be counted, for the "
        "patient whose they are. Held-out real slices, each against the thresholds of the other held-out subjects, "
        "must not; strongly blurred ones come close to every brain, which is no copy."
    ]
    if max(map(len, audits.values())) > 1:
        notes[0] += " Mean over the repeats' audits."
    data = pd.DataFrame(records, columns=["generator", "seed", "control", "n", "rule", "tau95", "tau99"])
    head = ["Planted", "Should be copied", *map(label, audits)]
    return Table("controls", "Controls of the audit", head, rows, data, notes)


def _levels(found: list[dict[str, float | None]], write: Callable[[float], str], *, ranges: bool = True) -> str:
    """'0.912 / 0.944' at τ95 and τ99, over repeats."""
    texts = [spread([values[level] for values in found], write, MISSING) for level in ("tau95", "tau99")]
    texts = texts if ranges else [text.partition(" (")[0] for text in texts]
    return MISSING if set(texts) == {MISSING} else " / ".join(texts)


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


def fidelity_table(fidelity: Fidelities, seeds: Iterable[int] = ()) -> Table:
    """Measures down; the floor, then generators across; repeats are pooled.

    fidelity: fidelity.json of each set of each generator; seeds: of the repeats that were asked for. Where draws differ
    in size, floors differ, and all of them are printed.
    """
    every = [(name, seed, found) for name, sets in fidelity.items() for seed, found in sets.items()]
    rows, records = [], []
    for key, measure in FIDELITY.items():
        pooled = [_over_draws([*sets.values()], "values", key) for sets in fidelity.values()]
        floors = dict.fromkeys(_over_draws([found], "floor", key) for *_, found in every)
        rows.append([Cell(text) for text in (f"{measure.name} {measure.better}", "; ".join(floors), *pooled)])
        records += [
            (
                name,
                seed,
                key,
                *(found[part].get(key) for part in ("values", "values_sd", "floor", "floor_sd")),
                found["reasons"].get(key, ""),
            )
            for name, seed, found in every
        ]
    extractors = {f"{found['extractor']}, {found['features']:,} features" for *_, found in every}
    notes = [
        f"{ARROWS} Held-out real: the floor, the same number for test patients; what reaches it is, to this measure, "
        "as good as real: a set of new patients would beat it about every second time. MS-SSIM above it: samples "
        "resemble each other more than patients do.",
        *_draws(fidelity),
        f"Extractor: {'; '.join(sorted(extractors))}.",
        *pooling(fidelity),
        *_reasons(fidelity),
        *missing_sets(fidelity, seeds),
    ]
    columns = ["generator", "seed", "measure", "value", "value_sd", "floor", "floor_sd", "reason"]
    data = pd.DataFrame(records, columns=columns)
    head = ["Measure", "Held-out real (floor)", *map(label, fidelity)]
    return Table("fidelity", "Fidelity and diversity", head, rows, data, notes)


def _over_draws(found: list[dict], part: str, key: str) -> str:
    """'0.021 ± 0.004 (0.01 to 0.03)': mean over the sets, mean standard deviation over draws, range over the sets."""
    write = FIDELITY[key].write
    text = spread([each[part][key] for each in found], write, MISSING)
    deviations = [each[f"{part}_sd"][key] for each in found if each[f"{part}_sd"].get(key) is not None]
    if not deviations:
        return text
    mean, between, reach = text.partition(" (")
    return f"{mean} ± {write(float(np.mean(deviations)))}{between}{reach}"


def _draws(fidelity: Fidelities) -> Iterable[str]:
    """How many slices of how many people stand behind a number: a sentence for all, or one for each that differs."""
    of_sets: dict[str, dict[str, None]] = {}
    for name, sets in fidelity.items():
        for found in sets.values():
            n, people = found["n"], found["people"]
            text = (
                f"Means over {found['draws']:,} draws of {found['per_draw']:,} slices, each of another person, ±: "
                f"standard deviation over draws; drawn were {n['synthetic']:,} of {people['synthetic']:,} independent "
                f"synthetic slices or volumes, {n['reference']:,} slices of {people['reference']:,} training patients "
                f"and {n['floor']:,} of {people['floor']:,} test patients. Annotations: all these slices together; "
                f"MS-SSIM: pairs of them inside the brain, {counted(found['ms_ssim_scales'], 'scale')}."
            )
            if found["values"]["frechet"] is not None:
                text += (
                    f" Fréchet distance, which needs 10 patients a feature: in the {found['components']} leading "
                    f"principal components of training slices, with {percent(found['explained'])} of their variance."
                )
            of_sets.setdefault(text, {})[label(name)] = None
    for text, names in of_sets.items():
        yield text if len(of_sets) == 1 else f"{', '.join(names)}: {text}"


def _reasons(fidelity: Fidelities) -> Iterable[str]:
    """Why numbers are missing: one sentence per reason and measure."""
    names: dict[tuple[str, str], list[str]] = {}
    for name, sets in fidelity.items():
        seeds: dict[tuple[str, str], list[str]] = {}
        for seed, found in sets.items():
            for key, reason in found["reasons"].items():
                seeds.setdefault((FIDELITY[key].name, reason), []).append(seed)
        for what, of_seeds in seeds.items():
            some = f" (seed {', '.join(of_seeds)})" if len(of_seeds) < len(sets) else ""
            names.setdefault(what, []).append(f"{label(name)}{some}")
    for (measure, reason), generators in names.items():
        yield f"{measure}: {MISSING} for {', '.join(generators)}: {reason}."


def mean_values(sets: Mapping[str, dict]) -> dict[str, float | None]:
    """A generator's fidelity numbers, mean over those of its sets that have them; None where none has."""
    known = {
        key: [found["values"][key] for found in sets.values() if found["values"].get(key) is not None]
        for key in next(iter(sets.values()))["values"]
    }
    return {key: float(np.mean(values)) if values else None for key, values in known.items()}


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
