"""When clients send requests and events again, how often at most, and how long they wait."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import grpc
import pytest
import pytest_asyncio

from tests.builders.gateway import SLATE, FakeGateway, overloaded
from tests.builders.rpc import rpc_settings, running_server
from tests.clients.python.conftest import Connect, Recommend
from vireo.server.gateway.events import NAME
from vireo.server.rpc.errors import RpcError, unavailable
from vireo.server.rpc.server import RpcServer
from vireo.v1 import event_pb2 as pb
from vireo.v1.event_pb2_grpc import EventServiceServicer, add_EventServiceServicer_to_server
from vireo_client import Event, Overloaded, Unavailable, VireoError

SOON = timedelta(milliseconds=20)
DRAINING = unavailable("draining", SOON)
SHED = overloaded(SOON)
EVENT = Event.like("viewer", "video")


@pytest.mark.parametrize(
    ("answers", "sent", "ends"),
    [
        ([DRAINING, DRAINING, SLATE], 3, None),
        ([DRAINING, DRAINING, DRAINING, SLATE], 3, Unavailable),
        ([SHED, SLATE], 2, None),
        ([SHED], 2, Overloaded),
        ([overloaded(timedelta(seconds=60)), SLATE], 1, Overloaded),  # after the deadline
        ([RpcError(grpc.StatusCode.INTERNAL, "no"), SLATE], 1, VireoError),
        ([RpcError(grpc.StatusCode.INVALID_ARGUMENT, "no"), SLATE], 1, VireoError),
    ],
    ids=["draining", "draining for long", "shed", "shed twice", "late", "failure", "refusal"],
)
async def test_a_request_is_sent_again_only_where_that_may_help(
    gateway: FakeGateway,
    recommend: Recommend,
    answers: list[Any],
    sent: int,
    ends: type[VireoError] | None,
) -> None:
    gateway.answers = answers
    with pytest.raises(ends) if ends else nullcontext():
        assert (await recommend("1", request_id="mine")).items
    assert [each["x-request-id"] for each in gateway.metadata] == ["mine"] * sent


async def test_a_retry_gets_the_remaining_deadline(
    gateway: FakeGateway, recommend: Recommend
) -> None:
    gateway.answers = [overloaded(timedelta(seconds=0.5)), SLATE]
    await recommend("1", timeout=9)
    # Less by the pause, at least; gRPC rounds the timeout up, from 10 s on to whole seconds.
    assert gateway.seconds[1] < gateway.seconds[0] - 0.25


@pytest.mark.parametrize("refusal", [DRAINING, SHED], ids=["draining", "shed"])
async def test_one_attempt_is_one(
    gateway: FakeGateway, connect: Connect, refusal: RpcError
) -> None:
    gateway.answers = [refusal, SLATE]
    async with connect(gateway.address, attempts=1) as recommend:
        with pytest.raises(VireoError):
            await recommend("1")
    assert len(gateway.requests) == 1


async def test_a_service_that_is_down_gets_no_more_retries(
    gateway: FakeGateway, recommend: Recommend
) -> None:
    gateway.answers = [DRAINING]
    for _ in range(20):
        with pytest.raises(Unavailable):
            await recommend("1")
    assert len(gateway.requests) <= 20 + 11


async def test_a_call_has_the_clients_timeout_unless_it_has_its_own(
    gateway: FakeGateway, connect: Connect
) -> None:
    async with connect(gateway.address, timeout=40) as recommend:
        await recommend("1")
        await recommend("1", timeout=90)
    assert 0 < gateway.seconds[0] < 41
    assert 41 < gateway.seconds[1] < 91


@pytest.mark.parametrize("attempts", [0, 6])
async def test_attempts_that_grpc_would_not_make_are_refused(
    connect: Connect, attempts: int
) -> None:
    with pytest.raises(ValueError, match="from 1 to 5"):
        async with connect("127.0.0.1:1", attempts=attempts):
            pass


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
    async with running_server(server):
        recorder.address = f"127.0.0.1:{server.port}"
        yield recorder


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
