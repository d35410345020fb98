"""The real Envoy in front of gateways and pods that record their requests."""

from __future__ import annotations

import asyncio
import http.client
import json
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.builders.control import ControlPlane, running_control
from tests.builders.fake_stack import EXPLANATION
from tests.builders.recording import add_to
from tests.builders.rpc import rpc_settings
from vireo.ops.stack.envoy import bootstrap, envoy_command, secure
from vireo.ops.stack.ports import free_port_base
from vireo.ops.stack.probes import grpc_probe
from vireo.ops.stack.processes import endpoints_document, operator_tls
from vireo.ops.stack.settings import StackSettings
from vireo.server.control.mesh import POOLS, Pool
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.rpc.server import RpcServer
from vireo.v1 import candidate_pb2, ranking_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.candidate_pb2_grpc import (
    CandidateServiceServicer,
    add_CandidateServiceServicer_to_server,
)
from vireo.v1.ranking_pb2_grpc import RankingServiceServicer, add_RankingServiceServicer_to_server
from vireo.v1.recommendation_pb2_grpc import (
    RecommendationServiceServicer,
    add_RecommendationServiceServicer_to_server,
)

GATEWAY = "vireo.v1.RecommendationService"
CANDIDATE = "vireo.v1.CandidateService"
RANKING = "vireo.v1.RankingService"
_SHARED_SETTINGS = ("edge_host", "edge_port", "candidate_port", "ranking_port", "cors_origins")


@dataclass
class Scripted:
    """What a test may have a pod do to its calls, and what it has seen of them."""

    name: str
    metadata: dict[str, Any] = field(default_factory=dict)
    """Metadata of the latest call."""
    left: float | None = None
    """Seconds until the latest call's deadline."""
    failure: Exception | None = None
    """With what calls end; INTERNAL if it isn't an RpcError."""
    delay: float = 0.0
    """Seconds that an answer takes."""
    cancelled: int = 0
    """Calls that ended before they were answered."""

    async def take(self, context: Any) -> None:
        """Do it to a call, which is to be answered once this returns."""
        self.metadata = dict(context.invocation_metadata())
        self.left = context.time_remaining()
        if self.failure is not None:
            raise self.failure
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@dataclass
class Gateway(Scripted, RecommendationServiceServicer):
    """A gateway that keeps what it is asked, and answers with one video."""

    requests: list[pb.RecommendRequest] = field(default_factory=list)
    similar: pb.SimilarVideosRequest | None = None
    """The latest request for videos like one."""
    explained: pb.ExplainVideoRequest | None = None
    """The latest request to explain a video."""

    async def Recommend(self, request: pb.RecommendRequest, context: Any) -> pb.RecommendResponse:  # noqa: N802
        self.requests.append(request)
        await self.take(context)
        return pb.RecommendResponse(
            items=[pb.SlateItem(video_id="v", position=1)], release_id=self.name
        )

    async def SimilarVideos(  # noqa: N802
        self, request: pb.SimilarVideosRequest, context: Any
    ) -> pb.SimilarVideosResponse:
        self.similar = request
        self.metadata = dict(context.invocation_metadata())
        return pb.SimilarVideosResponse(items=[pb.SlateItem(video_id="v", position=1)])

    async def ExplainVideo(  # noqa: N802
        self, request: pb.ExplainVideoRequest, context: Any
    ) -> pb.ExplainVideoResponse:
        self.explained = request
        return EXPLANATION

    async def BatchRecommend(  # noqa: N802
        self, request: pb.BatchRecommendRequest, context: Any
    ) -> AsyncIterator[pb.BatchRecommendResponse]:
        """Answers for one viewer after the other, each after `delay`."""
        self.metadata = dict(context.invocation_metadata())
        for viewer_id in request.viewer_ids:
            await asyncio.sleep(self.delay)
            yield pb.BatchRecommendResponse(viewer_id=viewer_id)


@dataclass
class CandidatePod(Scripted, CandidateServiceServicer):
    """A candidate pod that answers with its name."""

    calls: int = 0

    async def RetrieveCandidates(  # noqa: N802
        self, request: candidate_pb2.RetrieveCandidatesRequest, context: Any
    ) -> candidate_pb2.RetrieveCandidatesResponse:
        self.calls += 1
        await self.take(context)
        return candidate_pb2.RetrieveCandidatesResponse(release_id=self.name)


class RankingPod(RankingServiceServicer):
    """A ranking pod that ranks nothing."""

    async def RankCandidates(  # noqa: N802
        self, request: ranking_pb2.RankCandidatesRequest, context: Any
    ) -> ranking_pb2.RankCandidatesResponse:
        return ranking_pb2.RankCandidatesResponse()


@dataclass(frozen=True)
class RestAnswer:
    """An answer to a request by HTTP/1.1."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its JSON."""
        assert self.headers["content-type"] == "application/json", self
        return json.loads(self.body)

    @property
    def fields(self) -> list[str]:
        """The fields of its google.rpc.BadRequest, sorted."""
        [bad] = self.json["details"]
        assert bad["@type"] == "type.googleapis.com/google.rpc.BadRequest"
        return sorted(violation["field"] for violation in bad["fieldViolations"])


@dataclass(frozen=True)
class Edge:
    """Envoy, its control plane, and what stands behind it."""

    settings: StackSettings
    gateways: list[Gateway]
    pods: dict[Pool, list[CandidatePod]]
    """The candidate pods of each pool."""
    control: ControlPlane

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.settings.edge_port}"

    @property
    def last_request(self) -> pb.RecommendRequest:
        """The request that came last, where one gateway has had all of them."""
        return self.gateways[0].requests[-1]

    @property
    def candidates(self) -> list[CandidatePod]:
        """The candidate pods of production."""
        return self.pods[Pool("candidate")]

    async def rest(
        self,
        path: str,
        body: Any = None,
        method: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> RestAnswer:
        """Return the answer to a request: JSON unless the body is text or bytes.

        http.client sends the path as it is.
        """
        sent = body if body is None or isinstance(body, str | bytes) else json.dumps(body)
        kind = {} if sent is None else {"content-type": "application/json"}

        def send() -> RestAnswer:
            connection = http.client.HTTPConnection(self.address, timeout=60)
            verb = method or ("GET" if sent is None else "POST")
            connection.request(verb, path, sent, {**kind, **(headers or {})})
            answer = connection.getresponse()
            found = {name.lower(): text for name, text in answer.getheaders()}
            content = answer.read()
            connection.close()
            return RestAnswer(answer.status, found, content)

        return await asyncio.to_thread(send)

    async def stat(self, pattern: str) -> int:
        """Return the sum of Envoy's numbers whose whole names match a regular expression."""
        url = f"http://127.0.0.1:{self.settings.admin_port}/stats?filter=^{quote(pattern)}$"
        with await asyncio.to_thread(urllib.request.urlopen, url) as response:
            return sum(int(line.rpartition(b":")[2]) for line in response.read().splitlines())


@asynccontextmanager
async def running_edge(
    folder: Path,
    gateway_count: int,
    *,
    control: Mapping[str, Any] | None = None,
    pod: Mapping[str, Any] | None = None,
    log: JetStreamLog | None = None,
    **changes: Any,
) -> AsyncIterator[Edge]:
    """Envoy whose edge answers, before that many gateways and two candidate pods.

    Args:
        folder: where Envoy's bootstrap and log go.
        gateway_count: how many gateways.
        control: settings of the control plane to change.
        pod: settings of the candidate pods to change.
        log: where the gateways record events.
        changes: settings of the stack to change; `secure` for mutual TLS, without tokens.
    """
    base = free_port_base()
    settings = StackSettings(
        home=folder,
        port_base=base,
        **{"edge_port": base + 3, "gateway_pods": gateway_count, **changes},
    )
    gateways = [Gateway(f"gateway-{number}") for number in range(gateway_count)]
    pods = {
        pool: [
            CandidatePod(f"{pool.cluster}-{number}")
            for number, _ in enumerate(settings.pod_ports(pool.service, pool.name))
        ]
        for pool in POOLS
        if pool.service == "candidate"
    }
    if settings.secure:
        secure(settings)
    config = folder / "envoy.yaml"
    config.write_text(bootstrap(settings))
    async with AsyncExitStack() as stack:
        for gateway, port in zip(gateways, settings.pod_ports("gateway"), strict=True):
            server = _server(port, **_tls(settings, "gateway"))
            server.add(GATEWAY, partial(add_RecommendationServiceServicer_to_server, gateway))
            add_to(server, log)
            await start_server(server, stack)
        for pool, members in pods.items():
            ports = settings.pod_ports(pool.service, pool.name)
            for each, port in zip(members, ports, strict=True):
                await serve_candidate(
                    each, port, stack, **_tls(settings, "candidate"), **(pod or {})
                )
        for port in settings.pod_ports("ranking", "canary"):
            await serve_ranking(port, stack)
        plane = await stack.enter_async_context(
            running_control(
                endpoints_document(settings).endpoints(),
                **{
                    "port": settings.control_port,
                    **{name: getattr(settings, name) for name in _SHARED_SETTINGS},
                    **_tls(settings, "control"),
                    **({"envoy_secrets": settings.security.secrets} if settings.secure else {}),
                    **(control or {}),
                },
            )
        )
        with (folder / "envoy.log").open("wb") as output:
            envoy = await asyncio.create_subprocess_exec(
                *envoy_command(config, settings), stdout=output, stderr=output
            )
        try:
            await _until_serving(settings)
            yield Edge(settings, gateways, pods, plane)
        finally:
            envoy.terminate()
            await envoy.wait()


async def counter(edge: Edge, cluster: str, name: str) -> int:
    """One of Envoy's counters of a cluster."""
    return await edge.stat(rf"cluster\.{cluster}\.{name}")


async def serve_candidate(
    pod: CandidatePod, port: int, stack: AsyncExitStack, **settings: Any
) -> None:
    """Serve a candidate pod on a port until `stack` closes."""
    server = _server(port, **settings)
    server.add(CANDIDATE, partial(add_CandidateServiceServicer_to_server, pod))
    await start_server(server, stack)


async def serve_ranking(port: int, stack: AsyncExitStack) -> None:
    """Serve a ranking pod on a port until `stack` closes."""
    server = _server(port)
    server.add(RANKING, partial(add_RankingServiceServicer_to_server, RankingPod()))
    await start_server(server, stack)


def _tls(settings: StackSettings, role: str) -> dict[str, Path]:
    """The TLS settings of a process with a role, in a stack that is secured."""
    if not settings.secure:
        return {}
    files = settings.security.tls(role)
    return {
        "tls_certificate": files.certificate,
        "tls_key": files.key,
        "tls_ca": files.authority,
    }


def _server(port: int, **settings: Any) -> RpcServer:
    return RpcServer(rpc_settings(port=port, max_message_bytes=2 << 20, **settings))


async def start_server(server: RpcServer, stack: AsyncExitStack) -> None:
    """Serve health SERVING until `stack` closes."""
    await server.start()
    await server.set_serving(True)
    stack.push_async_callback(server.drain)


async def _until_serving(settings: StackSettings) -> None:
    tls = operator_tls(settings)
    probe = grpc_probe(settings.edge_port, GATEWAY, settings.edge_reached_at, tls, "edge")
    async with asyncio.timeout(60):
        while await probe():  # noqa: ASYNC110 - another process's state has no event
            await asyncio.sleep(0.05)
