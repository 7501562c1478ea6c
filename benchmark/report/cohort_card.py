"""The cohort card: one page on which a person sees what `prepare` read, before anybody trusts a table made of it."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import cohort_figures, tables
from analysis.outliers import LIMIT, RARE, turned, unusual_histograms, unusual_volumes
from analysis.statistics import counted
from benchmark.data.slices import SPLITS, SliceSet
from benchmark.files import write_atomically
from benchmark.report.intensities import as_used, own_ranges
from benchmark.report.mosaic import mosaic
from benchmark.report.page import Picture, picture, template

CARD = "cohort.html"
LISTED = 500  # lines of a folded list; rejected.csv has them all
CLASSES = ("NCR", "ED", "ET")
NAMED = 5  # subjects in a sentence
DRAWN = 3  # unusual subjects of a modality that are drawn in colour, pairs that are shown side by side


@dataclass(frozen=True)
class Reason:
    """Why subjects were set aside: the words of the first of them, and all (subject, file, reason)."""

    text: str
    alike: bool  # whether all have these very words
    rows: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Unusual:
    """Subjects unlike the others: in their volumes (a table), in a modality's intensities, in how they lie."""

    volumes: pd.DataFrame
    intensities: dict[str, list[str]]
    turned: list[str]
    empty: list[str]  # no tumour at all


def write_card(prepared: Path, warnings: Sequence[str]) -> Path:
    """Writes cohort.html (self-contained: no script, nothing fetched) beside a prepared cohort's SliceSet.

    prepared: holds the SliceSet, cohort.json and rejected.csv. warnings: what reading the cohort had to say.
    """
    slices = SliceSet.open(prepared)
    cohort = json.loads((prepared / "cohort.json").read_text(encoding="utf-8"))
    read = pd.DataFrame(cohort["subjects"])
    names = read["subject"].tolist()
    reasons = _reasons(prepared / "rejected.csv")
    volumes = pd.DataFrame(list(read["class_ml"]), index=names, columns=list(CLASSES)).fillna(0.0)
    before, (after, pictures) = own_ranges(cohort["subjects"]), as_used(slices, names)
    unusual = _unusual(volumes, after, pictures)

    page = template("cohort.html.j2").render(
        name=slices.meta["cohort"],
        simulated=slices.meta["simulated"],
        headline=_headline(read, reasons),
        warnings=_warnings(cohort, reasons, unusual, warnings),
        facts=_facts(cohort, read, slices),
        labels=cohort["labels"],
        said=warnings,
        values=_label_values(cohort),
        splits=_splits(slices, read),
        reasons=reasons,
        together={patient: scans for patient, scans in cohort["groups"].items() if len(scans) > 1},
        listed=LISTED,
        tiles=mosaic(slices, _remarks(unusual, cohort["similar"])),
        colours=cohort_figures.CLASS_COLOURS,
        volumes=_volume_picture(volumes, unusual.volumes),
        unusual=_volume_table(unusual.volumes),
        intensities=_intensity_picture(names, before, after, unusual.intensities),
    )
    write_atomically(prepared / CARD, page)
    return prepared / CARD


# --- in words --------------------------------------------------------------------------------------------------------


def _headline(read: pd.DataFrame, reasons: list[Reason]) -> str:
    aside = len({row[0] for reason in reasons for row in reason.rows})
    patients = read["patient"].nunique()
    return f"{counted(len(read), 'subject')} of {counted(patients, 'patient')} read, {aside:,} set aside"


def _warnings(cohort: dict, reasons: list[Reason], unusual: Unusual, said: Sequence[str]) -> list[str]:
    """What a reader has to see first: what concerns all subjects, then what concerns some."""
    subjects = len(cohort["subjects"])
    found, of_subjects = _folded(said, {subject["subject"] for subject in cohort["subjects"]})
    for reason in reasons:
        found += [f"Set aside: {_named([row[0] for row in reason.rows])}: {reason.text}"]
    if unusual.empty:
        found += [f"No tumour at all, in {len(unusual.empty):,} of {subjects:,} subjects: {_named(unusual.empty)}"]
    if unusual.turned:
        found += [f"Fits the other subjects better turned or upside down: {_named(unusual.turned)}"]
    for modality, names in unusual.intensities.items():
        found += [f"{modality} has other intensities than in the other subjects: {_named(names)}"]
    volumes = unusual.volumes[~unusual.volumes["subject"].isin(unusual.empty)]
    for (name, why), rows in volumes.groupby(["class", "why"], sort=False):
        than = "" if why == "absent" else " than usual"
        found += [f"{name} {why}{than} in {len(rows):,} of {subjects:,} subjects: {_named(rows['subject'].tolist())}"]
    found += of_subjects
    if several := [patient for patient, scans in cohort["groups"].items() if len(scans) > 1]:
        found += [f"Scanned several times, all scans in one split: {_named(several)}"]
    return found


def _folded(warnings: Sequence[str], names: set[str]) -> tuple[list[str], list[str]]:
    """Warnings about the whole cohort; and those about a subject ("NAME: …"), of each kind one line."""
    general, kinds = [], {}
    for warning in warnings:
        name, _, text = warning.partition(": ")
        if name in names:
            kinds.setdefault(_kind(text), []).append((name, text))
        else:
            general.append(warning[:1].upper() + warning[1:])
    of_subjects = []
    for rows in kinds.values():
        first = "" if len({text for _, text in rows}) == 1 else " (of the first; the others alike)"
        of_subjects.append(f"{_named([name for name, _ in rows])}: {rows[0][1]}{first}")
    return general, of_subjects


def _kind(text: str) -> str:
    """The same for texts that differ in their numbers alone."""
    return re.sub(r"\d[\d.,]*", "#", text)


def _named(names: Sequence[str]) -> str:
    """'a, b and 7 others'."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {counted(more, 'other')}" if more > 0 else "")


def _facts(cohort: dict, read: pd.DataFrame, slices: SliceSet) -> dict[str, str]:
    """What was detected, by name."""
    size = slices.images.shape[-1]
    return {
        "layout": cohort["layout"],
        "orientation as stored": _tally(read["orientation"]),
        "voxel size [mm]": _tally(read["voxel_mm"].map(_by)),
        "voxels": _tally(read["shape"].map(_by)),
        "slices as used": f"{size} × {size} pixels",
    }


def _by(lengths: Sequence[float]) -> str:
    return " × ".join(f"{length:.3g}" for length in lengths)


def _tally(values: pd.Series) -> str:
    """'LPS', or 'LPS (60), RAS (4)' where there are several; a few of many."""
    counts = values.value_counts()
    if len(counts) == 1:
        return counts.index[0]
    shown = ", ".join(f"{value} ({count:,})" for value, count in counts.head(NAMED).items())
    return shown + (f" and {counts.size - NAMED:,} more" if counts.size > NAMED else "")


def _label_values(cohort: dict) -> list[tuple[str, str, int, int]]:
    """(value, class, subjects that have it, voxels) of every value of the convention and of every value found."""
    subjects, voxels = Counter(), Counter()
    for subject in cohort["subjects"]:
        found = {value: count for value, count in subject["label_values"].items() if count}
        subjects.update(found.keys())
        voxels.update(found)
    classes = cohort["labels"]["classes"]
    values = sorted({*classes, *voxels} - {"0"}, key=float)
    return [(value, classes.get(value, "background"), subjects[value], voxels[value]) for value in values]


def _splits(slices: SliceSet, read: pd.DataFrame) -> list[tuple[str, int, int, int]]:
    """(split, subjects, patients, slices)."""
    patient = dict(zip(read["subject"], read["patient"], strict=True))
    rows = []
    for split, index in slices.index.groupby("split"):
        names = index["subject"].unique()
        rows.append((split, len(names), len({patient[name] for name in names}), len(index)))
    return sorted(rows, key=lambda row: SPLITS.index(row[0]))


def _reasons(path: Path) -> list[Reason]:
    """Subjects that were set aside, by kind of reason, the commonest first: reasons that differ in numbers are one."""
    rejected = pd.read_csv(path, dtype=str, keep_default_na=False)
    kinds: dict[str, list[tuple[str, str, str]]] = {}
    for row in rejected[["subject", "file", "reason"]].itertuples(index=False, name=None):
        kinds.setdefault(_kind(row[2]), []).append(row)
    found = [Reason(rows[0][2], len({row[2] for row in rows}) == 1, rows) for rows in kinds.values()]
    return sorted(found, key=lambda reason: -len(reason.rows))


# --- unlike the others -----------------------------------------------------------------------------------------------


def _unusual(volumes: pd.DataFrame, after: dict[str, np.ndarray], pictures: np.ndarray) -> Unusual:
    names = volumes.index
    far = {}
    for modality, shares in after.items():
        known = np.flatnonzero(np.isfinite(shares).all(axis=1))
        if len(rows := known[unusual_histograms(shares[known])]):
            far[modality] = names[rows].tolist()
    empty = names[(volumes == 0).all(axis=1)].tolist()
    return Unusual(unusual_volumes(volumes), far, names[turned(pictures)].tolist(), empty)


def _remarks(unusual: Unusual, similar: list[tuple[str, str, float]]) -> dict[str, str]:
    """What is unusual about a subject, in a few words, the gravest first; pairs that look alike stand side by side."""
    remarks: dict[str, list[str]] = {name: ["no tumour"] for name in unusual.empty}
    for name in unusual.turned:
        remarks.setdefault(name, []).append("turned?")
    for first, second, _ in similar[:DRAWN]:
        remarks.setdefault(first, []).append(f"like {second}?")
        remarks.setdefault(second, []).append(f"like {first}?")
    odd: dict[str, list[str]] = {}
    for modality, names in unusual.intensities.items():
        for name in names:
            odd.setdefault(name, []).append(modality)
    for name, modalities in odd.items():
        remarks.setdefault(name, []).append(f"intensities of {', '.join(modalities)}")
    for name, class_, why in unusual.volumes[["subject", "class", "why"]].itertuples(index=False):
        if name not in unusual.empty:
            remarks.setdefault(name, []).append(f"{class_} {why}")
    return {name: ", ".join(words) for name, words in remarks.items()}


# --- figures ---------------------------------------------------------------------------------------------------------


def _volume_picture(volumes: pd.DataFrame, unusual: pd.DataFrame) -> Picture:
    caption = (
        f"Volume of each class in {counted(len(volumes), 'subject')}, one dot each. Ringed: unlike the others "
        f"(modified z of the log volume beyond {LIMIT}, or a class absent that at most {RARE:.0%} of subjects lack)."
    )
    return picture(cohort_figures.volume_strips(volumes, unusual), "volumes", "volumes", caption)[0]


def _volume_table(unusual: pd.DataFrame) -> tables.Table | None:
    if unusual.empty:
        return None
    printed = unusual[["subject", "class", "why", "ml", "usual_ml", "z"]]
    printed = printed.rename(columns={"ml": "volume [mL]", "usual_ml": "median [mL]", "z": "modified z"})
    title = f"{counted(unusual['subject'].nunique(), 'subject')} with a volume unlike the others"
    notes = [f"The first {LISTED:,} of {len(unusual):,}."] if len(unusual) > LISTED else []
    return tables.plain_table("volumes", title, printed.head(LISTED), notes)


def _intensity_picture(
    names: list[str], before: dict[str, np.ndarray], after: dict[str, np.ndarray], far: dict[str, list[str]]
) -> Picture:
    caption = (
        "Intensities of each subject (in large cohorts, of evenly spaced ones), faint, and their median, bold. Left: "
        "as stored, over the subject's own range, background left out. Right: 8-bit values above 0, as models see. "
        f"A subject whose curve clearly lies away from the others is orange and named (at most {DRAWN} of a modality)."
    )
    named = {modality: [(names.index(name), name) for name in found[:DRAWN]] for modality, found in far.items()}
    return picture(cohort_figures.intensity_lines(before, after, named), "intensities", "intensities", caption)[0]
