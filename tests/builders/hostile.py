"""A stack that ends calls as it is told, and a front that cuts its connections or speaks TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import grpc
from google.rpc import error_details_pb2

from tests.builders.batches import SERVICE, one_video
from tests.builders.certificates import Certificate
from tests.builders.rpc import rpc_settings, running_server
from vireo.server.rpc.errors import RpcError
from vireo.server.rpc.server import RpcServer
from vireo.v1 import catalog_pb2, event_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.catalog_pb2_grpc import CatalogServiceServicer, add_CatalogServiceServicer_to_server
from vireo.v1.event_pb2_grpc import EventServiceServicer, add_EventServiceServicer_to_server
from vireo.v1.recommendation_pb2_grpc import (
    RecommendationServiceServicer,
    add_RecommendationServiceServicer_to_server,
)

CATALOG = catalog_pb2.DESCRIPTOR.services_by_name["CatalogService"].full_name
EVENTS = event_pb2.DESCRIPTOR.services_by_name["EventService"].full_name


@dataclass(frozen=True)
class Call:
    """A call that came."""

    method: str
    request: Any
    metadata: dict[str, Any]
    seconds: float
    """What was left of its deadline."""


@dataclass
class Hostile(RecommendationServiceServicer, EventServiceServicer, CatalogServiceServicer):
    """Ends each call with the next of its ends, and with the last one from then on."""

    ends: Sequence[Any] = ("ok",)
    """`ok`, `hang`, `cut`, a code, or a code with the seconds of RetryInfo."""
    after: int = 0
    """How many slates a stream gets before it ends."""
    called: Callable[[], object] = lambda: None
    """Called after each call has been taken down."""
    cut: Callable[[], None] = lambda: None
    """Cuts all connections."""
    calls: list[Call] = field(default_factory=list)

    def _take(self, method: str, request: Any, context: Any) -> Any:
        end = self.ends[min(len(self.calls), len(self.ends) - 1)]
        metadata = dict(context.invocation_metadata())
        self.calls.append(Call(method, request, metadata, context.time_remaining()))
        self.called()
        return end

    async def _end(self, end: Any) -> None:
        if end == "ok":
            return
        if end == "cut":
            self.cut()
        if end in ("cut", "hang"):
            await asyncio.Event().wait()
        [(code, seconds)] = end.items() if isinstance(end, dict) else [(end, None)]
        details = []
        if seconds is not None:
            details.append(error_details_pb2.RetryInfo())
            details[0].retry_delay.FromTimedelta(timedelta(seconds=seconds))
        raise RpcError(grpc.StatusCode[code], "no", details)

    async def Recommend(self, request: Any, context: Any) -> pb.RecommendResponse:  # noqa: N802
        await self._end(self._take("Recommend", request, context))
        return pb.RecommendResponse(
            items=[pb.SlateItem(video_id="v", position=1)], next_page_token="more"
        )

    async def BatchRecommend(  # noqa: N802
        self, request: Any, context: Any
    ) -> AsyncIterator[pb.BatchRecommendResponse]:
        end, begin = self._take("BatchRecommend", request, context), int(request.resume_token or 0)
        for number, viewer in enumerate(request.viewer_ids[begin:]):
            if end != "ok" and number == self.after:
                await self._end(end)
            slate, token = one_video(request, viewer), str(begin + number + 1)
            yield pb.BatchRecommendResponse(viewer_id=viewer, slate=slate, resume_token=token)

    async def RecordEvents(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._end(self._take("RecordEvents", request, context))
        return event_pb2.RecordEventsResponse(recorded=len(request.events))

    async def UpsertVideos(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._end(self._take("UpsertVideos", request, context))
        return catalog_pb2.UpsertVideosResponse(upserted=len(request.videos))

    async def RemoveVideos(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._end(self._take("RemoveVideos", request, context))
        return catalog_pb2.RemoveVideosResponse(removed=len(request.video_ids))


@asynccontextmanager
async def serving(hostile: Hostile, certificate: Certificate | None = None) -> AsyncIterator[str]:
    """Run it, behind TLS with a certificate; yield its address."""
    server = RpcServer(rpc_settings())
    server.add(SERVICE, partial(add_RecommendationServiceServicer_to_server, hostile))
    server.add(EVENTS, partial(add_EventServiceServicer_to_server, hostile))
    server.add(CATALOG, partial(add_CatalogServiceServicer_to_server, hostile))
    async with (
        running_server(server),
        front(f"127.0.0.1:{server.port}", certificate) as (address, hostile.cut),
    ):
        yield address


@asynccontextmanager
async def front(
    address: str, certificate: Certificate | None = None
) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """Pass connections on to a plaintext server; yield the address, and what cuts all of them."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.certificate, certificate.key)
        context.set_alpn_protocols(["h2"])
    host, port = address.rsplit(":", 1)
    outer_writers: set[asyncio.StreamWriter] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        outer_writers.add(writer)
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))
        outer_writers.discard(writer)

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while piece := await source.read(1 << 16):
                sink.write(piece)
                await sink.drain()
        except ConnectionError:
            pass  # the caller has gone
        finally:
            sink.close()

    def cut() -> None:
        for writer in outer_writers:
            writer.transport.abort()

    outer = await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context)
    async with outer:
        yield f"127.0.0.1:{outer.sockets[0].getsockname()[1]}", cut
