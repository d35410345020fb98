"""What a process shows to Prometheus and to probes, and that its endpoint is its own."""

from __future__ import annotations

import asyncio
import math
import shutil
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from tests.builders.http_page import page, served_metrics
from tests.builders.rpc import rpc_settings, running_server, serving
from tests.builders.samples import Grown, sample
from tests.builders.waiting import wait_until
from vireo.ops.stack.ports import free_port_base
from vireo.server.errors import VireoError
from vireo.server.ranking.service import RANKING_POD
from vireo.server.rpc import metrics
from vireo.server.rpc.metrics import (
    MAX_CONNECTIONS,
    MAX_LAG,
    MAX_SCRAPES,
    MetricsEndpoint,
    export_disk,
    lag,
)
from vireo.server.rpc.server import RpcServer
from vireo.v1 import ranking_pb2
from vireo.v1.ranking_pb2_grpc import RankingServiceStub
from vireo.v1.release_pb2 import GetServingReleaseRequest
from vireo.v1.release_pb2_grpc import ReleaseServiceStub

RELEASE, RANK = "ReleaseService/GetServingRelease", "RankingService/RankCandidates"


@pytest.fixture
def port() -> int:
    return free_port_base()


@pytest.fixture
def endpoint() -> Iterator[MetricsEndpoint]:
    """An endpoint without metrics."""
    endpoint = MetricsEndpoint(0, CollectorRegistry())
    yield endpoint
    endpoint.close()


@pytest.fixture
async def server(port: int) -> AsyncIterator[RpcServer]:
    server = RpcServer(rpc_settings(metrics_port=port))
    async with running_server(server):
        yield server


async def test_calls_are_counted_by_method_and_code_and_timed_whatever_their_status(
    release_folder: Path, grown: Grown
) -> None:
    async with serving(RANKING_POD, release_folder) as (_, channel):
        await ReleaseServiceStub(channel).GetServingRelease(GetServingReleaseRequest())
        with pytest.raises(grpc.aio.AioRpcError):
            await RankingServiceStub(channel).RankCandidates(ranking_pb2.RankCandidatesRequest())
    for method, code, calls in ((RELEASE, "OK", 1), (RANK, "INVALID_ARGUMENT", 1), (RANK, "OK", 0)):
        assert grown("vireo_rpcs_total", method=f"/vireo.v1.{method}", code=code) == calls
    assert grown("vireo_rpc_seconds_count", method=f"/vireo.v1.{RANK}") == 1


async def test_the_page_has_the_version_the_lag_and_the_traces_of_sampled_calls(
    release_folder: Path, port: int
) -> None:
    parents = f"00-{'4bf9' * 8}-{'b7ad' * 4}-01", f"00-{'5caf' * 8}-{'b7ad' * 4}-00"
    settings = rpc_settings(metrics_port=port)
    async with serving(RANKING_POD, release_folder, settings=settings) as (_, channel):
        for parent in parents:
            await ReleaseServiceStub(channel).GetServingRelease(
                GetServingReleaseRequest(), metadata=(("traceparent", parent),)
            )
        kind = "application/openmetrics-text; version=1.0.0"
        _, shown = await asyncio.to_thread(page, port, accept=kind)
        _, plain = await asyncio.to_thread(page, port)
    lines = [line for line in shown.splitlines() if RELEASE in line and "trace_id" in line]
    assert all(line.startswith("vireo_rpc_seconds_bucket") for line in lines)
    assert "4bf9" * 8 in lines[0]
    assert "5caf" * 8 not in shown, "it isn't sampled"
    assert "trace_id" not in plain
    assert f'vireo_build_info{{version="{version("vireo")}"}} 1.0' in plain
    assert "# TYPE vireo_rpcs_total counter" in plain
    [late] = [each for each in plain.splitlines() if each.startswith("vireo_event_loop_lag_sec")]
    assert 0 < float(late.split()[1]) < 1
    assert "_created" not in plain.replace("release_created", "")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
async def test_the_endpoint_listens_on_metrics_host_alone_while_the_server_lives(
    port: int, host: str
) -> None:
    server = RpcServer(rpc_settings(metrics_port=port, metrics_host=host))
    async with running_server(server):
        assert (await asyncio.to_thread(page, port, host=host))[0] == 200
        with socket.socket() as other:
            other.bind(("127.0.0.3", port))
    with pytest.raises(urllib.error.URLError):
        page(port, host=host)


def test_port_that_is_taken_is_explained(endpoint: MetricsEndpoint) -> None:
    words = rf"can't serve metrics on 127\.0\.0\.1:{endpoint.port}: Address.*vireo up"
    with pytest.raises(VireoError, match=words):
        MetricsEndpoint(endpoint.port, CollectorRegistry())


def test_the_oldest_connections_make_room_for_further_ones(
    endpoint: MetricsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_MAX_SECONDS", 600)  # none is late
    monkeypatch.setattr(metrics._Page, "timeout", 600)
    silent = [
        socket.create_connection(("127.0.0.1", endpoint.port), timeout=30)
        for _ in range(MAX_CONNECTIONS + 10)
    ]
    assert all(connection.recv(1) == b"" for connection in silent[:10])
    assert page(endpoint.port) == (200, "")
    for connection in silent:
        connection.close()


@pytest.mark.parametrize("part", [b"", b"G", b"GET / HTTP/1.1\r\n", b"\0"])
def test_a_request_that_trickles_in_is_ended_in_time(
    endpoint: MetricsEndpoint, part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        monkeypatch.context() as patched,
        socket.create_connection(("127.0.0.1", endpoint.port), timeout=0.02) as slow,
    ):
        patched.setattr(metrics, "_MAX_SECONDS", 0.2)
        ended = False
        while not ended:
            with suppress(TimeoutError):
                try:
                    slow.send(part)
                    ended = not slow.recv(1 << 16)
                except ConnectionError:
                    ended = True
    assert page(endpoint.port) == (200, "")


def test_a_connection_that_cant_be_accepted_is_tried_again_after_a_pause(
    endpoint: MetricsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_descriptors(_: object) -> None:
        raise OSError(24, "Too many open files")

    paused: list[float] = []
    with monkeypatch.context() as patched:
        patched.setattr("socketserver.TCPServer.get_request", out_of_descriptors)
        patched.setattr("time.sleep", paused.append)
        with pytest.raises(OSError, match="Too many"):
            endpoint.get_request()
    assert paused == [0.5]


def test_a_connection_whose_thread_cant_be_started_is_closed(
    endpoint: MetricsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        with socket.create_connection(("127.0.0.1", endpoint.port), 30) as other:
            assert other.recv(1) == b""
    assert not endpoint._open
    assert page(endpoint.port) == (200, "")


def test_few_scrapes_are_collected_at_a_time_and_probes_dont_wait_for_them() -> None:
    under_way: list[None] = []
    most, finish = 0, threading.Event()

    class Slow(Collector):
        def collect(self) -> Iterator[Metric]:
            nonlocal most
            under_way.append(None)
            most = max(most, len(under_way))
            finish.wait(60)
            under_way.pop()
            return iter([])

    registry = CollectorRegistry()
    registry.register(Slow())
    with (
        served_metrics(registry, {"/live": lambda: ""}) as url,
        ThreadPoolExecutor(20) as others,
    ):
        port = int(url.split(":")[2].partition("/")[0])
        scrapes = [others.submit(page, port) for _ in range(20)]
        wait_until(lambda: most >= MAX_SCRAPES)
        assert page(port, "live") == (200, "OK")
        finish.set()
        assert {each.result() for each in scrapes} == {(200, "")}
    assert most == MAX_SCRAPES


async def test_a_server_is_ready_while_it_serves_and_lives_all_the_same(
    server: RpcServer, port: int
) -> None:
    assert await asyncio.to_thread(page, port, "ready") == (503, "NOT_SERVING")
    assert await asyncio.to_thread(page, port, "live") == (200, "OK")
    await server.set_serving(True)
    assert await asyncio.to_thread(page, port, "ready") == (200, "OK")


async def test_a_server_whose_event_loop_hangs_neither_lives_nor_is_ready(
    server: RpcServer, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_LIVE_SECONDS", 0.1)
    await server.set_serving(True)
    with ThreadPoolExecutor() as others:
        for probe in ("live", "ready"):
            answer = others.submit(page, port, probe).result()  # the loop waits, too
            assert answer == (503, "the event loop was silent for 0.1 s")
    assert await asyncio.to_thread(page, port, "ready") == (200, "OK")


async def test_the_lag_of_a_loop_is_short_if_it_is_free_and_bounded_if_it_is_blocked() -> None:
    loop = asyncio.get_running_loop()
    assert 0 < await asyncio.to_thread(lag, loop) < MAX_LAG
    assert lag(loop) == 0, "a loop that asks for its own isn't late"
    with ThreadPoolExecutor() as others:
        assert others.submit(lag, loop).result() == MAX_LAG  # the loop waits
    closed = asyncio.new_event_loop()
    closed.close()
    assert lag(closed) == 0


def test_the_disk_of_a_folder_is_shown_before_the_folder_is_made_and_nan_if_it_cant_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_disk("cache", tmp_path / "some" / "cache")
    usage = shutil.disk_usage(tmp_path)
    assert sample("vireo_disk_size_bytes", folder="cache") == usage.total
    assert sample("vireo_disk_free_bytes", folder="cache") == pytest.approx(usage.free, rel=0.2)

    def away(_: Path) -> None:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr("shutil.disk_usage", away)
    assert math.isnan(sample("vireo_disk_free_bytes", folder="cache"))
