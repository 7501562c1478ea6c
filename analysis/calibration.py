"""How far intervals and tests keep their promises: what simulations with known truth gave, and when a reader must know.

Measured by tests/bench/bench_statistics.py, per cent of simulated studies. coverage: the 95 % interval of the ratio
held the truth; non_inferiority: an arm exactly at a margin passed it; star: the test of the difference was significant
though the arms differ by nothing but the luck of their trainings and patients; wilcoxon: the same for the signed-rank
test over subjects, which knows no luck of trainings. seed_sd: how much the mean Dice of one training differs from the
next. Models: "additive"; "harsh", bounded Dice, heavy-tailed trainings, lost classes; "own generators", where trainings
of a generator differ by 0.02 and every segmenter seed has its own; "one generator", the same with one for all of them.
"""

import pandas as pd

from analysis.crossed import MIN_SEEDS, MIN_SUBJECTS
from analysis.statistics import counted
from analysis.tables import Table, plain_table

CALIBRATION = pd.DataFrame(
    [
        ("additive", 56, 10, 0.0075, 94.4, 4.6, 5.6, 7.0),
        ("additive", 56, 5, 0.0075, 94.5, 5.2, 4.8, 7.4),
        ("additive", 56, 3, 0.0075, 95.3, 4.1, 4.5, 9.2),
        ("additive", 56, 2, 0.0075, 95.8, 4.1, 4.2, 10.2),
        ("additive", 20, 3, 0.0075, 95.9, 4.2, 4.5, 6.0),
        ("additive", 10, 10, 0.0075, 95.2, 4.3, 5.1, 5.3),
        ("additive", 10, 3, 0.0075, 96.4, 4.1, 4.5, 5.5),
        ("additive", 6, 10, 0.0075, 95.5, 4.6, 5.2, 3.2),
        ("additive", 56, 10, 0.02, 94.8, 4.9, 5.6, 15.1),
        ("additive", 56, 5, 0.02, 95.1, 5.0, 5.1, 21.9),
        ("additive", 56, 3, 0.02, 95.4, 3.9, 5.0, 28.5),
        ("additive", 56, 2, 0.02, 94.1, 4.8, 6.5, 35.5),
        ("additive", 20, 3, 0.02, 95.8, 4.0, 4.4, 14.2),
        ("additive", 10, 10, 0.02, 94.9, 4.0, 5.0, 6.0),
        ("additive", 10, 3, 0.02, 96.3, 3.8, 4.1, 9.7),
        ("additive", 6, 10, 0.02, 95.3, 4.5, 5.5, 3.5),
        ("harsh", 56, 10, 0.02, 95.0, 6.4, 4.9, 13.7),
        ("harsh", 56, 5, 0.02, 95.0, 5.6, 4.9, 21.6),
        ("harsh", 56, 3, 0.02, 96.0, 4.6, 5.2, 30.1),
        ("harsh", 56, 2, 0.02, 94.0, 5.9, 5.9, 35.4),
        ("harsh", 20, 3, 0.02, 95.6, 5.2, 4.8, 14.1),
        ("harsh", 10, 10, 0.02, 94.2, 7.4, 4.7, 6.0),
        ("harsh", 10, 3, 0.02, 96.3, 5.9, 4.4, 9.8),
        ("harsh", 6, 10, 0.02, 94.8, 7.6, 5.5, 3.6),
        ("own generators", 56, 10, 0.0075, 95.4, 4.2, 5.2, 11.8),
        ("own generators", 56, 3, 0.0075, 94.1, 5.1, 5.8, 22.9),
        ("one generator", 56, 10, 0.0075, 60.1, 23.8, 37.3, 38.8),
        ("one generator", 56, 3, 0.0075, 67.9, 19.7, 30.4, 38.9),
    ],
    columns=["model", "subjects", "seeds", "seed_sd", "coverage", "non_inferiority", "star", "wilcoxon"],
)


def calibration_table() -> Table:
    """The simulations' results, for the report."""
    names = {
        "model": "Trainings",
        "seed_sd": "SD of a training's Dice",
        "coverage": "Interval holds the truth [%]",
        "non_inferiority": "Margin passed [%]",
        "star": "Star [%]",
        "wilcoxon": "Wilcoxon [%]",
    }
    note = (
        "Simulated studies with known truth: how often the 95 % interval of the ratio holds it (should be 95); how "
        "often an arm exactly at a margin passes it, and how often arms that differ by nothing but the luck of their "
        "trainings and patients get a star (at most 5). Wilcoxon over subjects speaks of these trainings only, so such "
        "luck makes it significant. Harsh: bounded Dice, heavy-tailed trainings, lost classes. Own generators: "
        "trainings of a generator differ by 0.02, and every segmenter seed has a generator of its own; one generator: "
        "all segmenter seeds share it, and the interval leaves its luck out."
    )
    title = "How far intervals and tests keep their promises"
    return plain_table("calibration", title, CALIBRATION.rename(columns=names), [note])


def caveats(ratios: pd.DataFrame) -> list[str]:
    """What a reader must know about intervals and tests at this number of seeds and subjects; [] where all are known.

    ratios: the table of `analysis.statistics.ratios`.
    """
    compared = ratios[ratios["ratio"].notna()]
    if compared.empty:
        return []
    seeds, subjects = int(compared[["seeds", "seeds_real"]].min().min()), int(compared["subjects"].min())
    texts = []
    if seeds < MIN_SEEDS:
        texts.append(
            f"Only {counted(seeds, 'training')} of an arm: how much another training would differ is not known, so "
            "there is no interval, no margin passed or failed, and no star. Give repeats=3 or more."
        )
    elif seeds < 3:
        texts.append(
            "Only two trainings of an arm: intervals hold what they promise, but are wide; take three or more."
        )
    if subjects < MIN_SUBJECTS:
        texts.append(
            f"Only {counted(subjects, 'test subject')}: below {MIN_SUBJECTS} there is no interval, no margin passed or "
            "failed, and no star."
        )
    elif subjects < 20:
        texts.append(f"Only {counted(subjects, 'test subject')}: only large differences can be told from chance.")
    return texts
