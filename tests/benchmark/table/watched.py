"""Processes that a test starts, watches and kills."""

import time
from contextlib import suppress
from pathlib import Path

PATIENCE = 600  # for a busy machine [s]


def until(condition, log):
    """What the condition comes to, as soon as it is true; the end of the log where it stays false."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.02)
    return found


def while_alive(process, condition, log):
    """`until`, for what only a process that lives can bring about."""

    def met():
        assert process.poll() is None, log.read_text()[-4000:]
        return condition()

    return until(met, log)


def family(ancestor):
    """Process ids of a process and of all that it has started."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):  # gone meanwhile
            parents[int(status.parts[2])] = int(status.read_text().partition("PPid:")[2].split()[0])
    found = {ancestor}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def alive(process):
    """Whether the process id is one of a process that has not ended."""
    with suppress(OSError):
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    return False


def holder(lock):
    """Process ids of whoever has the file open, and of its parent; None where nobody has."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # gone meanwhile
            if link.readlink() == lock:
                status = (link.parents[1] / "status").read_text()
                return int(link.parts[2]), int(status.partition("PPid:")[2].split()[0])
    return None
