"""What the table costs beside its stages, how much faster two processes are than one, Ray's or our own, and what is
lost when one of Ray's is killed.

Overhead: stages that do nothing, so all time is planning, fingerprints, locks, tracking and bookkeeping. Workers
against serial: real U-Net trainings with one thread each, slices prepared before, and whole calls are timed: the start
of Ray and of workers counts; two threads, of one process, have both cores, too. Killed: one such training, its worker
killed several times, against the same left alone.

    bench_grid.py overhead 10 100 1000    tables of so many cells
    bench_grid.py workers                 needs two idle cores for about twenty minutes
    bench_grid.py killed                  and for about five
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import redirect_stderr
from importlib import import_module
from pathlib import Path
from statistics import median

from benchmark.parsing import parse
from benchmark.table import run as table
from benchmark.table.cells import jobs
from benchmark.tracking.store import connect

ROOT = Path(__file__).parents[2]
STAGES = (
    "prepare",
    "train_generator",
    "sample",
    "train_segmenter",
    "evaluate",
    "audit",
    "fidelity",
    "analyze",
    "report",
)
TRAININGS, IMAGES = 8, 24_000  # long enough for the start of Ray and of its workers, 10 to 15 s, to fade
REPEATS = 2
KILLS = 4
CHECKPOINT_SECONDS = 10


def _nothing(task):
    return {"images": 1, "seconds": 1.0}


def overhead(cells: int) -> None:
    """One table of so many cells: half real, half synthetic, each with its training and its evaluation."""
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
        keys = {"preset": "smoke", "model": "stylegan3", "train_on": "synthetic", "repeats": str(cells // 2)}
        keys |= {"own_generators": "false"}  # two stage runs a cell, however many cells
        config = parse("benchmark", {**keys, "work_dir": f"{folder}/work", "out": f"{folder}/out"})
        connect(config.common.work_dir)  # makes the store's tables, once
        started = time.perf_counter()
        planned = jobs(config)
        planning = time.perf_counter() - started
        table.run_table("benchmark", config)
        whole = time.perf_counter() - started - planning  # which plans anew
        again = time.perf_counter()
        table.run_table("benchmark", config)
        again = time.perf_counter() - again
    print(
        f"{cells:5} cells, {len(planned):5} stage runs: {1000 * whole / cells:6.0f} ms a cell, of which planning "
        f"{1000 * planning / cells:.1f} ms; second call, all reused: {1000 * again / cells:.0f} ms a cell",
        flush=True,
    )


def _table(folder: Path, *arguments: str, trainings: int = TRAININGS, images: int = IMAGES, threads: int = 1) -> float:
    """Seconds of a whole call, slices prepared before."""
    preset = folder / "real_only.yaml"  # no generator: an empty list is a preset's alone to give
    preset.write_text("extends: smoke\nanalyze: {model: []}\n")
    keys = ["--preset", str(preset), "--work_dir", str(folder / "work"), "--out", str(folder / "out")]
    command = [sys.executable, "-m", "benchmark"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }
    environment["RAY_worker_niceness"] = "0"  # Ray's default, 15, would lose to whatever else runs here
    options = {"cwd": ROOT, "env": environment, "check": True, "capture_output": True}
    subprocess.run([*command, "prepare", *keys[:4]], **options)
    budget = ["--repeats", str(trainings), "--train_segmenter.images", str(images), "--train_segmenter.snapshots", "1"]
    started = time.perf_counter()
    subprocess.run([*command, "benchmark", *keys, *budget, *arguments], **options)
    return time.perf_counter() - started


def workers_against_serial() -> None:
    """Interleaved, so that a machine that slows down slows all."""
    ways = {
        "one process, one thread": ((), 1),
        "one process, two threads": ((), 2),
        "two workers of Ray": (("--executor", "ray", "--address", "local"), 1),
        "two processes": (("--executor", "processes"), 1),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, (arguments, threads) in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                times[name].append(_table(Path(folder), *arguments, threads=threads))
    serial = median(times["one process, one thread"])
    print(f"{TRAININGS} trainings of a U-Net; medians of {REPEATS}, the start of Ray and of workers included")
    for name, seconds in times.items():
        print(f"  {name}: {median(seconds):.1f} s, {serial / median(seconds):.2f} ×")


def _kill_workers(kills: list[int], ended: threading.Event) -> None:
    """Kills each worker that trains, some time after its start, until there were KILLS of them."""
    chance = random.Random(0)
    while len(kills) < KILLS and not ended.is_set():
        found = subprocess.run(["pgrep", "-f", "^ray::_work"], capture_output=True, text=True).stdout.split()
        if new := {int(process) for process in found} - set(kills):
            time.sleep(chance.uniform(10, 10 + 2 * CHECKPOINT_SECONDS))
            for process in new:
                os.kill(process, signal.SIGKILL)
            kills += new
        time.sleep(0.5)


def killed() -> None:
    keys = ["--executor", "ray", "--address", "local"]
    keys += ["--train_segmenter.checkpoint_seconds", str(CHECKPOINT_SECONDS)]
    seconds, kills = [], []
    for kill in (False, True):
        ended = threading.Event()
        killer = threading.Thread(target=_kill_workers, args=(kills, ended))
        with tempfile.TemporaryDirectory() as folder:
            if kill:
                killer.start()
            seconds.append(_table(Path(folder), *keys, trainings=1, images=10 * IMAGES))
            ended.set()
    killer.join()
    print(
        f"one training on Ray {seconds[0]:.1f} s; its worker killed {len(kills)} times: {seconds[1]:.1f} s, so "
        f"{(seconds[1] - seconds[0]) / len(kills):.1f} s lost by each kill, of which {CHECKPOINT_SECONDS / 2:g} s are "
        f"expected since the last checkpoint (every {CHECKPOINT_SECONDS} s here, every 60 s by default)"
    )


def main() -> None:
    what, *counts = sys.argv[1:] or ["overhead", "10", "100"]
    if what == "overhead":
        for name in STAGES:
            module = import_module(f"benchmark.stages.{name}")
            module.run = _nothing
        for count in counts:
            overhead(int(count))
    else:
        {"workers": workers_against_serial, "killed": killed}[what]()


if __name__ == "__main__":
    main()
