"""Which calls are under way, wait or are shed, by their priority, and work in the background."""

from __future__ import annotations

import asyncio
import math

import pytest

from tests.builders.clock import Clock
from tests.server.rpc.conftest import dropped, reason, settled
from vireo.server.pod.run_queue import RunQueue
from vireo.server.rpc import admission as module
from vireo.server.rpc.admission import (
    LOW_PRIORITY,
    MAX_LOW_PRIORITY_WAITING,
    Admission,
    Slots,
)
from vireo.server.rpc.errors import ShedError, ShedReason


@pytest.fixture
def gateway() -> Admission:
    return Admission(Slots(6, math.inf))


@pytest.fixture
def pod() -> Admission:
    return Admission(RunQueue().slots, runs_in_queue=True)


class Call:
    """A call that is under way until it is told to end."""

    def __init__(self, admission: Admission, *metadata: tuple[str, str]) -> None:
        self.begun, self._end = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._run(admission, metadata))

    async def _run(self, admission: Admission, metadata: tuple[tuple[str, str], ...]) -> None:
        async with admission.call(metadata):
            self.begun.set()
            await self._end.wait()

    async def end(self) -> None:
        self._end.set()
        await self.task


async def under_way(admission: Admission, *metadata: tuple[str, str]) -> Call:
    call = Call(admission, *metadata)
    await call.begun.wait()
    return call


async def test_calls_beyond_the_number_are_shed_and_each_is_counted_once() -> None:
    admission = Admission(Slots(6), max_calls=2)
    calls = [await under_way(admission) for _ in range(2)]
    with pytest.raises(ShedError):
        admission.check(())
    assert await reason(Call(admission).task) is ShedReason.LIMIT
    for each in calls:
        await each.end()
    assert (admission.under_way, admission.slots.held) == (0, 0)
    admission.check(())


async def test_a_call_of_low_priority_waits_until_no_other_is_under_way(
    pod: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LOW_PRIORITY_WAIT", 60)
    await (await under_way(pod, LOW_PRIORITY)).end()  # at once, as the pod is idle
    urgent = [await under_way(pod) for _ in range(2)]
    low = [Call(pod, LOW_PRIORITY) for _ in range(5)]
    await settled()
    await urgent[0].end()
    urgent.append(await under_way(pod))  # one that comes later goes first
    assert not any(each.begun.is_set() for each in low)
    for each in urgent[1:]:
        await each.end()
    for each in low:  # one is answered at a time
        await each.begun.wait()
        await settled()
        assert pod.under_way == 1
        await each.end()
    assert pod.under_way == 0


async def test_calls_of_low_priority_are_shed_by_a_pod_that_stays_busy_or_has_many_of_them(
    pod: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    urgent = await under_way(pod)
    assert await reason(Call(pod, LOW_PRIORITY).task) is ShedReason.PRIORITY
    monkeypatch.setattr(module, "MAX_LOW_PRIORITY_WAIT", 60)
    waiting = [Call(pod, LOW_PRIORITY).task for _ in range(MAX_LOW_PRIORITY_WAITING)]
    await settled()
    assert await reason(Call(pod, LOW_PRIORITY).task) is ShedReason.PRIORITY
    await dropped(*waiting)
    await urgent.end()
    await (await under_way(pod, LOW_PRIORITY)).end()


async def test_a_gateways_caller_has_no_say_in_its_priority(gateway: Admission) -> None:
    urgent = await under_way(gateway)
    await (await under_way(gateway, LOW_PRIORITY)).end()
    await urgent.end()


async def test_work_in_the_background_begins_once_no_call_is_under_way_one_after_the_other(
    gateway: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BACKGROUND_WAIT", 60)
    urgent, now, at_a_time = await under_way(gateway), 0, list[int]()

    async def work() -> None:
        nonlocal now
        async with gateway.background():
            now += 1
            at_a_time.append(now)
            await settled()
            now -= 1

    pieces = [asyncio.create_task(work()) for _ in range(5)]
    await settled()
    assert not at_a_time
    await urgent.end()
    await asyncio.gather(*pieces)
    assert at_a_time == [1] * 5


async def test_work_in_the_background_begins_some_day_but_not_while_calls_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_BACKGROUND_WAIT", 0.01)
    gateway = Admission(Slots(1, math.inf))
    urgent, waiting, begun = await under_way(gateway), Call(gateway), asyncio.Event()

    async def work() -> None:
        async with gateway.background():
            begun.set()

    working = asyncio.create_task(work())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await begun.wait()
    await urgent.end()
    await working  # although the other call is under way now
    await waiting.end()


async def test_work_in_the_background_rests_if_calls_came_since_the_piece_before() -> None:
    clock = Clock(100.0)
    gateway = Admission(Slots(6, math.inf), clock=clock)

    async def rest_after(seconds: float) -> float:
        clock.now = max(clock.now, gateway._rested_at)
        async with gateway.background():
            clock.now += seconds
        return gateway._rested_at - clock.now

    async def rest_after_meeting_a_call(seconds: float) -> float:
        urgent = await under_way(gateway)
        working = asyncio.create_task(rest_after(seconds))
        await settled()
        await urgent.end()
        return await working

    assert await rest_after(0.01) == 0
    assert await rest_after_meeting_a_call(0.01) == pytest.approx(0.2)
    assert await rest_after_meeting_a_call(10) == 1, "however long it took"
    assert await rest_after(0.01) == 0
    await (await under_way(gateway)).end()
    assert await rest_after(0.01) == pytest.approx(0.2), "a call came since the piece before"
    clock.now = gateway._rested_at
    async with gateway.background():
        during = await under_way(gateway)
        clock.now += 0.01
    assert gateway._rested_at - clock.now == pytest.approx(0.2), "a call came while it was done"
    working = asyncio.create_task(rest_after(0.01))
    await settled()
    await during.end()
    assert await working == pytest.approx(0.2), "that call was still under way"
    assert await rest_after(0.01) == 0
