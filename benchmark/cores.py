"""How many cores this process may use: a container has its share of the machine, which torch does not know of. And that
processes which share them do not outlive the one that started them.
"""

import math
import os
import sys
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread

CGROUP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """Cores that the process is allowed, by its affinity and, on Linux, by the quotas of its control groups (v2)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min([allowed, *_quotas()])))


def end_with_parent() -> None:
    """From here on this process ends when the one that started it does, however that ended: of a pool's workers, none
    would notice that it was killed."""
    Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent_process().join()
    print("the process that started this one has ended, so does this one", file=sys.stderr)
    os._exit(1)


def _quotas() -> list[float]:
    """Of the process's own group and of every one above it [cores]."""
    try:
        own = next(line for line in CGROUP.read_text().splitlines() if line.startswith("0::"))[len("0::/") :]
    except (OSError, StopIteration):
        return []
    found = []
    for group in (CGROUPS / own, *(CGROUPS / own).parents):
        try:
            quota, period = (group / "cpu.max").read_text().split()
            found.append(float(quota) / float(period))
        except (OSError, ValueError):  # the root has no such file, and "max" is no quota
            continue
    return found
