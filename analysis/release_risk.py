"""What a release card says: limits, attacks, audits and Dice in words for a reader who knows no statistics.

Singling out, linkability and inference are the questions of the Article 29 Working Party (opinion 05/2014). Each is
answered by the attack that stands for it, beside its control and the risk (attack − control) / (1 − control) of Giomi
et al. (PoPETs 2023). Of several sets the worst decides. docs/card.md tells where each claim was looked up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from analysis.arms import ARMS, label
from analysis.attacks_statistics import allowed
from analysis.limits import FAMILIES, LEFT_OUT, UNRELEASED_CRITIC, Verdict, not_kept
from analysis.memorization import OVERLOOKED
from analysis.score_tables import is_shared
from analysis.shares import LEVELS, expected_above
from analysis.statistics import ALPHA, MARGINS, counted
from analysis.tables import number, p_value

SMALL = 0.1  # upper bound of a risk below which nothing found is called good: ours, no law
NOT_COPIES = ("held_out", "blurred_strangers")  # among an audit's controls
READING = (
    "Three attacks put the questions of Europe’s data-protection authorities [1] and are measured as in [3]. Each is "
    "tried on pairs of an insider and an outsider. It succeeds where it works better on the first: in 50 of 100 pairs, "
    "like a coin, if there is nothing to find. The control is the same attack among outsiders alone, 50 on average; "
    "chance takes it as far from that as the grey bar."
)
SIGN = "Images: ☐ may leave ☐ stay here;  weights: ☐ may leave ☐ stay here;  name, date, signature:"
SOURCES = (
    "Article 29 Data Protection Working Party, Opinion 05/2014 on Anonymisation Techniques, WP216.",
    "European Data Protection Board, Opinion 28/2024 on personal data in AI models.",
    "Giomi et al., A unified framework for quantifying privacy risk in synthetic data, PoPETs 2023; CNIL’s opinion.",
    "Pilgram et al., A consensus privacy metrics framework for synthetic data, Patterns 2025.",
    "EMA policy 0070 and Health Canada’s Public Release of Clinical Information, as Real Life Sciences reports them.",
)
UNTAUGHT = 0.2  # mean Dice after real images below which a share of it says nothing


@dataclass(frozen=True)
class Scale:
    """Shares of pairs in which an attacker is right, 0..1: its 95 % interval, and how far the control strays."""

    value: float
    interval: Sequence[float]
    control: Sequence[float]


@dataclass(frozen=True)
class Row:
    """A question and its answer in a few words, in sentences, and in numbers for those who want them.

    status colours it: "bad" where something was found or a limit is not kept, "good" where that was looked for in vain,
    "open" where looking in vain settles nothing, "none" where nobody looked.
    """

    title: str
    asked: str
    status: str
    verdict: str
    words: Sequence[str]
    finding: str = ""  # in front of the words, in bold
    numbers: str = ""
    scale: Scale | None = None
    pictured: bool = False  # the patient's picture stands here


@dataclass(frozen=True)
class Card:
    """One page: what it is about, banners that nobody may overlook, how to read it, and its rows."""

    title: str
    lead: str
    banners: Sequence[str]
    rows: Sequence[Row]

    def in_a_sentence(self) -> str:
        """What stands in the second column of the rows about images, weights and attacks."""
        shown = self.rows[: 2 + len(ATTACKED)]
        names = [row.title.removeprefix("May these ").removesuffix(" leave?") for row in shown]
        sentence = "; ".join(f"{name.lower()}: {row.verdict.lower()}" for name, row in zip(names, shown, strict=True))
        return f"{sentence[0].upper()}{sentence[1:]}."


def of_100(share: float) -> str:
    """'58' of 0.58: how many of a hundred. What would round to none or all, but is neither, says so."""
    if 0 < share < 0.005:
        return "fewer than 1"
    if 0.995 < share < 1:
        return "more than 99"
    return number(100 * share, ".0f")


# --- may it leave? --------------------------------------------------------------------------------------------------


def images_row(limits: Sequence[Verdict]) -> Row:
    """May the images leave, by the limits about them?"""
    row = _question("images", limits)
    if LEFT_OUT not in {each.name for each in limits}:
        return row
    return replace(row, words=[*row.words, "Attacks are judged before and after the filter; the worse counts."])


def weights_row(limits: Sequence[Verdict], attacks: Sequence[Mapping], included: bool | None) -> Row:
    """May the weights leave, by the limits about them? Who has them may ask for more than a set of images tells.

    attacks: attack.json of every set. A GAN's discriminator is no part of what is released, so that an attack on it is
    none on these weights. included: whether they are in the package; None where there is none.
    """
    row = _question("weights", limits)
    there = [] if included is None else [f"They are {'' if included else 'not '}in this package."]
    judged = [found["attacks"]["white_box"] for found in attacks if "white_box" in found["attacks"]]
    if judged and any(found["critic"] == UNRELEASED_CRITIC for found in attacks):
        reason = "what was attacked is the discriminator, which is not released"
    else:
        reason = next((found["reasons"]["white_box"] for found in attacks if "white_box" in found["reasons"]), "")
    if not judged or reason:
        if limits:  # one of which says so
            return replace(row, words=[*row.words, *there])
        words = f"The weights themselves were not attacked{': ' * bool(reason)}{reason}."
        return replace(row, verdict="Not judged", words=[words, *there])
    attack = _judged(WHITE_BOX, judged)
    if not limits:
        return replace(attack, title=row.title, words=[*attack.words, *there])
    found = f"{attack.finding} {' '.join(attack.words)}"
    numbers = " · ".join(filter(None, [attack.numbers, row.numbers]))
    return replace(row, words=[*row.words, found, *there], numbers=numbers, scale=attack.scale)


def _question(what: str, limits: Sequence[Verdict]) -> Row:
    title = f"May these {what} leave?"
    if not limits:
        return Row(title, "", "none", "No limit was judged", ["The rows below are all there is."])
    failed = not_kept(limits)
    if not failed:
        words = ["All limits that were set beforehand are kept (small print), which proves no anonymity."]
        numbers = "; ".join(map(_limit, limits))
        return Row(title, "", "good", f"Within all {counted(len(limits), 'limit')}", words, numbers=numbers)
    finding = f"{len(failed)} of {counted(len(limits), 'limit')} not kept:"
    exceeded = [_limit(each) for each in failed if each.passed is not None]
    unknown: dict[str, list[str]] = {}
    for each in failed:
        if each.passed is None:
            unknown.setdefault(each.reason, []).append(PLAIN.get(each.name, each.name))
    unknown_texts = [f"not judged ({reason}): {', '.join(names)}" for reason, names in unknown.items()]
    words = [f"{'; '.join([*exceeded, *unknown_texts])}."]
    if unknown:
        words += ["What could not be judged counts as not kept."]
    return Row(title, "", "bad", f"Outside {len(failed)} of {counted(len(limits), 'limit')}", words, finding)


HOW = {
    "distance": "closeness to the set",
    "ratio": "closeness to the set beside other people",
    "attribute": "guessing a missing image",
    "link": "joining parts of a scan",
    "white_box": "asking the weights",
}
PLAIN = {  # what `analysis.limits` calls its limits, in words; all but the numbers of people are shares
    "share of slices copied at τ95": "slices that look like copies, to a lenient eye",
    "share of slices copied at τ99": "slices that look like copies, to a strict eye",
    LEFT_OUT: "slices removed",
    "share of planted copies found, the least of exact, mirrored, blurred,": "plain copies found that were planted",
    "number of held-out patients": "outsiders",
    "number of patients shown more often on purpose": "patients shown more often on purpose",
    **{f"p of the attack {name}": f"chance as good as {how}" for name, how in HOW.items()},
    **{f"AUC of the attack {name} (upper bound)": f"pairs won by {how}, at the worst" for name, how in HOW.items()},
}


def _limit(verdict: Verdict) -> str:
    """'slices removed 12 of 100 (at most 10)'; a limit that is not in `PLAIN` as it calls itself."""
    if verdict.name not in PLAIN:
        return verdict.sentence()
    scale, unit = (1, "") if verdict.name.startswith("number of ") else (100, " of 100")
    unit += " times" * verdict.name.startswith("p of ")
    if verdict.value is None:
        value = "not known"
    else:
        shown = scale * verdict.value
        value = f"{'less than 0.01' if 0 < shown < 0.01 else f'{shown:.3g}'}{unit}"
    bound = f"at {'least' if verdict.least else 'most'} {scale * verdict.limit:.3g}"
    return f"{PLAIN[verdict.name]}: {value} ({'; '.join(filter(None, [bound, verdict.reason]))})"


# --- attacks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attack:
    """names: its scores in attack.json, the first that was judged counts; asked: the question it stands for; how: what
    the attacker does; success: what happens in so many of 100 pairs; accuses: whether it is for naming who was learned
    from."""

    names: Sequence[str]
    asked: str
    how: str
    success: str
    accuses: bool = False


ATTACKED = {
    "Singling out": Attack(
        ("ratio", "distance"),
        "Can somebody tell whom the generator learned from?",
        "With a patient’s real images in hand, the attacker looks how close the set comes to them.",
        "The insider is named in",
        accuses=True,
    ),
    "Linkability": Attack(
        ("link",),
        "Can two records of one patient be brought together?",
        "With two nameless parts of each patient’s scan, the attacker looks which of them resemble the same synthetic "
        "images.",
        "The insider’s parts fit better in",
    ),
    "Inference": Attack(
        ("attribute",),
        "Can something unknown about a patient be guessed?",
        "With three of a patient’s four kinds of image, the attacker guesses the fourth from the set.",
        "The guess for the insider is better in",
    ),
}
WHITE_BOX = Attack(
    ("white_box",),
    "",
    "With the weights, the attacker measures how familiar each patient’s images are to the network.",
    "The insider is named in",
    accuses=True,
)


def attack_row(title: str, attacks: Sequence[Mapping]) -> Row:
    """One of `ATTACKED`, by attack.json of every set."""
    attack = ATTACKED[title]
    for name in attack.names:
        judged = [found["attacks"][name] for found in attacks if name in found["attacks"]]
        if judged:
            return replace(_judged(attack, judged, _linked(attacks) if name == "link" else []), title=title)
    keys = [key for name in attack.names for key in (name, FAMILIES.get(name, name))]
    reasons = [found["reasons"][key] for found in attacks for key in keys if key in found["reasons"]]
    why = reasons[0] if reasons else "the attack was not run"
    return Row(title, attack.asked, "none", "Not judged", [attack.how, f"There is no verdict: {why}."])


def unsettled(row: Row) -> Row:
    """The row about a set that was sent, whose generator may have learned from others: only what was found counts."""
    if row.status not in ("good", "open"):
        return row
    return replace(row, status="open", verdict="Nothing found, which settles nothing")


def _judged(attack: Attack, judged: Sequence[Mapping], more: Sequence[str] = ()) -> Row:
    """The verdict on the worst of several sets, and the range of all."""
    found = [each for each in judged if each["p_adjusted"] <= ALPHA]
    worst = max(found or judged, key=lambda each: each["auc"])
    low, high = worst["auc_interval"]
    band = worst["control"]["auc_band"]
    reach = f"95 % interval {of_100(low)} to {of_100(high)}; control, by chance, {of_100(band[0])} to {of_100(band[1])}"
    if len(judged) > 1:
        least, most = (of_100(choose(each["auc"] for each in judged)) for choose in (min, max))
        reach += f"; one of {len(judged)} sets, which have {least} to {most}"
    words = [f"({reach}).", _gained(worst), attack.how, *more]
    if attack.accuses:
        words += [_recognised(worst), *_canaries(worst)]
    numbers = (
        f"AUC {number(worst['auc'], '.2f')} [{number(low, '.2f')}, {number(high, '.2f')}] · control "
        f"{number(worst['control']['auc'], '.2f')} [{number(band[0], '.2f')}, {number(band[1], '.2f')}] · risk "
        f"{_bounds(worst['risk'], worst['risk_interval'])} · p {p_value(worst['p_adjusted'])} · "
        f"n = {worst['members']:,} patients and {worst['held_out']:,} outsiders"
    )
    most = worst["risk_interval"][1]
    if found:
        status, verdict = "bad", "Found"
    elif most is None:
        status, verdict = "open", "Not found, not ruled out"
    else:
        status = "good" if most <= SMALL else "open"
        verdict = f"Not found, but up to {of_100(max(most, 0))} of 100 not ruled out"
    finding = f"{attack.success} {of_100(worst['auc'])} of 100 pairs"
    return Row("", attack.asked, status, verdict, words, finding, numbers, Scale(worst["auc"], [low, high], band))


def _recognised(verdict: Mapping) -> str:
    wrong, outsiders = allowed(verdict["held_out"]), counted(verdict["held_out"], "outsider")
    accused = f"accusing at most {wrong} of {outsiders}" if wrong else f"accusing none of {outsiders}"
    return (
        f"While {accused} wrongly, the attacker recognises {of_100(verdict['true_positives'])} of 100 patients (by "
        f"chance {of_100(verdict['true_positives_by_chance'])})."
    )


def _canaries(verdict: Mapping) -> list[str]:
    """Patients shown most often, on purpose: whether the attack sees at all."""
    if not verdict["canaries"]:
        return []
    times = max(verdict["canaries"], key=int)
    shown = verdict["canaries"][times]
    return [
        f"For {counted(shown['patients'], 'patient')} shown {times} times on purpose, whom a sound attack finds, it is "
        f"{of_100(shown['auc'])} of 100 pairs."
    ]


def _gained(verdict: Mapping) -> str:
    if verdict["risk"] is None or None in verdict["risk_interval"]:
        return "Risk: none can be told, the control never fails."
    won, low, high = ("none" if v <= 0 else of_100(v) for v in (verdict["risk"], *verdict["risk_interval"]))
    reach = "" if high == "none" else f" ({low} to {high})"
    return f"Risk: of 100 pairs that the control loses, the attack wins {won}{reach}."


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
        f"So the parts of {of_100(worst['members'])} of 100 patients are brought together, and of "
        f"{of_100(worst['held_out'])} of 100 outsiders (by guessing {of_100(worst['by_chance'])})."
    ]


# --- copies ---------------------------------------------------------------------------------------------------------


def worst_row(pseudonym: str, copies: int, slices: int, above: int, outsiders: int) -> Row:
    """The patient at highest risk. copies: slices that count as copies of them, of so many slices of the set; above: of
    so many outsiders' slices, those that stand out as clearly as the slice that points at them most clearly."""
    title, asked = "The worst patient", "Who is at highest risk?"
    finding = f"{copies:,} of the set’s {slices:,} slices look like copies of {pseudonym}."
    chance = slices * (above + 1) / (outsiders + 1)
    so_many = f"about {chance:,.0f}" if chance >= 1 else "fewer than 1"
    words = [
        f"Of {outsiders:,} slices of outsiders {f'{above:,}' if above else 'none'} stand{'s' * (above == 1)} out as "
        f"much as the one that points at {pseudonym} most clearly; so {so_many} of the set’s would by chance. The "
        "number is a rank by risk, and tells no name.",
        "This card shows an image of a patient, so it stays in the house.",
    ]
    if not copies:
        return Row(title, asked, "good", "Nobody stands out", words, finding, pictured=True)
    return Row(title, asked, "open", "Look at the picture", words, finding, pictured=True)


def worst_kept_row(stands_out: bool) -> Row:
    """The patient at highest risk, for readers who may not see them: no picture, and no number that is one patient's.
    stands_out: whether a slice counts as a copy of them."""
    words = ["The patient’s image is not shown, nor how many slices resemble them: both stay in the house."]
    verdict = "One stands out; shown in the house alone" if stands_out else "Nobody stands out"
    return Row("The worst patient", "Who is at highest risk?", "open" if stands_out else "good", verdict, words)


def copies_row(audits: Sequence[Mapping], removed: Mapping[str, int] | None) -> Row:
    """Planted and found, by kind; found in the set; removed. audits: audit.json of every set."""
    title, asked = "Copies", "Does the set repeat images of a patient?"
    known = [audit for audit in audits if audit["copied_share"]["tau99"] is not None]
    if not known:
        why = "there is one training patient, so nobody can stand out" if audits else "the set was not audited"
        return Row(title, asked, "none", "Not judged", [f"There is no verdict: {why}.", _removed(removed)])
    more = [audit for audit in known if audit["copied_p_value"]["tau99"] <= ALPHA]
    worst = max(more or known, key=lambda audit: audit["copied_share"]["tau99"])
    least, most = (of_100(choose(audit["copied_share"]["tau99"] for audit in known)) for choose in (min, max))
    low, high = worst["copied_interval"]["tau99"]
    rates = _planted(known)
    missed = [kind for kind, rate in rates.items() if rate < OVERLOOKED]
    finding = (
        f"Of 100 synthetic slices {of_100(worst['copied_share']['tau99'])} look like copies; without copying about "
        f"{of_100(expected_above(worst['n_null'], LEVELS['tau99']))} would"
    )
    words = [
        f"(95 % interval {of_100(low)} to {of_100(high)}"
        + (f"; one of {len(known)} sets, which have {least} to {most})." if len(known) > 1 else ")."),
        "They point at one patient more clearly than nearly all slices of outsiders do.",
        f"Copies planted on purpose: of {counted(len(rates), 'kind')}, {len(rates) - len(missed)} are found at least "
        f"{10 * OVERLOOKED:.0f} times in 10"
        + ("; a low share says nothing of the others (small print)." if missed else "."),
        _removed(removed),
        "Experts advise against likeness as a measure of identification [4]: the attacks weigh more.",
    ]
    if more:
        status, verdict = "bad", "More than by chance"
    elif missed:
        status, verdict = "open", f"No more than by chance, but blind to {counted(len(missed), 'kind')}"
    else:
        status, verdict = "good", "No more than by chance"
    found = ", ".join(f"{kind} {100 * rate:.0f} %" for kind, rate in rates.items())
    p = p_value(worst["copied_p_value"]["tau99"])
    numbers = f"{worst['n_synthetic']:,} synthetic, {worst['n_null']:,} outsiders’ slices · p {p} · found of: {found}"
    return Row(title, asked, status, verdict, words, finding, numbers)


def _planted(audits: Sequence[Mapping]) -> dict[str, float]:
    """How many of each kind of planted copy are found; of several sets the fewest."""
    rates: dict[str, float] = {}
    for audit in audits:
        for kind, control in audit["controls"].items():
            rate = control["copied"]["tau99"]
            if kind not in NOT_COPIES and rate is not None:
                rates[kind] = min(rate, rates.get(kind, 1.0))
    return rates


def _removed(removed: Mapping[str, int] | None) -> str:
    if removed is None:
        return "Nothing was removed from the set."
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in removed.items() if count)
    if not reasons:
        return "Nothing had to be removed from the set."
    return (
        f"Removed from the set: {counted(sum(removed.values()), 'slice')} ({reasons}). The search that counts copies "
        "chose them, so that few are left says little."
    )


# --- use ------------------------------------------------------------------------------------------------------------


def use_row(ratios: pd.DataFrame) -> Row:
    """What training on the synthetic images alone keeps; the worst setting decides. ratios: rows about this set, as
    `analysis.statistics.ratios` returns them; may be empty."""
    title, asked = "Use", "What are the images good for?"
    rows = ratios[ratios["region"] == "mean"] if len(ratios) else ratios
    for arm in ("synthetic", "synthetic_last"):
        alone = rows[rows["arm"] == arm] if len(rows) else rows
        if len(alone):
            break
    if alone.empty:
        return Row(title, asked, "none", "Not measured", ["No network was trained on these images alone."])
    lost = alone[alone["ratio"].isna()]
    if len(lost) == len(alone):
        return Row(title, asked, "none", "Not measured", [f"There is no number: {lost['reason'].iloc[0]}."])
    worst = alone.loc[alone["ratio"].idxmin()]
    finding = f"Of the Dice that real images teach, these alone teach {100 * worst['ratio']:.0f} %"
    interval = "" if pd.isna(worst["low"]) else f"95 % interval {100 * worst['low']:.0f} to {100 * worst['high']:.0f}; "
    words = [
        f"({interval}{counted(worst['subjects'], 'test patient')}, {counted(worst['seeds'], 'training')}, "
        f"{label(worst['segmenter'])}" + (f", the worst of {len(alone)} settings)." if len(alone) > 1 else ")."),
        "Dice: how well a network’s outline of the tumour agrees with the expert’s.",
    ]
    if worst["dice_real"] < UNTAUGHT:
        words += ["Real images taught their network hardly anything, so this share says nothing."]
    if alone.apply(is_shared, axis=1).any():  # PROTOCOL, section 3
        words += ["All trainings learned from one set: how much another training of its generator differs is left out."]
    numbers = f"{ARMS[worst['arm']]}, augmentation {worst['augmentation']} · ratio {worst['ratio']:.3f}"
    numbers += f" = {worst['dice']:.3f} / {worst['dice_real']:.3f}"
    unknown = alone[alone["low"].isna()]
    if len(unknown):
        words += [f"No margin can be judged: {unknown['reason'].iloc[0]}."]
        return Row(title, asked, "open", "No verdict", words, finding, numbers)
    passed = [margin for margin in MARGINS if alone[f"passes_{margin:.2f}"].eq(True).fillna(False).all()]
    if passed:
        verdict = f"Margin of {100 * max(passed):.0f} % passed"
        return Row(title, asked, "good", verdict, words, finding, numbers)
    return Row(title, asked, "open", f"Margin of {100 * MARGINS[0]:.0f} % not passed", words, finding, numbers)


# --- what no number says --------------------------------------------------------------------------------------------


def not_tried_row(weights: bool) -> Row:
    """What nobody looked for; weights: whether they were attacked."""
    words = [
        "Attacks on whole, three-dimensional scans; linking the set with other data about the patients; "
        + ("" if weights else "attacks on the generator’s weights; ")
        + "attacks that are not known yet."
    ]
    return Row("What was not tried", "", "none", "Not covered", words)


def decision_row() -> Row:
    words = [
        "The controller decides what risk is acceptable [3]. Passing is no proof of anonymity. A set that fails one of "
        "the three questions can count as anonymous only after a detailed analysis of its risk [1]; a model only where "
        "it is insignificantly likely both to extract personal data from it and to obtain them by queries, case by "
        "case [2]. No single threshold is a law. Customary is 0.09 for recognising a patient in published clinical "
        "reports [5]; no number above is that probability."
    ]
    return Row("Who decides", "", "none", "The controller", words)
