"""When a client sends a request again, and how often at most."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import grpc
import pytest

from tests.builders.gateway import SLATE, FakeGateway, overloaded
from tests.clients.python.conftest import Connect, Recommend
from vireo.server.rpc.errors import RpcError, unavailable
from vireo_client import Overloaded, Unavailable, VireoError

SOON = timedelta(milliseconds=20)
DRAINING = unavailable("draining", SOON)
SHED = overloaded(SOON)


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
