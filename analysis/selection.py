"""Which slices of a synthetic set are left out before it leaves: those that count as copies, and those nearest to
patients whom an attack on membership singles out.

A filter takes out what its own audit and attacks see, of training patients and never of held-out ones, so both speak
too well of what is left: even where nothing leaks, an attack may come out below a coin. So the share that had to be
taken out, and the attacks on the whole set, are judged beside it (`limits`).
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.attacks_statistics import allowed

COPIED, NEAREST = "counted as copied at τ99", "nearest to a patient at risk"
MEMBERSHIP = ("distance", "ratio")  # attacks that ask how close a set comes to a patient


def at_risk(people: pd.DataFrame) -> list[str]:
    """Patients who were trained on and whom an attack on membership scores above all held-out patients but 1 %.

    people: a row each with `patient`, `member` and a score per attack, as in patients.csv. By chance they are the share
    `attacks_statistics.by_chance` of all.
    """
    singled = np.zeros(len(people), bool)
    for name in MEMBERSHIP:
        if name in people:
            held_out = np.sort(people.loc[~people["member"], name].to_numpy())[::-1]
            singled |= people["member"].to_numpy() & (people[name].to_numpy() > held_out[allowed(len(held_out))])
    return people.loc[singled, "patient"].tolist()


def left_out(slices: pd.DataFrame, audit: Mapping, people: pd.DataFrame, keep: str) -> np.ndarray:
    """Why each slice is left out, or "" where it stays: text [N].

    slices, audit: nearest.csv and audit.json of the set; people: as in `at_risk`. keep: "all"; "uncopied" leaves out
    slices whose evidence of being a copy exceeds τ99; "safe" also, of each patient at risk, the slice most similar to
    them and all that point at them above τ95, by evidence or by similarity. Raises ValueError for another word.
    """
    if keep not in ("safe", "uncopied", "all"):
        raise ValueError(f"unknown rule '{keep}'; known: safe, uncopied, all")
    reasons = np.full(len(slices), "", dtype=object)
    if keep == "all":
        return reasons
    if keep == "safe":
        for patient in at_risk(people):
            nearest = slices["training_subject"].eq(patient)
            close = nearest & (slices["similarity"] > audit["tau95"])
            if "evidence" in slices:
                close |= slices["copied_subject"].eq(patient) & (slices["evidence"] > audit["evidence"]["tau95"])
            reasons[close.to_numpy()] = NEAREST
            if nearest.any():
                reasons[slices.loc[nearest, "similarity"].idxmax()] = NEAREST
    if "evidence" in slices:
        reasons[(slices["evidence"] > audit["evidence"]["tau99"]).to_numpy()] = COPIED
    return reasons
