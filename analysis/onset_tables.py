"""Onsets of copying as tables and in words."""

import numpy as np
import pandas as pd

from analysis.arms import label
from analysis.attacks_statistics import auc_interval
from analysis.onset import ALPHA, FEWEST_PATIENTS, Slope, half_by
from analysis.statistics import counted
from analysis.tables import Cell, Table, number, percent, spread

GROUP = ["model", "subjects"]
END = {  # of the last snapshot, by test patients
    "test_copied_share": ("Copied", percent),
    "test_memorized_share": ("Memorized", percent),
    "test_membership_auc": ("Membership AUC", lambda value: number(value, ".2f")),
    "test_kernel_distance": ("Kernel distance", lambda value: number(value, ".3f")),
    "test_dice": ("Dice", lambda value: number(value, ".3f")),
}


def onset_table(snapshots: pd.DataFrame, onsets: pd.DataFrame) -> Table:
    """A row per model and number of patients; snapshots and onsets: as `analysis.onset` has them."""
    last = snapshots.loc[snapshots.groupby([*GROUP, "seed"])["seen"].idxmax()]
    shown = {column: found for column, found in END.items() if column in last and last[column].notna().any()}
    rows = []
    for (model, subjects), trainings in onsets.groupby(GROUP):
        ends = last[(last["model"] == model) & (last["subjects"] == subjects)]
        measured = [
            spread([None if np.isnan(value) else value for value in ends[column]], write, "–")
            for column, (_, write) in shown.items()
        ]
        cells = [label(model), str(subjects), f"{len(trainings)}", _copies_from(trainings)]
        rows.append([Cell(text) for text in (*cells, *measured)])
    columns = ["Generator", "Patients", "Trainings", "Copies from [images seen]"]
    columns += [f"{title} at the end" for title, _ in shown.values()]
    notes = [
        f"Copies from: the first snapshot whose copied share exceeds the {percent(0.05)} that chance gives (one-sided "
        f"exact test, {percent(ALPHA)} over all snapshots of a training); >: not by the last; ≤: the very first. Of "
        "several trainings the snapshot by which half of them copy (and each). Measured by test patients, who chose "
        "nothing; copied: closer to one training patient than 95 % of test patients' slices are to any, and to that "
        "one alone. At the end, several trainings: mean (range)."
    ]
    return Table("memorization_onset", "When each generator begins to copy", columns, rows, onsets, notes)


def _copies_from(trainings: pd.DataFrame) -> str:
    each = [_images(*half_by(trainings.iloc[[i]])) for i in range(len(trainings))]
    median = _images(*half_by(trainings))
    return median if set(each) == {median} else f"{median} ({'; '.join(each)})"


def _images(images: float, when: str) -> str:
    return "not known" if when == "unknown" else {"by": "≤ ", "after": "> "}.get(when, "") + f"{images:,.0f}"


def stopping_table(stopped: pd.DataFrame) -> Table:
    """What is released without and with stopping where copying begins; stopped: as `analysis.onset.stopping`."""
    writers = {"images": lambda value: f"{value:,.0f}", "copied_share": percent, "dice": lambda v: number(v, ".3f")}
    rows = []
    for (model, subjects), trainings in stopped.groupby(GROUP):
        cells = [label(model), str(subjects)]
        for suffix in ("", "_stopped"):
            for name, write in writers.items():
                values = [None if np.isnan(value) else float(value) for value in trainings[name + suffix]]
                cells.append(spread(values, write, "none kept" if name == "images" else "–"))
        rows.append([Cell(text) for text in cells])
    names = ("Images seen", "Copied", "Dice")
    columns = ["Generator", "Patients", *names, *(f"{name}, stopped" for name in names)]
    notes = [
        "The snapshot that is released, the best by the judge's Dice on validation patients: of the whole training, "
        "and of what comes before the first snapshot that copies more than chance gives, by validation patients, too "
        "(train_generator.stop_when_copied). Copied share, and Dice of a U-Net briefly trained on its samples, are by "
        "test patients. None kept: the first snapshot copied already."
    ]
    return Table("memorization_stopping", "What early stopping changes", columns, rows, stopped, notes)


def in_words(
    snapshots: pd.DataFrame, onsets: pd.DataFrame, slopes: dict[str, Slope], stopped: pd.DataFrame, test_patients: int
) -> list[str]:
    """Sentences on what was found, a paragraph per model, and one on stopping."""
    if test_patients < FEWEST_PATIENTS:
        return [
            f"When a generator begins to copy is not known: there are {counted(test_patients, 'test patient')}, and "
            f"the null needs {FEWEST_PATIENTS}."
        ]
    found = [
        _of_model(model, group, slopes[model]) + _of_membership(snapshots[snapshots["model"] == model], test_patients)
        for model, group in onsets.groupby("model")
    ]
    return [*found, _of_stopping(stopped)]


def _of_model(model: str, onsets: pd.DataFrame, slope: Slope) -> str:
    n, copied = len(onsets), onsets[onsets["when"] != "after"]
    budget = f"{onsets['last'].max():,} images seen"
    if copied.empty:
        return f"{label(model)}: none of {counted(n, 'training')} copied more than chance gives within {budget}."
    sizes = ", ".join(f"{_images(*half_by(group))} on {subjects}" for subjects, group in onsets.groupby("subjects"))
    text = (
        f"{label(model)}: {len(copied)} of {counted(n, 'training')} copied more than chance gives within {budget} "
        f"(images seen until half of them do, by number of patients: {sizes})."
    )
    if slope.value is None:
        return f"{text} How the onset grows with patients is not known: {slope.unknown}."
    by = f"With patients the onset grows to the power {number(slope.value, '.2f')}"
    behind = f"{counted(slope.trainings, 'training')}, {slope.censored or 'none'} of them censored"
    if slope.low is None:
        return f"{text} {by} ({behind}); {slope.unknown}."
    interval = f"95 % interval {number(slope.low, '.2f')} to {number(slope.high, '.2f')}"
    agrees = "holds" if slope.low <= 1 <= slope.high else "does not hold"
    theory = f"an interval that {agrees} the 1 of theory" if model == "diffusion" else "theory says 1 of diffusion"
    return f"{text} {by} ({interval}, {behind}): {theory}."


def _of_membership(snapshots: pd.DataFrame, test_patients: int) -> str:
    """Of the attack on the last snapshots of a model; "" where it was not measured."""
    last = snapshots.loc[snapshots.groupby([*GROUP, "seed"])["seen"].idxmax()]
    if "test_membership_auc" not in last or last["test_membership_auc"].isna().all():
        return ""
    found = []
    for subjects, value in last.groupby("subjects")["test_membership_auc"].mean().dropna().items():
        low, high = (number(bound, ".2f") for bound in auc_interval(value, subjects, test_patients))
        found.append(f"{number(value, '.2f')} ({low} to {high}) on {subjects}")
    return (
        f" At the end an attack by samples alone tells who was trained on from test patients with an AUC of "
        f"{', '.join(found)} (95 % intervals over patients; guessing gives 0.5)."
    )


def _of_stopping(stopped: pd.DataFrame) -> str:
    both = stopped.dropna(subset=["images_stopped"])
    lost = len(stopped) - len(both)
    text = f"Stopping where copying begins keeps nothing in {lost} of {counted(len(stopped), 'training')}"
    if both.empty:
        return f"{text}."
    means = both.mean(numeric_only=True)
    return (
        f"{text}; in the others the released snapshot copies {percent(means['copied_share_stopped'])} instead of "
        f"{percent(means['copied_share'])}, with a Dice of {number(means['dice_stopped'], '.3f')} instead of "
        f"{number(means['dice'], '.3f')}."
    )
