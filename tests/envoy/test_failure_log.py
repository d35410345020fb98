"""What the real Envoy logs of requests that fail."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import urllib3

from tests.builders.edge import running_edge

pytestmark = pytest.mark.integration
REQUESTS = 300


async def test_an_outage_logs_a_sample_of_the_failed_requests(tmp_path: Path) -> None:
    nobody = {"otlp_endpoint": "http://127.0.0.1:1"}
    async with running_edge(tmp_path, 1, control=nobody) as edge:
        edge.gateways[0].refuses = True
        url = f"http://{edge.address}/v1/viewers/1/recommendations"

        def ask() -> list[int]:
            with urllib3.PoolManager(retries=False, timeout=60) as pool:
                return [pool.request("GET", url).status for _ in range(REQUESTS)]

        assert set(await asyncio.to_thread(ask)) == {503}
    # Envoy writes what it holds back when it ends.
    lines = [
        json.loads(line)
        for line in (tmp_path / "envoy.log").read_text().splitlines()
        if line.startswith("{")
    ]
    # One in ten: the chance of none, and of half of them, is nil.
    assert 0 < len(lines) < REQUESTS / 2
    assert {line["status"] for line in lines} == {503}
    assert all(len(line["request_id"]) == 36 and len(line["trace_id"]) == 32 for line in lines)
