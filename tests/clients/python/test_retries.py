"""When a client sends a request again, and how often at most."""

from __future__ import annotations

from datetime import timedelta

import grpc
import pytest

from tests.builders.gateway import SLATE, FakeGateway, overloaded
from tests.clients.python.conftest import Connect, Recommend
from vireo.server.rpc.errors import RpcError, unavailable
from vireo_client import Overloaded, Unavailable, VireoError

SOON = timedelta(milliseconds=20)
DRAINING = unavailable("draining", SOON)
SHED = overloaded(SOON)


async def test_a_request_that_cannot_be_served_is_sent_three_times_at_most(
    gateway: FakeGateway, recommend: Recommend
) -> None:
    gateway.answers = [DRAINING, DRAINING, SLATE]
    assert (await recommend("1", request_id="mine")).items
    assert [each["x-request-id"] for each in gateway.metadata] == ["mine"] * 3


async def test_then_it_fails(gateway: FakeGateway, recommend: Recommend) -> None:
    gateway.answers = [DRAINING, DRAINING, DRAINING, SLATE]
    with pytest.raises(Unavailable):
        await recommend("1")
    assert len(gateway.requests) == 3


async def test_a_request_that_was_turned_away_is_repeated_once(
    gateway: FakeGateway, recommend: Recommend
) -> None:
    gateway.answers = [SHED, SLATE]
    assert (await recommend("1", request_id="mine")).items
    assert [each["x-request-id"] for each in gateway.metadata] == ["mine"] * 2


async def test_a_retry_gets_the_remaining_deadline(
    gateway: FakeGateway, recommend: Recommend
) -> None:
    gateway.answers = [overloaded(timedelta(seconds=0.5)), SLATE]
    await recommend("1", timeout=9)
    # Less by the pause, at least; gRPC rounds the timeout up, from 10 s on to whole seconds.
    assert gateway.seconds[1] < gateway.seconds[0] - 0.25


async def test_but_not_twice(gateway: FakeGateway, recommend: Recommend) -> None:
    gateway.answers = [SHED]
    with pytest.raises(Overloaded):
        await recommend("1")
    assert len(gateway.requests) == 2


async def test_and_not_when_the_deadline_comes_first(
    gateway: FakeGateway, recommend: Recommend
) -> None:
    gateway.answers = [overloaded(timedelta(seconds=60)), SLATE]
    with pytest.raises(Overloaded):
        await recommend("1", timeout=60)
    assert len(gateway.requests) == 1


@pytest.mark.parametrize("refusal", [DRAINING, SHED], ids=["draining", "shed"])
async def test_one_attempt_is_one(
    gateway: FakeGateway, connect: Connect, refusal: RpcError
) -> None:
    gateway.answers = [refusal, SLATE]
    async with connect(gateway.address, attempts=1) as recommend:
        with pytest.raises(VireoError):
            await recommend("1")
    assert len(gateway.requests) == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT])
async def test_other_failures_are_final(
    gateway: FakeGateway, recommend: Recommend, code: grpc.StatusCode
) -> None:
    gateway.answers = [RpcError(code, "no"), SLATE]
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
