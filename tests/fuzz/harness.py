"""One case = one call of the command line, in a forked child with limits, and what must hold of it.

The oracle, whatever the input: the call ends in time, with exit code 0, 1 or 2, where not 0 with a message of our own;
never a traceback, never more memory than a small input can need. A case adds what it knows: the right values, or that
the input must be refused.
"""

import logging
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType

import mlflow
import numpy as np
import torch
import tqdm

import benchmark.stages.import_samples
import benchmark.stages.prepare
import benchmark.table.run  # noqa: F401  (imported once, before forking)
from benchmark.__main__ import main
from benchmark.data.slices import SliceSet

WALL_SECONDS = 40  # the machine may be busy; a case takes a fifth of a second
CPU_SECONDS = 15
ADDRESS_BYTES = 4 << 30  # beyond what the child has mapped at its start
RESIDENT_MIB = 768  # more than this, from files of a few KiB, is an allocation that somebody else's number decided
MESSAGE_CHARACTERS = 8000

RIGHT = ("read right", "read", "set aside", "refused")  # what may come out
WRONG = ("traceback", "hang", "memory", "died", "mute", "wrong value")


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    code: int  # minus the signal's number where one ended it
    output: str
    seconds: float
    grown_mib: float  # resident memory beyond that at the start


class WrongValueError(Exception):
    """The call ended well, and said or wrote what is not so."""


@dataclass(frozen=True)
class Case:
    """A call and its own part of the oracle: names what came out (one of RIGHT), or raises WrongValueError."""

    call: list[str]
    holds: Callable[[Ended], str]
    setup: Callable[[], None] | None = None  # in the child, before the call


def in_child(call: list[str], folder: Path, setup: Callable[[], None] | None = None) -> Ended:
    """Runs `python -m benchmark CALL` in `folder`, forked from this process, within the limits."""
    log = folder / "output.txt"
    sys.stdout.flush()
    sys.stderr.flush()
    started = time.monotonic()
    if (child := os.fork()) == 0:
        _be_child(call, folder, log, setup)
    code, seconds = _wait(child, started)
    output = log.read_bytes().decode("utf-8", "backslashreplace")
    grown = re.findall(r"^resident MiB grown: (-?\d+)$", output, re.MULTILINE)
    return Ended(code, output, seconds, float(grown[-1]) if grown else 0.0)


def _be_child(call: list[str], folder: Path, log: Path, setup: Callable[[], None] | None) -> None:
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = open(1, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        mapped, resident = _memory()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if setup:
            setup()
        code = main(call)
        grown = (_peak() - resident) >> 20
        os.write(2, f"\nresident MiB grown: {grown}\n".encode())
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 71
    except BaseException:
        os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
    finally:
        os._exit(code)


def _wait(child: int, started: float) -> tuple[int, float]:
    """Exit code and wall seconds; the child's whole session is killed when its time is over."""
    pause = 0.002
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        seconds = time.monotonic() - started
        if done:
            return os.waitstatus_to_exitcode(status), seconds
        if seconds > WALL_SECONDS:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -signal.SIGXCPU, seconds
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def _memory() -> tuple[int, int]:
    """Bytes mapped and resident."""
    mapped, resident, *_ = Path("/proc/self/statm").read_text().split()
    page = resource.getpagesize()
    return int(mapped) * page, int(resident) * page


def _peak() -> int:
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10


def judge(case: Case, ended: Ended) -> tuple[str, str]:
    """(what came out, why it is wrong or ''); the first is one of RIGHT or WRONG."""
    if ended.code == -signal.SIGXCPU:
        return "hang", f"not done after {ended.seconds:.0f} s"
    if ended.code < 0:
        return "died", f"{signal.Signals(-ended.code).name}: {_tail(ended.output)}"
    if ended.grown_mib > RESIDENT_MIB:
        return "memory", f"{ended.grown_mib:.0f} MiB for a small input"
    if re.search(r"MemoryError|[Uu]nable to allocate|Cannot allocate", ended.output):
        return "memory", _tail(ended.output)
    if "Traceback (most recent call last)" in ended.output or ended.code not in (0, 1, 2):
        return "traceback", _tail(ended.output)
    if ended.code and not (said := message(ended)):
        return "mute", _tail(ended.output)
    if ended.code and len(said) > MESSAGE_CHARACTERS:
        return "mute", f"a message of {len(said)} characters: {said[:200]} …"
    try:
        return case.holds(ended), ""
    except WrongValueError as error:
        return "wrong value", f"{error} | {_tail(ended.output, 300)}"
    except Exception as error:  # what was written cannot even be opened
        return "wrong value", f"{type(error).__name__}: {error}"


def message(ended: Ended) -> str:
    """What the call said on its way out."""
    return ended.output.partition("error: ")[2].partition("\nresident MiB grown")[0].strip()


def _tail(output: str, characters: int = 900) -> str:
    lines = [line for line in output.splitlines() if "it/s]" not in line and "subject/s]" not in line]
    return "\n".join(lines)[-characters:].strip()


def refused(ended: Ended) -> str:
    """For input that must not be taken."""
    if ended.code == 0:
        raise WrongValueError("taken, though it must be refused")
    return "refused"


def anything(ended: Ended) -> str:
    """For input that may be taken or refused."""
    return "read" if ended.code == 0 else "refused"


def taken(ended: Ended) -> str:
    """For input that must be taken."""
    if ended.code:
        raise WrongValueError(f"refused, though nothing is wrong: {message(ended)[:300]}")
    return "read right"


def make_ready(store: Path) -> None:
    """Makes the tracking store, which takes seconds, once, and this process fit to be forked: no other threads."""
    os.environ["MALLOC_TRIM_THRESHOLD_"] = "131072"  # glibc's own; set, so that main does not start anew
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{store}"
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    tqdm.tqdm.monitor_interval = 0
    torch.set_num_threads(1)
    mlflow.set_experiment("fuzz")


def mutators_of(*modules: ModuleType) -> list[Callable]:
    """The modules' public functions, in the order of their definition."""
    return [
        thing
        for module in modules
        for name, thing in vars(module).items()
        if isinstance(thing, FunctionType) and thing.__module__ == module.__name__ and not name.startswith("_")
    ]


def by_subject(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A slice set's images and labels of each subject."""
    slices = SliceSet.open(folder)
    subjects = slices.index["subject"].to_numpy()
    return {
        str(name): (np.array(slices.images[subjects == name]), np.array(slices.labels[subjects == name]))
        for name in np.unique(subjects)
    }


def same(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def only_folder(parent: Path) -> Path:
    """The folder of the one run of a stage."""
    folders = [path for path in parent.iterdir() if path.is_dir()]
    if len(folders) != 1:
        raise WrongValueError(f"{parent} holds {len(folders)} results")
    return folders[0]
