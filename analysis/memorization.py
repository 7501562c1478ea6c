"""Does a synthetic set hold copies of training patients? The audit of PROTOCOL, section 4.

How close is close is answered by real slices of held-out patients: whatever resemblance two different people have, they
have it too. A synthetic slice that resembles a training slice more than 95 % (99 %) of them do is counted as memorized.
Passing this audit is not proof of anonymity.
"""

from dataclasses import dataclass, field, fields

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import ndimage, stats
from scipy.cluster import vq

from analysis.neighbours import CANDIDATES, masked, nearest

LEVELS = {"tau95": 0.95, "tau99": 0.99}
FIXED_CORRELATIONS = (0.90, 0.95, 0.99)
CONFIDENCE = 0.95
PLANTED = 50  # copies of each kind
MIN_PER_CELL = 20  # of generated and of held-out slices each: below, Mann–Whitney's normal approximation is poor


@dataclass(frozen=True)
class Audit:
    """What an audit found. Shares, rates and probabilities lie in 0..1; what is None has its reason in `warnings`.

    memorized_share, memorized_interval, p_value : each "tau95" and "tau99"; the interval is the exact one-sided one at
        95 % confidence, [lower bound, 1].
    leaked_patients : "count" and "share" of training subjects with a synthetic slice above tau99 whose nearest slice
        is theirs, and "count_by_chance", how many a generator that copies nothing would show.
    counts_above : slices whose correlation with a training slice, as is or mirrored, exceeds "0.90", "0.95", "0.99".
    controls : per kind of planted copy, "found" ("tau95", "tau99": rate of copies above the threshold whose nearest
        slice is their original) and "nearest_is_original"; "held_out" ("tau95", "tau99": rate of held-out slices above
        the threshold of the other held-out subjects).
    slices : a row per synthetic slice: row, similarity, training_row, training_subject, kind, shift_y, shift_x,
        mirrored, correlation (see `neighbours.nearest`). null : the same for held-out slices, with their subject.
    """

    n_synthetic: int
    n_train: int
    n_train_subjects: int
    n_null: int
    n_null_subjects: int
    tau95: float
    tau99: float
    memorized_share: dict[str, float]
    memorized_interval: dict[str, list[float]]
    p_value: dict[str, float]
    leaked_patients: dict[str, float]
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


def audit(
    synthetic: np.ndarray,
    training: np.ndarray,
    training_subjects: np.ndarray,
    held_out: np.ndarray,
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
    synthetic, training, held_out : uint8 [M, C, H, W], [N, C, H, W], [K, C, H, W], memory maps welcome.
    training_subjects, held_out_subjects : names [N], [K]; no name may be in both.
    synthetic_subjects : names [M] where several synthetic slices come from one synthetic patient; by default every
        slice is a draw of its own.
    seed : of planted copies and k-means cells.
    device, memory_gib, k : see `neighbours.nearest`.

    Raises ValueError for arrays that do not fit together, shared subjects, or a training or held-out set without brain.
    """
    training_subjects, held_out_subjects = (
        _subjects(training_subjects, training),
        _subjects(held_out_subjects, held_out),
    )
    shared = sorted(set(training_subjects) & set(held_out_subjects))
    if shared:
        raise ValueError(f"held-out subjects were trained on, so they are no null: {', '.join(shared[:5])}")
    synthetic_subjects = (
        np.arange(len(synthetic)).astype(str)
        if synthetic_subjects is None
        else _subjects(synthetic_subjects, synthetic)
    )
    rng = np.random.default_rng(seed)
    search = {"k": k, "device": device, "memory_gib": memory_gib}

    def compare(images: np.ndarray, name: str) -> pd.DataFrame:
        found = nearest(images, training, name=name, **search).rename(columns={"row": "training_row"})
        found.insert(2, "training_subject", training_subjects[found["training_row"]])
        return found.rename_axis("row").reset_index()

    brain = _has_brain(training)
    originals = rng.permutation(np.flatnonzero(brain))[:PLANTED]
    if len(originals) == 0 or not _has_brain(held_out).any():
        raise ValueError("no training slice or no held-out slice has a brain (a pixel above 10 of 255)")

    null = compare(held_out, "held-out slices")
    null.insert(1, "subject", held_out_subjects)
    slices = compare(synthetic, "synthetic slices")
    planted = plant(np.array(training[np.sort(originals)]), rng)
    found = {kind: compare(copies, f"planted: {kind}") for kind, copies in planted.items()}
    authenticity = None
    if len(set(training_subjects)) > 1:
        authenticity = _authenticity(slices, training, training_subjects, search)

    similarity, reference = slices["similarity"].to_numpy(), null["similarity"].to_numpy()
    thresholds, shares, intervals, p_values = {}, {}, {}, {}
    for name, level in LEVELS.items():
        thresholds[name] = tau = threshold(reference, level)
        shares[name] = float((similarity > tau).mean())
        intervals[name] = [lower_bound(similarity, synthetic_subjects, tau), 1.0]
        p_values[name] = p_value(similarity, synthetic_subjects, reference, held_out_subjects, level)

    controls = {kind: _found(table, np.sort(originals), thresholds) for kind, table in found.items()}
    controls["held_out"] = {
        name: cross_fitted_rate(reference, held_out_subjects, level) for name, level in LEVELS.items()
    }
    result = {
        "n_synthetic": len(synthetic),
        "n_train": len(training),
        "n_train_subjects": len(set(training_subjects)),
        "n_null": len(held_out),
        "n_null_subjects": len(set(held_out_subjects)),
        **thresholds,
        "memorized_share": shares,
        "memorized_interval": intervals,
        "p_value": p_values,
        "leaked_patients": leaked_patients(
            slices, training_subjects, thresholds["tau99"], expected_above(len(null), 0.99)
        ),
        "counts_above": {f"{fixed:.2f}": int((slices["correlation"] > fixed).sum()) for fixed in FIXED_CORRELATIONS},
        "c_t": data_copying(slices, null, synthetic, held_out, training, seed),
        "authenticity": authenticity,
        "controls": controls,
    }
    return Audit(**result, warnings=_warnings(result, _has_brain(synthetic)), slices=slices, null=null)


# ---- thresholds, shares and tests ----------------------------------------------------------------------------------


def threshold(null: np.ndarray, level: float) -> float:
    """The percentile of the null that a further, unrelated slice exceeds with probability 1 − level.

    Of the textbook's percentiles, that is Weibull's, at rank level·(n + 1) (Hyndman & Fan 1996, type 6); the largest
    value when n + 1 < 1 / (1 − level).
    """
    return float(np.quantile(null, level, method="weibull"))


def expected_above(n: int, level: float) -> float:
    """Share of unrelated slices above `threshold` of a null of n: 1 − level, or 1 / (n + 1) where n is too small."""
    return max(1 - level, 1 / (n + 1))


def effective_size(similarity: np.ndarray, subjects: np.ndarray) -> float:
    """How many independent slices carry as much information as these, which come several from a subject.

    Korn & Graubard, Survey Methodology 24 (1998): n / deff · (t_{n−1} / t_{S−1})², with deff the variance of a mean
    over S subjects relative to that over independent slices, and the t quantiles for how well S subjects tell it. deff
    is that of the ranks: that of the indicator "above tau" rests on a handful of slices and is too small just when tau
    is (in simulation, 8–18 % false positives at alpha 0.05 instead of 1–7 %). One subject counts as one slice.
    """
    n, (names, cluster) = len(similarity), np.unique(subjects, return_inverse=True)
    S, ranks = len(names), stats.rankdata(similarity) - (n + 1) / 2
    if S in (1, n) or not ranks.any():
        return float(S)
    deff = S / (S - 1) * (np.bincount(cluster, ranks) ** 2).sum() / (ranks**2).sum()
    degrees = stats.t.ppf(CONFIDENCE, n - 1) / stats.t.ppf(CONFIDENCE, S - 1)
    return max(1.0, n / max(deff, 1.0) * degrees**2)


def lower_bound(similarity: np.ndarray, subjects: np.ndarray, tau: float) -> float:
    """One-sided exact (Clopper–Pearson) lower bound of the share above tau, at the effective number of slices."""
    n = effective_size(similarity, subjects)
    hits = (similarity > tau).mean() * n
    return float(stats.beta.ppf(1 - CONFIDENCE, hits, n - hits + 1)) if hits > 0 else 0.0


def p_value(
    similarity: np.ndarray, subjects: np.ndarray, null: np.ndarray, null_subjects: np.ndarray, level: float
) -> float:
    """Exact one-sided probability of at least this many slices above the threshold if the generator copies nothing.

    The number above a known threshold is binomial. But the threshold is the r-th of n null values, so an unrelated
    slice exceeds it with a probability that is itself random, Beta(n + 1 − r, r), and the number above is
    beta-binomial: exact for any distribution of similarities, and the binomial test where the null is large. Subjects
    are clusters on both sides: n and the number of synthetic slices are their effective sizes.
    """
    n, n_null = effective_size(similarity, subjects), effective_size(null, null_subjects)
    n = int(n + 1e-9)
    hits = int((similarity > threshold(null, level)).mean() * n + 1e-9)
    expected = expected_above(len(null), level)
    return float(stats.betabinom.sf(hits - 1, n, expected * (n_null + 1), (1 - expected) * (n_null + 1)))


def cross_fitted_rate(null: np.ndarray, subjects: np.ndarray, level: float) -> float | None:
    """Share of held-out slices above the threshold of the *other* held-out subjects; None for a single subject."""
    names = np.unique(subjects)
    if len(names) == 1:
        return None
    return float(sum((null[subjects == s] > threshold(null[subjects != s], level)).sum() for s in names) / len(null))


def leaked_patients(slices: pd.DataFrame, training_subjects: np.ndarray, tau: float, expected: float) -> dict:
    """Training subjects with at least one slice above tau whose nearest slice is theirs, and the number by chance:
    each of M slices passes tau with probability `expected`, and goes to a subject as often as all slices do."""
    subjects = len(set(training_subjects))
    count = slices.loc[slices["similarity"] > tau, "training_subject"].nunique()
    drawn = slices["training_subject"].value_counts(normalize=True).to_numpy()
    by_chance = (1 - (1 - expected * drawn) ** len(slices)).sum()
    return {"count": int(count), "share": count / subjects, "count_by_chance": float(by_chance)}


# ---- data-copying statistic and authenticity -----------------------------------------------------------------------


def data_copying(
    slices: pd.DataFrame,
    null: pd.DataFrame,
    synthetic: np.ndarray,
    held_out: np.ndarray,
    training: np.ndarray,
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


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Slices averaged to 8×8 pixels inside the brain, float64 [N, C·64]."""
    pieces = [
        F.adaptive_avg_pool2d(masked(images[start : start + 64], torch.device("cpu"))[0], 8).flatten(1)
        for start in range(0, len(images), 64)
    ]
    return torch.cat(pieces).double().numpy()


def _authenticity(slices: pd.DataFrame, training: np.ndarray, subjects: np.ndarray, search: dict) -> float:
    """Share of synthetic slices less similar to their nearest training slice than that one is to the nearest training
    slice of another subject (Alaa et al., ICML 2022, eq. 8; there, of the training set: here neighbouring slices of one
    subject would count as other people)."""
    rows, inverse = np.unique(slices["training_row"], return_inverse=True)
    others = nearest(
        training[rows],
        training,
        query_groups=subjects[rows],
        reference_groups=subjects,
        name="training slices",
        **search,
    )
    return float((slices["similarity"].to_numpy() < others["similarity"].to_numpy()[inverse]).mean())


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
        "blurred": ndimage.gaussian_filter(values, sigma=(0, 0, 1, 1)),
        "noise": values + brain * rng.normal(0, 0.05 * 255, values.shape),
        "gamma": 255 * (values / 255) ** 0.8,
    }
    return {kind: np.clip(np.rint(images), 0, 255).astype(np.uint8) for kind, images in copies.items()}


def _found(table: pd.DataFrame, originals: np.ndarray, thresholds: dict[str, float]) -> dict:
    own = table["training_row"].to_numpy() == originals
    found = {name: float((own & (table["similarity"] > tau)).mean()) for name, tau in thresholds.items()}
    return {"found": found, "nearest_is_original": float(own.mean())}


# ---- what can be wrong ---------------------------------------------------------------------------------------------


def _subjects(subjects: np.ndarray, images: np.ndarray) -> np.ndarray:
    subjects = np.asarray(subjects).astype(str)
    if subjects.shape != (len(images),):
        raise ValueError(f"{len(images)} slices need as many subjects, not {list(subjects.shape)}")
    return subjects


def _has_brain(images: np.ndarray) -> np.ndarray:
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
        warnings.append("authenticity needs training slices of two subjects")
    if result["c_t"] is None:
        warnings.append(f"C_T needs {MIN_PER_CELL} synthetic and {MIN_PER_CELL} held-out slices in one cell")
    if result["controls"]["held_out"]["tau95"] is None:
        warnings.append("the rate of held-out slices above the thresholds needs two held-out subjects")
    for kind, control in result["controls"].items():
        if kind != "held_out" and control["found"]["tau99"] < 0.95:
            warnings.append(
                f"only {control['found']['tau99']:.0%} of planted copies of the kind '{kind}' are found at tau99: "
                "a low memorized share does not rule out such copies"
            )
    return warnings
