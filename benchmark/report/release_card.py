"""The card for whoever has to sign: one page, as HTML and as PDF, on whether a synthetic set may leave the house.

Both are drawn from one `Card`, so they cannot disagree. Nobody is named: see `worst_patient`.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from analysis.arms import label
from analysis.limits import Verdict
from analysis.release_risk import (
    ATTACKED,
    READING,
    SIGN,
    SOURCES,
    Card,
    Row,
    attack_row,
    copies_row,
    decision_row,
    images_row,
    not_tried_row,
    unsettled,
    use_row,
    weights_row,
    worst_kept_row,
    worst_row,
)
from analysis.statistics import counted
from analysis.tables import sizes
from benchmark.files import write_atomically
from benchmark.report.card_pdf import card_pdf
from benchmark.report.page import CohortFacts, template

PSEUDONYM = "Patient 1"  # the first by risk: a rank is made of no name, so it leads back to none
LEAST_SIDE = 160  # pixels of a pictured slice, at least


@dataclass(frozen=True)
class WorstPatient:
    """The training patient at highest risk, by a pseudonym.

    copies: slices of the set that count as copies of them (τ99), of so many `slices`; above: of so many `outsiders`,
    slices of people nobody trained on, those that stand out as clearly as the slice that points at the patient most;
    risk: the share of them that do not, 0..1. pair: uint8 [2, 4, H, W], the synthetic slice and the real one that it
    resembles, or None where these may not be shown, nor any number of theirs.
    """

    pseudonym: str
    copies: int
    slices: int
    above: int
    outsiders: int
    pair: np.ndarray | None = None

    @property
    def risk(self) -> float:
        return 1 - self.above / self.outsiders


@dataclass(frozen=True)
class CardInputs:
    """Everything that a card says.

    name: of the generator or sent set. audits, attacks: the content of audit.json and attack.json, one a repeat; of
    several the worst decides. worst: None where there is no patient to name (`worst_patient`). ratios: rows of
    `analysis.statistics.ratios` about this set; may be empty. removed: slices left out, by reason; None where nothing
    was filtered. limits: `analysis.limits` applied to images and to weights; may be empty.
    forced: made although a limit is not kept. weights: whether the weights are in the package, too; None where there is
    no package. sent: whether somebody sent the set, so that nobody knows whom its generator learned from.
    demonstration: whether trainings were too short to show anything.
    """

    name: str
    cohort: CohortFacts
    audits: Sequence[Mapping[str, Any]]
    attacks: Sequence[Mapping[str, Any]]
    worst: WorstPatient | None = None
    ratios: pd.DataFrame = field(default_factory=pd.DataFrame)
    removed: Mapping[str, int] | None = None
    limits: Sequence[Verdict] = ()
    forced: bool = False
    weights: bool | None = None
    sent: bool = False
    demonstration: bool = False


def build_release_card(folder: Path, inputs: CardInputs, stem: str = "card") -> list[Path]:
    """Writes folder/card.html (self-contained) and folder/card.pdf (one A4 page), or under another stem; returns both.

    The same inputs make the same bytes: no date, no host, no name of a patient.
    """
    folder.mkdir(parents=True, exist_ok=True)
    card, pictures = release_card(inputs), _pictures(inputs.worst)
    page = template("release_card.html.j2").render(
        card=card,
        pictures=[(caption, _data_uri(png)) for caption, png in pictures],
        reading=READING,
        sign=SIGN,
        sources=SOURCES,
    )
    written = [folder / f"{stem}.html", folder / f"{stem}.pdf"]
    write_atomically(written[0], page)
    write_atomically(written[1], card_pdf(card, pictures))
    return written


def release_card(inputs: CardInputs) -> Card:
    """The card's words and numbers."""
    about = {what: [each for each in inputs.limits if each.about == what] for what in ("images", "weights")}
    weights = weights_row([] if inputs.sent else about["weights"], inputs.attacks, inputs.weights)
    risks = [attack_row(title, inputs.attacks) for title in ATTACKED]
    worst, copies = _worst_row(inputs.worst), copies_row(inputs.audits, inputs.removed)
    if inputs.sent:
        risks, copies = [unsettled(row) for row in risks], unsettled(copies)
        worst = [unsettled(row) if row.status == "good" else row for row in worst]
    rows = [images_row(about["images"]), weights, *risks]
    rows += [*worst, copies, use_row(inputs.ratios)]
    rows += [not_tried_row(weights=weights.scale is not None), decision_row()]
    return Card(f"May it leave the house? {label(inputs.name)}", _lead(inputs), _banners(inputs), rows)


def _lead(inputs: CardInputs) -> str:
    """Whose images are compared with whose: insiders and outsiders are what the rows call them."""
    cohort, made = inputs.cohort, "Synthetic slices"
    if inputs.audits:
        made = f"{sizes([audit['n_synthetic'] for audit in inputs.audits])} synthetic slices"
    patients = max((audit["n_train_subjects"] for audit in inputs.audits), default=cohort.subjects["train"])
    insiders, others = counted(patients, "patient"), cohort.subjects["test"]
    if inputs.sent:
        return (
            f"{made} that were sent, compared with {insiders} of {cohort.name}, here the insiders; whether their "
            f"generator learned from them is not known. The outsiders are {counted(others, 'test patient')}."
        )
    return (
        f"{made}, whose generator learned from {insiders} of {cohort.name}, the insiders. They are compared with "
        f"{counted(others, 'patient')} whom it never saw, the outsiders."
    )


def _banners(inputs: CardInputs) -> list[str]:
    banners = []
    if inputs.forced:
        banners += ["Forced: this was made although it does not keep its limits."]
    if inputs.demonstration:
        banners += [
            "Demonstration: training was cut to a small part of what it needs. No number here says what is good."
        ]
    if inputs.cohort.simulated and inputs.sent:
        banners += [
            "Compared with a simulated phantom cohort alone, whose “patients” were computed, and with no people."
        ]
    elif inputs.cohort.simulated:
        banners += ["Simulated phantom cohort: its “patients” were computed. Nothing here speaks of people."]
    return banners


def _worst_row(worst: WorstPatient | None) -> list[Row]:
    if worst is None:
        return []
    if worst.pair is None:
        return [worst_kept_row(stands_out=worst.copies > 0)]
    counts = worst.copies, worst.slices, worst.above, worst.outsiders
    return [worst_row(worst.pseudonym, *counts)]


def worst_patient(audits: Sequence[Path], *, pictured: bool) -> WorstPatient | None:
    """The patient at highest risk, by the folders of the stage audit, one a repeat; None where all training slices are
    one patient's, so that nobody can stand out among them.

    It is the one to whom the slice with most evidence of being a copy points. Their pseudonym is their rank, which is
    computed from no name: a hash, salted or not, could be tried out with a list of patients. Whoever has the audit's
    nearest.csv finds them there. pictured: whether they may be shown.
    """
    found = None
    for audit in audits:
        tau = json.loads((audit / "audit.json").read_text())["evidence"]["tau99"]
        if tau is None:
            continue
        slices, null = (pd.read_csv(audit / f"{name}.csv") for name in ("nearest", "null"))
        clearest = slices.loc[slices["evidence"].idxmax()]
        own = slices[slices["copied_subject"] == clearest["copied_subject"]]
        this = WorstPatient(
            PSEUDONYM,
            copies=int((own["evidence"] > tau).sum()),
            slices=len(slices),
            above=int((null["evidence"] >= clearest["evidence"]).sum()),
            outsiders=len(null),
            pair=_pair(audit, clearest["row"]) if pictured else None,
        )
        if found is None or (this.risk, this.copies) > (found.risk, found.copies):
            found = this
    return found


# --- pictures -------------------------------------------------------------------------------------------------------


def _pictures(worst: WorstPatient | None) -> list[tuple[str, bytes]]:
    """Caption and PNG: the synthetic slice and the real one."""
    if worst is None or worst.pair is None:
        return []
    captions = ("Synthetic: T1, T1ce, T2, FLAIR", f"{worst.pseudonym}, real")
    return [(caption, _png(images)) for caption, images in zip(captions, worst.pair, strict=True)]


def _pair(audit: Path, row: int) -> np.ndarray:
    """A synthetic slice and the real one that it resembles, uint8 [2, 4, H, W]."""
    with np.load(audit / "pairs.npz", allow_pickle=False) as stored:
        return stored["images"][list(stored["row"]).index(row)]


def _png(images: np.ndarray) -> bytes:
    """Modalities [4, H, W] side by side, enlarged by whole pixels."""
    sheet = np.concatenate(list(images), axis=1)
    scale = -(-LEAST_SIDE // images.shape[-1])
    buffer = io.BytesIO()
    Image.fromarray(sheet.repeat(scale, 0).repeat(scale, 1)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
