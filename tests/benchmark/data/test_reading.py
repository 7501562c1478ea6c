"""Worker processes that read subjects, or write the phantom's: they end with the process that started them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmark.table.watched import alive, family, until, while_alive

ROOT = Path(__file__).parents[3]
READING = """
import time
from benchmark.data.reading import Workers
if __name__ == "__main__":
    with Workers(2) as workers:
        for result in workers.results(time.sleep, [(600,)] * 2):
            result()
"""
WRITING = """
from pathlib import Path
from benchmark.data.phantom import write_cohort
if __name__ == "__main__":
    write_cohort(Path(__file__).parent / "phantom", 99, 0, (240, 240, 155), 2)
"""


@pytest.mark.parametrize("script", [READING, WRITING], ids=["reading", "writing"])
def test_workers_end_with_the_process_that_started_them_however_it_ends(tmp_path, script):
    (tmp_path / "script.py").write_text(script)
    log = tmp_path / "log"
    with log.open("w") as stderr:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        leader = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, env=environment, stderr=stderr)
    while_alive(leader, lambda: len(family(leader.pid)) == 4, log)  # itself, two workers, Python's tracker of resources
    workers = family(leader.pid) - {leader.pid}
    try:
        leader.kill()
        leader.wait()
        until(lambda: not any(map(alive, workers)), log)
    finally:
        for worker in filter(alive, workers):
            os.kill(worker, signal.SIGKILL)
