"""A pod's announcements of its channel: when it reads, under TLS, what is logged, and deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from structlog.testing import capture_logs

from tests.builders.control import SetChannels, control_of
from tests.builders.faulty_s3 import faulty_s3
from tests.builders.loading import Followed, running
from tests.builders.rpc import rpc_settings, running_server
from tests.builders.waiting import until
from vireo.ops.stack.ports import free_port_base
from vireo.server.control.channels import NAME
from vireo.server.control.discovery import StaticDiscovery
from vireo.server.control.mesh import GRPC_SERVICES
from vireo.server.pod import announcements as module
from vireo.server.pod.announcements import Announcements
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.server.rpc.server import RpcServer
from vireo.server.security.certificates import Certificates
from vireo.server.security.folder import SecurityFolder
from vireo.v1.channel_pb2 import AwaitReleaseRequest, AwaitReleaseResponse
from vireo.v1.channel_pb2_grpc import (
    ChannelServiceServicer,
    ChannelServiceStub,
    add_ChannelServiceServicer_to_server,
)

BEGIN, END = (
    "the control plane announces changes of the channel",
    "no announcements; polling the channel",
)


@dataclass
class Announcer(ChannelServiceServicer):
    """A control plane that names these releases, one after the other, and then hangs."""

    releases: list[str]
    delay: float = 0.0
    """Seconds until it answers."""
    waits: list[int] = field(default_factory=list)
    """How many milliseconds each call would have waited."""
    ends: list[float] = field(default_factory=list)
    """When each wait would have ended, by the event loop's clock."""

    async def AwaitRelease(  # noqa: N802
        self, request: AwaitReleaseRequest, _context: Any
    ) -> AwaitReleaseResponse:
        self.waits.append(request.max_wait_milliseconds)
        self.ends.append(asyncio.get_running_loop().time() + request.max_wait_milliseconds / 1000)
        await asyncio.sleep(self.delay)
        if not self.releases:
            await asyncio.Event().wait()
        return AwaitReleaseResponse(release_id=self.releases.pop(0))


@asynccontextmanager
async def announced_by(announcer: Announcer) -> AsyncIterator[Announcements]:
    """Yield the announcements of this control plane."""
    server = RpcServer(rpc_settings())
    server.add(NAME, partial(add_ChannelServiceServicer_to_server, announcer))
    async with running_server(server):
        yield Announcements(f"127.0.0.1:{server.port}", None, "production")


@asynccontextmanager
async def network_to(target: str) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Yield an address that leads to `target`, and an event that loses what is sent from then on.

    Connections that are opened later work.
    """
    lost, opened = asyncio.Event(), set[asyncio.Task[None]]()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, old: bool) -> None:
        while data := await reader.read(1 << 16):
            if not (old and lost.is_set()):
                writer.write(data)
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = target.partition(":")
        further_reader, further_writer = await asyncio.open_connection(host, int(port))
        old = not lost.is_set()
        for pair in ((reader, further_writer), (further_reader, writer)):
            opened.add(asyncio.ensure_future(carry(*pair, old)))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", lost
    finally:
        server.close()
        for task in opened:
            task.cancel()
        await asyncio.gather(*opened, return_exceptions=True)


@pytest.mark.integration
async def test_a_pod_reads_only_when_a_change_is_announced_and_polls_without_a_control_plane(
    s3: S3Settings, tmp_path: Path
) -> None:
    followed, port = Followed("announced", ReleaseStore(s3), tmp_path), free_port_base()
    target = f"127.0.0.1:{port}"
    first, second = followed.publish("a", "b")
    followed.point(first)
    with faulty_s3(s3) as proxy:

        def reads() -> int:
            return sum(b"channels/" in line for line in proxy.requests)

        async def reads_nothing_for_half_a_second(known: str) -> bool:
            before = reads()
            asked = AwaitReleaseRequest(
                channel=followed.name, known_release_id=known, max_wait_milliseconds=500
            )
            async with grpc.aio.insecure_channel(target) as channel:
                await ChannelServiceStub(channel).AwaitRelease(asked, timeout=30)
            return reads() == before

        pod = Announcements(target, None, followed.name)
        async with running(loader := followed.loader(proxy.settings, wait=pod.wait)):
            for announced in ((first, second, first), (second,)):
                async with control_of(StaticDiscovery({}), followed.store, port=port):
                    for release_id in announced:
                        await followed.serve(loader, release_id)
                        async with asyncio.timeout(60):
                            while not await reads_nothing_for_half_a_second(release_id):
                                pass
                await followed.serve(loader, second)
                before = reads()
                await until(lambda least=before + 3: reads() > least)  # type: ignore[misc]


async def test_a_control_plane_that_stops_says_so_to_the_pods_that_wait() -> None:
    async with (
        control_of(StaticDiscovery({}), SetChannels(), drain_seconds=2.0) as (port, control),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = ChannelServiceStub(channel)
        known = (await stub.AwaitRelease(AwaitReleaseRequest(channel="production"))).release_id
        long, short = (
            AwaitReleaseRequest(
                channel="production", known_release_id=known, max_wait_milliseconds=milliseconds
            )
            for milliseconds in (10_000, 100)
        )
        waiting = asyncio.ensure_future(stub.AwaitRelease(long, timeout=30))
        await stub.AwaitRelease(short, timeout=30)
        draining = asyncio.ensure_future(control._server.drain())
        with pytest.raises(grpc.aio.AioRpcError, match="shuts down"):
            await waiting
        assert not draining.done()
        await draining


@pytest.mark.parametrize("role", GRPC_SERVICES)
async def test_pods_of_each_role_get_announcements_under_mutual_tls(
    role: str, tmp_path: Path
) -> None:
    folder, channels = SecurityFolder(tmp_path), SetChannels()
    Certificates(folder).ensure([])
    tls = folder.tls("control")
    settings: dict[str, Any] = {
        "tls_certificate": tls.certificate,
        "tls_key": tls.key,
        "tls_ca": tls.authority,
        "envoy_secrets": folder.secrets,
    }
    with capture_logs() as logs:
        async with control_of(StaticDiscovery({}), channels, **settings) as (port, _):
            pod = Announcements(f"127.0.0.1:{port}", folder.tls(role), "production")

            async def follow() -> None:
                while channels.releases["production"] == "a":
                    await pod.wait("a", 0.05)

            following = asyncio.ensure_future(follow())
            await until(lambda: BEGIN in [line["event"] for line in logs], seconds=20)
            channels.releases["production"] = "b"
            await following


async def test_a_control_plane_that_never_answered_is_reported_once() -> None:
    pod = Announcements(f"127.0.0.1:{free_port_base()}", None, "production")
    with capture_logs() as logs:
        for _ in range(3):
            await pod.wait("a", 0.01)
    [line] = logs
    assert (line["event"], line["log_level"]) == (END, "warning")
    assert "UNAVAILABLE" in line["reason"]


async def test_a_host_that_vanished_is_found_again_on_another_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quicker = [
        (name, value // 10 if "keepalive" in name or "ping" in name else value)
        for name, value in module._CHANNEL_OPTIONS
    ]
    monkeypatch.setattr(module, "_CHANNEL_OPTIONS", quicker)
    with capture_logs() as logs:
        async with (
            control_of(StaticDiscovery({}), SetChannels()) as (port, _),
            network_to(f"127.0.0.1:{port}") as (target, lost),
        ):
            pod = Announcements(target, None, "production")

            async def follow() -> None:
                while True:
                    await pod.wait("a", 0.05)

            def noted() -> list[str]:
                return [line["event"] for line in logs if line["event"] in (BEGIN, END)]

            following = asyncio.ensure_future(follow())
            await until(lambda: noted()[-1:] == [BEGIN])
            before = len(noted())
            lost.set()
            await until(lambda: noted()[before:] == [END, BEGIN], seconds=30)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def test_the_first_call_may_take_longer_than_the_interval_of_polls() -> None:
    with capture_logs() as logs:
        async with announced_by(Announcer(["b"], delay=0.1)) as pod:
            await pod.wait("a", 0.01)
    assert BEGIN in [line["event"] for line in logs]


async def test_pods_read_at_different_moments_after_a_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return low

    monkeypatch.setattr("vireo.server.pod.announcements.random.uniform", uniform)
    announcer = Announcer(["a", "b"])
    async with announced_by(announcer) as pod:
        await pod.wait("a", 0.01)
    first, second = announcer.waits
    assert first == 0
    assert 0 < second <= 10_000
    assert announcer.ends[1] % 10 < 1, "not the moment at which the calls of other pods end"
    assert drawn == [(0.0, 0.1)]


async def test_a_control_plane_that_hangs_is_trusted_until_its_call_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert module._WAIT_SECONDS + module._SLACK_SECONDS == 11  # as docs/control.md says
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.2)
    monkeypatch.setattr(module, "_SLACK_SECONDS", 0.1)
    announcer = Announcer(["a", "a"])
    with capture_logs() as logs:
        async with announced_by(announcer) as pod:
            await asyncio.wait_for(pod.wait("a", 0.01), 30)  # a safe read would take 60 s
    assert len(announcer.waits) == 3
    assert [line["event"] for line in logs if line["event"] in (BEGIN, END)] == [BEGIN, END]
    [line] = [line for line in logs if line["event"] == END]
    assert "DEADLINE_EXCEEDED" in line["reason"]


async def test_a_control_plane_that_keeps_no_calls_is_asked_only_as_often_as_s3_would_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_READ_SECONDS", 1.0)
    announcer = Announcer(["a"] * 1000)
    async with announced_by(announcer) as pod:
        await pod.wait("a", 0.1)
    assert len(announcer.waits) <= 12
