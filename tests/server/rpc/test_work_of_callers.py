"""What one caller's messages cost before they are worked on, and what its waiting calls hold."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message

from tests.builders.recording import Recorder, batch, play, recording
from tests.builders.waiting import until
from vireo.server.rpc import budget as budget_module
from vireo.server.rpc import guard as guard_module
from vireo.server.rpc.budget import REFUSAL_SECONDS, Budget
from vireo.server.rpc.caller import CALLER
from vireo.server.rpc.errors import ShedError, ShedReason
from vireo.server.rpc.validation import validate
from vireo.v1 import filter_pb2
from vireo.v1 import recommendation_pb2 as pb

METHOD = "/vireo.v1.EventService/RecordEvents"
GREEDY, OTHER = ((CALLER, "greedy"),), ((CALLER, "other"),)
BIG = batch([play(str(number), video_id="v" * 100) for number in range(1000)])


@pytest.fixture
async def recorder() -> AsyncIterator[Recorder]:
    async with recording(None) as recorder:  # without a log a call ends with UNIMPLEMENTED
        recorder.server.guard._max_calls = 60
        yield recorder


@pytest.fixture
async def budget(recorder: Recorder) -> AsyncIterator[Budget]:
    """The budget, in which the greedy caller has used all that it may, while others call."""
    budget = recorder.server.guard.budget
    budget._charge("greedy", 1e9, rests=False)
    budget._rested_at = budget._clock() + 1e9

    async def others() -> None:
        while True:
            budget.light("other")
            await asyncio.sleep(0.02)

    calling = asyncio.create_task(others())
    yield budget
    calling.cancel()


async def test_few_bytes_that_take_long_to_check_are_checked_in_their_callers_turn(
    recorder: Recorder, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_module, "MAX_WAITING_OF_CALLER", 2)
    checked = 0

    def parse(raw: bytes) -> Message:
        nonlocal checked
        checked += 1
        request = pb.RecommendRequest.FromString(raw)
        validate(request)
        return request

    asked = filter_pb2.Filter()
    for _ in range(3):
        asked = filter_pb2.Filter(any=[asked] * 10)
    raw = pb.RecommendRequest(viewer_id="v", filter=asked).SerializeToString()
    assert 1 << 10 < len(raw) < 4 << 10
    read = recorder.server.guard._read
    waiting = [asyncio.create_task(read(parse, lambda _: 0.0, "greedy", raw)) for _ in range(2)]
    await until(lambda: budget.waiting == 2)
    with pytest.raises(ShedError):
        await read(parse, lambda _: 0.0, "greedy", raw)
    assert checked == 0
    for each in waiting:
        each.cancel()
    await read(parse, lambda _: 0.0, "other", raw)
    assert checked == 1
    assert budget.used("other") > 0.0001


async def test_a_compressed_message_is_read_in_its_callers_turn(
    recorder: Recorder, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    inflated: list[int] = []
    decompressobj = zlib.decompressobj

    def counted(bits: int) -> Any:
        inflated.append(bits)
        return decompressobj(bits)

    monkeypatch.setattr(zlib, "decompressobj", counted)
    method: Any = recorder.channel.unary_unary(METHOD)
    call = method(gzip.compress(bytes(1 << 20)), metadata=GREEDY)
    await until(lambda: budget.waiting == 1)
    assert not inflated
    call.cancel()


async def test_a_caller_leaves_as_many_calls_to_others_as_it_has_itself(
    recorder: Recorder, budget: Budget
) -> None:
    calls = [recorder.events.RecordEvents(BIG, metadata=GREEDY) for _ in range(60)]
    # They may arrive in another order.
    await until(lambda: sum(each.done() for each in calls) >= 30)
    assert budget.waiting == 30
    codes = [await each.code() for each in calls if each.done()]
    assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    other = recorder.events.RecordEvents(batch([play("1")]), metadata=OTHER, timeout=30)
    assert await other.code() is grpc.StatusCode.UNIMPLEMENTED
    for each in calls:
        each.cancel()
    await until(lambda: recorder.server.guard.under_way == 0)
    assert not recorder.server.guard._of_callers


async def test_a_refused_call_keeps_no_message_until_it_is_answered(
    recorder: Recorder, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_module, "MAX_WAITING_OF_CALLER", 0)
    monkeypatch.setitem(guard_module._RESTS, ShedReason.BUDGET, 30.0)
    shed = guard_module.SHED.labels(METHOD, "budget")
    before, count = shed._value.get(), 20
    method: Any = recorder.channel.unary_unary(METHOD)
    message = BIG.SerializeToString()
    tracemalloc.start()
    try:
        calls = [method(message, metadata=GREEDY) for _ in range(count)]
        await until(lambda: shed._value.get() == before + count)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert recorder.server.guard.under_way == count, "callers who repeat at once would flood"
    assert held < 3 * len(message)
    for each in calls:
        each.cancel()


async def test_calls_that_are_refused_together_are_not_answered_together(
    recorder: Recorder, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_module, "MAX_WAITING_OF_CALLER", 0)
    answered: list[float] = []

    async def refused() -> None:
        await recorder.events.RecordEvents(BIG, metadata=GREEDY).code()
        answered.append(asyncio.get_running_loop().time())

    await asyncio.gather(*(refused() for _ in range(20)))
    assert max(answered) - min(answered) > 0.5 * REFUSAL_SECONDS
