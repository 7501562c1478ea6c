"""The table in several processes of this machine, any of which may be killed.

That its numbers are those of a serial run is shown by test_executors.py.
"""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from benchmark.cores import cores
from benchmark.errors import UserError
from benchmark.parsing import parse
from benchmark.table.executors import at_once, side_by_side
from benchmark.training import processes
from tests.benchmark.table.watched import PATIENCE, alive, family, holder, until, while_alive

ROOT = Path(__file__).parents[3]
TABLE = ["--preset", "smoke", "--model", "diffusion", "--train_on", "synthetic"]
LONGER = ["--train_generator.images", "320", "--train_generator.checkpoint_seconds", "0"]


@pytest.mark.parametrize(("given", "width"), [("0", 8), ("1", 8), ("3", 2), ("16", 1)])
def test_as_many_jobs_run_at_once_as_have_their_threads(monkeypatch, given, width):
    monkeypatch.setattr("benchmark.table.executors.side_by_side.cores", lambda: 8)
    keys = {"executor": "processes", "cpus_per_cell": given, "device": "cpu"}
    assert at_once(parse("benchmark", keys)) == width


def test_under_torchrun_and_unless_asked_for_one_job_runs_at_a_time(monkeypatch):
    assert at_once(parse("benchmark", {"preset": "smoke", "device": "cpu"})) == 1
    monkeypatch.setattr(processes, "world", lambda: 2)
    assert at_once(parse("benchmark", {"executor": "processes", "device": "cpu"})) == 1


def _start(folder, name):
    command = [sys.executable, "-m", "benchmark", "benchmark", *TABLE, *LONGER, "--executor", "processes"]
    command += ["--work_dir", str(folder / "work"), "--out", str(folder / "out")]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    with (folder / name).open("w") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log, stdout=subprocess.DEVNULL)


def _newest(folder):
    """Images seen at the generator's newest checkpoint."""
    found = folder.glob("work/train_generator/*/checkpoints/*.pt")
    return max((int(path.name.partition("-")[0]) for path in found), default=0)


def _training(folder, name):
    """The table, started anew, when its generator's training has gone on from where it was; and who trains it."""
    before, leader, log = _newest(folder), _start(folder, name), folder / name
    while_alive(leader, lambda: _newest(folder) > before, log)
    (lock,) = folder.glob("work/train_generator/*.lock")
    trainer, _ = while_alive(leader, lambda: holder(lock), log)
    return leader, trainer


def _statuses(folder, stage):
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()], f"tags.stage = '{stage}'")
    return [run.info.status for run in sorted(runs, key=lambda run: run.info.start_time)]


def _books(folder):
    newest = max(folder.glob("work/benchmark/*/jobs.csv"), key=lambda path: path.stat().st_mtime)
    return pd.read_csv(newest).set_index("stage")


@pytest.mark.skipif(cores() < 2, reason="needs two cores")
def test_whatever_is_killed_the_same_command_goes_on(tmp_path):
    leader = _start(tmp_path, "killed")
    log = tmp_path / "killed"
    workers = while_alive(leader, lambda: family(leader.pid) - {leader.pid}, log)
    leader.kill()
    leader.wait()
    until(lambda: not any(map(alive, workers)), log)

    leader, trainer = _training(tmp_path, "stopped")
    workers = family(leader.pid) - {leader.pid}
    assert trainer in workers
    leader.send_signal(signal.SIGTERM)
    assert leader.wait(PATIENCE) == 130
    assert not alive(trainer)
    # multiprocessing's own resource tracker is among them, which sees only then that the leader is gone.
    until(lambda: not any(map(alive, workers)), tmp_path / "stopped")
    assert _statuses(tmp_path, "train_generator") == ["KILLED"]
    assert "Traceback" not in (tmp_path / "stopped").read_text()

    leader, trainer = _training(tmp_path, "one killed")
    os.kill(trainer, signal.SIGKILL)
    assert leader.wait(PATIENCE) == 1
    books = _books(tmp_path)
    for stage in ("train_generator", "sample", "audit"):
        assert books.loc[stage, "status"] == "FAILED"
        assert "want of memory" in books.loc[stage, "reason"]
    assert (books.loc["evaluate", "status"] == ["FINISHED", "FAILED"]).all()  # real and synthetic


def test_in_a_process_a_fault_of_the_disk_is_an_answer_and_an_interrupt_none(monkeypatch):
    def meet(error):
        def attempt(*_):
            raise RuntimeError("PytorchStreamWriter failed") from error

        monkeypatch.setattr(side_by_side, "attempt", attempt)
        return side_by_side._answer(None, {}, None)

    answer = meet(OSError(errno.ENOSPC, "No space left on device", "work/x"))
    assert isinstance(answer, UserError)
    assert "work/x: No space left on device" in str(answer)
    with pytest.raises(KeyboardInterrupt):
        meet(KeyboardInterrupt())
    with pytest.raises(RuntimeError):
        meet(OSError(errno.ECONNRESET, "Connection reset by peer"))
