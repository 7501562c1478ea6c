"""The campaign: python -m tests.fuzz [--family F] [--cases N] [--seed S] [--start I].

Each round of a family takes its mutators once, in an order of its own, with random numbers from (seed, case) alone: any
case can be replayed by `--family F --seed S --start I --cases 1 --keep`, which leaves its input where the output says.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from tests.fuzz import calls, cohorts, harness, sets

FAMILIES = {"cohorts": (cohorts, 415), "sets": (sets, 346), "calls": (calls, 398)}  # and cases of a long campaign


def campaign(family: str, cases: range, seed: int, root: Path, keep: bool) -> tuple[Counter[str], list[str]]:
    """Counts of what came out, and the failures."""
    module = FAMILIES[family][0]
    base_folder = root / family
    base_folder.mkdir()
    base = module.prepare(base_folder)
    outcomes, failures = Counter(), []
    for number in cases:
        around, place = divmod(number, len(module.MUTATORS))
        mutator = module.MUTATORS[np.random.default_rng([seed, around]).permutation(len(module.MUTATORS))[place]]
        folder = base_folder / f"case{number}"
        folder.mkdir()
        case = module.make_case(base, folder, np.random.default_rng([seed, number]), mutator)
        ended = harness.in_child(case.call, folder, case.setup)
        outcome, why = harness.judge(case, ended)
        outcomes[outcome] += 1
        if outcome in harness.WRONG:
            failures.append(f"{family} --seed {seed} --start {number} ({mutator.__name__}): {outcome}: {why}")
            print(failures[-1], flush=True)
        if keep:
            print(f"{folder}: {mutator.__name__}: {outcome} ({ended.seconds:.1f} s)\n{ended.output}")
        else:
            shutil.rmtree(folder)
    return outcomes, failures


def table(outcomes: dict[str, Counter[str]]) -> str:
    """Family × what came out, as Markdown."""
    columns = (*harness.RIGHT, *harness.WRONG)
    rows = [("family", "cases", *columns), ("---",) * (len(columns) + 2)]
    rows += [
        (family, str(count.total()), *(str(count[column]) for column in columns)) for family, count in outcomes.items()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--family", choices=FAMILIES, help="one family; default: all")
    parser.add_argument("--cases", type=int, help="cases of each family; default: those of a long campaign")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="first case")
    parser.add_argument("--keep", action="store_true", help="keep inputs, show every output")
    asked = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="standin-fuzz-"))
    harness.make_ready(root / "mlflow.db")
    outcomes, failures, started = {}, [], time.monotonic()
    for family in [asked.family] if asked.family else FAMILIES:
        count = asked.cases or FAMILIES[family][1]
        found = campaign(family, range(asked.start, asked.start + count), asked.seed, root, asked.keep)
        outcomes[family] = found[0]
        failures += found[1]
    print(table(outcomes))
    print(f"{sum(map(Counter.total, outcomes.values()))} cases in {time.monotonic() - started:.0f} s")
    if not asked.keep:
        shutil.rmtree(root)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
