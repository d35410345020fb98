"""What a caller may have done or hold at once, and what waits in the lane for how long."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import pytest

from tests.builders.clock import Clock
from tests.builders.waiting import until
from tests.server.rpc.conftest import dropped
from vireo.server.rpc import budget as module
from vireo.server.rpc.budget import LANE_SHARE, MAX_WAITING_OF_CALLER, OWN_SHARE, Budget
from vireo.server.rpc.errors import RpcError, ShedError
from vireo.server.rpc.streams import Places

SHARE = OWN_SHARE * 1.0


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def budget(clock: Clock) -> Budget:
    return Budget(clock)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lane looks often whether it may go on."""
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: sleep(min(seconds, 0.001)))


async def spend(budget: Budget, caller: str, cost: float, done: list[str] | None = None) -> None:
    async with budget.turn(caller, cost):
        if done is not None:
            done.append(caller)


def begun(budget: Budget, *calls: tuple[str, float], done: list[str]) -> list[Any]:
    return [asyncio.create_task(spend(budget, *each, done)) for each in calls]


async def looked() -> None:
    """The lane has looked whether it may go on."""
    for _ in range(20):
        await asyncio.sleep(0.001)


async def test_neither_a_caller_alone_nor_a_process_of_ours_is_kept_waiting(
    budget: Budget,
) -> None:
    done: list[str] = []
    async with asyncio.timeout(30):
        budget.light("a")  # its own light calls keep nobody waiting, either
        await asyncio.gather(*begun(budget, *[("a", 10.0)] * 50, done=done))
        budget.light("b")
        await asyncio.gather(*begun(budget, *[("", 10.0)] * 50, done=done))
    assert len(done) == 100


async def test_while_others_make_light_calls_the_lane_rests_after_each_piece_of_any_caller(
    budget: Budget, clock: Clock
) -> None:
    done: list[str] = []
    for caller in ("a", "c"):
        await spend(budget, caller, 2 * SHARE)  # more than its share, but at once
    budget._rested_at = 0
    budget.light("b")
    calls = begun(budget, ("a", 0.3), ("a", 0.3), ("c", 0.3), done=done)
    for number in range(1, 4):
        await until(lambda: len(done) == number)  # noqa: B023
        clock.now += 0.3 / LANE_SHARE - 0.1
        budget.light("b")
        await looked()
        assert len(done) == number
        clock.now += 0.11
        budget.light("b")
    await asyncio.gather(*calls)
    assert done[1] == "c" or done[2] == "c"


async def test_once_the_others_are_silent_the_lane_goes_on_at_once(
    budget: Budget, clock: Clock
) -> None:
    done: list[str] = []
    budget.light("b")
    calls = begun(budget, *[("a", 100.0)] * 3, done=done)
    await until(lambda: len(done) == 1)
    clock.now += 0.9  # of a rest of 1,000 s: the others' calls may just be slow
    await looked()
    assert len(done) == 1
    clock.now += 0.1
    async with asyncio.timeout(30):
        await asyncio.gather(*calls)


async def test_work_within_a_callers_share_overtakes_what_waits(
    budget: Budget, clock: Clock
) -> None:
    done: list[str] = []
    budget.light("b")
    calls = begun(budget, ("a", 1.0), ("a", 1.0), done=done)
    await until(lambda: len(done) == 1)
    async with asyncio.timeout(30):
        await spend(budget, "b", SHARE / 2, done)
    await looked()
    assert done == ["a", "b"]
    clock.now += 5  # a's share has come back, and the lane still rests
    budget.light("b")
    await spend(budget, "a", SHARE / 2, done)
    await looked()
    assert done == ["a", "b", "a"]
    clock.now += 60
    await asyncio.gather(*calls)


async def test_calls_that_come_at_once_do_not_all_count_as_the_first(budget: Budget) -> None:
    done: list[str] = []

    async def slow() -> None:
        async with budget.turn("a", 0.9 * SHARE):
            await asyncio.sleep(0)
            done.append("a")

    budget.light("b")
    calls = [asyncio.create_task(slow()) for _ in range(9)]
    await until(lambda: len(done) == 3)  # the third one by the lane, which rests
    await looked()
    assert budget.waiting == 6
    await dropped(*calls)
    assert budget.waiting == 0


async def test_a_share_that_was_used_comes_back_and_work_is_charged_with_its_time(
    budget: Budget, clock: Clock
) -> None:
    async with budget.turn("a", 0.001):
        clock.now += 2 * SHARE
    assert budget.used("a") == pytest.approx(2 * SHARE, rel=0.01)
    clock.now += 0.2
    assert budget.used("a") > SHARE
    clock.now += 0.8
    assert budget.used("a") < SHARE


async def test_what_a_caller_has_beyond_its_places_is_refused(budget: Budget) -> None:
    done: list[str] = []
    budget.light("b")
    await spend(budget, "a", 100.0)
    calls = begun(budget, *[("a", 100.0)] * MAX_WAITING_OF_CALLER, done=done)
    await looked()
    with pytest.raises(ShedError) as error:
        await spend(budget, "a", 1.0)
    assert error.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    calls += begun(budget, ("c", 1.0), done=done)
    await looked()
    assert budget.waiting == MAX_WAITING_OF_CALLER + 1, "another caller has places of its own"
    await dropped(*calls)
    assert budget.waiting == 0


@pytest.mark.parametrize("cancelled", [1, 2])
async def test_a_call_that_is_cancelled_keeps_nobody_waiting(
    budget: Budget, clock: Clock, cancelled: int
) -> None:
    done: list[str] = []
    budget.light("b")
    calls = begun(budget, *[("a", 1.0)] * 4, done=done)
    await until(lambda: len(done) == 1)
    calls.pop(cancelled).cancel()
    await looked()
    assert budget.waiting == 2
    clock.now += 60
    async with asyncio.timeout(30):
        await asyncio.gather(*calls)


async def test_only_so_many_callers_are_remembered(
    budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CALLERS", 3)
    for caller in ("a", "b", "c", "a", "d"):
        await spend(budget, caller, 1.0)
    assert set(budget._accounts) == {"a", "c", "d"}


# Places that one caller may have all of, until another one wants some.


async def hold(places: Places, caller: str) -> None:
    async with places.place(caller):
        await asyncio.Event().wait()


async def holding(places: Places, *callers: str) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(hold(places, caller)) for caller in callers]
    await asyncio.sleep(0)
    return tasks


async def ended(task: asyncio.Task[None]) -> RpcError:
    with pytest.raises(RpcError) as error:
        await task
    return error.value


async def test_a_caller_alone_may_have_all_places_and_no_more() -> None:
    places = Places(4, timedelta(seconds=3))
    held = await holding(places, *"aaaa")
    assert places.taken == 4
    with pytest.raises(ShedError) as refused:
        await hold(places, "a")
    assert refused.value.retry_after == timedelta(seconds=3)
    await dropped(*held)
    assert places.taken == 0


async def test_another_caller_gets_its_share_of_them_from_whoever_has_the_most() -> None:
    places = Places(4, timedelta(seconds=3))
    first, second, third, fourth = await holding(places, *"aaaa")
    others = await holding(places, *"bb")
    for lost in (fourth, third):
        assert (await ended(lost)).code is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(ShedError):  # both have as many
        await hold(places, "b")
    late = await holding(places, "c")
    assert places.taken == 4
    remaining = [each for each in (first, second, *others) if not each.done()]
    assert len(remaining) == 4, "the one that loses its place ends in the next step"
    await asyncio.wait([first, second, *others], return_when=asyncio.FIRST_COMPLETED)
    assert sum(each.done() for each in (first, second, *others)) == 1
    await dropped(first, second, *others, *late)
    assert places.taken == 0


async def test_a_timeout_within_the_block_stays_one() -> None:
    places = Places(1, timedelta(seconds=3))
    with pytest.raises(TimeoutError):
        async with places.place("a"):
            raise TimeoutError
    assert places.taken == 0
