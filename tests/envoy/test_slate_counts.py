"""What Envoy counts of slates at the edge, by which alerts tell their availability."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections import Counter
from pathlib import Path

import grpc
import pytest
import urllib3

from tests.builders.edge import Edge, running_edge
from vireo.server.control.mesh import Pool
from vireo.server.rpc.errors import invalid_argument
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

pytestmark = pytest.mark.integration


_BY_STATUS = r"_cluster_grpc_RecommendationService_Recommend_(\d+|total)"
_BY_REST = r"_vhost_vcluster_upstream_rq_(xx)"


async def counted(edge: Edge) -> Counter[str]:
    """Slates by gRPC status, in total, and, as "xx", by REST without a gateway."""
    url = f"http://127.0.0.1:{edge.settings.admin_port}/stats/prometheus"
    with await asyncio.to_thread(urllib.request.urlopen, url) as response:
        text = response.read().decode()
    found = [
        *re.findall(rf"^envoy{_BY_STATUS}{{[^}}]*}} (\d+)$", text, re.M),
        *re.findall(rf'^envoy{_BY_REST}{{.*class="5".*"rest_slates"[^}}]*}} (\d+)$', text, re.M),
    ]
    return Counter({name: int(count) for name, count in found})


async def test_slates_that_no_gateway_answers_are_counted_with_those_that_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vireo.server.control.admission._EMPTY_SECONDS", 0.1)
    async with (
        running_edge(tmp_path, 1) as edge,
        grpc.aio.insecure_channel(edge.address) as channel,
    ):
        [gateway] = edge.gateways

        async def statuses() -> set[object]:
            """Ask for a slate by gRPC and by REST."""
            stub = RecommendationServiceStub(channel)
            call = stub.Recommend(pb.RecommendRequest(viewer_id="1"), timeout=20)
            url = f"http://{edge.address}/v1/viewers/1/recommendations"
            answer = await asyncio.to_thread(urllib3.request, "GET", url, retries=False)
            return {await call.code(), answer.status}

        assert await statuses() == {grpc.StatusCode.OK, 200}
        gateway.refusal = invalid_argument([("viewer_id", "strange")])
        assert await statuses() == {grpc.StatusCode.INVALID_ARGUMENT, 400}
        assert await counted(edge) == {"0": 2, "3": 2, "total": 4}
        before = len(gateway.requests)
        edge.control.discovery.set(Pool("gateway"))
        gateway.refusal = None
        async with asyncio.timeout(30):
            while await statuses() != {grpc.StatusCode.UNAVAILABLE, 503}:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        after = await counted(edge)
        answered = len(gateway.requests) - before
        assert after["0"] - 2 == answered
        assert after["14"] >= 1
        assert after["xx"] >= 1
        assert after["total"] == after["0"] + after["3"] + after["14"]
