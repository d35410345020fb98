"""What a process shows to Prometheus and to probes, and that its endpoint is its own."""

from __future__ import annotations

import asyncio
import math
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import grpc
import grpc.aio
import pytest
from prometheus_client import REGISTRY, CollectorRegistry

from tests.builders.http_page import page
from tests.builders.rpc import rpc_settings, serving
from vireo.ops.stack.ports import free_port_base
from vireo.server.errors import VireoError
from vireo.server.ranking.service import RANKING_POD
from vireo.server.rpc import metrics
from vireo.server.rpc.metrics import MAX_CONNECTIONS, MAX_LAG, MetricsEndpoint, export_disk, lag
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
async def server(port: int) -> AsyncIterator[RpcServer]:
    server = RpcServer(rpc_settings(metrics_port=port))
    await server.start()
    yield server
    await server.drain()


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_calls_are_counted_by_method_and_code_and_timed_whatever_their_status(
    release_folder: Path,
) -> None:
    def seen() -> list[float]:
        counts = [
            value("vireo_rpcs_total", method=f"/vireo.v1.{method}", code=code)
            for method, code in ((RELEASE, "OK"), (RANK, "INVALID_ARGUMENT"), (RANK, "OK"))
        ]
        return [*counts, value("vireo_rpc_seconds_count", method=f"/vireo.v1.{RANK}")]

    before = seen()
    async with serving(RANKING_POD, release_folder) as (_, channel):
        await ReleaseServiceStub(channel).GetServingRelease(GetServingReleaseRequest())
        with pytest.raises(grpc.aio.AioRpcError):
            await RankingServiceStub(channel).RankCandidates(ranking_pb2.RankCandidatesRequest())
    assert [after - each for after, each in zip(seen(), before, strict=True)] == [1, 1, 0, 1]


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
    await server.start()
    assert (await asyncio.to_thread(page, port, host=host))[0] == 200
    with socket.socket() as other:
        other.bind(("127.0.0.3", port))
    await server.drain()
    with pytest.raises(urllib.error.URLError):
        page(port, host=host)


def test_port_that_is_taken_is_explained() -> None:
    endpoint = MetricsEndpoint(0, CollectorRegistry())
    words = rf"can't serve metrics on 127\.0\.0\.1:{endpoint.port}: Address.*vireo up"
    with pytest.raises(VireoError, match=words):
        MetricsEndpoint(endpoint.port, CollectorRegistry())
    endpoint.close()


def test_silent_connections_are_bounded_and_ended_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics._Page, "timeout", 0.5)
    endpoint = MetricsEndpoint(0, CollectorRegistry())
    silent = [
        socket.create_connection(("127.0.0.1", endpoint.port), timeout=30)
        for _ in range(MAX_CONNECTIONS + 10)
    ]
    assert all(connection.recv(1) == b"" for connection in silent)
    assert page(endpoint.port) == (200, "")
    for connection in silent:
        connection.close()
    endpoint.close()


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
    assert value("vireo_disk_size_bytes", folder="cache") == usage.total
    assert value("vireo_disk_free_bytes", folder="cache") == pytest.approx(usage.free, rel=0.2)

    def away(_: Path) -> None:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr("shutil.disk_usage", away)
    assert math.isnan(value("vireo_disk_free_bytes", folder="cache"))
