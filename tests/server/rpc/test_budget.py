"""What a caller may have done at once, what waits in the lane, and in which order."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from tests.builders.clock import Clock
from tests.builders.waiting import until
from vireo.server.rpc import budget as module
from vireo.server.rpc.budget import LANE_SHARE, MAX_WAITING_OF_CALLER, OWN_SHARE, Budget
from vireo.server.rpc.errors import ShedError

SHARE = OWN_SHARE * 1.0


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def budget(clock: Clock) -> Budget:
    return Budget(clock)


async def spend(budget: Budget, caller: str, cost: float, done: list[str] | None = None) -> None:
    async with budget.turn(caller, cost):
        if done is not None:
            done.append(caller)


def begun(budget: Budget, *calls: tuple[str, float], done: list[str]) -> list[Any]:
    return [asyncio.create_task(spend(budget, *each, done)) for each in calls]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_caller_alone_is_never_kept_waiting(budget: Budget) -> None:
    done: list[str] = []
    async with asyncio.timeout(30):
        await asyncio.gather(*begun(budget, *[("a", 10.0)] * 50, done=done))
        budget.light("a")  # its own light calls keep nobody waiting, either
        await asyncio.gather(*begun(budget, *[("a", 10.0)] * 50, done=done))
    assert len(done) == 100


async def test_while_others_make_light_calls_the_lane_rests_after_each_piece(
    budget: Budget, clock: Clock
) -> None:
    done: list[str] = []
    await spend(budget, "a", 2 * SHARE)  # more than its share, but at once
    budget.light("b")
    calls = begun(budget, ("a", 0.01), ("a", 0.01), done=done)
    await until(lambda: len(done) == 1)
    rest = 0.01 * (1 / LANE_SHARE - 1)
    clock.now += rest / 2
    budget.light("b")
    before = budget._next
    await until(lambda: budget._next is not before)  # the lane has looked whether it may go on
    assert len(done) == 1
    clock.now += rest / 2 + 1e-6
    await until(lambda: len(done) == 2)
    await asyncio.gather(*calls)


async def test_once_the_others_are_silent_the_lane_goes_on_at_once(
    budget: Budget, clock: Clock
) -> None:
    done: list[str] = []
    await spend(budget, "a", 2 * SHARE)
    budget.light("b")
    calls = begun(budget, ("a", 100.0), ("a", 100.0), ("a", 100.0), done=done)
    await until(lambda: len(done) == 1)
    clock.now += 0.9  # of a rest of 900 s: the others' calls may just be slow
    before = budget._next
    await until(lambda: budget._next is not before)
    assert len(done) == 1
    clock.now += 0.1
    async with asyncio.timeout(30):
        await asyncio.gather(*calls)


async def test_a_caller_within_its_share_is_not_kept_waiting_by_one_beyond_it(
    budget: Budget, clock: Clock
) -> None:
    done: list[str] = []
    await spend(budget, "a", 2 * SHARE)
    budget.light("b")
    calls = begun(budget, ("a", 1.0), ("a", 1.0), done=done)
    await until(lambda: len(done) == 1)
    async with asyncio.timeout(30):
        await spend(budget, "b", SHARE / 2, done)
    assert done == ["a", "b"]
    clock.now += 10
    await asyncio.gather(*calls)


async def test_calls_that_come_at_once_do_not_all_count_as_the_first(
    budget: Budget, clock: Clock
) -> None:
    done: list[str] = []

    async def slow() -> None:
        async with budget.turn("a", 0.9 * SHARE):
            await asyncio.sleep(0)
            done.append("a")

    budget.light("b")
    calls = [asyncio.create_task(slow()) for _ in range(9)]
    await until(lambda: len(done) == 3)  # the third one by the lane, which rests
    await settle()
    assert budget.waiting == 6
    for _ in range(6):
        clock.now += 10
        await settle()
    await asyncio.gather(*calls)


async def test_a_piece_beyond_the_share_makes_the_lane_rest_however_long_its_caller_rested(
    budget: Budget,
) -> None:
    budget.light("b")
    await spend(budget, "a", 2 * SHARE)  # at once, since the lane has rested
    [waits] = begun(budget, ("a", 0.01), done=[])
    await settle()
    assert budget.waiting == 1
    waits.cancel()


async def test_a_share_that_was_used_comes_back(budget: Budget, clock: Clock) -> None:
    await spend(budget, "a", 2 * SHARE)
    budget.light("b")
    clock.now += 0.2
    assert budget.used("a") > SHARE
    clock.now += 0.8
    assert budget.used("a") < SHARE


async def test_of_those_who_wait_the_caller_who_used_the_least_is_next(
    budget: Budget, clock: Clock
) -> None:
    done: list[str] = []
    for caller, used in (("a", 4 * SHARE), ("b", 3 * SHARE), ("c", 2 * SHARE)):
        await spend(budget, caller, used)
    calls = begun(budget, *[("a", SHARE)] * 4, *[("b", SHARE)] * 2, ("c", SHARE), done=done)
    await asyncio.gather(*calls)
    assert done[0] == "c"
    assert done.index("b") < done.index("a")
    assert done[1:5].count("b") == 2, "they take turns once they are level"


async def test_what_a_caller_has_beyond_its_places_is_refused(budget: Budget, clock: Clock) -> None:
    done: list[str] = []
    for caller in "acac":
        await spend(budget, caller, 0.9 * SHARE)
    budget.light("b")
    await spend(budget, "a", 100.0)
    calls = begun(budget, *[("a", 100.0)] * MAX_WAITING_OF_CALLER, done=done)
    await settle()
    with pytest.raises(ShedError) as error:
        await spend(budget, "a", 1.0)
    assert error.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    others = begun(budget, ("c", 1.0), done=done)
    await settle()
    assert budget.waiting == MAX_WAITING_OF_CALLER + 1, "another caller has places of its own"
    for each in (*calls, *others):
        each.cancel()
    await asyncio.gather(*calls, *others, return_exceptions=True)
    assert budget.waiting == 0


async def test_a_call_that_is_cancelled_gives_its_turn_to_the_next(
    budget: Budget, clock: Clock
) -> None:
    done: list[str] = []
    await spend(budget, "a", 2 * SHARE)
    budget.light("b")
    first, second, third, fourth = begun(budget, *[("a", 1.0)] * 4, done=done)
    await until(lambda: len(done) == 1)
    second.cancel()
    await settle()
    assert budget.waiting == 2
    clock.now += 60
    assert budget._next is not None
    budget._next.cancel()
    budget._begin()  # its turn has come, which it doesn't know yet
    third.cancel()
    async with asyncio.timeout(30):
        await asyncio.gather(first, fourth)
    assert done == ["a", "a"]
    assert third.cancelled()


async def test_a_call_that_is_cancelled_when_its_turn_comes_keeps_nobody_waiting(
    budget: Budget, clock: Clock
) -> None:
    done: list[str] = []
    await spend(budget, "a", 2 * SHARE)
    budget.light("b")
    first, second, third = begun(budget, *[("a", 1.0)] * 3, done=done)
    await until(lambda: len(done) == 1)
    clock.now += 60
    assert budget._next is not None
    budget._next.cancel()
    second.cancel()
    budget._begin()  # before it has left the lane
    async with asyncio.timeout(30):
        await asyncio.gather(first, third)


async def test_our_own_processes_never_wait(budget: Budget) -> None:
    budget.light("b")
    async with asyncio.timeout(30):
        for _ in range(100):
            await spend(budget, "", 10.0)


async def test_work_that_takes_longer_than_stated_is_charged_with_its_time(
    budget: Budget, clock: Clock
) -> None:
    async with budget.turn("a", 0.001):
        clock.now += 0.5
    assert budget.used("a") == pytest.approx(0.5, rel=0.01)


async def test_only_so_many_callers_are_remembered(
    budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CALLERS", 3)
    for caller in ("a", "b", "c", "a", "d"):
        await spend(budget, caller, 1.0)
    assert set(budget._used) == {"a", "c", "d"}
