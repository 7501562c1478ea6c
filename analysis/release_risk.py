"""What a release card says: audits, attacks, Dice and limits in words for a reader who knows no statistics.

The three questions of singling out, linkability and inference are those of the Article 29 Working Party (opinion
05/2014). Each is answered by the attack that stands for it, its control and the risk (attack − control) / (1 − control)
of Giomi et al. (PoPETs 2023). Of several sets the worst decides. A row is coloured by what was found alone: "bad" where
something was, "good" where a limit that was set beforehand is kept, "open" where nothing was found that would settle
it, "none" where nothing was measured. docs/card.md has the sources.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from analysis.arms import ARMS, label
from analysis.attacks_statistics import allowed
from analysis.memorization import OVERLOOKED
from analysis.shares import expected_above
from analysis.statistics import ALPHA, MARGINS, counted
from analysis.tables import number, p_value

NOT_PLANTED = ("held_out", "blurred_strangers")  # controls that are no copies
SOURCES = (
    "Article 29 Working Party, Opinion 05/2014 on Anonymisation Techniques (WP216).",
    "European Data Protection Board, Opinion 28/2024 on AI models.",
    "Giomi et al., A unified framework for quantifying privacy risk in synthetic data, PoPETs 2023.",
    "Pilgram et al., A consensus privacy metrics framework for synthetic data, Patterns 2025.",
    "European Medicines Agency, policy 0070; Health Canada, Public Release of Clinical Information.",
)


@dataclass(frozen=True)
class Row:
    """A question, its answer in a few words with a colour ("good", "open", "bad" or "none"), sentences, and the same in
    numbers for those who want them."""

    title: str
    asked: str
    status: str
    verdict: str
    words: list[str]
    numbers: str = ""


@dataclass(frozen=True)
class Card:
    """One page: what it is about, banners that must not be overlooked, rows, sources by their number."""

    title: str
    lead: str
    rows: list[Row]
    banners: list[str] = field(default_factory=list)
    sources: Sequence[str] = SOURCES


def of_100(share: float) -> str:
    """'58' of 0.58: how many of a hundred; what would round to none or all, but is neither, says so."""
    if 0 < share < 0.005:
        return "fewer than 1"
    if 0.995 < share < 1:
        return "more than 99"
    return number(100 * share, ".0f")


# --- may it leave? --------------------------------------------------------------------------------------------------


def question_row(what: str, limits: Sequence, forced: bool, more: Sequence[str] = ()) -> Row:
    """May these "images" or "weights" leave? limits: verdicts with name, value, limit and passed (None: not judged)."""
    failed = [each for each in limits if each.passed is False]
    unjudged = [each for each in limits if each.passed is None]
    if failed:
        status, verdict = "bad", f"Outside {len(failed)} of {counted(len(limits), 'limit')}"
        words = [f"Outside its limits: {'; '.join(map(_limit, failed))}."]
    elif unjudged:
        status, verdict = "open", f"{counted(len(unjudged), 'limit')} of {len(limits)} not judged"
        words = [f"Not judged: {'; '.join(map(_limit, unjudged))}."]
    elif limits:
        status, verdict = "good", f"Within all {len(limits)} limits" if len(limits) > 1 else "Within its limit"
        words = [f"Within the limits that were set beforehand: {'; '.join(map(_limit, limits))}."]
    else:
        status, verdict, words = (
            "none",
            "No limit was set",
            ["Nothing was set that would decide it: see the rows below."],
        )
    if forced and failed:
        words += ["It was made nevertheless (forced)."]
    return Row(f"May these {what} leave?", "", status, verdict, [*words, *more])


def _limit(verdict) -> str:
    value = "not known" if verdict.value is None or math.isnan(verdict.value) else f"{verdict.value:.3g}"
    return f"{verdict.name} is {value}, its limit {verdict.limit:.3g}"


def weights_row(attacks: Sequence[Mapping], limits: Sequence, forced: bool, included: bool) -> Row:
    """The weights are judged apart from the images: whoever has them may ask for more than a set of images tells."""
    there = "They are in the package." if included else "They are not in the package."
    critic = next((found["critic"] for found in attacks if found["critic"]), None)
    judged = [found["attacks"]["white_box"] for found in attacks if "white_box" in found["attacks"]]
    if not judged or critic == "discriminator":
        reasons = [found["reasons"]["white_box"] for found in attacks if "white_box" in found["reasons"]]
        why = "the network that was attacked, the discriminator, is not what would be released" if judged else None
        why = why or next(iter(reasons), "they were not attacked")
        row = question_row("weights", limits, forced, [there])
        if row.status == "bad":
            return row
        words = [f"As they would be released, they were not attacked: {why}.", there]
        return Row(row.title, "", "none", "Not judged", words)
    row = question_row("weights", limits, forced)
    attack = _attack(judged)
    if limits:
        return Row(row.title, "", row.status, row.verdict, [*row.words, *attack.words, there], attack.numbers)
    return Row(row.title, "", attack.status, attack.verdict, [*attack.words, there], attack.numbers)


# --- attacks --------------------------------------------------------------------------------------------------------

ATTACKED = {
    "Singling out": (
        ("ratio", "distance"),
        "Can somebody tell who was trained on?",
        "The attacker has a patient's real images and looks how close the set comes to them.",
    ),
    "Linkability": (
        ("link",),
        "Can two records of one patient be brought together?",
        "The attacker has two parts of a patient's scan without a name and looks which synthetic images both resemble.",
    ),
    "Inference": (
        ("attribute",),
        "Can something unknown about a patient be guessed?",
        "The attacker has three of a patient's four kinds of image and guesses the fourth from the set.",
    ),
}


def attack_row(title: str, attacks: Sequence[Mapping]) -> Row:
    """Singling out, Linkability or Inference, by attack.json of every set."""
    names, asked, how = ATTACKED[title]
    for name in names:
        judged = [found["attacks"][name] for found in attacks if name in found["attacks"]]
        if judged:
            found = _attack(judged)
            linked = _linked(attacks) if name == "link" else []
            words = [how, *linked, *found.words]
            return Row(title, asked, found.status, found.verdict, words, found.numbers)
    families = {"ratio": "membership", "distance": "membership", "link": "linkage"}
    reasons = [
        found["reasons"][key]
        for found in attacks
        for name in names
        for key in (name, families.get(name, name))
        if key in found["reasons"]
    ]
    why = next(iter(reasons), "the attack was not run")
    return Row(title, asked, "none", "Not judged", [how, f"No verdict: {why}."])


def _attack(judged: Sequence[Mapping]) -> Row:
    """The verdict of the worst of several sets, in words, and the range of all."""
    worst = max(judged, key=lambda each: each["auc"])
    control, m, n = worst["control"], worst["members"], worst["held_out"]
    low, high = worst["auc_interval"]
    found = min(each["p_adjusted"] for each in judged) <= ALPHA
    words = [
        f"Of 100 pairs of a patient who was trained on and one who was not, he names the right one in "
        f"{of_100(worst['auc'])} (95 % interval {of_100(low)} to {of_100(high)}); by guessing 50. Among outsiders "
        f"alone, where there is nothing to find, chance gave {of_100(control['auc_band'][0])} to "
        f"{of_100(control['auc_band'][1])}.",
        f"{_wrongly(n)}, he recognises {of_100(worst['true_positives'])} of 100 patients who were trained on; chance "
        f"gives {of_100(worst['true_positives_by_chance'])}.",
    ]
    if len(judged) > 1:
        reach = [of_100(pick(each["auc"] for each in judged)) for pick in (min, max)]
        words += [f"This is the worst of {len(judged)} sets ({reach[0]} to {reach[1]} of 100 pairs)."]
    for times, canaries in sorted(worst["canaries"].items(), key=lambda each: -int(each[0]))[:1]:
        words += [
            f"Of {counted(canaries['patients'], 'patient')} shown {times} times on purpose, whom an attack that sees "
            f"should find, he is right in {of_100(canaries['auc'])} of 100 pairs."
        ]
    at_most = worst["risk_interval"][1]
    if found:
        status, verdict = "bad", "Found: more than by chance"
    else:
        status, verdict = "open", "Not found"
        words += [
            f"{counted(m, 'patient')} who were trained on and {n} others cannot exclude a risk of up to "
            f"{of_100(at_most)} of 100."
            if at_most is not None
            else "The control always succeeds: there is no risk to measure."
        ]
    numbers = (
        f"AUC {number(worst['auc'], '.2f')} [{number(low, '.2f')}, {number(high, '.2f')}], control "
        f"{number(control['auc'], '.2f')}, risk {_bounds(worst['risk'], worst['risk_interval'])}, p "
        f"{p_value(worst['p_adjusted'])}, {m:,} and {n:,} patients"
    )
    return Row("", "", status, verdict, words, numbers)


def _wrongly(held_out: int) -> str:
    wrong = allowed(held_out)
    if not wrong:
        return f"When he may accuse none of {held_out} outsiders wrongly"
    return f"When he may accuse {wrong} of {held_out:,} outsiders wrongly"


def _bounds(value: float | None, interval: Sequence[float | None]) -> str:
    if value is None or None in interval:
        return "not defined"
    return f"{number(value, '.2f')} [{number(interval[0], '.2f')}, {number(interval[1], '.2f')}]"


def _linked(attacks: Sequence[Mapping]) -> list[str]:
    linked = [found["linked"] for found in attacks if found["linked"]]
    if not linked:
        return []
    worst = max(linked, key=lambda each: each["members"] - each["held_out"])
    return [
        f"He joins the parts of {of_100(worst['members'])} of 100 patients who were trained on, and of "
        f"{of_100(worst['held_out'])} of 100 outsiders; by guessing {of_100(worst['by_chance'])}."
    ]


# --- copies ---------------------------------------------------------------------------------------------------------


def copies_row(audits: Sequence[Mapping], removed: Mapping[str, int] | None) -> Row:
    """Planted and found, by kind; found in the set; removed. audits: audit.json of every set."""
    title, asked = "Copies", "Does the set repeat a patient's images?"
    gone = _removed(removed)
    known = [audit for audit in audits if audit["copied_share"]["tau99"] is not None]
    if not known:
        why = "all training images are of one patient" if audits else "the set was not audited"
        return Row(title, asked, "none", "Not judged", [f"No verdict: {why}.", gone])
    worst = max(known, key=lambda audit: audit["copied_share"]["tau99"])
    low, high = worst["copied_interval"]["tau99"]
    found = min(min(audit["copied_p_value"].values()) for audit in known) <= ALPHA
    planted, missed = _planted(known)
    words = [
        f"Of 100 synthetic slices, {of_100(worst['copied_share']['tau99'])} (95 % interval {of_100(low)} to "
        f"{of_100(high)}) point at one patient more clearly than 99 of 100 slices of outsiders do; without copying "
        f"about {of_100(expected_above(worst['n_null'], 0.99))}."
        + (f" This is the worst of {len(known)} sets." if len(known) > 1 else ""),
        planted,
        gone,
        "Likeness alone measures no identification [4], hence the attacks above.",
    ]
    if found:
        status, verdict = "bad", "More than by chance"
    elif missed:
        status, verdict = "open", f"No more than by chance; blind to {counted(missed, 'kind')}"
    else:
        status, verdict = "good", "No more than by chance"
    numbers = (
        f"copied {number(worst['copied_share']['tau99'], '.3f')} (τ99), {number(worst['copied_share']['tau95'], '.3f')}"
        f" (τ95), p {p_value(min(worst['copied_p_value'].values()))}, {worst['n_synthetic']:,} synthetic, "
        f"{worst['n_null']:,} outsiders' slices"
    )
    return Row(title, asked, status, verdict, words, numbers)


def _planted(audits: Sequence[Mapping]) -> tuple[str, int]:
    """A sentence about the planted copies, and how many kinds are overlooked; of several sets the lowest rate."""
    rates: dict[str, float] = {}
    for audit in audits:
        for kind, control in audit["controls"].items():
            rate = control["copied"]["tau99"]
            if kind not in NOT_PLANTED and rate is not None:
                rates[kind] = min(rate, rates.get(kind, 1.0))
    if not rates:
        return "No copies were planted to test the search.", 0
    missed = {kind: rate for kind, rate in rates.items() if rate < OVERLOOKED}
    text = f"Copies planted on purpose, {counted(len(rates), 'kind')}: "
    if not missed:
        return text + f"all are found at least {OVERLOOKED:.0%} of the time.".replace("%", " %"), 0
    names = ", ".join(f"{kind} ({100 * rate:.0f} %)" for kind, rate in missed.items())
    return text + f"{len(rates) - len(missed)} are found reliably; too rarely: {names}.", len(missed)


def _removed(removed: Mapping[str, int] | None) -> str:
    if removed is None:
        return "Nothing was removed."
    total = sum(removed.values())
    if not total:
        return "Removed before release: none had to be."
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in removed.items() if count)
    return f"Removed before release: {counted(total, 'slice')} ({reasons})."


def worst_row(pseudonym: str, copies: int, slices: int, above: int, outsiders: int) -> Row:
    """The patient at highest risk. copies: slices counted as copied that point at them, of so many slices of the set;
    above: of so many outsiders' slices, those that stand out as clearly as their clearest copy does."""
    stands = copies > 0
    words = [
        f"{pseudonym}: {counted(copies, 'slice')} of {slices:,} in the set count as copies of them. Of {outsiders:,} "
        f"slices of outsiders {above:,} stand out as clearly as the clearest of these, so about "
        f"{slices * (above + 1) / (outsiders + 1):,.0f} of the set's would by chance."
    ]
    verdict = "Look at the picture" if stands else "Nobody stands out"
    return Row("The worst patient", "Who is at most risk?", "open" if stands else "good", verdict, words)


# --- use ------------------------------------------------------------------------------------------------------------


def use_row(ratios: pd.DataFrame) -> Row:
    """What training on the synthetic images alone keeps; the worst setting decides. ratios: rows of this set, as
    `analysis.statistics` returns them; may be empty."""
    title, asked = "Use", "What are the images good for?"
    rows = ratios[ratios["region"].eq("mean") & ratios["ratio"].notna()] if len(ratios) else ratios
    for arm in ("synthetic", "synthetic_last"):
        alone = rows[rows["arm"].eq(arm)] if len(rows) else rows
        if len(alone):
            break
    else:
        return Row(title, asked, "none", "Not measured", ["No network was trained with these images alone."])
    worst = alone.loc[alone["ratio"].idxmin()]
    size = f"{counted(worst['subjects'], 'test patient')} and {counted(worst['seeds'], 'training')}"
    kept = f"A network that finds tumours, taught by these images alone, keeps {100 * worst['ratio']:.0f} of 100 points"
    kept += " of the Dice score (agreement with the expert) that real images teach"
    which = f"{ARMS[worst['arm']]}, {label(worst['segmenter'])}"
    which += f", the worst of {len(alone)} settings" if len(alone) > 1 else ""
    if pd.isna(worst["low"]):
        words = [f"{kept}. Margins: no verdict, {worst['reason']}. Measured on {size} ({which})."]
        return Row(title, asked, "open", "Measured, no verdict", words)
    kept += f" (95 % interval {100 * worst['low']:.0f} to {100 * worst['high']:.0f})"
    passed = [margin for margin in MARGINS if alone[f"passes_{margin:.2f}"].eq(True).fillna(False).all()]
    margin = f"{100 * max(passed):.0f}" if passed else f"{100 * MARGINS[0]:.0f}"
    words = [f"{kept}. Measured on {size} ({which})."]
    verdict = f"Margin of {margin} of 100 {'passed' if passed else 'not passed'}"
    return Row(title, asked, "good" if passed else "bad", verdict, words)


# --- what numbers cannot say ----------------------------------------------------------------------------------------


def not_tried_row(attacked_weights: bool) -> Row:
    words = [
        "Attacks on whole, three-dimensional scans; linking with other data about the patients; attacks that are not "
        "yet known" + ("" if attacked_weights else "; attacks on the generator's weights") + "."
    ]
    return Row("What was not tried", "", "none", "Not covered", words)


def decision_row() -> Row:
    words = [
        "The controller decides. Passing is not proof of anonymity: a set for which one of the three questions is open "
        "needs a detailed analysis of its risk [1]; a model counts as anonymous only where both extracting personal "
        "data from it and obtaining them by queries are insignificantly likely, judged case by case [2].",
        "No single threshold is a law. Customary: at most 0.09 for re-identifying a patient in published clinical "
        "reports [5]; none of the risks above is that probability.",
    ]
    return Row("Who decides", "", "none", "The controller", words)
