"""Does a synthetic set hold copies of training patients? The audit of PROTOCOL, section 4.

How close is close is answered by real slices of held-out patients: whatever resemblance two different people have, they
have it too. A synthetic slice that resembles a training slice more than 95 % (99 %) of them do is counted as memorized.

Likeness alone does not tell a copy from a blur: a smooth or averaged brain correlates with every brain more than two
people do. A copy is close to *one patient*. With s1 the similarity of the nearest training slice and s2 that of the
nearest one of any other subject, both found through the same steps,

    margin = (s1 − s2) / (1 − s2) = 1 − (1 − s1) / (1 − s2), and 0 where s2 ≥ s1:

one minus the nearest-neighbour distance ratio, the distance to the nearest over that to the second (Lowe, IJCV 60:91,
2004, section 7.1, the second from another object there too). It is 1 for an exact copy and 0 for what resembles two
patients alike. A slice is counted as *copied* at a level when similarity and margin both exceed that percentile of the
null. Each alone is exceeded by 0.05 (0.01) of unrelated slices, so the expected share under no copying is at most that,
and interval and test, which take it to be just that, err on the careful side.

Why not the plain difference s1 − s2: it is bounded by 1 − s2, which is small where the copy is smooth. Phantom slices
of 32 px, 30 and 18 training subjects, at tau99: of copies blurred by 1 px the ratio finds 0.98–1, the difference
0.38–0.50; of copies blurred by 4 % of the width, 0.82–0.94 against 0.06–0.14. Of held-out slices blurred by 4 %,
0.79–0.90 exceed tau99 and neither counts one as copied, nor any sample of two generators hardly trained. Of averages
of two to five training slices the ratio still counts 0.06–0.28, the difference 0–0.02: one of them may stand out.

A patient who is in the training set under two names is close to both, which hides copies from the margin, though not
from the memorized share. Passing this audit is not proof of anonymity.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import ndimage, stats
from scipy.cluster import vq

from analysis.neighbours import CANDIDATES, Rows, masked, nearest

LEVELS = {"tau95": 0.95, "tau99": 0.99}
FIXED_CORRELATIONS = (0.90, 0.95, 0.99)
CONFIDENCE = 0.95
PLANTED = 50  # copies of each kind
BLUR = 0.04  # of the width: the standard deviation of the control that resembles everybody and copies nobody
TABLE_COLUMNS = [
    *("row", "similarity", "training_row", "training_subject", "second_similarity", "second_subject", "margin"),
    *("kind", "shift_y", "shift_x", "mirrored", "correlation"),
]
MIN_PER_CELL = 20  # of generated and of held-out slices each: below, Mann–Whitney's normal approximation is poor


@dataclass(frozen=True)
class Audit:
    """What an audit found. Shares, rates and probabilities lie in 0..1; what is None has its reason in `warnings`.

    tau95, tau99, margin : the null's percentiles of similarity and, by level, of the margin.
    memorized_share, memorized_interval, p_value : each "tau95" and "tau99"; the interval is the exact one-sided one at
        95 % confidence, [lower bound, 1].
    copied_share, copied_interval, copied_p_value : the same for slices above both percentiles. None, level by level,
        where the margin is undefined: with a single training subject.
    leaked_patients : "count" and "share" of training subjects with a synthetic slice above tau99 whose nearest slice
        is theirs, and "count_by_chance", how many a generator that copies nothing would show.
    copied_patients : the same for slices copied at tau99; "count_by_chance" is the most to expect.
    counts_above : slices whose correlation with a training slice, as is or mirrored, exceeds "0.90", "0.95", "0.99".
    controls : per kind of planted copy, "found" and "copied" ("tau95", "tau99": rate of copies above the threshold of
        similarity, and above that of the margin as well, whose nearest slice is their original) and
        "nearest_is_original"; "blurred_strangers", held-out slices blurred by 4 % of the width: "found" and "copied",
        rates of the same whatever slice is nearest; "held_out" ("tau95", "tau99": rate of held-out slices above the
        threshold of the other held-out subjects; "copied": above both).
    slices : a row per synthetic slice: row, similarity, training_row, training_subject, second_similarity,
        second_subject, margin, and kind, shift_y, shift_x, mirrored, correlation (see `neighbours.nearest`). null : the
        same for held-out slices, with their subject.
    """

    n_synthetic: int
    n_train: int
    n_train_subjects: int
    n_null: int
    n_null_subjects: int
    tau95: float
    tau99: float
    margin: dict[str, float | None]
    memorized_share: dict[str, float]
    memorized_interval: dict[str, list[float]]
    p_value: dict[str, float]
    copied_share: dict[str, float | None]
    copied_interval: dict[str, list[float] | None]
    copied_p_value: dict[str, float | None]
    leaked_patients: dict[str, float]
    copied_patients: dict[str, float | None]
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
            draws = np.arange(len(slices)).astype(str)
            shares, _, p_values = _verdict(self.copied, ["similarity", "margin"], slices, draws, self.null)
            copied, p = shares["tau95"], p_values["tau95"]
        memorized = float(self.memorized(slices, "tau95").mean())
        return {"memorized_share": memorized, "copied_share": copied, "copied_p_value": p}


def audit(
    synthetic: np.ndarray | Rows,
    training: np.ndarray | Rows,
    training_subjects: np.ndarray,
    held_out: np.ndarray | Rows,
    held_out_subjects: np.ndarray,
    *,
    synthetic_subjects: np.ndarray | None = None,
    k: int = CANDIDATES,
    seed: int = 0,
    device: str | torch.device = "cpu",
    memory_gib: float = 2.0,
) -> Audit:
    """Audits a synthetic set against the training slices that its generator saw.

    Parameters
    ----------
    synthetic, training, held_out : uint8 [M, C, H, W], [N, C, H, W], [K, C, H, W]; memory maps and `Rows` of them are
        never read as a whole.
    training_subjects, held_out_subjects : names [N], [K]; no name may be in both.
    synthetic_subjects : names [M] where several synthetic slices come from one synthetic patient; by default every
        slice is a draw of its own.
    seed : of planted copies and k-means cells.
    device, memory_gib, k : see `neighbours.nearest`.

    Raises ValueError for arrays that do not fit together, shared subjects, or a training or held-out set without brain.
    """
    synthetic_subjects = (
        np.arange(len(synthetic)).astype(str)
        if synthetic_subjects is None
        else _subjects(synthetic_subjects, synthetic)
    )
    reference = Reference(
        training, training_subjects, held_out, held_out_subjects, k=k, device=device, memory_gib=memory_gib
    )
    null, slices = reference.null, reference.compare(synthetic, "synthetic slices")
    memorized = _verdict(reference.memorized, ["similarity"], slices, synthetic_subjects, null)
    expected = expected_above(len(null), LEVELS["tau99"])
    leaked = patients_behind(slices, reference.memorized(slices, "tau99"), reference.n_subjects, expected)
    copied, copied_patients, authenticity = [dict.fromkeys(LEVELS)] * 3, dict.fromkeys(leaked), None
    if reference.margin is not None:
        copied = _verdict(reference.copied, ["similarity", "margin"], slices, synthetic_subjects, null)
        copied_patients = patients_behind(slices, reference.copied(slices, "tau99"), reference.n_subjects, expected)
        authenticity = _authenticity(slices, reference)
    result = {
        "n_synthetic": len(synthetic),
        "n_train": len(training),
        "n_train_subjects": reference.n_subjects,
        "n_null": len(null),
        "n_null_subjects": null["subject"].nunique(),
        **reference.tau,
        "margin": reference.margin or dict.fromkeys(LEVELS),
        **dict(zip(("memorized_share", "memorized_interval", "p_value"), memorized, strict=True)),
        **dict(zip(("copied_share", "copied_interval", "copied_p_value"), copied, strict=True)),
        "leaked_patients": leaked,
        "copied_patients": copied_patients,
        "counts_above": {f"{fixed:.2f}": int((slices["correlation"] > fixed).sum()) for fixed in FIXED_CORRELATIONS},
        "c_t": data_copying(slices, null, synthetic, held_out, training, seed),
        "authenticity": authenticity,
        "controls": _controls(reference, held_out, np.random.default_rng(seed)),
    }
    return Audit(**result, warnings=_warnings(result, _has_brain(synthetic)), slices=slices, null=null)


# ---- margin, thresholds, shares and tests --------------------------------------------------------------------------


def margin(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How much closer the nearest subject is than the second, 0..1, from the similarities; the formula is above."""
    return np.maximum(first - second, 0) / np.where(second < 1, 1 - second, 1)


def threshold(null: np.ndarray, level: float) -> float:
    """The percentile of the null that a further, unrelated slice exceeds with probability 1 − level.

    Of the textbook's percentiles, that is Weibull's, at rank level·(n + 1) (Hyndman & Fan 1996, type 6); the largest
    value when n + 1 < 1 / (1 − level).
    """
    return float(np.quantile(null, level, method="weibull"))


def expected_above(n: int, level: float) -> float:
    """Share of unrelated slices above `threshold` of a null of n: 1 − level, or 1 / (n + 1) where n is too small."""
    return max(1 - level, 1 / (n + 1))


def effective_size(scores: np.ndarray, subjects: np.ndarray) -> float:
    """How many independent slices carry as much information as these, which come several from a subject.

    Korn & Graubard, Survey Methodology 24 (1998): n / deff · (t_{n−1} / t_{S−1})², with deff the variance of a mean
    over S subjects relative to that over independent slices, and the t quantiles for how well S subjects tell it. deff
    is that of the scores' ranks: that of the indicator "above tau" rests on a handful of slices and is too small just
    when tau is (in simulation, 8–18 % false positives at alpha 0.05 instead of 1–7 %). One subject counts as one slice.
    """
    n, (names, cluster) = len(scores), np.unique(subjects, return_inverse=True)
    S, ranks = len(names), stats.rankdata(scores) - (n + 1) / 2
    if S in (1, n) or not ranks.any():
        return float(S)
    deff = S / (S - 1) * (np.bincount(cluster, ranks) ** 2).sum() / (ranks**2).sum()
    degrees = stats.t.ppf(CONFIDENCE, n - 1) / stats.t.ppf(CONFIDENCE, S - 1)
    return max(1.0, n / max(deff, 1.0) * degrees**2)


def lower_bound(share: float, n: float) -> float:
    """One-sided exact (Clopper–Pearson) lower bound of a share that n independent slices gave; n may be fractional."""
    return float(stats.beta.ppf(1 - CONFIDENCE, share * n, (1 - share) * n + 1)) if share > 0 else 0.0


def p_value(share: float, n: float, n_null: float, expected: float) -> float:
    """Exact one-sided probability of at least this share above the threshold if the generator copies nothing.

    The number above a known threshold is binomial. But the threshold is the r-th of n null values, so an unrelated
    slice exceeds it with a probability that is itself random, Beta(n + 1 − r, r) of mean `expected`, and the number
    above is beta-binomial: exact for any distribution of similarities, and the binomial test where the null is large.
    Subjects are clusters on both sides: n and n_null are the effective sizes of the set and of its null. Of slices
    above two thresholds at once there are never more than above one of them: for these the probability is a bound.
    """
    n = int(n + 1e-9)
    return float(
        stats.betabinom.sf(int(share * n + 1e-9) - 1, n, expected * (n_null + 1), (1 - expected) * (n_null + 1))
    )


def _verdict(
    above: Callable[[pd.DataFrame, str], np.ndarray],
    columns: list[str],
    slices: pd.DataFrame,
    subjects: np.ndarray,
    null: pd.DataFrame,
) -> tuple[dict, dict, dict]:
    """The share of slices `above` the thresholds of `columns`, its interval, and its p value, each by level."""

    def scores(table: pd.DataFrame) -> np.ndarray:
        return table[columns].rank().min(axis=1).to_numpy()  # above all thresholds: the lowest rank is high

    n, n_null = effective_size(scores(slices), subjects), effective_size(scores(null), null["subject"])
    shares = {name: float(above(slices, name).mean()) for name in LEVELS}
    intervals = {name: [lower_bound(share, n), 1.0] for name, share in shares.items()}
    p_values = {
        name: p_value(shares[name], n, n_null, expected_above(len(null), level)) for name, level in LEVELS.items()
    }
    return shares, intervals, p_values


def cross_fitted_rate(null: np.ndarray, subjects: np.ndarray, level: float) -> float | None:
    """Share of held-out slices above the thresholds of the *other* held-out subjects, in all measures of null [n, m];
    None for a single subject."""
    names = np.unique(subjects)
    if len(names) == 1:
        return None
    count = 0
    for name in names:
        theirs = subjects == name
        count += np.all([values[theirs] > threshold(values[~theirs], level) for values in null.T], axis=0).sum()
    return float(count / len(null))


def patients_behind(slices: pd.DataFrame, above: np.ndarray, subjects: int, expected: float) -> dict:
    """Training subjects with at least one of the slices `above` nearest to them, and the number by chance: each of M
    slices is above with probability `expected`, and goes to a subject as often as all slices do."""
    count = slices.loc[above, "training_subject"].nunique()
    drawn = slices["training_subject"].value_counts(normalize=True).to_numpy()
    by_chance = (1 - (1 - expected * drawn) ** len(slices)).sum()
    return {"count": int(count), "share": count / subjects, "count_by_chance": float(by_chance)}


# ---- data-copying statistic and authenticity -----------------------------------------------------------------------


def data_copying(
    slices: pd.DataFrame,
    null: pd.DataFrame,
    synthetic: np.ndarray | Rows,
    held_out: np.ndarray | Rows,
    training: np.ndarray | Rows,
    seed: int,
) -> float | None:
    """C_T of Meehan, Chaudhuri & Dasgupta (AISTATS 2020): far below 0 copies, far above 0 underfits, else near 0.

    Distance is 1 − similarity. Cells are k-means clusters of the training slices, averaged to 8×8 pixels. It takes
    slices as independent, so several a patient widen its null beyond the standard normal's.
    None where no cell has 20 synthetic and 20 held-out slices.
    """
    cells = int(np.clip(min(len(synthetic), len(held_out)) // (2 * MIN_PER_CELL), 1, min(10, len(training))))
    centres, _ = vq.kmeans2(_thumbnails(training), cells, minit="++", rng=np.random.default_rng(seed), missing="warn")
    cell_q, cell_p = (vq.vq(_thumbnails(images), centres)[0] for images in (synthetic, held_out))
    return c_t(1 - slices["similarity"].to_numpy(), cell_q, 1 - null["similarity"].to_numpy(), cell_p)


def c_t(generated: np.ndarray, cell_q: np.ndarray, test: np.ndarray, cell_p: np.ndarray) -> float | None:
    """C_T from distances to the nearest training sample and the cells they lie in (Meehan et al. 2020, section 3)."""
    scores, weights = [], []
    for cell in np.unique(cell_p):
        q, p = generated[cell_q == cell], test[cell_p == cell]
        if min(len(q), len(p)) < MIN_PER_CELL:
            continue
        u = stats.mannwhitneyu(q, p).statistic  # pairs in which the generated sample is the farther one
        scores.append((u - len(q) * len(p) / 2) / np.sqrt(len(q) * len(p) * (len(q) + len(p) + 1) / 12))
        weights.append(len(p))
    return float(np.average(scores, weights=weights)) if scores else None


def _thumbnails(images: np.ndarray | Rows) -> np.ndarray:
    """Slices averaged to 8×8 pixels inside the brain, float64 [N, C·64]."""
    pieces = [
        F.adaptive_avg_pool2d(masked(images[start : start + 64], torch.device("cpu"))[0], 8).flatten(1)
        for start in range(0, len(images), 64)
    ]
    return torch.cat(pieces).double().numpy()


def _authenticity(slices: pd.DataFrame, reference: Reference) -> float:
    """Share of synthetic slices less similar to their nearest training slice than that one is to the nearest training
    slice of another subject (Alaa et al., ICML 2022, eq. 8; there, of the training set: here neighbouring slices of one
    subject would count as other people)."""
    rows, inverse = np.unique(slices["training_row"], return_inverse=True)
    # A training slice's nearest is itself, so that the second subject's is that of another.
    others = reference.nearest(Rows.of(reference.training)[rows], "training slices")["second_similarity"].to_numpy()
    return float((slices["similarity"].to_numpy() < others[inverse]).mean())


# ---- controls ------------------------------------------------------------------------------------------------------


def plant(originals: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Copies of training slices uint8 [n, C, H, W] as a generator could make them; noise stays inside the brain."""
    values = originals.astype(np.float32)
    brain = masked(originals, torch.device("cpu"))[1].numpy()[:, None]
    shifted = np.zeros_like(originals)
    shifted[..., 4:] = originals[..., :-4]
    copies = {
        "exact": values,
        "mirrored": values[..., ::-1],
        "shifted": shifted,
        "blurred": ndimage.gaussian_filter(values, (0, 0, 1, 1)),
        "noise": values + brain * rng.normal(0, 0.05 * 255, values.shape),
        "gamma": 255 * (values / 255) ** 0.8,
        "turned": ndimage.rotate(values, 5, (3, 2), reshape=False, order=1),  # as augmented training could draw
    }
    return {kind: _to_bytes(images) for kind, images in copies.items()}


def _to_bytes(images: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def _controls(reference: Reference, held_out: np.ndarray | Rows, rng: np.random.Generator) -> dict[str, dict]:
    """What must be found, and what must not be counted as copied; see `Audit`."""
    originals = np.sort(rng.permutation(np.flatnonzero(_has_brain(reference.training)))[:PLANTED])
    strangers = np.sort(rng.permutation(np.flatnonzero(_has_brain(held_out)))[:PLANTED])
    sigma = BLUR * held_out.shape[-1]
    planted = plant(np.array(reference.training[originals]), rng)
    blurred = ndimage.gaussian_filter(np.array(held_out[strangers], np.float32), (0, 0, sigma, sigma))
    found = reference.compare(np.concatenate([*planted.values(), _to_bytes(blurred)]), "controls")

    def rates(table: pd.DataFrame, counted: np.ndarray | bool = True) -> dict[str, dict]:
        copied = dict.fromkeys(LEVELS)
        if reference.margin is not None:
            copied = {name: float((counted & reference.copied(table, name)).mean()) for name in LEVELS}
        return {
            "found": {name: float((counted & reference.memorized(table, name)).mean()) for name in LEVELS},
            "copied": copied,
        }

    controls = {}
    for number, kind in enumerate(planted):
        table = found.iloc[number * len(originals) :][: len(originals)]
        found_it = table["training_row"].to_numpy() == originals
        controls[kind] = {**rates(table, found_it), "nearest_is_original": float(found_it.mean())}
    controls["blurred_strangers"] = rates(found.iloc[len(planted) * len(originals) :])

    def held_out_rates(*columns: str) -> dict[str, float | None]:
        measures, subjects = reference.null[[*columns]].to_numpy(), reference.null["subject"].to_numpy()
        return {name: cross_fitted_rate(measures, subjects, level) for name, level in LEVELS.items()}

    copied = dict.fromkeys(LEVELS) if reference.margin is None else held_out_rates("similarity", "margin")
    controls["held_out"] = {**held_out_rates("similarity"), "copied": copied}
    return controls


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
    if result["controls"]["held_out"]["tau95"] is None:
        warnings.append("the rate of held-out slices above the thresholds needs two held-out subjects")
    for kind, control in result["controls"].items():
        if "nearest_is_original" not in control:
            continue
        for rule, told in (("found", "found"), ("copied", "counted as copied")):
            if control[rule]["tau99"] is not None and control[rule]["tau99"] < 0.95:
                warnings.append(
                    f"only {control[rule]['tau99']:.0%} of planted copies of the kind '{kind}' are {told} at tau99: "
                    f"a low {'memorized' if rule == 'found' else 'copied'} share does not rule out such copies"
                )
    mistaken = result["controls"]["blurred_strangers"]["copied"]["tau95"]
    if mistaken is not None and mistaken > 0.1:
        warnings.append(
            f"{mistaken:.0%} of blurred held-out slices are counted as copied at tau95, where nobody was copied"
        )
    return warnings
