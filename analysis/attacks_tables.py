"""What attacks found, as a table, a figure and a card's sentences; repeats, each with a set of its own, are pooled."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.arms import label
from analysis.drawing import GREY, WIDTH, styled
from analysis.set_tables import MISSING, missing_sets, pooling, reach
from analysis.statistics import holm
from analysis.tables import Cell, Table, number, p_value, percent, spread

Attacks = Mapping[str, Mapping[str, dict]]  # by generator, then by the repeat's seed: the content of attack.json

ATTACKS = {
    "ratio": "Membership by the set, beside other people",
    "distance": "Membership by the set",
    "white_box": "Membership by the weights",
    "attribute": "Missing modality",
    "link": "Linked halves",
}
SHORT = {
    "ratio": "membership: set,\nbeside others",
    "distance": "membership: set",
    "white_box": "membership:\nweights",
    "attribute": "missing\nmodality",
    "link": "linked halves",
}
FAMILIES = {"membership": ATTACKS["distance"], "linkage": ATTACKS["link"]}  # of a run that failed as a whole


def over_all_sets(attacks: Attacks) -> Attacks:
    """The same with p_adjusted by Holm over every attack on every set, not over one set's alone."""
    keys = [(name, seed, attack) for name, sets in attacks.items() for seed in sets for attack in sets[seed]["attacks"]]
    p = [attacks[name][seed]["attacks"][attack]["p_value"] for name, seed, attack in keys]
    adjusted = dict(zip(keys, holm(pd.DataFrame({"p": p, "all": ""}), ["all"])["p_holm"], strict=True))
    return {
        name: {
            seed: found
            | {
                "attacks": {
                    attack: verdict | {"p_adjusted": float(adjusted[name, seed, attack])}
                    for attack, verdict in found["attacks"].items()
                }
            }
            for seed, found in sets.items()
        }
        for name, sets in attacks.items()
    }


def attack_table(attacks: Attacks, seeds: Iterable[int] = ()) -> Table:
    """Measures down, generators across. attacks: attack.json of each set; seeds: of the repeats that were asked for."""
    columns = {name: _column([*sets.values()]) for name, sets in attacks.items()}
    measures = dict.fromkeys(measure for column in columns.values() for measure in column)
    rows = [
        [Cell(measure), *[Cell(column.get(measure, MISSING)) for column in columns.values()]] for measure in measures
    ]
    records = [
        {"generator": name, "seed": seed, "attack": attack, **pd.json_normalize(verdict).iloc[0]}
        for name, sets in attacks.items()
        for seed, found in sets.items()
        for attack, verdict in found["attacks"].items()
    ]
    notes = [
        "AUC: probability that a training patient's score is above that of a patient nobody trained on; 0.5 is "
        "guessing; in brackets a 95 % interval over patients (Newcombe's score interval). Control: the same scores "
        "between two halves of held-out patients; its mean over all halves is 0.5 whatever the scores, and in brackets "
        "stands how far from it 95 % of halves stray, though nobody in them was trained on. Risk = (AUC − control) / "
        "(1 − control). True positives: training patients told while 1 % of held-out patients are taken for such; of "
        "fewer than 100, none; in brackets an exact 95 % interval over training patients, given that threshold. p: "
        "Mann–Whitney, one-sided, Holm over all attacks on all sets of this report.",
        "Scores. Membership by the set: similarity of a patient's closest slice to the set; beside other people: "
        "relative to the similarity to validation patients. By the weights: the diffusion model's loss; of a GAN, the "
        "discriminator as its training left it, which nobody is given who gets the generator. Missing modality: how "
        "much better the set than validation patients tells it from the other three. Linked halves: how much more a "
        "patient's even and odd slices resemble the same synthetic slices than those of others do. Linked patients: "
        "whose halves find each other among as many as there are patients of the smaller kind; where all held-out "
        "patients do, there is no risk to measure.",
        *pooling(attacks, "Bounds and p are those of single sets, lowest to highest."),
        *_reasons(attacks),
        *missing_sets(attacks, seeds),
    ]
    if any("canaries" in measure for measure in measures):
        notes.insert(2, "Canaries: training patients shown more often, whom an attack that sees at all should find.")
    head = ["Measure", *map(label, attacks)]
    return Table("attacks", "Attacks, each with its control", head, rows, pd.DataFrame(records), notes)


def _column(sets: Sequence[dict]) -> dict[str, str]:
    counts = [found["patients"] for found in sets]
    column = {"Training / held-out patients": reach_of(f"{n['members']:,} / {n['held_out']:,}" for n in counts)}
    for name, what in ATTACKS.items():
        verdicts = [found["attacks"][name] for found in sets if name in found["attacks"]]
        if not verdicts:
            continue
        column |= {
            f"{what}: AUC": with_bounds(verdicts, "auc", "auc_interval"),
            f"{what}: control": with_bounds([verdict["control"] for verdict in verdicts], "auc", "auc_band"),
            f"{what}: risk": with_bounds(verdicts, "risk", "risk_interval"),
            f"{what}: true positives": with_bounds(verdicts, "true_positives", "true_positives_interval", percent),
            f"{what}: true positives by chance": reach([v["true_positives_by_chance"] for v in verdicts], percent),
            f"{what}: p": reach([verdict["p_adjusted"] for verdict in verdicts], p_value),
        }
        for times in sorted({t for verdict in verdicts for t in verdict["canaries"]}, key=int):
            shown = [verdict["canaries"][times] for verdict in verdicts if times in verdict["canaries"]]
            column[f"{what}: canaries shown {times} times, AUC"] = with_bounds(shown, "auc", "auc_interval")
    linked = [found["linked"] for found in sets if found["linked"]]
    if linked:
        column |= {
            f"Linked {whom}": spread([each[key] for each in linked], percent, MISSING)
            for whom, key in (
                ("training patients", "members"),
                ("held-out patients, the control", "held_out"),
                ("by chance", "by_chance"),
            )
        }
        column["Linked: risk"] = spread([each["risk"] for each in linked], _gain, MISSING)
    seconds = [sum(found["seconds"].values()) for found in sets]
    return column | {"Time of all attacks [s]": spread(seconds, "{:.0f}".format, MISSING)}


def reach_of(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


def _two(value: float) -> str:
    return number(value, ".2f")


def with_bounds(found: Sequence[dict], value: str, bounds: str, text: Callable[[float], str] = _two) -> str:
    """'0.61 (0.55 to 0.66) [0.41, 0.78]': the mean, its range over sets, the lowest and the highest bound."""
    low, high = (pick(each[bounds][i] for each in found) for i, pick in ((0, min), (1, max)))
    return f"{spread([each[value] for each in found], text, MISSING)} [{text(low)}, {text(high)}]"


def _gain(risk: float) -> str:
    """A share of what is left to gain means nothing where members fare worse than the control."""
    return _two(risk) if risk > 0 else "≤ 0"


def _reasons(attacks: Attacks) -> Iterable[str]:
    """Why an attack was not run: one sentence per reason."""
    whose: dict[tuple[str, str], list[str]] = {}
    for name, sets in attacks.items():
        for found in sets.values():
            for attack, reason in found["reasons"].items():
                whose.setdefault(((ATTACKS | FAMILIES).get(attack, attack), reason), []).append(label(name))
    for (attack, reason), names in whose.items():
        yield f"{attack}: not run on {', '.join(dict.fromkeys(names))}: {reason}."


def attack_lines(sets: Sequence[dict]) -> list[tuple[str, str]]:
    """What a card says: by what an attacker would tell training patients from others, and how well. Which attacks it
    names is fixed beforehand: of the set, that which is calibrated by other people."""
    lines = []
    released = not any(found["critic"] == "discriminator" for found in sets)
    by_network = "By the generator's weights" if released else "By the discriminator, which is not released"
    for name, what in (("ratio", "By the set alone"), ("white_box", by_network)):
        verdicts = [found["attacks"][name] for found in sets if name in found["attacks"]]
        if verdicts:
            p = reach([verdict["p_adjusted"] for verdict in verdicts], p_value)
            lines.append((what, f"AUC {with_bounds(verdicts, 'auc', 'auc_interval')} (guessing: 0.50), p {p}"))
    return lines


@styled
def attack_figure(attacks: Attacks) -> Figure:
    """AUC of every attack on every generator, with its interval, over the band of its control. attacks: attack.json of
    each set; of several sets the mean, and the lowest and highest bound. Raises ValueError where no attack was judged.
    """
    judged = {name for sets in attacks.values() for found in sets.values() for name in found["attacks"]}
    shown = [name for name in ATTACKS if name in judged]
    if not shown:
        raise ValueError("no attack was judged")
    colours = dict(zip(attacks, seaborn.color_palette("colorblind", len(attacks)), strict=True))
    block = len(attacks) + 1
    figure = Figure(figsize=(WIDTH, 1.3 + 0.17 * block * len(shown)))
    axis = figure.subplots()
    for i, attack in enumerate(shown):
        for j, (name, sets) in enumerate(attacks.items()):
            verdicts = [each["attacks"][attack] for each in sets.values() if attack in each["attacks"]]
            if not verdicts:
                continue
            y = i * block + j
            bands = np.array([verdict["control"]["auc_band"] for verdict in verdicts])
            axis.barh(y, bands[:, 1].max() - bands[:, 0].min(), 0.9, left=bands[:, 0].min(), color=GREY, alpha=0.25)
            bounds = np.array([verdict["auc_interval"] for verdict in verdicts])
            mean = np.mean([verdict["auc"] for verdict in verdicts])
            axis.plot([bounds[:, 0].min(), bounds[:, 1].max()], [y, y], color=colours[name], linewidth=1.5)
            axis.plot(mean, y, "o", color=colours[name], markersize=5)
    axis.axvline(0.5, color="black", linewidth=1, linestyle=":")
    middles = [i * block + (len(attacks) - 1) / 2 for i in range(len(shown))]
    axis.set_yticks(middles, [SHORT[name] for name in shown])
    axis.tick_params(axis="y", length=0)
    axis.set(xlim=(-0.02, 1.02), ylim=(block * len(shown) - 1.2, -0.8), xlabel="AUC, members against held-out patients")
    axis.grid(True, axis="x")
    handles = [Line2D([], [], color=c, marker="o", markersize=5, label=label(name)) for name, c in colours.items()]
    handles += [Patch(color=GREY, alpha=0.25, label="control: 95 % of halves of held-out patients")]
    handles += [Line2D([], [], color="black", linestyle=":", label="guessing")]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure
