"""How well an attack's scores tell members from held-out people: AUC, true positives, control, risk (PROTOCOL, 4).

The unit is the patient: every patient has one score, higher where the attacker is surer that they were trained on.

Control. The same attack is run between two halves of the *held-out* patients, as if one half were the members. Neither
was trained on, and which patient is in which half is a coin's choice: exchanging the halves turns AUC into 1 − AUC, and
a half is as likely as its complement, so a sound attack's control is 0.5 in expectation. Halves are drawn at random and
stand beside their complements here, which makes their mean 0.5 but for ties of rounding: what the control tells is how
far from 0.5 an AUC strays when nobody is a member. (As halves hold fewer patients than the attack itself, it strays
farther, so the comparison errs on the careful side.) Members and held-out patients were told apart by a random split,
and patients that chose a snapshot are neither.

Risk = (attack − control) / (1 − control), the share of what is left to guessing that the attack gains (Giomi et al.,
"A unified framework for quantifying privacy risk in synthetic data", PoPETs 2023, section 4.2); with AUC, 2 AUC − 1.
"""

import numpy as np
import pandas as pd
from scipy import optimize, stats

from analysis.statistics import holm

HALVES = 1000  # random halves of held-out patients, and their complements
FALSE_POSITIVES = 0.01
Z = stats.norm.ppf(0.975)
LEAST_HELD_OUT = 2  # patients: one in each half


class TooFewPatients(ValueError):
    """There are not enough patients for an attack to be judged."""


def auc(members: np.ndarray, held_out: np.ndarray) -> float:
    """Probability that a member's score [m] is above a held-out patient's [n], ties half: Mann–Whitney's U / (m n)."""
    ranks = stats.rankdata(np.concatenate([members, held_out]))
    m, n = len(members), len(held_out)
    return float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))


def auc_interval(value: float, m: int, n: int) -> list[float]:
    """95 % interval over patients of an AUC of m members and n held-out patients, within 0..1.

    A score interval: all θ with (AUC − θ)² ≤ z² V(θ), where V is Hanley & McNeil's variance (Radiology 143:29, 1982),
    with both sizes at their mean: method 5 of Newcombe, Stat Med 25:559 (2006), chosen there because it holds for few
    patients and at AUC 0 and 1, where resampled patients would give an interval of no width.
    """
    size = (m + n) / 2 - 1

    def lower(found: float) -> float:
        def gap(theta: float) -> float:
            variance = theta * (1 - theta) * (1 + size * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (m * n)
            return (found - theta) ** 2 - Z**2 * variance

        return float(optimize.brentq(gap, 0, min(found, 1 - 1e-9))) if found > 0 else 0.0

    return [lower(value), 1 - lower(1 - value)]


def allowed(held_out: int) -> int:
    """How many of so many held-out patients may be taken for members: 1 % of them, so none of fewer than 100."""
    return int(FALSE_POSITIVES * held_out)


def true_positives(members: np.ndarray, held_out: np.ndarray) -> float:
    """Share of members scored above all held-out patients but the `allowed` highest."""
    threshold = np.sort(held_out)[::-1][allowed(len(held_out))]
    return float((members > threshold).mean())


def by_chance(held_out: int) -> float:
    """`true_positives` to expect where members are like held-out patients: each exceeds the r-th highest of n others
    with probability r / (n + 1). With fewer than 99 held-out patients that is more than the 1 % in its name."""
    return (allowed(held_out) + 1) / (held_out + 1)


def share_interval(count: float, n: int) -> list[float]:
    """Exact 95 % interval of a share of n patients (Clopper–Pearson); a count with a fraction is one of [0, 1] scores,
    whose variance is at most a binomial's."""
    low = stats.beta.ppf(0.025, count, n - count + 1) if count > 0 else 0.0
    high = stats.beta.ppf(0.975, count + 1, n - count) if count < n else 1.0
    return [float(low), float(high)]


def risk(attack: float, control: float) -> float | None:
    """(attack − control) / (1 − control); None where the control always succeeds, which leaves nothing to gain."""
    return (attack - control) / (1 - control) if control < 1 else None


def halves(held_out: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """AUC and `true_positives` of random halves of held-out scores [n] against the other half, each [2 · HALVES]."""
    n = len(held_out)
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (HALVES, 1)), axis=1)
    first, second = order[:, : n // 2], order[:, n // 2 :]
    ranks, found = stats.rankdata(held_out), []
    for half, rest in ((first, second), (second, first)):
        m, k = half.shape[1], rest.shape[1]
        threshold = np.sort(held_out[rest], axis=1)[:, [k - 1 - allowed(k)]]
        above = (held_out[half] > threshold).mean(1)
        found.append(((ranks[half].sum(1) - m * (m + 1) / 2) / (m * k), above))
    return tuple(np.concatenate(each) for each in zip(*found, strict=True))


def judge(scores: np.ndarray, member: np.ndarray, *, seed: int = 0) -> dict:
    """What an attack's scores [N] of patients amount to, `member` [N] telling who was trained on: plain values.

    auc, auc_interval; true_positives at 1 % false positives, their interval (exact, over members, at that threshold)
    and true_positives_by_chance; p_value, Mann–Whitney's one-sided, for which members and held-out patients are
    exchangeable where nothing leaks; control: auc, auc_band (95 % of all halves) and true_positives of the same attack
    between halves of held-out patients, and p_value, the share of halves whose AUC is at least the attack's; risk and
    risk_interval, from the AUC; members, held_out: numbers of patients.

    Raises TooFewPatients without a member or with fewer than two held-out patients, ValueError for a score that is no
    finite number.
    """
    scores, member = np.asarray(scores, float), np.asarray(member, bool)
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} patients' scores are not finite")
    members, held_out = scores[member], scores[~member]
    m, n = len(members), len(held_out)
    if m == 0 or n < LEAST_HELD_OUT:
        raise TooFewPatients(f"{m} members and {n} held-out patients; at least 1 and {LEAST_HELD_OUT} are needed")
    value, found = auc(members, held_out), true_positives(members, held_out)
    interval = auc_interval(value, m, n)
    of_halves, tpr_of_halves = halves(held_out, seed)
    control = float(of_halves.mean())
    return {
        "auc": value,
        "auc_interval": interval,
        "true_positives": found,
        "true_positives_interval": share_interval(round(found * m), m),
        "true_positives_by_chance": by_chance(n),
        "p_value": float(stats.mannwhitneyu(members, held_out, alternative="greater").pvalue),
        "control": {
            "auc": control,
            "auc_band": [float(bound) for bound in np.quantile(of_halves, [0.025, 0.975])],
            "true_positives": float(tpr_of_halves.mean()),
            "p_value": float((1 + (of_halves >= value).sum()) / (1 + len(of_halves))),
        },
        "risk": risk(value, control),
        "risk_interval": [risk(bound, control) for bound in interval],
        "members": m,
        "held_out": n,
    }


def judge_all(people: pd.DataFrame, *, seed: int = 0) -> tuple[dict[str, dict], dict[str, str]]:
    """`judge` of every attack on the same patients, and why one could not be judged, by attack.

    people: a row per patient with `patient`, `member`, `times` (how often each of their slices was shown: canaries more
    often than once) and a column of scores per attack. Members who were shown once are attacked; `canaries` has "auc"
    and "auc_interval" of those shown more often against the same held-out patients, by their `times`. `p_adjusted` is
    Holm's over the attacks.
    """
    found, reasons = {}, {}
    usual = people[~people["member"] | (people["times"] == 1)]
    for name in people.columns.drop(["patient", "member", "times"]):
        try:
            found[name] = judge(usual[name], usual["member"], seed=seed)
        except TooFewPatients as error:
            reasons[name] = str(error)
            continue
        held_out = usual.loc[~usual["member"], name].to_numpy()
        found[name]["canaries"] = {}
        for times, canaries in people[people["times"] > 1].groupby("times"):
            value = auc(canaries[name].to_numpy(), held_out)
            interval = auc_interval(value, len(canaries), len(held_out))
            found[name]["canaries"][str(times)] = {"auc": value, "auc_interval": interval, "patients": len(canaries)}
    adjusted = holm(pd.DataFrame({"p": [each["p_value"] for each in found.values()], "set": ""}), ["set"])["p_holm"]
    for each, p in zip(found.values(), adjusted, strict=True):
        each["p_adjusted"] = float(p)
    return found, reasons


def linked_shares(people: pd.DataFrame, pool: int) -> dict:
    """How many patients' halves were linked, by `linked` of `attacks.linkage`: shares of members and of held-out
    patients, the control, with their exact intervals (conservative: a probability varies less than a yes or no), what
    chance gives among the `pool` patients whose halves were shuffled at a time, and the risk."""
    shares, intervals = {}, {}
    for name, group in (("members", people[people["member"]]), ("held_out", people[~people["member"]])):
        shares[name] = float(group["linked"].mean())
        intervals[f"{name}_interval"] = share_interval(float(group["linked"].sum()), len(group))
    return {**shares, **intervals, "by_chance": 1 / pool, "risk": risk(shares["members"], shares["held_out"])}
