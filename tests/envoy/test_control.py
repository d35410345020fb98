"""Envoy under the control plane: pods that come and go, pools, and what Envoy refuses."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from tests.builders.edge import CandidatePod, Edge, running_edge, serve_candidate, serve_ranking
from tests.builders.samples import sample
from tests.builders.waiting import until
from vireo.server.control.mesh import Pool
from vireo.server.control.snapshot import ROUTES, Resource, Snapshot
from vireo.v1 import candidate_pb2, viewer_pb2
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub

pytestmark = pytest.mark.integration

PATIENT = ("x-envoy-upstream-rq-per-try-timeout-ms", "60000")
"""Or pods that are slow for a moment, all of this process, would be taken for ones that hang."""
REQUEST = candidate_pb2.RetrieveCandidatesRequest(viewer=viewer_pb2.ViewerFeatures(), count=1)
CANDIDATE = Pool("candidate")


class Caller:
    """Calls candidate pods through Envoy's inner listener."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = CandidateServiceStub(channel)

    async def call(self, **metadata: str) -> str:
        """Return the name of the pod that answers, or the status if none does."""
        pairs = [PATIENT, *((f"x-vireo-{key}", value) for key, value in metadata.items())]
        try:
            answer = await self._stub.RetrieveCandidates(REQUEST, timeout=60, metadata=pairs)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return str(answer.release_id)

    async def until(self, holds: Callable[[str], bool], **metadata: str) -> Counter[str]:
        """Calls until 20 answers on end are as wanted; who answered before."""
        before: Counter[str] = Counter()
        in_a_row = 0
        async with asyncio.timeout(60):
            while in_a_row < 20:
                answer = await self.call(**metadata)
                in_a_row = in_a_row + 1 if holds(answer) else 0
                before[answer] += 1
                await asyncio.sleep(0.005)
        return before


@asynccontextmanager
async def edge_and_caller(folder: Path, **changes: Any) -> AsyncIterator[tuple[Edge, Caller]]:
    async with (
        running_edge(folder, 1, **changes) as edge,
        grpc.aio.insecure_channel(f"127.0.0.1:{edge.settings.candidate_port}") as channel,
    ):
        yield edge, Caller(channel)


async def test_traffic_moves_to_another_pod_and_calls_under_way_end(tmp_path: Path) -> None:
    async with (
        edge_and_caller(tmp_path) as (edge, caller),
        AsyncExitStack() as stack,
    ):
        port = edge.settings.pod_ports("candidate")[-1] + 1
        await serve_candidate(CandidatePod("fresh"), port, stack)
        answers = await caller.until(lambda name: name.startswith("candidate-"))
        asked = [pod.calls for pod in edge.candidates]
        for pod in edge.candidates:
            pod.delay = 3
        under_way = [asyncio.create_task(caller.call()) for _ in range(8)]
        await until(lambda: sum(pod.calls for pod in edge.candidates) == sum(asked) + 8)
        for pod in edge.candidates:
            pod.delay = 0
        edge.control.discovery.set(CANDIDATE, port)
        answers += await caller.until(lambda name: name == "fresh")
        answers += Counter(await asyncio.gather(*under_way))
        assert answers.keys() <= {"candidate-0", "candidate-1", "fresh"}
        assert [pod.cancelled for pod in edge.candidates] == [0, 0], "none was asked again"


async def test_a_configuration_that_envoy_rejects_is_shown_and_the_last_good_one_serves(
    tmp_path: Path,
) -> None:
    async with edge_and_caller(tmp_path) as (edge, caller):
        assert sample("vireo_xds_clients", client="envoy") == 1
        servicer = edge.control.servicer
        assert servicer.snapshot is not None
        good = servicer.snapshot
        servicer.publish(with_bad_regex(good))
        async with asyncio.timeout(30):
            while True:
                shown = (await edge.control.status())[edge.settings.envoy_id][
                    "RouteConfiguration", "candidate"
                ]
                if shown.error_state.details:
                    break
                await asyncio.sleep(0.05)
        assert "missing )" in shown.error_state.details
        assert shown.version_info == good[ROUTES]["candidate"].version
        assert {await caller.call() for _ in range(10)} <= {"candidate-0", "candidate-1"}
        # The rest goes on, and what was refused is sent once it has changed.
        edge.control.discovery.set(CANDIDATE, edge.settings.pod_ports("candidate")[0])
        await caller.until(lambda answer: answer == "candidate-0")


def with_bad_regex(snapshot: Snapshot) -> Snapshot:
    """The snapshot with candidate routes that hold no regular expression."""
    routes = RouteConfiguration.FromString(snapshot[ROUTES]["candidate"].body.value)
    routes.virtual_hosts[0].routes[0].match.safe_regex.regex = "("
    changed = {**snapshot[ROUTES], "candidate": Resource.of(routes)}
    return {**snapshot, ROUTES: changed}


async def test_the_canary_gets_its_share_of_the_buckets_and_a_viewer_stays_on_one_side(
    tmp_path: Path,
) -> None:
    async with edge_and_caller(tmp_path, canary_pods=1) as (edge, caller):
        assert (await caller.call(bucket="0")).startswith("candidate-")
        edge.control.channels.share = 0.1
        answers = await caller.until(lambda name: name == "candidate-canary-0", bucket="999")
        assert "UNAVAILABLE" not in answers
        sides = {
            bucket: {await caller.call(bucket=str(bucket)) for _ in range(5)}
            for bucket in (0, 500, 999, 1000, 5000, 9999)
        }
        canary = {bucket for bucket, names in sides.items() if names == {"candidate-canary-0"}}
        assert canary == {0, 500, 999}
        production = {"candidate-0", "candidate-1"}
        assert all(names <= production for each, names in sides.items() if each >= 1000)
        assert await caller.call() in production
        edge.control.channels.share = 0.0
        await caller.until(lambda name: name in production, bucket="0")


async def test_when_the_canary_pods_stop_production_answers_for_them(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        edge, caller = await stack.enter_async_context(edge_and_caller(tmp_path))
        canary = AsyncExitStack()
        port = edge.settings.canary_pod_port
        await serve_candidate(CandidatePod("canary"), port, canary)
        await serve_ranking(port + 10, stack)
        edge.control.discovery.set(Pool("ranking", "canary"), port + 10)
        edge.control.channels.share = 1.0
        edge.control.discovery.set(Pool("candidate", "canary"), port)
        await caller.until(lambda name: name == "canary", bucket="9999")
        await canary.aclose()
        answers = await caller.until(lambda name: name.startswith("candidate-"), bucket="9999")
        assert answers.keys() <= {"canary", "candidate-0", "candidate-1"}
