"""What processes say of themselves."""

from __future__ import annotations

import asyncio
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from vireo.ops.doctor.probes.metrics import parse
from vireo.ops.stack.settings import METRICS_PORT_OFFSET
from vireo.server.errors import VireoError

_PAGE_SECONDS = 5.0


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process and all that it has started, in steps of 10 ms.

    Processes that have ended don't count.
    """
    process, total = psutil.Process(pid), 0.0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system
    return total


def memory_of(pid: int, cache: Path) -> float:
    """Return megabytes (10**6 bytes) resident, with all of the files below `cache` that it maps."""
    process = psutil.Process(pid)
    files = [area for area in process.memory_maps() if area.path.startswith(str(cache))]
    unread = sum(area.size - area.rss for area in files)
    return float(process.memory_info().rss + unread) / 1e6


def shared_memory(pids: Iterable[int]) -> float:
    """Return megabytes (10**6 bytes) resident in all of some processes, shared pages once."""
    return float(sum(psutil.Process(pid).memory_full_info().pss for pid in pids)) / 1e6


async def counted(ports: Iterable[int]) -> Mapping[str, float]:
    """Return the sum of each metric's samples over labels and pods; `ports` are those of calls.

    Raises:
        VireoError: a pod doesn't answer.
    """
    totals: defaultdict[str, float] = defaultdict(float)
    for port in ports:
        page = parse(await page_of(port + METRICS_PORT_OFFSET, "metrics"))
        for name, samples in page.items():
            totals[name] += sum(value for _, value in samples)
    return totals


async def page_of(port: int, path: str) -> str:
    """Return what a port of this machine has at a path; raise VireoError if it doesn't answer."""

    def read() -> str:
        url = f"http://127.0.0.1:{port}/{path}"
        try:
            with urllib.request.urlopen(url, timeout=_PAGE_SECONDS) as page:
                text: str = page.read().decode()
        except OSError as error:
            raise VireoError(f"{url} doesn't answer: {error}") from error
        return text

    return await asyncio.to_thread(read)
