"""Bad luck, measured on real processes: python -m tests.fuzz.faults [--moments N] [--jobs N] [--only FAULT].

Every fault hits the smallest table (faults.yaml) or one training of it; then the same command is called again. What
counts at the end: every weight, score and slice is there, byte for byte that of an undisturbed run; no run still says
RUNNING; and what the hit process said tells what to do. A Markdown table of it is printed; exit code 1 where one fails.
"""

import argparse
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRESET = Path(__file__).with_name("faults.yaml")
COMPARED = ("weights.safetensors", "scores.csv", "images.npy", "labels.npy")  # byte for byte
TABLE, TRAINING = ("benchmark",), ("train_generator", "--model", "stylegan2")
LIMIT = 600  # seconds for one call
TEN_YEARS = 10 * 365 * 86400
GOES_ON = "the same command goes on"


@dataclass
class Ended:
    """How a process ended."""

    code: int
    output: str

    def says(self, pattern: str) -> bool:
        return re.search(pattern, self.output) is not None and "Traceback (most recent call" not in self.output


@dataclass
class Place:
    """A folder to work in: its own work_dir and tracking store."""

    folder: Path
    work: Path = field(init=False)
    store: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.work, self.store = self.folder / "work", self.folder / "mlflow.db"

    def command(self, call: tuple[str, ...]) -> list[str]:
        keys = ["--preset", str(PRESET), "--work_dir", str(self.work), "--workers", "1"]
        return [*call, *keys, *(["--out", str(self.folder / "out")] if call == TABLE else [])]

    def start(self, call: tuple[str, ...]) -> subprocess.Popen:
        quiet = {"OMP_NUM_THREADS": "1", "MLFLOW_LOGGING_LEVEL": "ERROR"}
        environment = {**os.environ, **quiet, "MLFLOW_TRACKING_URI": f"sqlite:///{self.store}"}
        return subprocess.Popen(
            [sys.executable, "-m", "benchmark", *self.command(call)], cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, errors="backslashreplace",
        )  # fmt: skip

    def call(self, call: tuple[str, ...] = TABLE) -> Ended:
        return finish(self.start(call))

    def results(self) -> dict[str, str]:
        """sha256 of everything compared, by its path."""
        found = sorted(path for path in self.work.rglob("*") if path.name in COMPARED)
        return {str(path.relative_to(self.work)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    def runs(self) -> Counter[str]:
        """Runs of each status."""
        with sqlite3.connect(self.store) as store:
            return Counter(dict(store.execute("select status, count(*) from runs group by status").fetchall()))

    def checkpoints(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.work.glob("train_generator/*/checkpoints/*.pt"))


def finish(process: subprocess.Popen) -> Ended:
    try:
        output, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        output += f"\nTraceback (most recent call last): hangs for {LIMIT} s"
    return Ended(process.returncode, output)


@dataclass
class Row:
    """What came of a fault."""

    fault: str
    tries: int = 0
    lost: int = 0  # tries after which something was missing, or the same command did not get through
    equal: int = 0  # tries that ended in the very bytes
    told: int = 0  # tries whose message said what to do
    notes: list[str] = field(default_factory=list)
    skipped: str = ""

    @property
    def bad(self) -> bool:
        return not self.skipped and not (self.lost == 0 and self.equal == self.told == self.tries)

    def count(self, hit: Ended | None, told: str, again: Ended, place: Place, expected: dict[str, str]) -> None:
        """Enters one try: the process that was hit, what it had to say, and the same command called again."""
        self.tries += 1
        found = place.results()
        complete = again.code == 0 and found.keys() >= expected.keys() and not place.runs()["RUNNING"]
        self.lost += not complete
        self.equal += {path: found.get(path) for path in expected} == expected
        said = hit is None or hit.says(told)
        self.told += said
        if not said:
            self.notes.append(f"code {hit.code}, said: …{_tail(hit.output)}")
        if not complete:
            missing = sorted(expected.keys() - found.keys())
            self.notes.append(
                f"again: code {again.code}, missing {missing}, {dict(place.runs())}: …{_tail(again.output)}"
            )
        elif found != found | expected:
            self.notes.append(f"differ: {[path for path in expected if found[path] != expected[path]]}")


def _tail(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip() and "/s]" not in line]
    return " ⏎ ".join(lines[-4:])[-500:]


@dataclass
class Bench:
    """Where faults are tried, and what an undisturbed run of each call gives."""

    folder: Path
    expected: dict[tuple[str, ...], dict[str, str]]
    seconds: float  # of the undisturbed table
    moments: int
    jobs: int

    def place(self, name: str) -> Place:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return Place(self.folder / name)

    def finished(self, name: str, call: tuple[str, ...] = TRAINING) -> Place:
        place = self.place(name)
        ended = place.call(call)
        assert ended.code == 0, ended.output
        return place

    def killed_in_training(self, name: str) -> Place:
        """A training that was killed when it had left two checkpoints."""
        place = self.place(name)
        process = place.start(TRAINING)
        deadline = time.monotonic() + LIMIT
        while len(place.checkpoints()) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        finish(process)
        assert len(place.checkpoints()) >= 2, "the training was over before it could be killed"
        return place


# --- the disk --------------------------------------------------------------------------------------------------------


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Callable[[str], None]]:
    """A small file system in memory at `folder`; call what it gives with new options to mount it anew."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True)
    try:
        yield lambda more: subprocess.run(["mount", "-o", f"remount,{more}", folder], check=True, capture_output=True)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True, capture_output=True)


def disk_full(bench: Bench) -> Row:
    """A work_dir of 4 KiB to nearly enough; then room is made."""
    row = Row("disk full (work_dir of 4 KiB … 90 % of what is needed)")
    used = sum(path.stat().st_size for path in (bench.folder / "undisturbed" / "work").rglob("*") if path.is_file())
    for share in (0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9):
        place = bench.place("full")
        with mounted(place.work, f"size={max(4096, int(share * used))}") as mount_anew:
            hit = place.call()
            if hit.code == 0:
                continue  # it was enough
            mount_anew("size=1g")
            row.count(hit, r"No space left on device", place.call(), place, bench.expected[TABLE])
    return row


def read_only(bench: Bench) -> Row:
    """A work_dir that cannot be written: empty, and with a finished training in it; then it can."""
    row = Row("read-only work_dir")
    place = bench.place("readonly")
    with mounted(place.work, "ro") as mount_anew:
        hit = place.call(TRAINING)
        mount_anew("rw")
        row.count(
            hit,
            r"Read-only file system|nothing can be written into",
            place.call(TRAINING),
            place,
            bench.expected[TRAINING],
        )
        mount_anew("ro")
        hit = place.call(TABLE)
        mount_anew("rw")
        row.count(
            hit, r"Read-only file system|nothing can be written into", place.call(TABLE), place, bench.expected[TABLE]
        )
    return row


# --- checkpoints -----------------------------------------------------------------------------------------------------


def _damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    match kind:
        case "bit":
            content[len(content) // 2] ^= 1
        case "cut":
            del content[len(content) // 2 :]
        case "empty":
            content.clear()
        case "zeros":
            content[:] = bytes(len(content))
    path.write_bytes(content)


def newest_checkpoint_damaged(bench: Bench) -> Row:
    """A bit, a cut, nothing, zeros; goes on from the one before."""
    row = Row("newest checkpoint damaged")
    for kind in ("bit", "cut", "empty", "zeros"):
        place = bench.killed_in_training("newest")
        _damage(place.checkpoints()[-1], kind)
        again = place.call(TRAINING)
        row.count(again, r"checkpoint .* is damaged .* going back", again, place, bench.expected[TRAINING])
    return row


def all_checkpoints_damaged(bench: Bench) -> Row:
    """Begins anew."""
    row = Row("all checkpoints damaged")
    for kind in ("bit", "empty"):
        place = bench.killed_in_training("all")
        for path in place.checkpoints():
            _damage(path, kind)
        again = place.call(TRAINING)
        row.count(again, r"checkpoint .* is damaged", again, place, bench.expected[TRAINING])
    return row


# --- store and work_dir apart ----------------------------------------------------------------------------------------


def store_deleted(bench: Bench) -> Row:
    """Under a finished table, and under a killed training: both are done again, from what is there."""
    row = Row("store deleted under an existing work_dir")
    place = bench.finished("storeless", TABLE)
    place.store.unlink()
    again = place.call(TABLE)
    row.count(again, r"store .* knows no finished run of it", again, place, bench.expected[TABLE])
    place = bench.killed_in_training("storeless")
    place.store.unlink()
    row.count(None, "", place.call(TRAINING), place, bench.expected[TRAINING])
    return row


def work_dir_deleted(bench: Bench) -> Row:
    """Under a finished table, and under a killed training, whose run the store still calls RUNNING."""
    row = Row("work_dir deleted under an existing store")
    place = bench.finished("workless", TABLE)
    shutil.rmtree(place.work)
    row.count(None, "", place.call(TABLE), place, bench.expected[TABLE])
    place = bench.killed_in_training("workless")
    shutil.rmtree(place.work)
    row.count(None, "", place.call(TRAINING), place, bench.expected[TRAINING])
    return row


def clock_set_back(bench: Bench) -> Row:
    """Every file and run of a killed training, and of a finished table, is ten years from now."""
    row = Row("clock set back (files and runs ten years from now)")
    for place, call in ((bench.killed_in_training("clock"), TRAINING), (bench.finished("clock2", TABLE), TABLE)):
        later = time.time() + TEN_YEARS
        for path in (place.store, *place.work.rglob("*")):
            os.utime(path, (later, later), follow_symlinks=False)
        with sqlite3.connect(place.store) as store:
            move = 1000 * TEN_YEARS
            store.execute(f"update runs set start_time = start_time + {move}, end_time = end_time + {move}")
            store.execute(f"update metrics set timestamp = timestamp + {move}")
        row.count(None, "", place.call(call), place, bench.expected[call])
    return row


def two_at_once(bench: Bench) -> Row:
    """The same command twice: with nothing there, and twice more with a work_dir but no store."""
    row = Row("two processes with the same command at once")
    place = bench.place("twice")
    for again in range(3):
        if again:
            place.store.unlink()
        processes = [place.start(TABLE) for _ in range(2)]
        one, other = (finish(process) for process in processes)
        both = Ended(max(one.code, other.code), one.output + other.output)
        row.count(both, r"another process works on", both, place, bench.expected[TABLE])
    return row


# --- signals ---------------------------------------------------------------------------------------------------------


def signals(bench: Bench) -> list[Row]:
    """SIGINT, SIGTERM, SIGKILL in turn at random moments of the table, until it is through; several chains of that.

    Processes are forked from one that has imported everything: the moments fall into work, not into imports.
    """
    rows = {name: Row(f"{name} at random moments of the table") for name in ("SIGINT", "SIGTERM", "SIGKILL")}
    share = [bench.moments // bench.jobs + (job < bench.moments % bench.jobs) for job in range(bench.jobs)]
    children = []
    for job, moments in enumerate(share):
        if (child := os.fork()) == 0:
            status = 1
            try:
                _chains(bench, job, moments)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    for job, child in enumerate(children):
        _, status = os.waitpid(child, 0)
        report = bench.folder / f"signals{job}.jsonl"
        for line in report.read_text().splitlines() if report.is_file() else ():
            seen = json.loads(line)
            row = rows[seen["signal"]]
            row.tries += 1
            row.told += seen["told"]
            row.lost += seen["lost"]
            row.equal += seen["equal"]
            row.notes += seen["notes"]
        if status:
            rows["SIGKILL"].notes.append(f"chain {job} itself failed, see above")
            rows["SIGKILL"].lost += 1
    return list(rows.values())


def _chains(bench: Bench, job: int, moments: int) -> None:
    """Chains of hits; each chain ends when the table gets through, and is then compared."""
    drawn, chain, seconds = random.Random(job), 0, bench.seconds
    kinds = ["SIGINT", "SIGTERM", "SIGKILL"]
    with (bench.folder / f"signals{job}.jsonl").open("w", buffering=1) as report:
        while moments > 0:
            place, hits = bench.place(f"chain{job}"), []
            chain += 1
            through = None
            while moments > 0 and through is None:
                kind = kinds[moments % 3]
                started = time.monotonic()
                ended, hit = _forked(place, drawn.uniform(0, seconds), getattr(signal, kind))
                if not hit:
                    through = ended
                    if not hits:  # how long a whole table takes, without imports, and on a machine as busy as now
                        seconds = time.monotonic() - started
                    continue
                moments -= 1
                expected = [-signal.SIGKILL] if kind == "SIGKILL" else [130]
                told = ended.code in expected and (kind == "SIGKILL" or ended.says(GOES_ON))
                note = [] if told else [f"chain {job}.{chain}, {kind}: code {ended.code}: …{_tail(ended.output)}"]
                hits.append({"signal": kind, "told": told, "notes": note})
            again = place.call() if through is None else through
            row = Row("")
            row.count(None, "", again, place, bench.expected[TABLE])
            for seen in hits:
                notes = [*seen["notes"], *(row.notes if seen is hits[-1] else [])]
                report.write(json.dumps({**seen, "lost": row.lost, "equal": row.equal, "notes": notes}) + "\n")


def _forked(place: Place, after: float, number: int) -> tuple[Ended, bool]:
    """The table in a forked process that is hit after `after` seconds; False where it was through by then."""
    log = place.folder / "output.txt"
    if (child := os.fork()) == 0:
        code = 70
        try:
            os.setsid()
            signal.signal(
                signal.SIGINT, signal.default_int_handler
            )  # a shell's background job inherits that it is ignored
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(handle, stream)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.environ |= {"MLFLOW_TRACKING_URI": f"sqlite:///{place.store}", "MLFLOW_LOGGING_LEVEL": "ERROR"}
            from benchmark.__main__ import main

            code = main(place.command(TABLE))
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    deadline, status = time.monotonic() + after, 0
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="backslashreplace")), False
        time.sleep(0.005)
    os.kill(child, number)
    deadline = time.monotonic() + 120
    while not (done := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Ended(70, f"Traceback (most recent call last): not ended 120 s after signal {number}"), True
        time.sleep(0.005)
    ended = Ended(os.waitstatus_to_exitcode(done[1]), log.read_text(errors="backslashreplace"))
    return ended, ended.code != 0  # it may have got through just then


FAULTS: dict[str, Callable[[Bench], Row | list[Row]]] = {
    "disk_full": disk_full,
    "read_only": read_only,
    "newest_checkpoint": newest_checkpoint_damaged,
    "all_checkpoints": all_checkpoints_damaged,
    "store_deleted": store_deleted,
    "work_dir_deleted": work_dir_deleted,
    "clock": clock_set_back,
    "two_at_once": two_at_once,
    "signals": signals,
}
NEEDS_MOUNT = (disk_full, read_only)


def may_mount(folder: Path) -> bool:
    try:
        with mounted(folder / "probe", "size=64k"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def make_bench(folder: Path, moments: int, jobs: int) -> Bench:
    """Runs the table undisturbed, twice: what differs between two such runs could not be promised."""
    first, second = Place(folder / "undisturbed"), Place(folder / "undisturbed2")
    seconds = 0.0
    for place in (first, second):
        started = time.monotonic()
        ended = place.call(TABLE)
        seconds = time.monotonic() - started
        assert ended.code == 0, ended.output
    assert first.results() == second.results(), "two undisturbed runs differ"
    everything = first.results()
    (trained,) = {path.parent for path in map(Path, everything) if path.parts[0] == "train_generator"}
    of_training = {k: v for k, v in everything.items() if k.startswith((f"{trained}/", "prepare/"))}
    return Bench(folder, {TABLE: everything, TRAINING: of_training}, seconds, moments, jobs)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.faults", description=__doc__)
    parser.add_argument("--moments", type=int, default=100, help="signals at random moments")
    parser.add_argument("--jobs", type=int, default=2, help="chains of signals at once")
    parser.add_argument("--only", choices=FAULTS, action="append", help="this fault; can be repeated")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="standin-faults-"))
    bench = make_bench(folder, asked.moments, asked.jobs)
    print(f"{len(bench.expected[TABLE])} files are compared; the table takes {bench.seconds:.0f} s", flush=True)
    if not asked.only or "signals" in asked.only:
        _import_everything()
    mounts = may_mount(folder)
    rows: list[Row] = []
    for name in asked.only or FAULTS:
        fault = FAULTS[name]
        if fault in NEEDS_MOUNT and not mounts:
            rows.append(Row(name, skipped="mounting is not permitted here"))
            continue
        found = fault(bench)
        rows += found if isinstance(found, list) else [found]
        for row in rows[-len(found) :] if isinstance(found, list) else rows[-1:]:
            print(f"{row.fault}: {row.tries} tries, {row.lost} lost, {row.equal} equal, {row.told} told", flush=True)
            for note in row.notes:
                print(f"  {note}", flush=True)
    print("\n| fault | tries | lost | equal | message seen |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        cells = (row.skipped, "", "", "") if row.skipped else (row.tries, row.lost, row.equal, row.told)
        print(f"| {row.fault} | {' | '.join(map(str, cells))} |")
    bad = any(row.bad for row in rows)
    if not bad:
        shutil.rmtree(folder)
    return 1 if bad else 0


def _import_everything() -> None:
    """What a call imports before and while it works, so that forked processes start at once."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "131072"}
    from importlib import import_module

    import torch

    from benchmark.parsing import STAGES

    torch.set_num_threads(1)
    for stage in STAGES:
        if stage not in ("sync", "tune", "benchmark"):
            import_module(f"benchmark.stages.{stage}")
    for module in ("benchmark.table.run", "generators.stylegan2", "segmenters.unet"):
        import_module(module)


if __name__ == "__main__":
    sys.exit(main())
