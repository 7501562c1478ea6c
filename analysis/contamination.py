"""Does a set that was sent hold copies of the patients it is to be tested on?

A generator elsewhere may have learned from whoever is a test patient here, as when both sides hold the same public
cohort and split it differently. Segmenters trained on its set are then tested on patients they have met, and their Dice
flatters the set. The question is the audit's second (`memorization`), with the roles changed: test patients stand where
training patients do, and other real people tell how closely anybody points at one of them by chance.
"""

from dataclasses import replace

import numpy as np

from analysis import sharpness
from analysis.memorization import Finder, Slices, few_clear_copies, verdict

FOUND = 0.005  # p at either of two levels: 1 % of honest sets at most


def contamination(
    synthetic: Slices,
    tested: Slices,
    others: Slices,
    *,
    seed: int = 0,
    device: str = "cpu",
    memory_gib: float = 2.0,
) -> dict | None:
    """What a set holds of the people it is to be `tested` on; `others`: further real people, of whom so many are drawn
    as have about as many slices. All have labels, or none. None with fewer than two people on either side.

    Returns copied_share, copied_p_value and copied_patients as in `memorization.Audit`, and `warning`: a sentence, or
    None where nothing was found.
    """
    rng = np.random.default_rng(seed)
    others = _drawn(others, len(tested.images), rng)
    if min(len(set(part.subjects)) for part in (tested, others)) < 2:
        return None
    smooth, _ = sharpness.matched(others.images, synthetic.images)
    within = sharpness.within(smooth, others.images)
    finder = Finder(tested, replace(others, images=smooth), within, device=device, memory_gib=memory_gib)
    slices = finder.compare(synthetic.images, synthetic.labels, "beside test patients")
    share, _, p, _, patients = verdict(finder, "copied", slices, np.asarray(synthetic.subjects).astype(str), rng)
    clear = few_clear_copies(slices, finder.null)
    warning = None
    if clear or min(p.values()) <= FOUND:
        warning = (
            f"{100 * share['tau95']:.0f} % of its slices count as copies of test patients at τ95, "
            f"{100 * share['tau99']:.0f} % at τ99 (by chance 5 % and 1 %), "
            f"of {patients['count']} of {len(set(tested.subjects))} patients "
            f"({patients['count_by_chance']:.0f} by chance). If its generator learned from them, Dice on test patients "
            "flatters this set: with split=FILE, test on patients it cannot know"
        )
    return {"copied_share": share, "copied_p_value": p, "copied_patients": patients, "warning": warning}


def _drawn(slices: Slices, count: int, rng: np.random.Generator) -> Slices:
    """Those of randomly drawn people, as many as are needed for `count` slices."""
    subjects = np.asarray(slices.subjects)
    names, sizes = np.unique(subjects, return_counts=True)
    order = rng.permutation(len(names))
    enough = np.searchsorted(np.cumsum(sizes[order]), count) + 1
    rows = np.flatnonzero(np.isin(subjects, names[order[:enough]]))
    labels = None if slices.labels is None else slices.labels[rows]
    return Slices(slices.images[rows], subjects[rows], labels)
