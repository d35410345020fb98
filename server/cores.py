"""Number of cores that this process may use, by its container's CPU quota and its affinity."""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def cores(root: Path = _ROOT) -> int:
    """Return the number of whole cores, at least one, by cgroup v2's quota and the CPU affinity.

    A fraction of a core is left out: the kernel would throttle a process for it all the time. A
    group has at most the quota of each group that contains it. If a container sees only its own
    group, that is the root of what it sees, whatever its path outside.

    Args:
        root: the folder below which /proc and /sys are.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    mount = root / "sys/fs/cgroup"
    group = _group(root / "proc/self/cgroup")
    quotas = (_quota(mount / each / "cpu.max") for each in (group, *group.parents))
    return max(1, int(min(allowed, *quotas)))


def _group(file: Path) -> PurePosixPath:
    """Return the path of the process's cgroup below the mount; the root's if it isn't known."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return PurePosixPath()
    for line in lines:
        hierarchy, _, path = line.partition("::")
        if hierarchy == "0" and ".." not in path:
            return PurePosixPath(path.strip("/"))
    return PurePosixPath()


def _quota(file: Path) -> float:
    """Return the quota in a `cpu.max`, "200000 100000" for two cores; infinity without one."""
    try:
        quota, period = file.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # "max" is no number
        return math.inf
