"""What people see while work goes on: warnings, and the bars of several processes on one screen."""

import logging
import os
import sys
from typing import Any

from tqdm import tqdm

from analysis.progress import ROW
from analysis.text import visible_lines


def share_screen(row: int, lock: Any) -> None:
    """From now on this process's bars stand `row` lines below the cursor, drawn while it holds the processes' lock."""
    tqdm.set_lock(lock)
    os.environ[ROW] = str(row)


def say(line: str, shared: bool) -> None:
    """A line for people on standard error, where other processes may have drawn bars, if it is `shared`."""
    fresh = "\r\x1b[J" if shared and sys.stderr.isatty() else ""
    print(f"{fresh}{line}", file=sys.stderr, flush=True)


class _OnScreen(logging.Formatter):
    """Names of files may hold escape sequences, which a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(super().format(record))


def log_on_screen() -> None:
    """Has this program's warnings shown on standard error."""
    ours, handler = logging.getLogger("benchmark"), logging.StreamHandler()
    handler.setFormatter(_OnScreen())
    handler.setLevel(logging.WARNING)
    ours.handlers = [handler]
