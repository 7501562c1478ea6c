"""Does a synthetic set hold copies of training patients? The audit of PROTOCOL, section 4.

How close is close is answered by real slices of held-out patients: whatever resemblance two different people have, they
have it too. They are first made as smooth as the set (`sharpness`), since a smooth slice is close to every brain. Two
questions are asked of every slice, and each is answered by the same steps for held-out ones, whose percentiles tau95
and tau99 then are exceeded by 5 % and 1 % of what copies nobody:

memorized : is it more similar to a training slice than held-out slices are? (`neighbours`)
copied : is it much closer to one patient than to any other, in whatever pose, contrast or part? (`second_stage`)

The second is the audit's headline: closeness to *one* patient is what tells a copy from an image that resembles
everybody. For the same reason `Reference`, which asks of many sets and therefore takes the first search alone and the
held-out slices as they are, counts as copied only what has a margin as well: with s1 the similarity of the nearest
training slice and s2 that of the nearest one of any other subject,

    margin = (s1 − s2) / (1 − s2) = 1 − (1 − s1) / (1 − s2), and 0 where s2 ≥ s1:

one minus the nearest-neighbour distance ratio (Lowe, IJCV 60:91, 2004, section 7.1, the second from another object
there too). It is 1 for an exact copy and 0 for what resembles two patients alike.

A patient who is in the training set under two names is close to both, which hides copies from the second question,
though not from the first. Passing this audit is not proof of anonymity.
"""

from dataclasses import dataclass, field, fields, replace

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from analysis import sharpness
from analysis.data_copying import MIN_PER_CELL, data_copying
from analysis.mixtures import evidence
from analysis.neighbours import CANDIDATES, Rows, masked, nearest
from analysis.planted import plant
from analysis.second_stage import Combined, SecondStage
from analysis.shares import (
    LEVELS,
    cross_fitted_rate,
    effective_size,
    expected_above,
    honest_share,
    p_value,
    patients_behind,
    resampled_interval,
    threshold,
)

FIXED_CORRELATIONS = (0.90, 0.95, 0.99)
PLANTED = 10  # copies of each kind, at most, and strangers
PLANTED_LEAST, PLANTED_SHARE = 3, 20  # of a small set one in so many, for its controls not to outweigh it
CLEARLY = 2  # evidence of one slice, over the null's largest, at which no share is needed to suspect a copy
OVERLOOKED = 0.8  # where fewer of a kind are counted, a low copied share says nothing of that kind
BLUR = 0.04  # of the width: the standard deviation of the control that resembles everybody and copies nobody
TABLE_COLUMNS = [
    *("row", "similarity", "training_row", "training_subject", "second_similarity", "second_subject", "margin"),
    *("kind", "shift_y", "shift_x", "mirrored", "correlation"),
]


@dataclass(frozen=True)
class Audit:
    """What an audit found. Shares, rates and probabilities lie in 0..1; what is None has its reason in `warnings`.

    tau95, tau99 : the null's percentiles of similarity; evidence : those of the combined evidence, by level.
    memorized_share, memorized_interval, p_value : each "tau95" and "tau99"; the interval has 95 % confidence and is
        from resampling people, in the set and in the null.
    copied_share, copied_interval, copied_p_value : the same for slices whose combined evidence exceeds the null's. All
        that is said of copies is None with a single training subject.
    honest_share, honest_memorized_share : by level, the copied and the memorized share that 1 in 20 sets of this size
        exceeds though it copies nobody; the former is the latter with a single training subject.
    sharpness : mean gain of the upper half of spatial frequencies by which held-out slices were made as smooth as the
        set; 1 for a set as sharp as they are.
    leaked_patients : "count" and "share" of training subjects with a synthetic slice above tau99 whose nearest slice
        is theirs, and "count_by_chance", how many a generator that copies nothing would show.
    copied_patients : the same for slices copied at tau99; searches : how many of these each search speaks for.
    counts_above : slices whose correlation with a training slice, as is or mirrored, exceeds "0.90", "0.95", "0.99".
    controls : per kind of planted copy, made as smooth as the set, "n", and "memorized" and "copied", each "tau95" and
        "tau99": rate of copies above the threshold for which the subject found is their original's;
        "blurred_strangers", held-out slices blurred by 4 % of the width: the same rates whoever is found; "held_out":
        rates of held-out slices above the thresholds of the other held-out subjects.
    slices : a row per synthetic slice: row, similarity, training_row, training_subject, second_similarity,
        second_subject, margin, and kind, shift_y, shift_x, mirrored, correlation (see `neighbours.nearest`); evidence,
        and the search, copied_row and copied_subject that it speaks of. null : the same for held-out slices, with their
        subject.
    """

    n_synthetic: int
    n_train: int
    n_train_subjects: int
    n_null: int
    n_null_subjects: int
    tau95: float
    tau99: float
    evidence: dict[str, float | None]
    memorized_share: dict[str, float]
    memorized_interval: dict[str, list[float]]
    p_value: dict[str, float]
    copied_share: dict[str, float | None]
    copied_interval: dict[str, list[float] | None]
    copied_p_value: dict[str, float | None]
    honest_share: dict[str, float]
    honest_memorized_share: dict[str, float]
    sharpness: float
    leaked_patients: dict[str, float]
    copied_patients: dict[str, float | None]
    searches: dict[str, int]
    counts_above: dict[str, int]
    c_t: float | None
    authenticity: float | None
    controls: dict[str, dict]
    warnings: list[str]
    slices: pd.DataFrame = field(repr=False)
    null: pd.DataFrame = field(repr=False)

    def to_json(self) -> dict:
        """Everything but the two tables, as plain values for `json.dump`."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("slices", "null")}


class Reference:
    """Training slices, and how close held-out people come to them: what any number of sets can be compared with.

    null : a row per held-out slice, see `Audit`. tau, margin : its percentiles of similarity and of the margin, each
    "tau95" and "tau99"; margin is None where all training slices are one subject's.
    """

    def __init__(
        self,
        training: np.ndarray | Rows,
        training_subjects: np.ndarray,
        held_out: np.ndarray | Rows,
        held_out_subjects: np.ndarray,
        *,
        k: int = CANDIDATES,
        device: str | torch.device = "cpu",
        memory_gib: float = 2.0,
    ) -> None:
        """Searches the neighbours of all held-out slices. For parameters and errors see `audit`."""
        self.training, self.subjects = training, _subjects(training_subjects, training)
        held_out_subjects = _subjects(held_out_subjects, held_out)
        shared = sorted(set(self.subjects) & set(held_out_subjects))
        if shared:
            raise ValueError(f"held-out subjects were trained on, so they are no null: {', '.join(shared[:5])}")
        if not _has_brain(training).any() or not _has_brain(held_out).any():
            raise ValueError("no training slice or no held-out slice has a brain (a pixel above 10 of 255)")
        self.search = {"k": k, "device": device, "memory_gib": memory_gib}
        self.n_subjects = len(set(self.subjects))

        self.null = self.compare(held_out, "held-out slices")
        self.null.insert(1, "subject", held_out_subjects)
        self.tau = {name: threshold(self.null["similarity"], level) for name, level in LEVELS.items()}
        self.margin = None
        if self.n_subjects > 1:
            self.margin = {name: threshold(self.null["margin"], level) for name, level in LEVELS.items()}

    def compare(self, images: np.ndarray | Rows, name: str = "nearest slices") -> pd.DataFrame:
        """The nearest training slice of each of the images uint8 [M, C, H, W], as in `Audit.slices`."""
        found = self.nearest(images, name)
        found["training_subject"] = self.subjects[found["row"]]
        if self.n_subjects > 1:
            found["second_subject"] = self.subjects[found["second_row"]]
            found["margin"] = margin(found["similarity"].to_numpy(), found["second_similarity"].to_numpy())
        else:
            found = found.assign(second_similarity=np.nan, second_subject=None, margin=np.nan)
        return found.rename(columns={"row": "training_row"}).rename_axis("row").reset_index()[TABLE_COLUMNS]

    def nearest(self, images: np.ndarray | Rows, name: str) -> pd.DataFrame:
        """`neighbours.nearest` among the training slices, with the second subject where there is one."""
        groups = self.subjects if self.n_subjects > 1 else None
        return nearest(images, self.training, groups, name=name, **self.search)

    def memorized(self, slices: pd.DataFrame, level: str) -> np.ndarray:
        """Which slices of `compare` come closer than held-out people do, bool [M]."""
        return slices["similarity"].to_numpy() > self.tau[level]

    def copied(self, slices: pd.DataFrame, level: str) -> np.ndarray:
        """Which of them come closer to one patient than to any other as well, bool [M]. Needs two training subjects."""
        return self.memorized(slices, level) & (slices["margin"].to_numpy() > self.margin[level])

    def shares(self, images: np.ndarray | Rows) -> dict[str, float | None]:
        """memorized_share, copied_share and copied_p_value of a set uint8 [M, C, H, W], each slice a draw of its own,
        at tau95; a single training subject leaves the last two None."""
        slices = self.compare(images, "generated slices")
        copied, p = None, None
        if self.margin is not None:
            copied = float(self.copied(slices, "tau95").mean())
            lowest = self.null[["similarity", "margin"]].rank().min(axis=1).to_numpy()  # above both: it is high
            n_null = effective_size(lowest, self.null["subject"].to_numpy())
            p = p_value(copied, len(slices), n_null, expected_above(len(self.null), LEVELS["tau95"]))
        memorized = float(self.memorized(slices, "tau95").mean())
        return {"memorized_share": memorized, "copied_share": copied, "copied_p_value": p}


@dataclass(frozen=True)
class Slices:
    """images uint8 [N, C, H, W], subjects [N], and labels uint8 [N, 1, H, W] where they are known. Memory maps and
    `Rows` of them are never read as a whole."""

    images: np.ndarray | Rows
    subjects: np.ndarray
    labels: np.ndarray | Rows | None = None


class Finder:
    """Both searches of any slices among the training slices, with thresholds from one null."""

    def __init__(self, training: Slices, held_out: Slices, within: np.ndarray | None = None, **search: object) -> None:
        """within: the held-out slices that copies are judged by, where not by the same (`sharpness.within`)."""
        self.reference = Reference(training.images, training.subjects, held_out.images, held_out.subjects, **search)
        self.null, self.subjects, self.combined = self.reference.null, self.reference.subjects, None
        self.tau = {"memorized": self.reference.tau}
        if self.reference.n_subjects > 1:
            self.second = SecondStage(training.images, self.subjects, training.labels, search["device"])
            alike, images = self.null, held_out.images
            if within is not None:
                alike, images = self.reference.compare(within, "held-out slices"), within
            found = self._searched(alike, images, held_out.labels, "held-out slices")
            self.combined = Combined(found, self.null["subject"].to_numpy())
            self.null = self._with_evidence(self.null, found).assign(evidence=self.combined.null)
            self.tau["copied"] = {name: threshold(self.combined.null, level) for name, level in LEVELS.items()}

    def compare(self, images: np.ndarray | Rows, labels: np.ndarray | Rows | None, name: str) -> pd.DataFrame:
        """As `Audit.slices`."""
        slices = self.reference.compare(images, name)
        if self.combined is None:
            return slices
        return self._with_evidence(slices, self._searched(slices, images, labels, name))

    def _searched(
        self, slices: pd.DataFrame, images: np.ndarray | Rows, labels: np.ndarray | Rows | None, name: str
    ) -> pd.DataFrame:
        first = evidence(torch.tensor(slices[["similarity", "second_similarity"]].to_numpy()))
        found = {"as is": first.numpy(), "as is_row": slices["training_row"]}
        return self.second.search(images, labels, name).assign(**found)

    def _with_evidence(self, slices: pd.DataFrame, evidence: pd.DataFrame) -> pd.DataFrame:
        value, search, rows = self.combined.of(evidence)
        found = {"evidence": value, "search": search, "copied_row": rows, "copied_subject": self.subjects[rows]}
        return slices.assign(**found)

    def above(self, slices: pd.DataFrame, question: str, level: str) -> np.ndarray:
        """Which slices are "memorized" or "copied", bool [M]."""
        return slices[MEASURE[question]].to_numpy() > self.tau[question][level]


MEASURE = {"memorized": "similarity", "copied": "evidence"}
SUBJECT = {"memorized": "training_subject", "copied": "copied_subject"}


def audit(
    synthetic: Slices,
    training: Slices,
    held_out: Slices,
    *,
    k: int = CANDIDATES,
    seed: int = 0,
    device: str | torch.device = "cpu",
    memory_gib: float = 2.0,
) -> Audit:
    """Audits a synthetic set against the training slices that its generator saw.

    Parameters
    ----------
    synthetic : subjects are the synthetic patients; where every slice is a draw of its own, a name for each.
    training, held_out : no subject may be in both. Lesions are searched where all three have labels.
    seed : of planted copies, resampled people and k-means cells.
    device, memory_gib, k : see `neighbours.nearest`.

    Raises ValueError for arrays that do not fit together, shared subjects, or a set without brain.
    """
    rng = np.random.default_rng(seed)
    if any(each.labels is None for each in (synthetic, training, held_out)):
        synthetic, training, held_out = (replace(each, labels=None) for each in (synthetic, training, held_out))
    subjects = _subjects(synthetic.subjects, synthetic.images)
    if not _has_brain(synthetic.images).any():
        raise ValueError(
            "no synthetic slice has a brain (a pixel above 10 of 255): the set is black. Look at it: a generator can "
            "have failed, and values of 0..1 can have been stored as integers"
        )
    smooth, gain = sharpness.matched(held_out.images, synthetic.images)
    planted = min(PLANTED, max(PLANTED_LEAST, len(synthetic.images) // PLANTED_SHARE))
    how = {"k": k, "device": device, "memory_gib": memory_gib}
    finder, controls = _calibrated(training, held_out, smooth, gain, planted, seed, how)
    reference, null = finder.reference, finder.null
    slices = finder.compare(synthetic.images, synthetic.labels, "synthetic slices")
    result = {
        "n_synthetic": len(slices),
        "n_train": len(training.images),
        "n_train_subjects": reference.n_subjects,
        "n_null": len(null),
        "n_null_subjects": null["subject"].nunique(),
        **reference.tau,
        "evidence": finder.tau.get("copied", dict.fromkeys(LEVELS)),
        "sharpness": float(gain[len(gain) // 2 :].mean()),
    }
    found = {
        "memorized": ("memorized_share", "memorized_interval", "p_value", "honest_memorized_share", "leaked_patients"),
        "copied": ("copied_share", "copied_interval", "copied_p_value", "honest_share", "copied_patients"),
    }
    for question, names in found.items():
        if question in finder.tau:
            shown = verdict(finder, question, slices, subjects, rng)
        else:
            nobody = dict.fromkeys(result["leaked_patients"])
            shown = [*[dict.fromkeys(LEVELS)] * 3, result["honest_memorized_share"], nobody]
        result |= dict(zip(names, shown, strict=True))
    result |= {
        "searches": {},
        "counts_above": {f"{fixed:.2f}": int((slices["correlation"] > fixed).sum()) for fixed in FIXED_CORRELATIONS},
        "c_t": data_copying(slices, null, synthetic.images, smooth, training.images, seed),
        "authenticity": None,
        "controls": controls,
    }
    if finder.combined is not None:
        copied = slices.loc[finder.above(slices, "copied", "tau99"), "search"]
        result["searches"] = {search: int((copied == search).sum()) for search in finder.combined.searches}
        result["authenticity"] = _authenticity(slices, reference)
    warnings = [*_warnings(result, _has_brain(synthetic.images)), *few_clear_copies(slices, null)]
    return Audit(**result, warnings=warnings, slices=slices, null=null)


def margin(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How much closer the nearest subject is than the second, 0..1, from the similarities; the formula is above."""
    return np.maximum(first - second, 0) / np.where(second < 1, 1 - second, 1)


def verdict(
    finder: Finder, question: str, slices: pd.DataFrame, subjects: np.ndarray, rng: np.random.Generator
) -> tuple[dict, dict, dict, dict, dict]:
    """Share above the null's thresholds, its interval, its p value, and what honest sets reach, each by level; and the
    patients behind it."""
    values, null = (table[MEASURE[question]].to_numpy() for table in (slices, finder.null))
    null_subjects = finder.null["subject"].to_numpy()
    n, n_null = effective_size(values, subjects), effective_size(null, null_subjects)
    shares, intervals, p_values, honest = {}, {}, {}, {}
    for name, level in LEVELS.items():
        expected = expected_above(len(null), level)
        shares[name] = float(finder.above(slices, question, name).mean())
        intervals[name] = resampled_interval(values, subjects, null, null_subjects, level, rng)
        p_values[name] = p_value(shares[name], n, n_null, expected)
        honest[name] = honest_share(n, n_null, expected)
    above, drawn = finder.above(slices, question, "tau99"), slices[SUBJECT[question]]
    return shares, intervals, p_values, honest, patients_behind(drawn, above, finder.reference.n_subjects, expected)


def _authenticity(slices: pd.DataFrame, reference: Reference) -> float:
    """Share of synthetic slices less similar to their nearest training slice than that one is to the nearest training
    slice of another subject (Alaa et al., ICML 2022, eq. 8; there, of the training set: here neighbouring slices of one
    subject would count as other people)."""
    rows, inverse = np.unique(slices["training_row"], return_inverse=True)
    # A training slice's nearest is itself, so that the second subject's is that of another.
    others = reference.nearest(Rows.of(reference.training)[rows], "training slices")["second_similarity"].to_numpy()
    return float((slices["similarity"].to_numpy() < others[inverse]).mean())


def _calibrated(
    training: Slices, held_out: Slices, smooth: np.ndarray, gain: np.ndarray, planted: int, seed: int, how: dict
) -> tuple[Finder, dict[str, dict]]:
    """The searches with their thresholds, and what they make of the controls.

    Copies are judged by held-out slices without the rim that a filter leaves (`sharpness.within`), unless that loses
    exact copies in a set as smooth as this one: then by those with it, where they lose fewer.
    """
    null = replace(held_out, images=smooth)

    def judged_by(within: np.ndarray | None) -> tuple[Finder, dict[str, dict]]:
        finder = Finder(training, null, within, **how)
        return finder, _controls(finder, training, null, gain, planted, np.random.default_rng(seed))

    def exact_found(judged: tuple[Finder, dict[str, dict]]) -> float | None:
        return judged[1]["exact"]["copied"]["tau99"]

    rimless = judged_by(sharpness.within(smooth, held_out.images))
    if exact_found(rimless) is None or exact_found(rimless) >= OVERLOOKED:
        return rimless
    return max(rimless, judged_by(None), key=exact_found)


def _controls(
    finder: Finder, training: Slices, held_out: Slices, gain: np.ndarray, count: int, rng: np.random.Generator
) -> dict[str, dict]:
    """What must be found, and what must not be counted as copied; see `Audit`. held_out: as smooth as the set; count:
    of each kind."""
    originals, strangers = (rng.permutation(np.flatnonzero(_has_brain(each.images))) for each in (training, held_out))
    if training.labels is not None:  # tumours first: some controls need one
        without = ~(np.asarray(training.labels[originals[: 8 * count]]) > 0).any((1, 2, 3))
        originals[: len(without)] = originals[np.argsort(without, kind="stable")]
    originals, strangers = originals[:count], np.resize(strangers, PLANTED)
    others = np.asarray(held_out.images[strangers])
    copies = plant(training.images, training.labels, finder.subjects, originals, others[: len(originals)], rng)
    sigma = BLUR * others.shape[-1]
    blurred = ndimage.gaussian_filter(others.astype(np.float32), (0, 0, sigma, sigma)).round().astype(np.uint8)
    images = np.concatenate([*[sharpness.filtered(each.images, gain) for each in copies.values()], blurred])
    labels = None
    if training.labels is not None:
        labels = np.concatenate([*[each.labels for each in copies.values()], held_out.labels[strangers]])
    found = finder.compare(images, labels, "controls")

    controls, start = {}, 0
    for kind, planted in copies.items():
        table = found.iloc[start:][: len(planted.images)]
        start += len(table)
        names = finder.subjects[planted.rows]
        controls[kind] = {"n": len(table)} | {
            question: {
                name: float((finder.above(table, question, name) & _is_one_of(table, question, names)).mean())
                for name in LEVELS
            }
            for question in finder.tau
        }
    controls["blurred_strangers"] = {"n": len(blurred)} | {
        question: {name: float(finder.above(found.iloc[start:], question, name).mean()) for name in LEVELS}
        for question in finder.tau
    }
    subjects = finder.null["subject"].to_numpy()
    controls["held_out"] = {"n": len(subjects)} | {
        question: {
            name: cross_fitted_rate(finder.null[MEASURE[question]].to_numpy(), subjects, level)
            for name, level in LEVELS.items()
        }
        for question in finder.tau
    }
    for control in controls.values():
        control.setdefault("copied", dict.fromkeys(LEVELS))
    return controls


def _is_one_of(table: pd.DataFrame, question: str, subjects: np.ndarray) -> np.ndarray:
    """Whether the subject found is one of the row's own `subjects` [M, n], bool [M]."""
    return (table[SUBJECT[question]].to_numpy()[:, None] == subjects).any(1)


# ---- what can be wrong ---------------------------------------------------------------------------------------------


def _subjects(subjects: np.ndarray, images: np.ndarray | Rows) -> np.ndarray:
    subjects = np.asarray(subjects).astype(str)
    if subjects.shape != (len(images),):
        raise ValueError(f"{len(images)} slices need as many subjects, not {list(subjects.shape)}")
    return subjects


def _has_brain(images: np.ndarray | Rows) -> np.ndarray:
    """Which slices have a brain, bool [N]."""
    pieces = [masked(images[start : start + 64], torch.device("cpu"))[1] for start in range(0, len(images), 64)]
    return torch.cat(pieces).any((1, 2)).numpy()


def few_clear_copies(slices: pd.DataFrame, null: pd.DataFrame) -> list[str]:
    """That single slices are copies beyond doubt: too few of a large set to move its share."""
    if "evidence" not in slices:
        return []
    clear = int((slices["evidence"] > CLEARLY * null["evidence"].max()).sum())
    if not clear:
        return []
    return [
        f"{clear} synthetic slice{'s point' if clear > 1 else ' points'} at one training patient more than {CLEARLY} "
        "times as clearly as any held-out slice does at anyone: look at what lies closest, whatever the share"
    ]


def _warnings(result: dict, brain: np.ndarray) -> list[str]:
    """What a reader of the result must know."""
    warnings = []
    for name, level in LEVELS.items():
        needed = round(1 / (1 - level)) - 1
        if result["n_null"] < needed:
            warnings.append(
                f"{result['n_null']} held-out slices are too few for {name} (at least {needed}): it is their largest "
                f"similarity, which 1 in {result['n_null'] + 1} unrelated slices exceed"
            )
    if result["n_null_subjects"] < 10:
        warnings.append(
            f"the thresholds rest on {result['n_null_subjects']} held-out subjects alone: they are uncertain, "
            "which the p-values take into account"
        )
    if result["tau99"] > 0.999:
        warnings.append(
            "held-out slices are all but identical to training slices: a patient may be in both, which hides copies"
        )
    if not brain.all():
        warnings.append(f"{int((~brain).sum())} synthetic slices have no brain: their similarity is 0")
    if result["n_train_subjects"] == 1:
        warnings.append(
            "authenticity and the margin need training slices of two subjects: without, copies cannot be told from "
            "blurred slices"
        )
    if result["c_t"] is None:
        warnings.append(f"C_T needs {MIN_PER_CELL} synthetic and {MIN_PER_CELL} held-out slices in one cell")
    if result["controls"]["held_out"]["memorized"]["tau95"] is None:
        warnings.append("the rate of held-out slices above the thresholds needs two held-out subjects")
    overlooked = []
    for kind, control in result["controls"].items():
        rate = control["copied"]["tau99"]
        if kind not in ("held_out", "blurred_strangers") and rate is not None and rate < OVERLOOKED:
            overlooked.append(f"{kind} ({rate:.0%})")
    if overlooked:
        warnings.append(
            f"of planted copies of these kinds, fewer than {OVERLOOKED:.0%} are counted as copied at tau99, so a low "
            f"copied share does not rule them out: {', '.join(overlooked)}"
        )
    mistaken = result["controls"]["blurred_strangers"]["copied"]["tau95"]
    if mistaken is not None and mistaken > 0.2:
        warnings.append(
            f"{mistaken:.0%} of blurred held-out slices are counted as copied at tau95, where nobody was copied"
        )
    return warnings
