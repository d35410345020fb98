from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest

from tests.builders.waiting import until
from vireo.server.pod.slots import Slot, Slots
from vireo.server.rpc.errors import ShedError, ShedReason

SIZE = 3
PATIENT = 3600.0
"""Seconds to hold a slot: none is freed while a busy machine pauses."""


@pytest.fixture
def slots() -> Slots:
    return Slots(SIZE, PATIENT)


async def full(slots: Slots, caller: str = "") -> tuple[list[Slot], list[asyncio.Task[Slot]]]:
    """Take all slots for a caller, and fill the queue with more of its calls."""
    held = [await slots.take(caller) for _ in range(SIZE)]
    waiting = [asyncio.create_task(slots.take(caller)) for _ in range(SIZE)]
    await until(lambda: slots.waiting == SIZE)
    return held, waiting


async def shed(call: Coroutine[Any, Any, Slot] | asyncio.Task[Slot]) -> None:
    with pytest.raises(ShedError) as raised:
        await call
    assert raised.value.reason is ShedReason.LIMIT


async def test_calls_beyond_the_slots_wait_in_order_of_arrival(slots: Slots) -> None:
    order, max_held = list[int](), 0

    async def call(number: int) -> None:
        nonlocal max_held
        slot = await slots.take("")
        order.append(number)
        max_held = max(max_held, slots.held)
        await asyncio.sleep(0.001)
        slots.give_back(slot)

    await asyncio.gather(*map(call, range(2 * SIZE)))
    assert order == [*range(2 * SIZE)]
    assert max_held == SIZE
    assert (slots.held, slots.waiting) == (0, 0)


async def test_a_call_beyond_those_that_may_wait_is_shed(slots: Slots) -> None:
    held, waiting = await full(slots)
    with pytest.raises(ShedError):
        slots.check("")
    await shed(slots.take(""))
    slots.give_back(held.pop())
    await waiting[0]
    slots.check("")
    waiting.append(asyncio.create_task(slots.take("")))
    for each in held:
        slots.give_back(each)
    for task in waiting:
        slots.give_back(await task)
    assert (slots.held, slots.waiting) == (0, 0)


async def test_calls_that_take_long_leave_their_slots_to_those_that_wait() -> None:
    slots = Slots(SIZE, hold_seconds=0.01)
    hanging = [await slots.take("") for _ in range(SIZE)]
    for each in await asyncio.gather(*(slots.take("") for _ in range(SIZE))):
        slots.give_back(each)
    await until(lambda: slots.held == 0)
    slots._hold_seconds = PATIENT
    again = await slots.take("")
    for each in hanging:
        slots.give_back(each)  # they end at last, and free no slot of others
    assert (slots.held, slots.waiting) == (1, 0)
    slots.give_back(again)
    assert slots.held == 0


async def test_a_call_that_is_cancelled_while_it_waits_leaves_the_queue(slots: Slots) -> None:
    held, waiting = await full(slots)
    waiting[0].cancel()
    await asyncio.wait([waiting[0]])
    assert slots.waiting == SIZE - 1
    slots.give_back(held[0])
    await waiting[1]
    assert not waiting[2].done()
    waiting[2].cancel()
    await asyncio.wait([waiting[2]])
    assert slots.waiting == 0


async def test_a_call_that_is_cancelled_as_it_gets_its_slot_passes_it_on(slots: Slots) -> None:
    held, waiting = await full(slots)
    slots.give_back(held[0])  # the first call has it now, and doesn't know yet
    waiting[0].cancel()
    await asyncio.wait([waiting[0]])
    await waiting[1]
    assert (slots.held, slots.waiting) == (SIZE, 1)
    waiting[2].cancel()
    await asyncio.wait([waiting[2]])


async def test_a_cancelled_call_is_passed_over_before_its_task_has_run(slots: Slots) -> None:
    held, waiting = await full(slots)
    waiting[0].cancel()
    slots.give_back(held.pop())
    await waiting[1]
    assert slots.held == SIZE
    waiting[2].cancel()
    await asyncio.wait(waiting)


async def test_a_caller_with_less_than_its_share_of_the_queue_replaces_the_newest_of_the_greediest(
    slots: Slots,
) -> None:
    held, flood = await full(slots, "flood")
    with pytest.raises(ShedError):
        slots.check("flood")
    slots.check("other")
    other = asyncio.create_task(slots.take("other"))
    await shed(flood[-1])
    assert not flood[0].done()
    assert not flood[1].done()
    assert slots.waiting == SIZE
    # Now neither has so much more that another swap would make it fairer.
    await shed(slots.take("other"))
    slots.give_back(held[0])
    await until(other.done)
    assert not flood[0].done(), "the one who holds nothing goes first, though it came last"
    for each in flood:
        each.cancel()
    await asyncio.wait(flood)


async def test_callers_hold_equal_shares_of_the_slots_while_all_want_more() -> None:
    slots, ended, running = Slots(6, PATIENT), Counter[str](), True

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

    callers = [*["a"] * 30, *["b"] * 6, *["c"] * 3]
    tasks = [asyncio.create_task(call(each)) for each in callers]
    await until(lambda: sum(ended.values()) > 3000)
    running = False
    await asyncio.gather(*tasks)
    assert min(ended.values()) > 0.7 * max(ended.values()), ended
    assert (slots.held, slots.waiting) == (0, 0)


async def test_a_caller_that_is_alone_may_hold_every_slot(slots: Slots) -> None:
    held, waiting = await full(slots, "alone")
    assert {each.caller for each in held} == {"alone"}
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)


async def test_nothing_is_left_of_calls_that_end_and_are_cancelled_at_random() -> None:
    chance, slots = random.Random(3), Slots(SIZE, hold_seconds=0.002)

    async def call(caller: str) -> None:
        try:
            slot = await slots.take(caller)
        except ShedError:
            return
        try:
            await asyncio.sleep(chance.choice([0, 0, 0.001, 0.005]))
        finally:
            slots.give_back(slot)

    tasks = list[asyncio.Task[None]]()
    for _ in range(300):
        tasks += [asyncio.create_task(call(chance.choice("abc"))) for _ in range(4)]
        chance.choice(tasks).cancel()
        await asyncio.sleep(chance.choice([0, 0, 0.001]))
        assert slots.held <= SIZE
        assert slots.waiting <= SIZE
    await asyncio.wait(tasks)
    assert (slots.held, slots.waiting) == (0, 0)
