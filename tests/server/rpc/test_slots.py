"""Which calls have a slot, which wait for one, and which are shed."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from tests.builders.clock import Clock
from tests.builders.rpc import rpc_settings
from tests.builders.waiting import until
from tests.server.rpc.conftest import dropped, reason, settled
from vireo.server.pod.pod import LoadCollector
from vireo.server.pod.run_queue import RunQueue
from vireo.server.rpc.admission import (
    MAX_WAIT,
    MIN_LATE,
    Slot,
    Slots,
)
from vireo.server.rpc.errors import ShedError, ShedReason
from vireo.server.rpc.server import RpcServer

SIZE = 3


@pytest.fixture
def slots() -> Slots:
    """None is freed while a busy machine pauses."""
    return Slots(SIZE, math.inf)


async def full(slots: Slots, caller: str = "") -> tuple[list[Slot], list[asyncio.Task[Slot]]]:
    """Take all slots for a caller, and fill the queue with more of its calls."""
    held = [await slots.take(caller) for _ in range(slots.size)]
    waiting = [asyncio.create_task(slots.take(caller)) for _ in range(slots.size)]
    await until(lambda: slots.waiting == slots.size)
    return held, waiting


async def test_calls_beyond_the_slots_wait_in_order_of_arrival_and_those_beyond_are_shed(
    slots: Slots,
) -> None:
    held, waiting = await full(slots)
    with pytest.raises(ShedError):
        slots.check("")
    assert await reason(slots.take("")) is ShedReason.LIMIT
    assert slots.standing
    for place, task in enumerate(waiting):
        slots.give_back(held.pop())
        held.insert(0, await task)
        assert not any(each.done() for each in waiting[place + 1 :])
        slots.check("")
    for each in held:
        slots.give_back(each)
    assert (slots.held, slots.waiting) == (0, 0)


async def test_calls_that_take_long_leave_their_slots_to_those_that_wait() -> None:
    slots = Slots(SIZE, hold_seconds=0.01)
    hanging = [await slots.take("") for _ in range(SIZE)]
    for each in await asyncio.gather(*(slots.take("") for _ in range(SIZE))):
        slots.give_back(each)
    await until(lambda: slots.held == 0)
    slots._hold_seconds = math.inf
    again = await slots.take("")
    for each in hanging:
        slots.give_back(each)  # they end at last, and free no slot of others
    assert (slots.held, slots.waiting) == (1, 0)
    slots.give_back(again)


async def test_calls_are_shed_while_the_first_of_many_has_waited_for_too_long() -> None:
    clock = Clock(100.0)
    slots = Slots(1, math.inf, waiting=1000, max_wait=MAX_WAIT, clock=clock)
    holder = await slots.take("")
    waiting = [asyncio.create_task(slots.take("")) for _ in range(MIN_LATE)]
    await settled()
    clock.now += MAX_WAIT / 2
    slots.check("")
    clock.now += MAX_WAIT
    assert await reason(slots.take("")) is ShedReason.QUEUE
    standing = [slots.standing]
    slots.give_back(holder)
    holder = await waiting[0]
    assert slots.latest_wait == pytest.approx(1.5 * MAX_WAIT)
    slots.check("")  # among few it may be something else that takes the time
    clock.now += 2
    assert [*standing, slots.standing] == [True, False]
    await dropped(*waiting[1:])


async def test_a_caller_with_less_than_its_share_of_the_queue_replaces_the_newest_of_the_greediest(
    slots: Slots,
) -> None:
    held, flood = await full(slots, "flood")
    with pytest.raises(ShedError):
        slots.check("flood")
    slots.check("other")
    other = asyncio.create_task(slots.take("other"))
    assert await reason(flood[-1]) is ShedReason.LIMIT
    assert slots.waiting == SIZE
    # Now neither has so much more that another swap would make it fairer.
    assert await reason(slots.take("other")) is ShedReason.LIMIT
    slots.give_back(held[0])
    await until(other.done)
    assert not flood[0].done(), "the one who holds nothing goes first, though it came last"
    await dropped(*flood)


async def test_callers_hold_equal_shares_of_the_slots_while_all_want_more() -> None:
    slots, ended, running = Slots(6, math.inf), Counter[str](), True

    async def call(caller: str) -> None:
        while running:
            try:
                slot = await slots.take(caller)
            except ShedError:
                await asyncio.sleep(0)
                continue
            await asyncio.sleep(0)
            ended[caller] += 1
            slots.give_back(slot)

    tasks = [asyncio.create_task(call(each)) for each in [*["a"] * 30, *["b"] * 6, *["c"] * 3]]
    await until(lambda: sum(ended.values()) > 3000)
    running = False
    await asyncio.gather(*tasks)
    assert min(ended.values()) > 0.7 * max(ended.values()), ended


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(("take", "take", "end", "cancel", "expire", "run")),
            st.sampled_from("abc"),
            st.integers(0, 99),
        ),
        max_size=60,
    )
)
async def test_whatever_calls_do_slots_and_queue_keep_their_bounds_and_nothing_is_left(
    steps: list[tuple[str, str, int]],
) -> None:
    slots, tasks = Slots(SIZE, 3600), list[asyncio.Task[Slot]]()
    for step, caller, place in steps:
        chosen = tasks[place % len(tasks)] if tasks else None
        done = chosen is not None and chosen.done() and not chosen.cancelled()
        if step == "take":
            tasks.append(asyncio.create_task(slots.take(caller)))
        elif step == "cancel" and chosen is not None:
            chosen.cancel()
        elif step in ("end", "expire") and chosen is not None and done and not chosen.exception():
            slots.give_back(chosen.result())
        elif step == "run":
            await settled()
        assert slots.held <= SIZE
        assert slots.waiting <= SIZE
        assert slots.held == SIZE or not slots.waiting
    await settled()
    for task in tasks:
        if task.done() and not task.cancelled() and not task.exception():
            slots.give_back(task.result())
        await settled()
    await dropped(*(task for task in tasks if not task.done()))
    for task in tasks:
        if not task.cancelled() and not task.exception():
            slots.give_back(task.result())
    assert (slots.held, slots.waiting) == (0, 0)


async def test_gauges_show_the_load() -> None:
    queue = RunQueue()
    _, (first, *_) = await full(queue.slots)
    registry = CollectorRegistry()
    registry.register(LoadCollector(queue.slots, queue, RpcServer(rpc_settings()).guard))
    shown = {each.name: each.value for family in registry.collect() for each in family.samples}
    assert shown == {
        "vireo_rpcs_in_flight": 0,
        "vireo_streams_open": 0,
        "vireo_concurrency_limit": 1,
        "vireo_rpcs_queued": 1,
        "vireo_queue_wait_seconds": pytest.approx(0, abs=1),
        "vireo_queue_standing": 0,
        "vireo_work_queued": 2,
    }
    await dropped(first)
