"""Places that one caller may have all of, until another one wants some."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import grpc
import pytest

from vireo.server.rpc.errors import RpcError, ShedError
from vireo.server.rpc.places import Places

RETRY = timedelta(seconds=3)


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


async def leave(*tasks: asyncio.Task[None]) -> None:
    for each in tasks:
        each.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_caller_alone_may_have_all_places_and_no_more() -> None:
    places = Places(4, RETRY)
    held = await holding(places, *"aaaa")
    assert places.taken == 4
    with pytest.raises(ShedError) as refused:
        await hold(places, "a")
    assert refused.value.retry_after == RETRY
    await leave(*held)
    assert places.taken == 0


async def test_another_caller_gets_its_share_of_them_from_whoever_has_the_most() -> None:
    places = Places(4, RETRY)
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
    await leave(first, second, *others, *late)
    assert places.taken == 0


async def test_a_timeout_within_the_block_stays_one() -> None:
    places = Places(1, RETRY)
    with pytest.raises(TimeoutError):
        async with places.place("a"):
            raise TimeoutError
    assert places.taken == 0
