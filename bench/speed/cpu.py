"""Processor time of processes, as the kernel accounts for it."""

from __future__ import annotations

from collections.abc import Mapping

import psutil


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """User and system time that each process has had, by the same names; 10 ms are the least."""
    used = {}
    for name, pid in pids.items():
        times = psutil.Process(pid).cpu_times()
        used[name] = times.user + times.system
    return used


def thread_seconds(pid: int) -> dict[int, float]:
    """The same of each thread of a process, by the kernel's id."""
    return {each.id: each.user_time + each.system_time for each in psutil.Process(pid).threads()}
