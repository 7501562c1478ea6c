"""Attacks on a synthetic set: what it tells about who was trained on, beyond what it tells about people in general.

Each attack gives every patient one score, higher where the attacker is surer that they are a member (were trained on);
`analysis.attacks_statistics.judge` compares members with held-out patients. All scores are made through the same steps
for both, and `reference` people, who are neither, tell how hard a patient's slices are to come close to at all.

In every function below, synthetic [M, C, H, W], members [N, C, H, W], held_out [K, C, H, W] and reference [L, C, H, W]
are uint8: the set, slices of patients that its generator saw, slices of others, and slices of third people.
member_patients [N] and held_out_patients [K] are names. Memory maps and `Rows` of them are never read as a whole. Each
returns a row per patient, members first: `patient`, `member`, and scores; each raises ValueError where a patient is
both or arrays do not fit together.
"""

import math

import numpy as np
import pandas as pd
import torch

from analysis.attacks_search import correlation, ranked
from analysis.attacks_statistics import TooFewPatients
from analysis.neighbours import Rows, nearest

LEAST_DISTANCE = 1e-3  # between two slices: below lies the rounding to 8 bits
CANDIDATES = 3  # nearest slices re-scored: a third of the audit's time, and the nearest is hardly ever another
NEIGHBOURS = 5  # synthetic slices that an attribute is guessed from, or a slice is known by
BATCH = 256  # slices whose neighbours are in memory at once

Slices = np.ndarray | Rows


def membership(
    synthetic: Slices,
    members: Slices,
    member_patients: np.ndarray,
    held_out: Slices,
    held_out_patients: np.ndarray,
    *,
    reference: Slices | None = None,
    device: str | torch.device = "cpu",
    memory_gib: float = 1.0,
) -> pd.DataFrame:
    """Black-box membership inference, by the synthetic set alone.

    Scores: `distance` is −d, with d one minus the similarity of the nearest synthetic slice (the black-box attack of
    GAN-Leaks, Chen et al., CCS 2020, eq. 4; the similarity is the audit's). With a reference also `ratio`, 1 − d / r,
    where r is the same to the nearest slice of the reference people: its calibrated attack (section 4.5) with real
    slices in place of a second generator. A patient's score is that of their closest slice: a set need not copy all.
    """
    people = patients_of(member_patients, held_out_patients)
    names = np.concatenate([member_patients, held_out_patients])
    search = {"k": CANDIDATES, "device": device, "memory_gib": memory_gib}

    def distances(others: Slices, what: str) -> np.ndarray:
        found = [
            nearest(slices, others, name=f"{what}: {whose}", **search)["similarity"]
            for slices, whose in ((members, "members"), (held_out, "held-out patients"))
        ]
        return np.maximum(1 - np.concatenate(found), LEAST_DISTANCE)

    distance = distances(synthetic, "synthetic slices")
    scores = {"distance": -distance}
    if reference is not None:
        scores["ratio"] = 1 - distance / distances(reference, "reference slices")
    for name, values in scores.items():
        people[name] = by_patient(values, names, people, "max")
    return people


def attributes(
    synthetic: Slices,
    members: Slices,
    member_patients: np.ndarray,
    held_out: Slices,
    held_out_patients: np.ndarray,
    *,
    reference: Slices | None = None,
    device: str | torch.device = "cpu",
    memory_gib: float = 1.0,
) -> pd.DataFrame:
    """Attribute inference: whoever has all modalities of a patient but one looks the last one up in the synthetic set.

    The missing modality is the mean of that of the five synthetic slices that correlate best in the others, each with
    a weight of one over its distance. The score `attribute` is the guess's correlation with the truth inside the brain,
    less that of a guess from the reference people's slices where there are any (what people in general tell), mean over
    the modalities, each in turn missing, and the patient's slices.
    """
    people = patients_of(member_patients, held_out_patients)
    search = {"device": device, "memory_gib": memory_gib}
    gains = []
    for slices in (members, held_out):
        gain = _guessed(slices, synthetic, search)
        gains.append(gain if reference is None else gain - _guessed(slices, reference, search))
    names = np.concatenate([member_patients, held_out_patients])
    people["attribute"] = by_patient(np.concatenate(gains), names, people, "mean")
    return people


def linkage(
    synthetic: Slices,
    members: Slices,
    member_patients: np.ndarray,
    held_out: Slices,
    held_out_patients: np.ndarray,
    *,
    device: str | torch.device = "cpu",
    memory_gib: float = 1.0,
) -> pd.DataFrame:
    """Linkability: two halves of a patient's slices, the even and the odd ones in the order given, are brought together
    by the synthetic slices that they have in common (Giomi et al., PoPETs 2023, section 4.3).

    A half is known by how often each synthetic slice is among the five nearest of its slices; two halves overlap by the
    cosine of their counts. Each patient is set among c − 1 random others of their kind, c the smaller number of members
    and of held-out patients, so that linking is as hard for both. Scores: `linked`, the probability that no other's odd
    half overlaps more with the patient's even half than their own, ties broken at random, 1 / c by chance; and `link`,
    how much more their own overlaps than the best of the others is expected to, in −1..1, which still tells members
    apart where all are linked. Patients of a single slice have no second half, and no overlap with anybody.
    """
    people = patients_of(member_patients, held_out_patients)
    pool = min(int(people["member"].sum()), int((~people["member"]).sum()))
    if pool < 2:
        raise TooFewPatients("linking needs two members and two held-out patients")
    links = []
    for slices, patients in ((members, member_patients), (held_out, held_out_patients)):
        _, rows = ranked(slices, synthetic, NEIGHBOURS, device=device, memory_gib=memory_gib)
        links.append(_linked(rows, np.asarray(patients, str), len(synthetic), pool))
    people["linked"], people["link"] = np.concatenate(links, axis=1)
    return people


def patients_of(member_patients: np.ndarray, held_out_patients: np.ndarray) -> pd.DataFrame:
    """`patient` and `member`: each patient once, members first, by name. Raises ValueError for one who is both."""
    members, others = np.unique(np.asarray(member_patients, str)), np.unique(np.asarray(held_out_patients, str))
    if both := sorted(set(members) & set(others)):
        raise ValueError(f"held-out patients were trained on, so they are no control: {', '.join(both[:5])}")
    return pd.DataFrame(
        {"patient": [*members, *others], "member": np.repeat([True, False], [len(members), len(others)])}
    )


def by_patient(values: np.ndarray, patients: np.ndarray, people: pd.DataFrame, how: str) -> np.ndarray:
    """The "mean" or "max" of each patient's slices' values [N], in the order of `people`."""
    return pd.Series(values).groupby(np.asarray(patients, str)).agg(how)[people["patient"]].to_numpy()


# ---- attribute inference -------------------------------------------------------------------------------------------


def _guessed(slices: Slices, source: Slices, search: dict) -> np.ndarray:
    """How well modalities are guessed from the source's slices: correlation with the truth, mean over them, [N]."""
    channels = list(range(slices.shape[1]))
    found = np.zeros((len(channels), len(slices)))
    for missing in channels:
        known = [channel for channel in channels if channel != missing]
        r, rows = ranked(slices, source, NEIGHBOURS, channels=known, **search)
        weights = 1 / np.maximum(1 - r, LEAST_DISTANCE)
        for start in range(0, len(slices), BATCH):
            part = slice(start, start + BATCH)
            images = np.asarray(slices[part])
            neighbours = np.asarray(source[rows[part].ravel()])[:, missing].reshape(
                *rows[part].shape, *images.shape[2:]
            )
            guess = (weights[part, :, None, None] * neighbours).sum(1) / weights[part].sum(1)[:, None, None]
            found[missing, part] = correlation(guess, images, missing, known)
    return found.mean(0)


# ---- linkability ---------------------------------------------------------------------------------------------------


def _linked(rows: np.ndarray, patients: np.ndarray, synthetic: int, pool: int) -> np.ndarray:
    """`linked` and `link` of each patient, by name, [2, patients], in pools of so many; rows [N, k]: neighbours."""
    names, number = np.unique(patients, return_inverse=True)
    order = np.argsort(number, kind="stable")
    within = np.arange(len(order)) - np.searchsorted(number[order], number[order])  # of the patient, in the given order
    halves = np.zeros((2, len(names), synthetic))
    for half in (0, 1):
        chosen = order[within % 2 == half]
        np.add.at(halves[half], (np.repeat(number[chosen], rows.shape[1]), rows[chosen].ravel()), 1)
    halves /= np.maximum(np.linalg.norm(halves, axis=2, keepdims=True), 1e-12)
    overlaps = (halves[0] @ halves[1].T).round(9)  # ties are ties, whatever the rounding
    found = [_among(overlap[i], np.delete(overlap, i), pool - 1) for i, overlap in enumerate(overlaps)]
    return np.array(found).T


def _among(own: float, others: np.ndarray, drawn: int) -> tuple[float, float]:
    """Among so many drawn of the others' values: the probability that one's own is the largest, ties broken at random,
    and by how much it is expected to exceed their largest. Both exact, hypergeometric."""
    total = math.comb(len(others), drawn)
    better, tied = int((others > own).sum()), int((others == own).sum())
    worse = len(others) - better - tied
    ways = sum(math.comb(tied, t) * math.comb(worse, drawn - t) / (1 + t) for t in range(min(tied, drawn) + 1))
    ranked_others = np.sort(others)[::-1]  # the i-th is the largest drawn, with the rest from below
    largest = sum(value * math.comb(len(others) - 1 - i, drawn - 1) for i, value in enumerate(ranked_others)) / total
    return ways / total, own - largest
