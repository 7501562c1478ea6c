"""How many cores this process may use: a container has its share of the machine, which torch does not know of."""

import math
import os
from pathlib import Path

CGROUP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """Cores that the process is allowed, by its affinity and, on Linux, by the quotas of its control groups (v2)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min([allowed, *_quotas()])))


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
