"""ReleaseService for all pods at once: the release that every candidate and ranking pod serves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc.aio
import structlog

from vireo.server.control.mesh import INNER, Endpoint, Mesh, Pool, Service
from vireo.server.errors import VireoError
from vireo.server.rpc.server import RpcServer
from vireo.server.rpc.tls import TlsFiles, open_channel
from vireo.v1 import release_pb2 as pb
from vireo.v1 import release_pb2_grpc

log = structlog.get_logger()

NAME = pb.DESCRIPTOR.services_by_name["ReleaseService"].full_name
_POD_SECONDS = 1.0
"""Maximum seconds for a pod's response; one that hangs doesn't serve the release."""
_PARALLEL_CALLS = 64
_REUSE_SECONDS = 0.5
"""Seconds for which a response is reused: many gateways ask as often as one."""


class PodReleases(release_pb2_grpc.ReleaseServiceServicer):
    """Serves the release of production's pods, which gateways follow; it asks pods when called."""

    def __init__(self, mesh: Callable[[], Mesh], tls: TlsFiles | None) -> None:
        """Ask the pods of the current `mesh`, by mutual TLS with these files if there are any."""
        self._mesh, self._tls = mesh, tls
        self._asking = asyncio.Lock()
        self._parallel = asyncio.Semaphore(_PARALLEL_CALLS)
        self._latest = pb.GetServingReleaseResponse()
        self._reused_until = float("-inf")

    async def GetServingRelease(  # noqa: N802
        self, _: pb.GetServingReleaseRequest, _context: Any
    ) -> pb.GetServingReleaseResponse:
        """Return the release that all pods serve; without its id while they differ.

        `loading` has a release that a pod loads.
        """
        clock = asyncio.get_running_loop().time
        async with self._asking:
            if clock() >= self._reused_until:
                self._latest = await self._ask_all()
                self._reused_until = clock() + _REUSE_SECONDS
            return self._latest

    async def _ask_all(self) -> pb.GetServingReleaseResponse:
        mesh = self._mesh()
        pods = [(service, pod) for service in INNER for pod in mesh.of(Pool(service))]
        responses = await asyncio.gather(*(self._ask(*pod) for pod in pods))
        # A pod that can't be connected to takes no calls, and loads the newest release when it
        # starts. So it delays no gateway.
        found = [(pod[0], each) for pod, each in zip(pods, responses, strict=True) if each]
        served = {each.release_id for _, each in found}
        summary = pb.GetServingReleaseResponse(
            state=pb.RELEASE_STATE_LOADING, channel="production", pod="all"
        )
        if len(served) == 1 and {service for service, _ in found} == {*INNER}:
            summary.release_id = served.pop()
        if summary.release_id:
            summary.state = pb.RELEASE_STATE_SERVING
        loading = Counter(each.loading.release_id for _, each in found if each.HasField("loading"))
        if loading:
            summary.loading.release_id = loading.most_common(1)[0][0]
        return summary

    async def _ask(self, service: Service, pod: Endpoint) -> pb.GetServingReleaseResponse | None:
        """Return a pod's response, an empty one if it has none; None if it can't be reached."""
        async with self._parallel:
            try:
                async with open_channel(str(pod), self._tls, service) as channel:
                    stub = release_pb2_grpc.ReleaseServiceStub(channel)
                    response: pb.GetServingReleaseResponse | None = await stub.GetServingRelease(
                        pb.GetServingReleaseRequest(), timeout=_POD_SECONDS
                    )
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    return None
                response = None
            except VireoError as error:
                log.warning("pods can't be asked for their release", reason=str(error))
                response = None
        return response or pb.GetServingReleaseResponse()  # gRPC has None for an invalid response


def add_release_service(server: RpcServer, mesh: Callable[[], Mesh], tls: TlsFiles | None) -> None:
    """Add ReleaseService to the control plane's server."""
    add = release_pb2_grpc.add_ReleaseServiceServicer_to_server
    server.add(NAME, partial(add, PodReleases(mesh, tls)))
