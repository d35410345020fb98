"""A server with EventService and CatalogService alone, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
from google.rpc import error_details_pb2

from tests.builders import refusals
from tests.builders.rpc import rpc_settings, running_server
from tests.builders.s3 import unreachable_s3
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.gateway.appender import LogRoom
from vireo.server.gateway.events import add_recording
from vireo.server.gateway.settings import GatewaySettings
from vireo.server.recommend.catalogue.overlay import Takedowns
from vireo.server.rpc.server import RpcServer
from vireo.v1 import event_pb2
from vireo.v1.catalog_pb2_grpc import CatalogServiceStub
from vireo.v1.event_pb2_grpc import EventServiceStub


@dataclass(frozen=True)
class Recorder:
    """The server, and how callers reach it."""

    server: RpcServer
    channel: grpc.aio.Channel
    events: Any
    """Stub of EventService."""
    catalog: Any
    """Stub of CatalogService."""


@asynccontextmanager
async def recording(
    log: JetStreamLog | None,
    takedowns: Takedowns | None = None,
    room: LogRoom | None = None,
    **settings: Any,
) -> AsyncIterator[Recorder]:
    """Run one that appends to `log`."""
    server = RpcServer(rpc_settings(max_message_bytes=1 << 20))
    add_to(server, log, takedowns, room, **settings)
    async with running_server(server) as channel:
        yield Recorder(server, channel, EventServiceStub(channel), CatalogServiceStub(channel))


def add_to(
    server: RpcServer,
    log: JetStreamLog | None,
    takedowns: Takedowns | None = None,
    room: LogRoom | None = None,
    *,
    event_partitions: int = 1,
    **settings: Any,
) -> None:
    """Add both services, which append to `log`, to a server; with a gateway's settings."""
    gateway = GatewaySettings(
        port=0,
        s3=unreachable_s3(),
        event_log=EventLogSettings(event_partitions=event_partitions),
        shedding=False,
        **settings,
    )
    add_recording(server, gateway, log, room, takedowns)


def play(event_id: str, viewer_id: str = "viewer", video_id: str = "video", **more: Any) -> Any:
    """An event."""
    return event_pb2.Event(
        event_id=event_id,
        viewer_id=viewer_id,
        video_id=video_id,
        **{"kind": event_pb2.EVENT_KIND_PLAY, **more},
    )


def batch(events: Sequence[Any]) -> event_pb2.RecordEventsRequest:
    """A batch of events."""
    return event_pb2.RecordEventsRequest(events=events)


@dataclass(frozen=True)
class Failure:
    """How a call failed."""

    code: grpc.StatusCode
    message: str
    fields: tuple[str, ...]
    """The fields that violate something."""
    retry_seconds: float | None
    recorded: int | None
    """How many events of a stream were recorded."""


async def failure_of(call: Any) -> Failure:
    """How a call fails."""
    error = await refusals.failure_of(call)
    bad, retry, info = (
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
        error_details_pb2.ErrorInfo(),
    )
    fields: tuple[str, ...] = ()
    seconds, recorded = None, None
    for detail in refusals.status_of(error).details:
        if detail.Unpack(bad):
            fields = tuple(each.field for each in bad.field_violations)
        elif detail.Unpack(retry):
            seconds = retry.retry_delay.ToTimedelta().total_seconds()
        elif detail.Unpack(info):
            assert (info.reason, info.domain) == ("STREAM_ENDED", "vireo.v1")
            recorded = int(info.metadata["recorded"])
    return Failure(error.code(), error.details() or "", fields, seconds, recorded)
