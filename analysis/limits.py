"""May a set leave, and may the weights behind it: what was measured against limits that were set beforehand.

Images and weights are judged apart. Whoever has the weights draws as many slices as they like, those that a filter
would leave out among them: so weights are judged by the whole set, and images by what the filter left. As the filter
chooses by the attacks' own scores, attacks on images are judged before and after it, and the worse counts. What could
not be measured is not kept: a limit that nothing speaks to protects nobody. docs/release.md says why each is what it
is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from analysis.memorization import OVERLOOKED
from analysis.shares import LEVELS
from analysis.statistics import ALPHA

PLAIN_COPIES = ("exact", "mirrored", "blurred")  # planted copies that a search must find before its silence counts
BLACK_BOX = ("distance", "ratio", "attribute", "link")  # attacks that need no more than the images
FAMILIES = {"ratio": "membership", "distance": "membership", "link": "linkage"}  # what fails as a whole
UNRELEASED_CRITIC = "discriminator"  # the network of a GAN that a white-box attack asks, which no release holds
LEFT_OUT = "share of the set left out by the filter"
SENT = "whom its generator learned from is not known"


@dataclass(frozen=True)
class Limits:
    """copied: most of a set that may count as copied, None for what 1 in 20 sets exceeds that copy nobody; auc: most
    that an attack may reach at the upper end of its interval, None for no such limit; found: least of the plain planted
    copies that the audit must find; patients: least held-out patients; removed: most of the set that a filter may have
    taken. All but patients are shares, 0..1. That no attack finds anything, and that nobody was shown more often on
    purpose, is always a limit."""

    copied: float | None = None
    auc: float | None = None
    found: float = OVERLOOKED
    patients: int = 10
    removed: float = 0.1


@dataclass(frozen=True)
class Verdict:
    """One limit. value, passed: None where it could not be measured, for the `reason`. least: whether the limit is the
    least that is allowed, not the most. about: "images" or "weights"."""

    name: str
    value: float | None
    limit: float
    passed: bool | None
    about: str
    least: bool = False
    reason: str = ""

    def sentence(self) -> str:
        """'share of slices copied at τ99 is 0.25, at most 0.208 is allowed'"""
        bound = f"at {'least' if self.least else 'most'} {self.limit:.3g} is {'needed' if self.least else 'allowed'}"
        return f"{self.name} is {'not known' if self.value is None else f'{self.value:.3g}'}, {bound}" + (
            f" ({self.reason})" if self.reason else ""
        )


def judge_images(
    audit: Mapping[str, Any],
    attack: Mapping[str, Any],
    whole_attack: Mapping[str, Any],
    removed: float | None,
    limits: Limits,
    *,
    sent: bool = False,
) -> list[Verdict]:
    """audit, attack: the contents of audit.json and attack.json of the images that are to leave; whole_attack: of the
    set before a filter; removed: the share of it that was left out, 0..1, None where there was no filter; sent: whether
    somebody sent the set, so that nobody knows whom its generator learned from."""
    about = "images"
    before_and_after = zip(_attacks(attack, limits, about), _attacks(whole_attack, limits, about), strict=True)
    of_patients = [
        *_copied(audit, limits, about),
        *map(least_kept, before_and_after),
        _shown_on_purpose(whole_attack, about),
    ]
    return [
        *(_of_a_sent_set(of_patients) if sent else of_patients),
        *([] if removed is None else [_verdict(LEFT_OUT, removed, limits.removed, about)]),
        *_audit_sees(audit, limits, about),
    ]


def judge_weights(
    audit: Mapping[str, Any], attack: Mapping[str, Any], limits: Limits, *, sent: bool = False
) -> list[Verdict]:
    """audit, attack: those of the whole set, from which nothing was left out; sent: as in `judge_images`."""
    about = "weights"
    white_box = _attack(attack, "white_box", limits, about)
    if attack["critic"] == UNRELEASED_CRITIC:
        reason = "the network that was attacked, the discriminator, is none of those that leave"
        white_box = [_unknown(verdict, reason) for verdict in white_box]
    of_patients = [
        *_copied(audit, limits, about),
        *_attacks(attack, limits, about),
        *white_box,
        _shown_on_purpose(attack, about),
    ]
    return [*(_of_a_sent_set(of_patients) if sent else of_patients), *_audit_sees(audit, limits, about)]


def not_kept(verdicts: list[Verdict]) -> list[Verdict]:
    """Those that stand against a release: limits exceeded, and limits that could not be judged."""
    return [verdict for verdict in verdicts if not verdict.passed]


def least_kept(verdicts: Iterable[Verdict]) -> Verdict:
    """Of verdicts on one limit the worst: one that is not known, else that farthest beyond its limit or nearest it."""

    def beyond(verdict: Verdict) -> float:
        if verdict.value is None:
            return float("inf")
        return verdict.limit - verdict.value if verdict.least else verdict.value - verdict.limit

    return max(verdicts, key=beyond)


def _verdict(
    name: str, value: float | None, limit: float, about: str, reason: str = "", least: bool = False
) -> Verdict:
    passed = None if value is None else value >= limit if least else value <= limit
    return Verdict(name, value, limit, passed, about, least, reason)


def _unknown(verdict: Verdict, reason: str) -> Verdict:
    return replace(verdict, value=None, passed=None, reason=reason)


def _of_a_sent_set(of_patients: list[Verdict]) -> list[Verdict]:
    """Copies of patients, and attacks on them, tell nothing where the generator may have learned from others."""
    return [verdict if verdict.passed is None else _unknown(verdict, SENT) for verdict in of_patients]


def _copied(audit: Mapping[str, Any], limits: Limits, about: str) -> list[Verdict]:
    reason = "all training slices are one patient's" if audit["copied_share"]["tau99"] is None else ""
    return [
        _verdict(
            f"share of slices copied at {level.replace('tau', 'τ')}",
            audit["copied_share"][level],
            audit["honest_share"][level] if limits.copied is None else limits.copied,
            about,
            reason,
        )
        for level in LEVELS
    ]


def _audit_sees(audit: Mapping[str, Any], limits: Limits, about: str) -> list[Verdict]:
    """Whether the audit could have found copies: it found plain planted ones, and had people enough to compare with."""
    rates = [audit["controls"][kind]["copied"]["tau99"] for kind in PLAIN_COPIES if kind in audit["controls"]]
    known = bool(rates) and None not in rates
    name = f"share of planted copies found, the least of {', '.join(PLAIN_COPIES)},"
    reason = "" if known else "none were planted, or one patient's slices are all there is"
    return [
        _verdict(name, min(rates) if known else None, limits.found, about, reason, least=True),
        _verdict("number of held-out patients", audit["n_null_subjects"], limits.patients, about, least=True),
    ]


def _attacks(attack: Mapping[str, Any], limits: Limits, about: str) -> list[Verdict]:
    return [verdict for name in BLACK_BOX for verdict in _attack(attack, name, limits, about)]


def _attack(attack: Mapping[str, Any], name: str, limits: Limits, about: str) -> list[Verdict]:
    """Whether an attack finds anything: its p, Holm's over the attacks on this set, is at most ALPHA. And, where the
    owner set a limit to it, what AUC cannot be ruled out: the upper end of its 95 % interval."""
    p, auc = f"p of the attack {name}", f"AUC of the attack {name} (upper bound)"
    if name not in attack["attacks"]:
        reasons = attack["reasons"]
        reason = reasons.get(name) or reasons.get(FAMILIES.get(name, name)) or "the attack was not run"
        verdicts = [_verdict(p, None, ALPHA, about, reason, least=True)]
        return verdicts if limits.auc is None else [*verdicts, _verdict(auc, None, limits.auc, about, reason)]
    found = attack["attacks"][name]
    value = found["p_adjusted"]
    verdicts = [Verdict(p, value, ALPHA, value > ALPHA, about, least=True)]
    return verdicts if limits.auc is None else [*verdicts, _verdict(auc, found["auc_interval"][1], limits.auc, about)]


def _shown_on_purpose(attack: Mapping[str, Any], about: str) -> Verdict:
    """Canaries: a generator that was shown patients more often, to test the attacks, is no generator to release."""
    return _verdict("number of patients shown more often on purpose", attack["patients"]["canaries"], 0, about)
