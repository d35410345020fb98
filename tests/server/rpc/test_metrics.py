"""What a pod shows to Prometheus, and that the endpoint is its own."""

import asyncio
import socket
import threading
import urllib.error
import urllib.request
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import grpc
import grpc.aio
import pytest
from prometheus_client import REGISTRY, CollectorRegistry

from tests.builders.rpc import rpc_settings, serving
from vireo.ops.stack.ports import free_port_base
from vireo.server.errors import VireoError
from vireo.server.ranking.service import RANKING_POD
from vireo.server.rpc import metrics
from vireo.server.rpc.metrics import MAX_CONNECTIONS, MetricsEndpoint
from vireo.v1 import ranking_pb2
from vireo.v1.ranking_pb2_grpc import RankingServiceStub
from vireo.v1.release_pb2 import GetServingReleaseRequest
from vireo.v1.release_pb2_grpc import ReleaseServiceStub


def page(port: int, host: str = "127.0.0.1", accept: str = "*/*") -> str:
    asked = urllib.request.Request(f"http://{host}:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        text: str = answer.read().decode()
        return text


def calls(method: str, code: str) -> float:
    labels = {"method": f"/vireo.v1.{method}", "code": code}
    return REGISTRY.get_sample_value("vireo_rpcs_total", labels) or 0.0


async def test_calls_are_counted_by_method_and_code(release_folder: Path) -> None:
    good, bad = "ReleaseService/GetServingRelease", "RankingService/RankCandidates"
    before = calls(good, "OK"), calls(bad, "INVALID_ARGUMENT"), calls(bad, "OK")
    async with serving(RANKING_POD, release_folder) as (_, channel):
        await ReleaseServiceStub(channel).GetServingRelease(GetServingReleaseRequest())
        with pytest.raises(grpc.aio.AioRpcError):
            await RankingServiceStub(channel).RankCandidates(ranking_pb2.RankCandidatesRequest())
    after = calls(good, "OK"), calls(bad, "INVALID_ARGUMENT"), calls(bad, "OK")
    assert after == (before[0] + 1, before[1] + 1, before[2])


async def test_every_unary_call_is_timed_whatever_its_status(release_folder: Path) -> None:
    def timed() -> float:
        labels = {"method": "/vireo.v1.RankingService/RankCandidates"}
        return REGISTRY.get_sample_value("vireo_rpc_seconds_count", labels) or 0.0

    async with serving(RANKING_POD, release_folder) as (_, channel):
        before = timed()
        with pytest.raises(grpc.aio.AioRpcError):
            await RankingServiceStub(channel).RankCandidates(ranking_pb2.RankCandidatesRequest())
    assert timed() == before + 1


async def test_the_time_of_a_sampled_call_points_at_its_trace(release_folder: Path) -> None:
    port = free_port_base()
    parents = f"00-{'4bf9' * 8}-{'b7ad' * 4}-01", f"00-{'5caf' * 8}-{'b7ad' * 4}-00"
    settings = rpc_settings(metrics_port=port)
    async with serving(RANKING_POD, release_folder, settings=settings) as (_, channel):
        for parent in parents:
            await ReleaseServiceStub(channel).GetServingRelease(
                GetServingReleaseRequest(), metadata=(("traceparent", parent),)
            )
        kind = "application/openmetrics-text; version=1.0.0"
        shown = await asyncio.to_thread(page, port, accept=kind)
        plain = await asyncio.to_thread(page, port)
    method = "/vireo.v1.ReleaseService/GetServingRelease"
    lines = [line for line in shown.splitlines() if method in line and "trace_id" in line]
    assert lines
    assert all(line.startswith("vireo_rpc_seconds_bucket") for line in lines)
    assert "4bf9" * 8 in lines[0]
    assert "5caf" * 8 not in shown, "it isn't sampled"
    assert "trace_id" not in plain


async def test_the_version_and_the_lag_of_the_loop_are_exported(release_folder: Path) -> None:
    port = free_port_base()
    settings = rpc_settings(metrics_port=port)
    async with serving(RANKING_POD, release_folder, settings=settings):
        shown = await asyncio.to_thread(page, port)
    assert f'vireo_build_info{{version="{version("vireo")}"}} 1.0' in shown
    [lag] = [each for each in shown.splitlines() if each.startswith("vireo_event_loop_lag_seconds")]
    assert 0 < float(lag.split()[1]) < 1
    assert "_created" not in shown.replace("release_created", "")


async def test_endpoint_answers_on_loopback_while_the_server_lives(release_folder: Path) -> None:
    port = free_port_base()
    settings = rpc_settings(metrics_port=port)
    async with serving(RANKING_POD, release_folder, settings=settings):
        assert "# TYPE vireo_rpcs_total counter" in await asyncio.to_thread(page, port)
        with socket.socket() as other:  # bound to loopback, and not to every address
            other.bind(("127.0.0.2", port))
    with pytest.raises(urllib.error.URLError):
        page(port)


async def test_the_endpoint_listens_on_metrics_host(release_folder: Path) -> None:
    port = free_port_base()
    settings = rpc_settings(metrics_port=port, metrics_host="127.0.0.2")
    async with serving(RANKING_POD, release_folder, settings=settings):
        assert "vireo_rpcs_total" in await asyncio.to_thread(page, port, "127.0.0.2")
        with pytest.raises(urllib.error.URLError):
            page(port)


def test_closing_ends_the_thread_and_needs_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = MetricsEndpoint.open(0, CollectorRegistry())
    page(endpoint.port)

    def out_of_descriptors(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("socket.create_connection", out_of_descriptors)
        ending = threading.Thread(target=endpoint.close, daemon=True)
        ending.start()
        ending.join(30)
    assert not ending.is_alive()
    assert not endpoint._thread.is_alive()
    with pytest.raises(urllib.error.URLError):
        page(endpoint.port)


def test_a_request_without_a_path_gets_the_metrics() -> None:
    endpoint = MetricsEndpoint.open(0, CollectorRegistry())
    with closing(endpoint), socket.create_connection(("127.0.0.1", endpoint.port), 30) as other:
        other.sendall(b"\r\n\r\n")
        assert other.recv(12) == b"HTTP/1.1 200"


async def test_port_that_is_taken_is_explained() -> None:
    endpoint = MetricsEndpoint.open(0, CollectorRegistry())
    try:
        with pytest.raises(
            VireoError,
            match=rf"can't serve metrics on 127\.0\.0\.1:{endpoint.port}: Address.*vireo up",
        ):
            MetricsEndpoint.open(endpoint.port, CollectorRegistry())
    finally:
        endpoint.close()


def test_the_oldest_connections_make_room_for_further_ones() -> None:
    endpoint = MetricsEndpoint.open(0, CollectorRegistry())
    before = threading.active_count()
    silent = [
        socket.create_connection(("127.0.0.1", endpoint.port), timeout=2)  # before they are late
        for _ in range(MAX_CONNECTIONS + 10)
    ]
    try:
        assert all(connection.recv(1) == b"" for connection in silent[:10])
        assert threading.active_count() == before, "waiting takes no thread"
        assert page(endpoint.port) == ""
    finally:
        for connection in silent:
            connection.close()
        endpoint.close()


def test_silent_connections_are_ended_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_MAX_SECONDS", 0.2)
    endpoint = MetricsEndpoint.open(0, CollectorRegistry())
    try:
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=30) as silent:
            assert silent.recv(1) == b""
        assert page(endpoint.port) == ""
    finally:
        endpoint.close()


@pytest.mark.parametrize("part", [b"G", b"GET / HTTP/1.1\r\n", b"\0"])
def test_a_request_that_trickles_in_is_ended_in_time(
    part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_MAX_SECONDS", 0.2)
    endpoint = MetricsEndpoint.open(0, CollectorRegistry())
    try:
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=0.02) as slow:
            while True:
                try:
                    slow.send(part)
                    if not slow.recv(1 << 16):
                        break
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
    finally:
        endpoint.close()
