from __future__ import annotations

import asyncio

import pytest

from server.pod.gradient import REST
from server.pod.turns import MAX_WAITING, Turns
from server.rpc.errors import ShedError, ShedReason
from tests.builders.waiting import until

MOST = 50


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Moved by hand: what a busy machine makes of the time between two lines is another matter."""
    return Clock()


@pytest.fixture
def turns(clock: Clock) -> Turns:
    return Turns(MOST, clock)


async def test_a_burst_is_admitted_in_order_of_arrival(turns: Turns) -> None:
    order, max_concurrent = list[int](), 0

    async def call(number: int) -> None:
        nonlocal max_concurrent
        begun = await turns.take()
        order.append(number)
        max_concurrent = max(max_concurrent, turns.taken)
        await asyncio.sleep(0.001)
        turns.give_back(begun, None)

    await asyncio.gather(*map(call, range(REST + MAX_WAITING)))
    assert order == [*range(REST + MAX_WAITING)]
    assert max_concurrent <= turns.limit.calls
    assert (turns.taken, turns.waiting) == (0, 0)


async def full(turns: Turns) -> tuple[list[float], list[asyncio.Task[float]]]:
    """Take all turns, and fill the queue of those that wait for one."""
    turns.limit.usual = 60.0  # that none hangs meanwhile
    begun = [await turns.take() for _ in range(REST)]
    waiting = [asyncio.create_task(turns.take()) for _ in range(MAX_WAITING)]
    await until(lambda: turns.waiting == MAX_WAITING)
    return begun, waiting


async def test_beyond_those_that_may_wait_calls_are_shed(turns: Turns) -> None:
    begun, waiting = await full(turns)
    with pytest.raises(ShedError) as raised:
        await turns.take()
    assert raised.value.reason is ShedReason.LIMIT
    for each in begun:
        turns.give_back(each, None)
    for task in waiting:
        turns.give_back(await task, None)
    assert (turns.taken, turns.waiting) == (0, 0)


async def test_in_a_flood_nobody_waits(turns: Turns, clock: Clock) -> None:
    begun, waiting = await full(turns)
    turns.limit.usual = 0.02
    for _ in range(100):
        with pytest.raises(ShedError):
            await turns.take()
    while not turns.limit.flooded:
        turns.give_back(begun.pop(), 0.1)
        clock.now += 0.05  # an interval of the limit
        turns.limit.refused()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(each) for each in outcomes} <= {float, ShedError}
    assert isinstance(outcomes[-1], ShedError)
    assert turns.waiting == 0
    with pytest.raises(ShedError):
        await turns.take()
    assert turns.waiting == 0


async def test_a_call_that_is_cancelled_while_it_waits_leaves_its_place(turns: Turns) -> None:
    begun, waiting = await full(turns)
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    assert turns.waiting == MAX_WAITING - 1
    turns.give_back(begun[0], None)
    await waiting[1]
    assert not waiting[2].done()
    for each in waiting[2:]:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert turns.waiting == 0


async def test_a_call_that_is_cancelled_as_its_turn_comes_gives_it_back(turns: Turns) -> None:
    begun, waiting = await full(turns)
    turns.give_back(begun[0], None)  # the first has its turn now, and doesn't know yet
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    await waiting[1]
    assert turns.taken == REST
    for each in waiting[2:]:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_turns_that_hang_keep_nobody_from_having_one(turns: Turns, clock: Clock) -> None:
    turns.limit.usual = 0.001
    begun = [await turns.take() for _ in range(REST)]
    waiting = asyncio.create_task(turns.take())
    await until(lambda: turns.waiting == 1)
    clock.now = begun[-1] + turns.limit.hanging + 0.001
    await turns.take()
    await waiting
    assert (turns.taken, turns.waiting) == (REST + 2, 0)


async def test_while_some_hang_more_may_wait(turns: Turns, clock: Clock) -> None:
    begun, waiting = await full(turns)
    clock.now = begun[-1] + 0.11
    turns.limit.usual = 0.001
    turns.limit.calls = 0
    waiting.append(asyncio.create_task(turns.take()))
    await until(lambda: turns.waiting == MAX_WAITING + 1)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_cancelled_call_leaves_its_turn_to_the_next_before_its_task_has_run(
    turns: Turns,
) -> None:
    begun, waiting = await full(turns)
    waiting[0].cancel()
    # Its task has yet to hear of it: what is given back goes to the one after it.
    turns.give_back(begun.pop(), None)
    async with asyncio.timeout(30):
        turns.give_back(await waiting[1], None)
        for each in begun:
            turns.give_back(each, None)
        for task in waiting[2:]:
            turns.give_back(await task, None)
    assert (turns.taken, turns.waiting) == (0, 0)
