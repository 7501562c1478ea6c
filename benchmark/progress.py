"""Progress bars that suit both a terminal and a log file."""

import sys

from tqdm import tqdm

from analysis.text import visible


def progress_bar(total: int, name: str, unit: str, done: int = 0) -> tqdm:
    """A bar on standard error with rate and time left; into a file it writes a line every 10 s instead of redrawing."""
    interval = 0.5 if sys.stderr.isatty() else 10
    return tqdm(
        total=total,
        initial=done,
        desc=visible(name),
        unit=unit,
        unit_scale=True,
        dynamic_ncols=True,
        mininterval=interval,
        maxinterval=2 * interval,
    )
