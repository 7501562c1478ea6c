"""The verdict: one card per synthetic set. What it keeps, who is at risk, how like the real it is, what it cost."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from analysis import tables
from analysis.arms import ARMS, label
from analysis.attacks_tables import Attacks, attack_lines
from analysis.score_tables import chosen_notes, shared_notes
from analysis.set_tables import FIDELITY, MISSING, Audits, Fidelities, count
from analysis.statistics import MARGINS, counted
from analysis.tables import sizes, spread

SHOWN = 4  # lines of a card; the others unfold


def build_cards(
    sets: Iterable[str],
    ratios: pd.DataFrame,
    audits: Audits,
    fidelity: Fidelities,
    attacks: Attacks,
    costs: pd.DataFrame,
) -> list[dict]:
    """What the template prints of each generator or sent set: a sentence, a line per arm and setting, its audit,
    attacks, fidelity and cost.

    ratios: as `analysis.statistics` returns them; audits, fidelity, attacks: audit.json, fidelity.json and attack.json
    of its sets.
    """
    primary = ratios[ratios["region"] == "mean"]
    primary = pd.concat([primary[primary["arm"] == arm] for arm in ARMS])  # what it does alone before what it adds
    cards = []
    for name in sets:
        rows = primary[primary["generator"] == name]
        lines = [_line(row) for _, row in rows.iterrows()]
        cards.append(
            {
                "name": name,
                "verdict": verdict(name, ratios),
                "doubt": _tested_on_known([*audits.get(name, {}).values()]),
                "lines": lines[:SHOWN],
                "more": lines[SHOWN:],
                "n": "; ".join(dict.fromkeys(_size(row) for _, row in rows.iterrows())),
                "shared": " ".join(shared_notes(rows)),
                "chosen": " ".join(chosen_notes(rows)),
                "audit": _audit([*audits[name].values()]) if name in audits else None,
                "attacks": attack_lines([*attacks[name].values()]) if name in attacks else [],
                "fidelity": _fidelity([*fidelity[name].values()]) if name in fidelity else None,
                "cost": _cost(costs, name),
            }
        )
    return cards


def _tested_on_known(audits: list[dict]) -> str:
    """That the Dice of a sent set may flatter it, which holds copies of test patients; else nothing."""
    found = [audit.get("test_patients") for audit in audits]
    return next((each["warning"] for each in found if each and each["warning"]), "")


def verdict(name: str, ratios: pd.DataFrame) -> str:
    """What training on synthetic images alone keeps; the worst setting decides, one without a number passes nothing."""
    of_set = ratios[(ratios["region"] == "mean") & (ratios["generator"] == name)]
    alone = [of_set[of_set["arm"] == arm] for arm in ("synthetic", "synthetic_last")]
    rows = alone[alone[0].empty]
    measured = rows[rows["ratio"].notna()]
    if measured.empty:
        return "What synthetic images alone keep was not measured."
    low, high = (f"{100 * ratio:.0f}" for ratio in (measured["ratio"].min(), measured["ratio"].max()))
    kept = f"Synthetic images alone keep {low if low == high else f'{low}–{high}'}\u00a0% of real-only Dice"
    if measured["low"].isna().all():
        return f"{kept}; no verdict at any margin: {', '.join(dict.fromkeys(measured['reason']))}."
    passed = {margin: int(rows[f"passes_{margin:.2f}"].eq(True).fillna(False).sum()) for margin in MARGINS}
    everywhere = [margin for margin, count in passed.items() if count == len(rows)]
    if everywhere:
        return f"{kept}; non-inferior at {max(everywhere):.2f}{' in every setting' * (len(rows) > 1)}."
    count = passed[MARGINS[0]]
    return f"{kept}; non-inferior at " + (
        f"{MARGINS[0]:.2f} in {count} of {len(rows)} settings." if count else "no margin."
    )


def _line(row: pd.Series) -> dict:
    """One arm's ratio in words and numbers, with its verdict at each margin."""
    return {
        "setting": f"{ARMS[row['arm']]}, {label(row['segmenter'])}, augmentation {row['augmentation']}",
        "ratio": None if np.isnan(row["ratio"]) else f"{row['ratio']:.2f}",
        "interval": None if np.isnan(row["low"]) else f"{row['low']:.2f}–{row['high']:.2f}",
        "margins": [(f"{margin:.2f}", tables.passes(row[f"passes_{margin:.2f}"])) for margin in MARGINS],
        "reason": row["reason"],
    }


def _size(row: pd.Series) -> str:
    return f"n = {counted(row['subjects'], 'subject')} × {counted(row['seeds'], 'seed')}"


def _audit(audits: list[dict]) -> dict:
    """Who is at risk, in the words of the template: the mean over repeats, each of which has a set of its own."""
    patients = [audit["copied_patients"] for audit in audits]
    counts = [found["count"] for found in patients if found["count"] is not None]
    shares = {
        f"{what}_{level}": _beside(
            spread([audit[f"{what}_share"][level] for audit in audits], tables.percent, MISSING), chance, after
        )
        for what, level, after, chance in (
            ("copied", "tau95", " of slices", "without copying 5\u00a0%"),
            ("copied", "tau99", "", "1\u00a0%"),
            ("memorized", "tau95", " above τ95", "without copying 5\u00a0%"),
            ("memorized", "tau99", " above τ99", "1\u00a0%"),
        )
    }
    held_out = dict.fromkeys(f"{audit['n_null']:,} held-out" for audit in audits)
    return shares | {
        "copied": count(float(np.mean(counts))) if counts else None,
        "range": f"{min(counts)} to {max(counts)} from set to set" if len(set(counts)) > 1 else "",
        "subjects": audits[0]["n_train_subjects"],
        "share": spread([found["share"] for found in patients], tables.percent, MISSING).partition(" (")[0],
        "by_chance": spread([found["count_by_chance"] for found in patients], "{:.1f}".format, MISSING).partition(" (")[
            0
        ],
        "n": f"n = {sizes([audit['n_synthetic'] for audit in audits])} synthetic, {'; '.join(held_out)} slices",
    }


def _beside(spread: str, comparison: str, after: str = "") -> str:
    """'2.1 of slices (1.8 to 2.5; held-out real: 3)' of '2.1 (1.8 to 2.5)': one pair of brackets."""
    mean, _, reach = spread.removesuffix(")").partition(" (")
    return f"{mean}{after} ({f'{reach}; ' * bool(reach)}{comparison})"


def _fidelity(found: list[dict]) -> dict:
    """How like, how varied, how well annotated, each beside its floor, in words for people who know no metric; the mean
    over repeats, each of which has a set of its own."""

    def beside_floor(key: str, before: str, after: str = "") -> str:
        values, floors = ([each[part][key] for each in found] for part in ("values", "floor"))
        if all(value is None for value in values):
            return f"{MISSING}: {found[0]['reasons'].get(key, 'no reason given')}"
        value, floor = (spread(numbers, FIDELITY[key].write, MISSING) for numbers in (values, floors))
        return before + _beside(value, f"held-out real: {floor.partition(' (')[0]}", after)

    sets = [each["people"] for each in found]
    varied = beside_floor("coverage", "", " of real variety covered")
    if varied.startswith(MISSING):  # few test patients: pairs tell it still
        varied = beside_floor("ms_ssim_FLAIR", "MS-SSIM of two samples ", ", lower is more varied")
    return {
        "lines": [
            ("Alike", beside_floor("kernel", "kernel distance ", ", lower is closer")),
            ("Varied", varied),
            ("Annotated", beside_floor("label_dice", "a segmenter trained on real agrees at Dice ")),
        ],
        "n": f"n = draws of {found[0]['per_draw']:,} slices, each of another "
        f"patient, from {sizes([n['synthetic'] for n in sets])} synthetic slices, {sets[0]['floor']:,} held-out and "
        f"{sets[0]['reference']:,} training patients; {found[0]['extractor']}",
    }


def _cost(costs: pd.DataFrame, name: str) -> dict | None:
    rows = costs[(costs["model"] == name) & (costs["stage"] == "train_generator")]
    if rows.empty:
        return None
    return {
        "seconds": float(rows["seconds"].sum()),
        "images": int(rows["images"].sum()),
        "device": ", ".join(sorted(set(rows["device"].astype(str)))),
        "trainings": counted(len(rows), "training"),
    }
