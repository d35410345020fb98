"""What the control plane reads from channels: releases for pods, and the canary's share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError

import grpc
import grpc.aio
import pytest

from tests.builders.control import SetChannels, control_of
from tests.builders.waiting import until
from vireo.server.control import channels as module
from vireo.server.control.channels import MAX_CHANNELS, ChannelWatch
from vireo.server.control.discovery import StaticDiscovery
from vireo.server.releases.bucket import StoreUnavailableError
from vireo.server.releases.channels import CANARY
from vireo.v1.channel_pb2 import AwaitReleaseRequest
from vireo.v1.channel_pb2_grpc import ChannelServiceStub

if TYPE_CHECKING:
    from vireo.v1.channel_pb2_grpc import ChannelServiceAsyncStub

LONG = 10_000
"""Milliseconds; the maximum."""


@asynccontextmanager
async def serving(channels: SetChannels, **settings: Any) -> AsyncIterator[ChannelServiceAsyncStub]:
    """Yield a stub of a control plane that reads these channels."""
    async with (
        control_of(StaticDiscovery({}), channels, **settings) as (port, _control),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield ChannelServiceStub(channel)


def request(known: str, wait: int = 0, channel: str = "production") -> AwaitReleaseRequest:
    return AwaitReleaseRequest(channel=channel, known_release_id=known, max_wait_milliseconds=wait)


async def named(stub: ChannelServiceAsyncStub, sent: AwaitReleaseRequest) -> str:
    """Return the release that the channel names, by the control plane."""
    async with asyncio.timeout(60):
        while True:
            try:
                return (await stub.AwaitRelease(sent, timeout=30)).release_id
            except grpc.aio.AioRpcError as error:
                # It has only just started, or the channel can't be read yet.
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise


async def test_a_call_returns_once_the_channel_names_another_release_or_its_wait_is_over() -> None:
    channels = SetChannels()
    async with serving(channels) as stub:
        assert await named(stub, request("")) == "a"
        assert await named(stub, request("a", 100)) == "a"
        waiting = asyncio.ensure_future(stub.AwaitRelease(request("a", LONG), timeout=30))
        reads = channels.reads["production"]
        await until(lambda: channels.reads["production"] > reads + 2)
        assert not waiting.done()
        channels.releases["production"] = "b"
        assert (await waiting).release_id == "b"


async def test_a_channel_that_was_never_set_names_no_release_until_it_is() -> None:
    channels = SetChannels()
    async with serving(channels) as stub:
        assert await named(stub, request("", channel="next")) == ""
        waiting = asyncio.ensure_future(named(stub, request("", LONG, "next")))
        channels.releases["next"] = "b"
        assert await waiting == "b"


async def test_a_channel_that_can_no_longer_be_read_fails_and_others_continue() -> None:
    channels = SetChannels()
    channels.releases["next"] = "b"
    async with serving(channels) as stub:
        assert await named(stub, request("a")) == "a"
        assert await named(stub, request("", channel="next")) == "b"
        channels.unreadable.add("production")
        with pytest.raises(grpc.aio.AioRpcError, match="production can't be read") as raised:
            await stub.AwaitRelease(request("a", LONG), timeout=30)
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
        assert await named(stub, request("b", 100, "next")) == "b"
        channels.unreadable.clear()
        assert await named(stub, request("a")) == "a"


@pytest.mark.parametrize("name", ["Production", "../a", "a b", "ü"])
async def test_a_name_that_no_channel_can_have_is_refused(name: str) -> None:
    async with serving(SetChannels()) as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="channel") as raised:
            await stub.AwaitRelease(request("", channel=name), timeout=30)
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_channels_beyond_the_limit_are_refused_until_others_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    channels = SetChannels()
    async with serving(channels) as stub:
        for number in range(MAX_CHANNELS - 1):
            assert await named(stub, request("", channel=f"c{number}")) == ""
        assert await named(stub, request("")) == "a"
        with pytest.raises(grpc.aio.AioRpcError, match="followed already") as raised:
            await stub.AwaitRelease(request("", channel="another"), timeout=30)
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "another" not in channels.reads
        monkeypatch.setattr(module, "_FORGET_SECONDS", 0.2)
        async with asyncio.timeout(60):
            while True:
                try:
                    assert await named(stub, request("", channel="another")) == ""
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)
                else:
                    break


@pytest.fixture(autouse=True)
def frequent_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.01)


class Shares(list[float]):
    """The canary's shares that are passed on, each once."""

    refusals = 0
    """How many are refused, with an error, before one is accepted."""

    def accept(self, share: float) -> None:
        if self.refusals:
            self.refusals -= 1
            raise ValueError("nothing can be made of it")
        self.append(share)


@asynccontextmanager
async def following(channels: SetChannels, shares: Shares) -> AsyncIterator[ChannelWatch]:
    watch = ChannelWatch(channels.read_channel, shares.accept, lambda: True)
    task = asyncio.create_task(watch.run())
    try:
        yield watch
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_each_share_is_passed_on_once_and_again_if_it_was_refused() -> None:
    channels, shares = SetChannels(), Shares()
    shares.refusals = 2
    async with following(channels, shares) as watch:
        await until(lambda: shares == [0.0])
        assert watch.attempts.failures == 2
        channels.share = 0.25
        await until(lambda: len(shares) == 2)
        reads = channels.reads[CANARY]
        await until(lambda: channels.reads[CANARY] > reads + 3)
    assert shares == [0.0, 0.25]


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailableError("S3 can't be reached"),
        ParseError("no XML"),
        RecursionError("too deep"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_any_error_of_reading_the_channel_keeps_the_share(error: Exception) -> None:
    channels, shares = SetChannels(), Shares()
    channels.share = 0.25
    async with following(channels, shares) as watch:
        await until(lambda: shares == [0.25])
        channels.failure = error
        await until(lambda: watch.attempts.failures >= 2)
        assert shares == [0.25]
        channels.failure, channels.share = None, 0.5
        await until(lambda: shares == [0.25, 0.5])


async def test_a_channel_that_was_never_set_has_no_share() -> None:
    channels, shares = SetChannels(), Shares()
    channels.releases.clear()
    async with following(channels, shares):
        await until(lambda: shares == [0.0])


async def test_with_the_store_down_from_the_start_no_viewer_goes_to_the_canary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vireo.server.control.control._SHARE_SECONDS", 0.1)
    channels = SetChannels()
    channels.failure, channels.share = StoreUnavailableError("S3 can't be reached"), 0.25
    async with control_of(StaticDiscovery({}), channels) as (_, control):
        assert control.mesh.canary_share == 0.0
        channels.failure = None
        await until(lambda: control.mesh.canary_share == 0.25)
