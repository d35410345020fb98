"""Work that nobody waits for: it is done while there is nothing else to do."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from vireo.server.pod import admission as module
from vireo.server.pod.admission import LOW_PRIORITY, MAX_LOW_PRIORITY_WAITING, Admission
from vireo.server.pod.run_queue import RunQueue
from vireo.server.pod.slots import Slots
from vireo.server.rpc.errors import ShedError, ShedReason


def of_a_pod() -> Admission:
    return Admission(500, queue=RunQueue(), target=math.inf)


def of_a_gateway() -> Admission:
    return Admission(500, slots=Slots(6))


async def settled() -> None:
    """Whatever can go on has gone on."""
    for _ in range(10):
        await asyncio.sleep(0)


async def reason_of(entering: asyncio.Task[Any]) -> ShedReason:
    with pytest.raises(ShedError) as raised:
        await entering
    return raised.value.reason


async def test_a_call_of_low_priority_is_answered_at_once_by_an_idle_pod() -> None:
    admission = of_a_pod()
    began = await admission.enter((LOW_PRIORITY,))
    assert admission.under_way == 1
    admission.leave(began)
    assert admission.under_way == 0


async def test_a_call_of_low_priority_waits_until_no_other_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_LOW_PRIORITY_WAIT", 60)
    admission = of_a_pod()
    urgent = [await admission.enter() for _ in range(2)]
    low = asyncio.create_task(admission.enter((LOW_PRIORITY,)))
    await settled()
    admission.leave(urgent.pop())
    await settled()
    assert not low.done()
    urgent.append(await admission.enter())  # one that comes later goes first
    for each in urgent:
        admission.leave(each)
    admission.leave(await low)
    assert admission.under_way == 0


async def test_of_several_calls_of_low_priority_one_is_answered_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_LOW_PRIORITY_WAIT", 60)
    admission = of_a_pod()
    urgent = await admission.enter()
    low = [asyncio.create_task(admission.enter((LOW_PRIORITY,))) for _ in range(5)]
    await settled()
    admission.leave(urgent)
    for done in range(1, 6):
        await settled()
        assert [admission.under_way, sum(each.done() for each in low)] == [1, done]
        admission.leave(None)


async def test_a_call_of_low_priority_is_shed_by_a_pod_that_stays_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_LOW_PRIORITY_WAIT", 0.01)
    admission = of_a_pod()
    urgent = await admission.enter()
    low = asyncio.create_task(admission.enter((LOW_PRIORITY,)))
    assert await reason_of(low) is ShedReason.PRIORITY
    assert admission.under_way == 1
    admission.leave(urgent)
    admission.leave(await admission.enter((LOW_PRIORITY,)))


async def test_only_a_few_calls_of_low_priority_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LOW_PRIORITY_WAIT", 60)
    admission = of_a_pod()
    urgent = await admission.enter()
    waiting = [
        asyncio.create_task(admission.enter((LOW_PRIORITY,)))
        for _ in range(MAX_LOW_PRIORITY_WAITING)
    ]
    await settled()
    assert await reason_of(asyncio.create_task(admission.enter((LOW_PRIORITY,)))) is (
        ShedReason.PRIORITY
    )
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)
    admission.leave(urgent)
    admission.leave(await admission.enter((LOW_PRIORITY,)))


async def test_a_gateways_caller_has_no_say_in_its_priority() -> None:
    admission = of_a_gateway()
    urgent = await admission.enter()
    admission.leave(await admission.enter((LOW_PRIORITY,)))
    admission.leave(urgent)


async def test_work_in_the_background_begins_once_no_call_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_BACKGROUND_WAIT", 60)
    admission, begun = of_a_gateway(), asyncio.Event()

    async def work() -> None:
        async with admission.background():
            begun.set()

    urgent = await admission.enter()
    working = asyncio.create_task(work())
    await settled()
    assert not begun.is_set()
    admission.leave(urgent)
    await working


async def test_pieces_of_background_work_are_done_one_after_the_other() -> None:
    admission, at_a_time = of_a_gateway(), list[int]()
    now = 0

    async def work() -> None:
        nonlocal now
        async with admission.background():
            now += 1
            at_a_time.append(now)
            await settled()
            now -= 1

    await asyncio.gather(*(work() for _ in range(5)))
    assert at_a_time == [1] * 5


@pytest.mark.parametrize("standing", [False, True])
async def test_work_in_the_background_begins_some_day_but_not_while_calls_are_shed(
    monkeypatch: pytest.MonkeyPatch, *, standing: bool
) -> None:
    monkeypatch.setattr(module, "_BACKGROUND_WAIT", 0.01)
    admission = of_a_gateway()
    urgent = await admission.enter()
    admission.standing = standing
    begun = asyncio.Event()

    async def work() -> None:
        async with admission.background():
            begun.set()

    working = asyncio.create_task(work())
    if standing:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await begun.wait()
        admission.leave(urgent)
    await working


async def test_work_in_the_background_rests_only_while_there_are_calls_now_and_then() -> None:
    now, admission = 100.0, of_a_gateway()
    admission._clock = lambda: now

    async def work(seconds: float) -> float:
        """The rest after a piece of work."""
        nonlocal now
        now = max(now, admission._rested_at)
        async with admission.background():
            now += seconds
        return admission._rested_at - now

    async def meet_a_call() -> float:
        urgent = await admission.enter()
        working = asyncio.create_task(work(0.01))
        await settled()
        admission.leave(urgent)
        return await working

    assert await work(0.01) == 0
    rests = [await meet_a_call() for _ in range(30)]
    assert rests == sorted(rests)
    assert 0.1 < rests[-1] < 0.2
    assert await work(10) == 1, "however long it took"
    for _ in range(200):
        rest = await work(0.01)
    assert rest < 1e-4
