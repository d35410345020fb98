"""ChannelService of a control plane: what it tells callers that follow a channel."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from tests.builders.control import control_of
from tests.builders.waiting import until
from vireo.server.control.channels import MAX_CHANNELS
from vireo.server.control.discovery.source import StaticDiscovery
from vireo.server.releases.channels import Channel
from vireo.server.releases.store_errors import StoreUnavailableError
from vireo.v1.channel_pb2 import AwaitReleaseRequest
from vireo.v1.channel_pb2_grpc import ChannelServiceStub

if TYPE_CHECKING:
    from vireo.v1.channel_pb2_grpc import ChannelServiceAsyncStub

LONG = 10_000
"""Milliseconds; the maximum."""


class SetChannels:
    """Channels that a test sets, or makes unreadable."""

    def __init__(self) -> None:
        self.releases = {"production": "a"}
        self.unreadable: set[str] = set()
        self.hanging: dict[str, threading.Event] = {}
        """Channels whose reads hang until the event is set."""
        self.reads: Counter[str] = Counter()

    def read_channel(self, name: str) -> Channel | None:
        self.reads[name] += 1
        if name in self.hanging:
            self.hanging[name].wait(600)
        if name in self.unreadable:
            raise StoreUnavailableError(f"{name} can't be read")
        if name not in self.releases:
            return None
        pointer: Any = SimpleNamespace(release_id=self.releases[name], share=0.0)
        return Channel(name, pointer, "etag")


@asynccontextmanager
async def serving(channels: SetChannels, **settings: Any) -> AsyncIterator[ChannelServiceAsyncStub]:
    """Yield a stub of a control plane that reads these channels."""
    async with (
        control_of(StaticDiscovery({}), channels, **settings) as (port, _, _control),
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


async def test_a_call_returns_once_the_channel_names_another_release() -> None:
    channels = SetChannels()
    async with serving(channels) as stub:
        assert await named(stub, request("")) == "a"
        waiting = asyncio.ensure_future(stub.AwaitRelease(request("a", LONG), timeout=30))
        reads = channels.reads["production"]
        await until(lambda: channels.reads["production"] > reads + 2)
        assert not waiting.done()
        channels.releases["production"] = "b"
        assert (await waiting).release_id == "b"


async def test_a_call_returns_after_its_wait_while_nothing_changes() -> None:
    async with serving(SetChannels()) as stub:
        assert await named(stub, request("a")) == "a"
        assert await named(stub, request("a", 100)) == "a"


async def test_a_channel_that_was_never_set_names_no_release_until_it_is() -> None:
    channels = SetChannels()
    async with serving(channels) as stub:
        assert await named(stub, request("", channel="canary")) == ""
        waiting = asyncio.ensure_future(named(stub, request("", LONG, "canary")))
        channels.releases["canary"] = "b"
        assert await waiting == "b"


async def test_a_channel_that_can_no_longer_be_read_fails_and_others_continue() -> None:
    channels = SetChannels()
    channels.releases["canary"] = "b"
    async with serving(channels) as stub:
        assert await named(stub, request("a")) == "a"
        assert await named(stub, request("", channel="canary")) == "b"
        channels.unreadable.add("production")
        with pytest.raises(grpc.aio.AioRpcError, match="production can't be read") as raised:
            await stub.AwaitRelease(request("a", LONG), timeout=30)
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
        assert await named(stub, request("b", 100, "canary")) == "b"
        channels.unreadable.clear()
        assert await named(stub, request("a")) == "a"


async def test_a_channel_whose_read_hangs_leaves_the_others_fresh() -> None:
    channels, hanging = SetChannels(), threading.Event()
    channels.hanging["other"] = hanging
    try:
        async with serving(channels) as stub:
            with pytest.raises(grpc.aio.AioRpcError, match="other can't be read"):
                await stub.AwaitRelease(request("", channel="other"), timeout=30)
            assert await named(stub, request("")) == "a"
            waiting = asyncio.ensure_future(stub.AwaitRelease(request("a", LONG), timeout=30))
            reads = channels.reads["production"]
            await until(lambda: channels.reads["production"] > reads + 2)
            channels.releases["production"] = "b"
            assert (await waiting).release_id == "b"
            assert channels.reads["other"] == 1, "one read at a time"
            channels.releases["other"] = "c"
            hanging.set()
            assert await named(stub, request("", channel="other")) == "c"
    finally:
        hanging.set()  # the loop's threads end with it


@pytest.mark.parametrize("name", ["Production", "../a", "a b", "ü"])
async def test_a_name_that_no_channel_can_have_is_refused(name: str) -> None:
    async with serving(SetChannels()) as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="channel") as raised:
            await stub.AwaitRelease(request("", channel=name), timeout=30)
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_channels_beyond_the_limit_are_refused_and_the_others_continue() -> None:
    channels = SetChannels()
    async with serving(channels) as stub:
        for number in range(MAX_CHANNELS - 1):
            assert await named(stub, request("", channel=f"c{number}")) == ""
        assert await named(stub, request("")) == "a"
        with pytest.raises(grpc.aio.AioRpcError, match="followed already") as raised:
            await stub.AwaitRelease(request("", channel="another"), timeout=30)
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await named(stub, request("")) == "a"
    assert "another" not in channels.reads


async def test_a_channel_that_nobody_follows_any_more_is_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vireo.server.control.channels._FORGET_SECONDS", 0.1)
    channels = SetChannels()
    channels.releases["canary"] = "b"
    async with serving(channels) as stub:
        assert await named(stub, request("", channel="other")) == ""
        before = channels.reads["other"]
        for _ in range(8):
            assert await named(stub, request("a", 100)) == "a"
        # It is read for a tenth of a second more, every twentieth.
        assert channels.reads["other"] < before + 8
        assert channels.reads["production"] > before + 8


async def test_calls_beyond_the_limit_of_calls_are_shed() -> None:
    async with serving(SetChannels(), max_concurrent_rpcs=2) as stub:
        assert await named(stub, request("")) == "a"
        waiting = [stub.AwaitRelease(request("a", LONG), timeout=30) for _ in range(3)]
        done, pending = await asyncio.wait(
            [asyncio.ensure_future(call) for call in waiting], return_when=asyncio.FIRST_COMPLETED
        )
        [shed] = done
        error = shed.exception()
        assert isinstance(error, grpc.aio.AioRpcError)
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        for call in pending:
            call.cancel()
