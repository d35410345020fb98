"""The canary's share, as it is read from its channel."""

from __future__ import annotations

import asyncio

import pytest

from server.control.canary import Channels, follow_share
from server.releases.channels import Channel
from server.releases.store_errors import StoreUnavailableError
from tests.builders.control import SetShare
from tests.builders.waiting import until


class FailingShare(SetShare):
    """Channels that can be made unreachable."""

    down = False

    def read_channel(self, name: str) -> Channel | None:
        if self.down:
            raise StoreUnavailableError("S3 can't be reached")
        return super().read_channel(name)


class Unset:
    """Channels of which none is set."""

    def read_channel(self, name: str) -> None:
        return None


@pytest.fixture
def told() -> list[float]:
    """The shares that were told."""
    return []


async def following(channels: Channels, told: list[float]) -> asyncio.Task[None]:
    task = asyncio.create_task(follow_share(channels, 0.01, told.append))
    await until(lambda: bool(told))
    return task


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_each_change_is_told_once(told: list[float]) -> None:
    channels = SetShare()
    task = await following(channels, told)
    channels.share = 0.25
    await until(lambda: len(told) == 2)
    await asyncio.sleep(0.1)
    await stop(task)
    assert told == [0.0, 0.25]


async def test_while_the_store_is_down_the_share_stays(told: list[float]) -> None:
    channels = FailingShare()
    channels.share = 0.25
    task = await following(channels, told)
    channels.down = True
    await asyncio.sleep(0.1)
    assert told == [0.25]
    channels.down, channels.share = False, 0.5
    await until(lambda: told == [0.25, 0.5])
    await stop(task)


async def test_with_the_store_down_from_the_start_no_viewer_goes_to_the_canary(
    told: list[float],
) -> None:
    channels = FailingShare()
    channels.down, channels.share = True, 0.25
    task = await following(channels, told)
    assert told == [0.0]
    channels.down = False
    await until(lambda: told == [0.0, 0.25])
    await stop(task)


async def test_a_channel_that_was_never_set_has_no_share(told: list[float]) -> None:
    await stop(await following(Unset(), told))
    assert told == [0.0]
