import asyncio
from contextlib import suppress
from datetime import timedelta

import grpc
import pytest
from google.rpc import error_details_pb2

from server.gateway import allowance as allowance_module
from server.gateway.allowance import Allowance
from server.rpc.errors import RpcError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_is_allowed_in_a_second_is_taken_at_once_and_then_as_fast_as_it_comes_back() -> None:
    clock = Clock()
    allowance = Allowance(1000, 1e9, clock)
    allowance.take("a", 600)
    allowance.take("a", 900)  # more than is left, but a batch is taken as a whole
    with pytest.raises(RpcError) as refused:
        allowance.take("a", 1)
    assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    [retry] = refused.value.details
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToTimedelta() == timedelta(seconds=0.5)
    clock.now += 0.51
    allowance.take("a", 1)


def test_a_long_pause_allows_no_more_than_one_second_does() -> None:
    clock = Clock()
    allowance = Allowance(10, 1e9, clock)
    clock.now += 1000
    allowance.take("a", 10)
    with pytest.raises(RpcError):
        allowance.take("a", 1)


def test_one_caller_can_take_only_its_part_and_others_the_rest() -> None:
    clock = Clock()
    allowance = Allowance(1000, 500, clock)
    allowance.take("a", 500)
    with pytest.raises(RpcError, match="at most 500 events a second of one caller, and 1,000"):
        allowance.take("a", 1)
    allowance.take("b", 499)
    clock.now += 0.1
    allowance.take("a", 50)  # what was refused cost nothing


def test_only_so_many_callers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance_module, "MAX_CALLERS", 3)
    allowance = Allowance(1e9, 1, Clock())
    for caller in ("a", "b", "c", "a", "d"):
        with suppress(RpcError):
            allowance.take(caller, 1)
    with pytest.raises(RpcError):
        allowance.take("a", 1)
    allowance.take("b", 1)  # forgotten


async def test_who_waits_gets_it_as_soon_as_it_is_there() -> None:
    allowance = Allowance(1000, 1e9)
    allowance.take("a", 1050)
    async with asyncio.timeout(30):
        await allowance.wait("a", 1, asyncio.Event())


async def test_who_waits_is_sent_away_when_the_server_shuts_down() -> None:
    allowance, closing = Allowance(0.001, 1e9), asyncio.Event()
    allowance.take("a", 1)
    waiting = asyncio.ensure_future(allowance.wait("a", 1, closing))
    await asyncio.sleep(0)
    closing.set()
    with pytest.raises(RpcError, match="shuts down") as ended:
        await waiting
    assert ended.value.code is grpc.StatusCode.UNAVAILABLE
