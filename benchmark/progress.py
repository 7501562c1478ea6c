"""What people see while work goes on: progress bars that suit both a terminal and a log file, and warnings."""

import logging
import os
import sys
from typing import Any

from tqdm import tqdm

from analysis.text import visible, visible_lines

ROW = "STAND_IN_ROW"  # environment: how far below the cursor a process has its bars, where several share the terminal


def progress_bar(total: int, name: str, unit: str, done: int = 0) -> tqdm:
    """A bar on standard error with rate and time left; into a file it writes a line every 10 s instead of redrawing."""
    on_terminal, row = sys.stderr.isatty(), os.environ.get(ROW)
    interval = 0.5 if on_terminal else 10
    return tqdm(
        total=total,
        initial=done,
        desc=visible(name),
        unit=unit,
        unit_scale=True,
        dynamic_ncols=True,
        mininterval=interval,
        maxinterval=2 * interval,
        position=int(row) if row and on_terminal else None,
        leave=not (row and on_terminal),
    )


def share_screen(row: int, lock: Any) -> None:
    """From now on this process's bars stand `row` lines below the cursor, drawn while it holds the processes' lock."""
    tqdm.set_lock(lock)
    os.environ[ROW] = str(row)


def say(line: str, shared: bool) -> None:
    """A line for people on standard error, where other processes may have drawn bars, if it is `shared`."""
    fresh = "\r\x1b[J" if sys.stderr.isatty() else "\n"
    print(f"{fresh if shared else ''}{line}", file=sys.stderr, flush=True)


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
