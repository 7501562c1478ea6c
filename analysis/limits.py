"""May a set leave, and may the weights behind it: what was measured against limits that were set beforehand.

Images and weights are judged apart. Whoever has the weights draws as many slices as they like, those that a filter
would leave out among them: so weights are judged by the whole set, and images by what the filter left. What could not
be measured is not kept: a limit that nothing speaks to protects nobody. docs/release.md says why each is what it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.memorization import OVERLOOKED
from analysis.shares import LEVELS

PLAIN_COPIES = ("exact", "mirrored", "blurred")  # planted copies that a search must find before its silence counts
BLACK_BOX = ("distance", "ratio", "attribute", "link")  # attacks that need no more than the images
UNRELEASED_CRITIC = "discriminator"  # the network of a GAN that a white-box attack asks, which no release holds


@dataclass(frozen=True)
class Limits:
    """copied: most of a set that may count as copied, None for what 1 in 20 sets exceeds that copy nobody; auc: most
    that an attack may surely reach, None for what its control reaches by chance; found: least of the plain planted
    copies that the audit must find; patients: least held-out patients; removed: most of the set that a filter may have
    taken. All but patients are shares, 0..1."""

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


def judge_images(audit: Mapping[str, Any], attack: Mapping[str, Any], removed: float, limits: Limits) -> list[Verdict]:
    """audit, attack: the contents of audit.json and attack.json of the images that are to leave; removed: the share of
    the whole set that was left out, 0..1."""
    about = "images"
    return [
        *_copied(audit, limits, about),
        _verdict("share of the set left out by the filter", removed, limits.removed, about),
        *_audit_sees(audit, limits, about),
        *(_attack(attack, name, limits, about) for name in BLACK_BOX),
    ]


def judge_weights(audit: Mapping[str, Any], attack: Mapping[str, Any], limits: Limits) -> list[Verdict]:
    """audit, attack: those of the whole set, from which nothing was left out."""
    about = "weights"
    verdicts = [
        *_copied(audit, limits, about),
        *_audit_sees(audit, limits, about),
        *(_attack(attack, name, limits, about) for name in BLACK_BOX),
    ]
    white_box = _attack(attack, "white_box", limits, about)
    if attack["critic"] == UNRELEASED_CRITIC:
        reason = "the network that was attacked, the discriminator, is none of those that leave"
        white_box = Verdict(white_box.name, None, white_box.limit, None, about, reason=reason)
    return [*verdicts, white_box]


def not_kept(verdicts: list[Verdict]) -> list[Verdict]:
    """Those that stand against a release: limits exceeded, and limits that could not be judged."""
    return [verdict for verdict in verdicts if not verdict.passed]


def _verdict(
    name: str, value: float | None, limit: float, about: str, reason: str = "", least: bool = False
) -> Verdict:
    passed = None if value is None else value >= limit if least else value <= limit
    return Verdict(name, value, limit, passed, about, least, reason)


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


def _attack(attack: Mapping[str, Any], name: str, limits: Limits, about: str) -> Verdict:
    """An attack's AUC, by the lower bound of its 95 % interval: what it surely reaches."""
    title = f"AUC of the attack {name} (lower bound)"
    if name not in attack["attacks"]:
        families = {"distance": "membership", "ratio": "membership", "link": "linkage"}
        reasons = attack["reasons"]
        reason = reasons.get(name) or reasons.get(families.get(name, name)) or "the attack was not run"
        return _verdict(title, None, 0.5 if limits.auc is None else limits.auc, about, reason)
    found = attack["attacks"][name]
    by_chance = found["control"]["auc_band"][1]
    return _verdict(title, found["auc_interval"][0], by_chance if limits.auc is None else limits.auc, about)
