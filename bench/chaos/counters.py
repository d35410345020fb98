"""What pods count, read from their metrics endpoints."""

from __future__ import annotations

import asyncio
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Mapping

from prometheus_client.parser import text_string_to_metric_families

from server.stack.settings import METRICS_PORT_OFFSET

_TIMEOUT = 5.0


async def counted(ports: Iterable[int]) -> Mapping[str, float]:
    """The sum of each sample over pods, by name alone: labels are summed over.

    Args:
        ports: where the pods answer calls; their metrics' ports follow from these.
    """
    totals: defaultdict[str, float] = defaultdict(float)
    for text in await asyncio.gather(*(asyncio.to_thread(_read, port) for port in ports)):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                totals[sample.name] += sample.value
    return totals


def _read(port: int) -> str:
    url = f"http://127.0.0.1:{port + METRICS_PORT_OFFSET}/metrics"
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
        text: str = response.read().decode()
        return text
