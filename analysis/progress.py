"""Progress bars for long work that suit both a terminal and a log file."""

import os
import sys

from tqdm import tqdm

from analysis.text import visible

ROW = "STAND_IN_ROW"  # environment: how far below the cursor a process has its bars, where several share the terminal
REDRAWN, LOGGED = 0.5, 10  # between two looks of a bar on a terminal, between two lines of it in a file [s]


class _Lines:
    """Standard error as a file: what tqdm draws over what it drew before becomes a line of its own."""

    encoding = property(lambda self: sys.stderr.encoding)

    def write(self, text: str) -> None:
        if line := text.strip():
            sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress_bar(total: int, name: str, unit: str, done: int = 0) -> tqdm:
    """A bar on standard error with rate and time left; into a file it writes a line every 10 s instead of redrawing.
    Of work that is shorter than that nothing is shown."""
    on_terminal, row = sys.stderr.isatty(), os.environ.get(ROW)
    interval = REDRAWN if on_terminal else LOGGED
    return tqdm(
        file=sys.stderr if on_terminal else _Lines(),
        total=total,
        initial=done,
        desc=visible(name),
        unit=unit,
        unit_scale=True,
        dynamic_ncols=True,
        delay=interval,
        mininterval=interval,
        maxinterval=2 * interval,
        position=int(row) if row and on_terminal else None,
        leave=not (row and on_terminal),
    )
