"""Number of cores that this process may use, by its container's CPU quota and its affinity."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def cores(root: Path = _ROOT) -> int:
    """Return the number of whole cores, at least one, by cgroup v2's quota and the CPU affinity.

    A fraction of a core is left out: the kernel would throttle a process for it all the time.

    Args:
        root: the folder below which /proc and /sys are.
    """
    allowed = len(allowed_cores())
    quota = cpu_quota(root)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def allowed_cores() -> list[int]:
    """Return the numbers of the cores that this process may run on, in order.

    On systems without CPU affinity, such as macOS, it may run on all of them.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Return the CPU seconds that this process's cgroup may use each second; None without a limit.

    A group has at most the quota of each group that contains it. If a container sees only its
    own group, that is the root of what it sees, whatever its path outside.
    """
    mount = root / "sys/fs/cgroup"
    group = _group(root / "proc/self/cgroup")
    found = [_limit(mount / each / "cpu.max") for each in (group, *group.parents)]
    return min((limit for limit in found if limit is not None), default=None)


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


def _limit(file: Path) -> float | None:
    """Return the limit in a `cpu.max`, "200000 100000" for two cores; None for "max" or no file."""
    try:
        quota, period = file.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # "max" is no number
        return None
