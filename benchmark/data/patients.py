"""Whose scans a cohort's subjects are: from the names that collections give, from a table, and a hint from the anatomy.

A subject is one scan. Where a person was scanned several times, all those scans are one patient, and only patients are
independent: they, not scans, are put into splits, held out, counted and resampled.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from benchmark.data.anatomy import likeness
from benchmark.data.cohorts import Cohort

# Identifiers of public collections mean one person wherever they stand in a path; what follows says which scan.
_COLLECTIONS = (
    r"BraTS(?:-[A-Z]+)+-\d{4,5}(?!\d)",  # BraTS 2023 on: BraTS-GLI-00001-100, BraTS-MEN-RT-0100-1
    r"UPENN-GBM-\d{5}(?!\d)",  # UPENN-GBM-00001_11 before surgery, _21 after
    r"UCSF-PDGM-\d{3,4}(?!\d)",  # UCSF-PDGM-0004_FU003d_nifti: a follow-up
    r"UCSD-PTGBM-\d{4}(?!\d)",  # UCSD-PTGBM-0002_01
    r"RHUH-\d{4}(?!\d)",  # RHUH-0001_2
    r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?![A-Z0-9])",  # TCGA-02-0003_1997.06.08
)
_WITHIN_FOLDER = (  # identifiers that mean one person within their folder
    r".*?\bsub-[A-Z0-9]+(?=[_/]ses-[A-Z0-9])",  # BIDS: sub-01_ses-02, sub-01/ses-02/anat
    r".*?\bPatient-?\d+(?=[_/-]week-?\d)",  # LUMIERE: Patient-001/week-000-1
)
_SCHEMES = [
    *(re.compile(rf"(?:.*/)?({identifier})", re.IGNORECASE) for identifier in _COLLECTIONS),
    *(re.compile(rf"({identifier})", re.IGNORECASE) for identifier in _WITHIN_FOLDER),
]
# In other names a word must say that what follows is a time: 0003_Timepoint_1, P07_tp2, P07/baseline/images.
_TIME = re.compile(
    r"[_/-](?:(?:ses|session|time|time-?point|tp|visit|follow-?up)[-_]?\d+|baseline|follow-?up|pre-?op|post-?op)(?=$|[_/-])",
    re.IGNORECASE,
)

SHOWN = 10  # groups or pairs in a message
# Likeness above which two scans are taken for one person's. Calibrated by tests/bench/bench_patients.py on the phantom,
# 400 people scanned twice: the second scan with another growth of the tumour, contrast, coil, noise and skull
# stripping, turned by 1.5° and moved by 1 mm (standard deviations, about each axis). Found were 94 % of the pairs
# where people differ in pose and size, too, and 98 % where only in shape, as on an atlas; of 319,200 pairs of different
# people none was taken for one (one, where half of the people lay this way and half that). With another tumour in
# another place instead, 27 and 47 % are found; in cohorts of 8–16 scans, 46–90 % of the pairs as
# above. On patients nothing was measured.
ALIKE = 0.57
ALIKE_LEAST, DEVIATIONS, ENOUGH = 0.5, 5.5, 20


def named_patient(subject: str) -> str:
    """The patient's part of a subject's name; the whole name where no known scheme says that it has another part."""
    if identifier := next((match[1] for scheme in _SCHEMES if (match := scheme.match(subject))), None):
        return identifier
    time = _TIME.search(subject)
    # Without a number, what stands before the time may be a hospital or a study.
    return subject[: time.start()] if time and re.search(r"\d", subject[: time.start()]) else subject


def patients_of(subjects: Iterable[str], declared: Mapping[str, str] | None = None) -> dict[str, str]:
    """The patient of every subject: as declared, else by the names, in upper or lower case alike.

    By name, a person with a single scan is called as the subject is: a cohort without second scans stays as it was.
    """
    declared = declared or {}
    spelled: dict[str, str] = {}  # as the patient's first scan has it
    patients = ((subject, named_patient(subject)) for subject in subjects)
    named = {subject: spelled.setdefault(patient.casefold(), patient) for subject, patient in patients}
    scans = Counter(named.values())
    return {
        subject: declared.get(subject) or (patient if scans[patient] > 1 else subject)
        for subject, patient in named.items()
    }


def with_patients(cohort: Cohort, declared: Mapping[str, str]) -> Cohort:
    """The cohort, its subjects with their patients. Scans that are set aside count: whose the others are does not hang
    on whether all can be read."""
    told = {subject.name: subject.patient for subject in cohort.subjects if subject.patient} | dict(declared)
    names = [*(subject.name for subject in cohort.subjects), *(rejection.subject for rejection in cohort.rejections)]
    patients = patients_of(names, told)
    return replace(cohort, subjects=[replace(subject, patient=patients[subject.name]) for subject in cohort.subjects])


def grouped(patients: Mapping[str, str]) -> dict[str, list[str]]:
    """{patient: subjects}."""
    groups: dict[str, list[str]] = {}
    for subject, patient in patients.items():
        groups.setdefault(patient, []).append(subject)
    return groups


def grouping(patients: Mapping[str, str], source: str) -> str | None:
    """What was grouped, and by which `source`, for people; None where every subject is somebody else."""
    groups = grouped(patients)
    several = [f"{patient} ({len(scans)} scans)" for patient, scans in groups.items() if len(scans) > 1]
    if not several:
        return None
    more = f" and {len(several) - SHOWN} more" if len(several) > SHOWN else ""
    return (
        f"{len(patients)} subjects are scans of {len(groups)} patients, grouped by {source}: "
        f"{', '.join(several[:SHOWN])}{more}"
    )


def look_alikes(thumbnails: Mapping[str, np.ndarray], patients: Mapping[str, str]) -> list[tuple[str, str, float]]:
    """Pairs of subjects that count as two patients and look like one, with their likeness, the most alike first.

    thumbnails: of each subject, from `anatomy.thumbnail`. A pair is told from others by a likeness above 0.57, in
    cohorts of 20 subjects or more above 0.5 and 5.5 (robust) standard deviations of all the cohort's pairs: where many
    people look alike, as people from one scanner do beside those from another, more is asked for.
    """
    if len(thumbnails) < 2:
        return []
    names, alike = list(thumbnails), likeness(list(thumbnails.values()))
    first, second = np.triu_indices(len(names), 1)
    alike = alike[first, second]
    limit = ALIKE
    if len(names) >= ENOUGH:
        low, middle, high = np.quantile(np.arctanh(np.clip(alike, -0.999, 0.999)), [0.25, 0.5, 0.75])
        limit = max(ALIKE_LEAST, float(np.tanh(middle + DEVIATIONS * (high - low) / 1.349)))
    found = sorted(np.flatnonzero(alike > limit), key=lambda pair: -alike[pair])
    pairs = [(names[first[pair]], names[second[pair]], round(float(alike[pair]), 3)) for pair in found]
    return [(a, b, r) for a, b, r in pairs if patients[a] != patients[b]]


def likeness_warnings(pairs: Sequence[tuple[str, str, float]], split: Mapping[str, str]) -> list[str]:
    """For people; first, and loudly, pairs that lie in different splits."""
    remedy = "If they are one person, say so in the column patient of a split CSV"
    apart = [f"{a} ({split[a]}) and {b} ({split[b]}), {r:.2f}" for a, b, r in pairs if split[a] != split[b]]
    together = [f"{a} and {b}, {r:.2f}" for a, b, r in pairs if split[a] == split[b]]
    texts = []
    for what, which in (
        ("LEAKAGE? Look like scans of one person, and lie in DIFFERENT SPLITS", apart),
        ("Look like scans of one person, and count as two patients", together),
    ):
        if which:
            more = f"; and {len(which) - SHOWN} more pairs, in cohort.json" if len(which) > SHOWN else ""
            texts.append(f"{what} (likeness of anatomy 0–1): {'; '.join(which[:SHOWN])}{more}. {remedy}")
    return texts
