"""The verdict: one card per synthetic set. What it keeps, who is at risk, how like the real it is, what it cost."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from analysis import tables
from analysis.arms import ARMS, label
from analysis.set_tables import FIDELITY, MISSING
from analysis.statistics import MARGINS, counted

SHOWN = 4  # lines of a card; the others unfold


def build_cards(
    sets: Iterable[str], ratios: pd.DataFrame, audits: dict[str, dict], fidelity: dict[str, dict], costs: pd.DataFrame
) -> list[dict]:
    """What the template prints of each set: a sentence, a line per arm and setting, its audit, fidelity and cost.

    ratios: as `analysis.statistics` returns them; audits, fidelity: content of audit.json and fidelity.json, by set.
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
                "verdict": _verdict(rows[rows["arm"] == "synthetic"]),
                "lines": lines[:SHOWN],
                "more": lines[SHOWN:],
                "n": "; ".join(dict.fromkeys(_size(row) for _, row in rows.iterrows())),
                "audit": audits.get(name),
                "fidelity": _fidelity(fidelity[name]) if name in fidelity else None,
                "cost": _cost(costs, name),
            }
        )
    return cards


def _verdict(rows: pd.DataFrame) -> str:
    """What training on synthetic images alone keeps; the worst setting decides, one without a number passes nothing."""
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


def _fidelity(found: dict) -> dict:
    """How like, how varied, how well annotated, each beside its floor, in words for people who know no metric."""

    def beside_floor(key: str, before: str, after: str = "") -> str:
        value, floor = found["values"][key], found["floor"][key]
        if value is None:
            return f"{MISSING}: {found['reasons'].get(key, 'no reason given')}"
        write = FIDELITY[key].write
        return f"{before}{write(value)}{after} (held-out real: {MISSING if floor is None else write(floor)})"

    return {
        "lines": [
            ("Alike", beside_floor("kernel", "kernel distance ", ", lower is closer")),
            ("Varied", beside_floor("coverage", "", " of real variety covered")),
            ("Annotated", beside_floor("label_dice", "a segmenter trained on real agrees at Dice ")),
        ],
        "n": f"n = {found['n']['synthetic']:,} synthetic, {found['n']['floor']:,} held-out, "
        f"{found['n']['reference']:,} training slices; {found['extractor']}",
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
