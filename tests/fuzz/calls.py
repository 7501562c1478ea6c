"""Family 3: command lines and presets. What is wrong is refused in one message that says where; nothing hangs.

A call that passes every check runs `prepare` on a tiny cohort; of other stages only what comes before the work is
called (the table's dry run, a stage's fingerprint), where a wrong value has to be refused as well.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import benchmark.table.run
import benchmark.tune
from benchmark.stages import CallResult, StageResult
from tests.fuzz import call_files, call_presets, call_words, harness
from tests.fuzz.harness import Case, Ended
from tests.fuzz.spoiled import ANY, PASSED, REFUSED, TABLE, Call
from tests.fuzz.subjects import write_cohort

# Values of keys twice a round: there are hundreds of keys.
MUTATORS: list[Callable[[Call], str]] = [
    *harness.mutators_of(call_words, call_files, call_presets),
    call_words.value_of_any_key,
    call_words.number_of_any_key,
    call_words.path_of_any_kind,
    call_words.model_key_anything,
    call_presets.preset_value_of_any_key,
]


@dataclass(frozen=True)
class Base:
    cohort: Path


def prepare(root: Path) -> Base:
    write_cohort(root / "cohort", "brats .nii.gz")
    return Base(root / "cohort")


def make_case(base: Base, folder: Path, rng: np.random.Generator, mutator: Callable[[Call], str]) -> Case:
    keys = {"preset": "smoke", "data": str(base.cohort), "workers": "1", "work_dir": "work"}
    call = Call(folder, base.cohort, rng, keys=keys)
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "file.txt").write_text("hello\n")
    (folder / "empty.yaml").touch()
    promise = mutator(call)
    if call.stage in TABLE:
        call.keys["dry_run"] = "true"
    words = [word for key, value in call.keys.items() for word in (f"--{key}={value}",)]
    holds = {PASSED: harness.taken, REFUSED: harness.refused, ANY: harness.anything}[promise]
    return Case([call.stage, *words, *call.words], lambda ended: _holds(ended, holds), _stop_before_work)


def _holds(ended: Ended, holds: Callable[[Ended], str]) -> str:
    if "secret" in ended.output:
        raise harness.WrongValueError("repeats a password")
    return holds(ended)


def _stop_before_work() -> None:
    """Lets a stage but `prepare` end where its work would begin; `tune` where its study would."""
    pull = benchmark.table.run.pull

    def stopped(stage: str, config, *more, **named):
        return pull(stage, config, *more, **named) if stage == "prepare" else StageResult(stage, "", "", Path(), True)

    benchmark.table.run.pull = stopped
    benchmark.tune.tune = lambda config, *_, **__: CallResult("tune", "", Path(), True, {})
