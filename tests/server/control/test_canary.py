"""The canary's share, as it is read from its channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from xml.etree.ElementTree import ParseError

import pytest
from pydantic import SecretStr

from tests.builders.control import SetShare, running_control
from tests.builders.edge import CandidatePod, serve_candidate, serve_ranking
from tests.builders.waiting import until
from vireo.ops.stack.ports import free_port_base
from vireo.server.control.attempts import Attempts
from vireo.server.control.canary import Channels, follow_share
from vireo.server.control.mesh import Pool
from vireo.server.releases.channels import Channel
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.server.releases.store_errors import StoreUnavailableError


class FailingShare(SetShare):
    """Channels that can be made unreachable."""

    down = False
    error: Exception = StoreUnavailableError("S3 can't be reached")

    def read_channel(self, name: str) -> Channel | None:
        if self.down:
            raise self.error
        return super().read_channel(name)


class Unset:
    """Channels of which none is set."""

    def read_channel(self, name: str) -> None:
        return None


@pytest.fixture
def shares() -> list[float]:
    """The published shares."""
    return []


async def following(
    channels: Channels, shares: list[float], attempts: Attempts | None = None
) -> asyncio.Task[None]:
    attempts, used = attempts or Attempts("canary"), asyncio.Event()
    used.set()
    task = asyncio.create_task(follow_share(channels, 0.01, shares.append, attempts, used))
    await until(lambda: bool(shares))
    return task


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_each_change_is_reported_once(shares: list[float]) -> None:
    channels = SetShare()
    task = await following(channels, shares)
    channels.share = 0.25
    await until(lambda: len(shares) == 2)
    await asyncio.sleep(0.1)
    await stop(task)
    assert shares == [0.0, 0.25]


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailableError("S3 can't be reached"),
        ParseError("no XML"),
        ValueError("anything"),
        RecursionError("too deep"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_any_error_of_reading_the_channel_keeps_the_share(
    error: Exception, shares: list[float]
) -> None:
    channels, attempts = FailingShare(), Attempts("canary")
    channels.share, channels.error = 0.25, error
    task = await following(channels, shares, attempts)
    channels.down = True
    await until(lambda: attempts.failures >= 2 or task.done())
    assert not task.done()
    assert shares == [0.25]
    channels.down, channels.share = False, 0.5
    await until(lambda: shares == [0.25, 0.5])
    await stop(task)


async def test_with_the_store_down_from_the_start_no_viewer_goes_to_the_canary(
    shares: list[float],
) -> None:
    channels = FailingShare()
    channels.down, channels.share = True, 0.25
    task = await following(channels, shares)
    assert shares == [0.0]
    channels.down = False
    await until(lambda: shares == [0.0, 0.25])
    await stop(task)


async def test_a_channel_that_was_never_set_has_no_share(shares: list[float]) -> None:
    await stop(await following(Unset(), shares))
    assert shares == [0.0]


async def test_the_share_is_read_less_often_while_there_are_no_canary_pods() -> None:
    class Counted(SetShare):
        reads = 0

        def read_channel(self, name: str) -> Channel | None:
            self.reads += 1
            return super().read_channel(name)

    unused, used = Counted(), Counted()
    events = asyncio.Event(), asyncio.Event()
    events[1].set()
    tasks = [
        asyncio.create_task(follow_share(each, 0.01, lambda _: None, Attempts("canary"), event))
        for each, event in zip((unused, used), events, strict=True)
    ]
    await until(lambda: used.reads >= 40 and unused.reads >= 2)
    assert unused.reads < used.reads / 2
    for task in tasks:
        await stop(task)


async def test_the_share_is_read_at_once_when_canary_pods_come() -> None:
    """Otherwise the next read would be hours away."""
    async with AsyncExitStack() as stack, running_control({}, canary_poll_seconds=3600) as control:
        base = free_port_base()
        await serve_candidate(CandidatePod("canary"), base, stack)
        await serve_ranking(base + 1, stack)
        assert control.mesh.canary_share == 0
        control.channels.share = 0.25
        control.discovery.set(Pool("candidate", "canary"), base)
        control.discovery.set(Pool("ranking", "canary"), base + 1)
        await until(lambda: control.mesh.canary_share == 0.25)


@pytest.fixture
async def garbage_s3() -> AsyncIterator[S3Settings]:
    """A server that answers every request with an error whose body is no XML."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b"<html><p>Bad gateway"
        head = f"HTTP/1.1 403 No\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}"
        writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + body)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield S3Settings(endpoint=f"127.0.0.1:{port}", access_key="a", secret_key=SecretStr("b"))


async def test_an_error_of_s3_that_is_no_xml_is_shown_and_the_channel_read_again(
    garbage_s3: S3Settings, shares: list[float]
) -> None:
    attempts = Attempts("canary")
    task = await following(ReleaseStore(garbage_s3), shares, attempts)
    await until(lambda: attempts.failures >= 2 or task.done())
    assert not task.done()
    assert shares == [0.0]
    await stop(task)


async def test_a_share_that_cannot_be_passed_on_is_passed_on_again(shares: list[float]) -> None:
    channels, attempts = SetShare(), Attempts("canary")
    channels.share = 0.25

    def changed(share: float) -> None:
        if attempts.failures < 2:
            raise ValueError("nothing can be made of it")
        shares.append(share)

    task = asyncio.create_task(follow_share(channels, 0.01, changed, attempts, asyncio.Event()))
    await until(lambda: bool(shares) or task.done())
    assert shares == [0.25]
    await stop(task)
