"""Responses to callers beyond the cluster's limit of calls."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.builders.edge import running_edge
from vireo.server.control import resources, templates

pytestmark = pytest.mark.integration


async def test_more_calls_than_are_taken_on_are_exhausted_to_rest_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = templates.filled

    def with_one_call_at_a_time(name: str, values: dict[str, object]) -> dict[str, Any]:
        document = filled(name, values)
        if name == "cluster":
            document["circuit_breakers"]["thresholds"][0]["max_requests"] = 1
        return document

    monkeypatch.setattr(resources, "filled", with_one_call_at_a_time)
    async with running_edge(tmp_path, 1) as edge:
        edge.gateways[0].delay = 0.3
        url = f"http://{edge.address}/v1/viewers/1/recommendations"
        refused: list[Any] = []
        with urllib3.PoolManager(retries=False, timeout=30, maxsize=8) as pool:
            async with asyncio.timeout(60):
                while not refused:
                    answers = await asyncio.gather(
                        *(asyncio.to_thread(pool.request, "GET", url) for _ in range(8))
                    )
                    refused = [each for each in answers if each.status != 200]
    assert {each.status for each in refused} == {429}
    assert {each.json()["code"] for each in refused} == {8}
