"""Processor time of processes, as the kernel accounts for it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import psutil

from server.errors import VireoError
from server.rpc.cores import allowed_cores

CAN_PIN = hasattr(os, "sched_setaffinity")
"""Whether this system keeps processes to the cores that they are told; macOS doesn't."""


def first_core() -> list[int]:
    """Return the first core that this process may run on, to pin servers to.

    Raises:
        VireoError: this system can't keep a process to a core.
    """
    if not CAN_PIN:
        raise VireoError("servers are compared on one and the same core: that needs Linux")
    return allowed_cores()[:1]


def pin(cores: Iterable[int], thread: int = 0) -> None:
    """Keep a thread, by default the calling one, and what it starts from then on to some cores."""
    os.sched_setaffinity(thread, cores)


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
