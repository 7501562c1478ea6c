"""What people see while work goes on: progress bars that suit both a terminal and a log file, and warnings."""

import logging
import sys
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from analysis.text import visible, visible_lines


@dataclass
class _Screen:
    row: int | None = None  # below the cursor, of this process's bars, where several processes share the terminal


_screen = _Screen()


def progress_bar(total: int, name: str, unit: str, done: int = 0) -> tqdm:
    """A bar on standard error with rate and time left; into a file it writes a line every 10 s instead of redrawing."""
    on_terminal = sys.stderr.isatty()
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
        position=_screen.row if on_terminal else None,
        leave=_screen.row is None or not on_terminal,
    )


def share_screen(row: int, lock: Any) -> None:
    """From now on this process's bars stand `row` lines below the cursor, drawn while it holds the processes' lock."""
    tqdm.set_lock(lock)
    _screen.row = row


def say(line: str) -> None:
    """A line for people on standard error, above the bars that other processes may have drawn there."""
    clear = "\r\x1b[J" if sys.stderr.isatty() else ""
    print(f"{clear}{line}", file=sys.stderr, flush=True)


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
