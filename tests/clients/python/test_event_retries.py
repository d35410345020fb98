"""How long both clients wait for calls that record events, and what they repeat."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from tests.builders.rpc import rpc_settings
from tests.clients.python.conftest import Connect
from vireo.server.gateway.events import NAME
from vireo.server.rpc.errors import RpcError, unavailable
from vireo.server.rpc.server import RpcServer
from vireo.v1 import event_pb2 as pb
from vireo.v1.event_pb2_grpc import EventServiceServicer, add_EventServiceServicer_to_server
from vireo_client import Event, Unavailable

EVENT = Event.like("viewer", "video")


@dataclass
class Recorder(EventServiceServicer):
    """Fails calls as it is told, and records the others nowhere."""

    failures: list[RpcError] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """What was left of each call's deadline."""
    address: str = ""

    async def RecordEvents(self, request: Any, context: Any) -> pb.RecordEventsResponse:  # noqa: N802
        self.seconds.append(context.time_remaining())
        if self.failures:
            raise self.failures.pop(0)
        return pb.RecordEventsResponse(recorded=len(request.events))

    async def StreamEvents(self, requests: Any, context: Any) -> pb.StreamEventsResponse:  # noqa: N802
        self.seconds.append(context.time_remaining())
        return pb.StreamEventsResponse(recorded=sum([len(each.events) async for each in requests]))


@pytest_asyncio.fixture
async def recorder() -> AsyncIterator[Recorder]:
    recorder = Recorder()
    server = RpcServer(rpc_settings())
    server.add(NAME, partial(add_EventServiceServicer_to_server, recorder))
    await server.start()
    recorder.address = f"127.0.0.1:{server.port}"
    yield recorder
    await server.drain()


async def test_events_have_more_time_than_slates(connect: Connect, recorder: Recorder) -> None:
    async with connect(recorder.address, timeout=0.01) as client:
        assert await client.call("record_events", [EVENT]) == 1
        assert await client.call("record_events", [EVENT], timeout=90) == 1
        assert await client.call("stream_events", [[EVENT], [EVENT]]) == 2
    default, own, stream = recorder.seconds
    assert 0.01 < default <= 5.1
    assert 5.1 < own <= 91
    # More than that after which the server ends a stream: it says what was recorded.
    assert 300 < stream <= 321


async def test_events_that_cannot_be_stored_are_sent_once_more_after_the_servers_delay(
    connect: Connect, recorder: Recorder
) -> None:
    away = unavailable("away", timedelta(seconds=0.5))
    recorder.failures = [away, away, away]
    async with connect(recorder.address, timeout=9) as client:  # gRPC rounds more to whole seconds
        with pytest.raises(Unavailable):
            await client.call("record_events", [EVENT])
        first, second = recorder.seconds
        assert second < first - 0.25
        assert await client.call("record_events", [EVENT]) == 1
    assert len(recorder.seconds) == 4


async def test_a_delay_beyond_the_deadline_and_one_attempt_are_no_retry(
    connect: Connect, recorder: Recorder
) -> None:
    recorder.failures = [unavailable("away", timedelta(seconds=60))]
    async with connect(recorder.address, timeout=60) as client:
        with pytest.raises(Unavailable):
            await client.call("record_events", [EVENT])
    recorder.failures = [unavailable("away", timedelta(0))]
    async with connect(recorder.address, timeout=60, attempts=1) as client:
        with pytest.raises(Unavailable):
            await client.call("record_events", [EVENT])
    assert len(recorder.seconds) == 2
