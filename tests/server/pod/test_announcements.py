"""A pod that follows its channel by the announcements of a control plane."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.builders.faulty_s3 import FaultyS3, faulty_s3
from tests.builders.loading import running, serves
from tests.builders.process import start, wait_for_health, watched_channel
from tests.builders.releases import build_release
from tests.builders.waiting import until
from vireo.server.pod.announcements import Announcements
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases.cache import ReleaseCache
from vireo.server.releases.channels import Change
from vireo.server.releases.loader import ReleaseLoader
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.v1.channel_pb2 import AwaitReleaseRequest, AwaitReleaseResponse
from vireo.v1.channel_pb2_grpc import ChannelServiceStub

pytestmark = pytest.mark.integration
SERVING = 1
POLL_SECONDS = 0.02


@dataclass
class ControlProcess:
    """A control plane that can be killed and started again."""

    environment: dict[str, str]
    port: int
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = start("vireo.server.control", self.log, self.environment)
        with watched_channel(self.port) as channel:
            wait_for_health(channel, SERVING)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(60)
            self.process = None


@pytest.fixture
def control(s3: S3Settings, port: int, tmp_path: Path) -> Iterator[ControlProcess]:
    """Yield a running control plane without pods, with the real S3 server."""
    environment = {
        **s3.environment(),
        "VIREO_HOME": str(tmp_path),
        "VIREO_PORT": str(port),
        "VIREO_ENDPOINTS": "{}",
    }
    process = ControlProcess(environment, port, tmp_path / "control.log")
    process.start()
    try:
        yield process
    finally:
        process.end()


@dataclass(frozen=True)
class Follower:
    """A loader that follows a channel, and every request that it sends to S3."""

    loader: ReleaseLoader[object]
    s3: FaultyS3
    channel: str
    store: ReleaseStore

    def promote(self, release_id: str) -> None:
        before = self.store.read_channel(self.channel)
        self.store.change_channel(self.channel, Change(release_id), before)

    async def serves(self, release_id: str) -> None:
        await until(lambda: serves(self.loader, release_id))

    @property
    def reads(self) -> int:
        """Number of times that the pod has read the channel."""
        return sum(b"channels/" in line for line in self.s3.requests)


@pytest.fixture
def publish(s3: S3Settings, tmp_path: Path) -> Callable[[str], str]:
    """Return a function that publishes a release with an id, and returns the id."""

    def build_and_publish(release_id: str) -> str:
        folder = build_release(tmp_path / "staged" / release_id, release_id=release_id)
        ReleaseStore(s3).publish(folder)
        return release_id

    return build_and_publish


@asynccontextmanager
async def following(
    control: ControlProcess, s3: S3Settings, cache: Path, channel: str, release_id: str
) -> AsyncIterator[Follower]:
    """Yield a loader that serves a release, which its channel names."""
    store = ReleaseStore(s3)
    store.change_channel(channel, Change(release_id), store.read_channel(channel))
    announcements = Announcements(f"127.0.0.1:{control.port}", None, channel)
    with faulty_s3(s3) as proxy:
        loader: ReleaseLoader[object] = ReleaseLoader(
            ReleaseStore(proxy.settings),
            ReleaseCache(cache),
            channel=channel,
            pod=RANKING_POD.kind,
            files=RANKING_POD.files,
            build=RANKING_POD.build,
            wait=announcements.wait,
            poll_seconds=POLL_SECONDS,
        )
        async with running(loader):
            follower = Follower(loader, proxy, channel, store)
            await follower.serves(release_id)
            yield follower


async def unchanged(control: ControlProcess, channel: str, known: str) -> AwaitReleaseResponse:
    """Return what the control plane says half a second later, while nothing changes."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{control.port}") as grpc_channel:
        request = AwaitReleaseRequest(
            channel=channel, known_release_id=known, max_wait_milliseconds=500
        )
        return await ChannelServiceStub(grpc_channel).AwaitRelease(request, timeout=30)


async def announced(control: ControlProcess, follower: Follower, release_id: str) -> None:
    """Return once the pod relies on announcements: it reads nothing for half a second."""
    async with asyncio.timeout(60):
        while True:
            before = follower.reads
            await unchanged(control, follower.channel, release_id)
            if follower.reads == before:
                return


async def test_a_pod_reads_its_channel_only_when_a_change_is_announced(
    control: ControlProcess, s3: S3Settings, publish: Callable[[str], str], tmp_path: Path
) -> None:
    first, second = publish("announced-a"), publish("announced-b")
    async with following(control, s3, tmp_path / "cache", "announced", first) as pod:
        await announced(control, pod, first)
        before = pod.reads
        for _ in range(3):
            await unchanged(control, "announced", first)
        assert pod.reads == before
        pod.promote(second)
        await pod.serves(second)
        await announced(control, pod, second)
        pod.promote(first)  # a rollback
        await pod.serves(first)


async def test_a_pod_polls_while_the_control_plane_is_down_and_listens_again_afterwards(
    control: ControlProcess, s3: S3Settings, publish: Callable[[str], str], tmp_path: Path
) -> None:
    first, second, third = (publish(f"down-{letter}") for letter in "abc")
    async with following(control, s3, tmp_path / "cache", "down", first) as pod:
        await announced(control, pod, first)
        control.end()
        before = pod.reads
        await until(lambda: pod.reads > before + 3)
        pod.promote(second)
        await pod.serves(second)
        await asyncio.to_thread(control.start)
        await announced(control, pod, second)
        pod.promote(third)
        await pod.serves(third)


async def test_a_pod_reads_the_channel_now_and_then_whatever_the_control_plane_says(
    control: ControlProcess,
    s3: S3Settings,
    publish: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vireo.server.pod.announcements._READ_SECONDS", 0.5)
    monkeypatch.setattr("vireo.server.pod.announcements._WAIT_SECONDS", 0.1)
    first = publish("anyway-a")
    async with following(control, s3, tmp_path / "cache", "anyway", first) as pod:
        before = pod.reads
        await until(lambda: pod.reads > before + 3)


async def test_a_control_plane_that_stops_says_so_to_the_pods_that_wait(
    control: ControlProcess, s3: S3Settings, publish: Callable[[str], str], tmp_path: Path
) -> None:
    first = publish("stops-a")
    async with (
        following(control, s3, tmp_path / "cache", "stops", first) as pod,
        grpc.aio.insecure_channel(f"127.0.0.1:{control.port}") as grpc_channel,
    ):
        await announced(control, pod, first)
        request = AwaitReleaseRequest(
            channel="stops", known_release_id=first, max_wait_milliseconds=10_000
        )
        waiting = ChannelServiceStub(grpc_channel).AwaitRelease(request, timeout=30)
        await unchanged(control, "stops", first)
        await asyncio.to_thread(control.end, signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError, match="shuts down"):
            await waiting
