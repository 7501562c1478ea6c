"""The oracle sees every kind of failure; a short campaign, other inputs than the long one's first, finds none."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fuzz import harness
from tests.fuzz.harness import Case

ROOT = Path(__file__).parents[2]


def _raise(_):
    raise KeyError("nobody caught this")


def _say_and_refuse(_):
    print("error: data: 'x' is no folder", file=sys.stderr)
    return 2


@pytest.mark.parametrize(
    ("main", "outcome"),
    [
        (lambda _: 0, "read right"),
        (_say_and_refuse, "wrong value"),  # what had to be taken was refused
        (_raise, "traceback"),
        (lambda _: 1, "mute"),
        (lambda _: 3, "traceback"),  # no exit code of ours
        (lambda _: time.sleep(60), "hang"),
        (lambda _: 0 * len(b"x" * (1 << 30)), "memory"),
        (lambda _: len(bytearray(16 << 30)), "memory"),
        (lambda _: os.kill(os.getpid(), signal.SIGKILL), "died"),
    ],
)
def test_every_kind_of_failure_is_seen(tmp_path, monkeypatch, main, outcome):
    monkeypatch.setattr(harness, "main", main)
    monkeypatch.setattr(harness, "WALL_SECONDS", 20 if outcome != "hang" else 1)
    ended = harness.in_child([], tmp_path)
    assert harness.judge(Case([], harness.taken), ended)[0] == outcome


def test_a_short_campaign_finds_nothing():
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--cases", "4", "--seed", "11"],
        cwd=ROOT, env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
