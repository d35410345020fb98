"""What a pod shows to Prometheus, and that the endpoint is its own."""

import asyncio
import socket
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from prometheus_client import REGISTRY, CollectorRegistry
from vireo.v1 import ranking_pb2
from vireo.v1.ranking_pb2_grpc import RankingServiceStub
from vireo.v1.release_pb2 import GetServingReleaseRequest
from vireo.v1.release_pb2_grpc import ReleaseServiceStub

from bench.stack import free_port_base
from server.errors import VireoError
from server.ranking.service import RANKING_POD
from server.rpc import metrics
from server.rpc.metrics import MAX_SCRAPES, MetricsEndpoint
from tests.builders.rpc import rpc_settings, serving


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
        closing = threading.Thread(target=endpoint.close, daemon=True)
        closing.start()
        closing.join(30)
    assert not closing.is_alive()
    assert not endpoint._thread.is_alive()
    with pytest.raises(urllib.error.URLError):
        page(endpoint.port)


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


def test_silent_connections_are_ended_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_MAX_SECONDS", 0.3)
    endpoint = MetricsEndpoint.open(0, CollectorRegistry())
    before = threading.active_count()
    silent = [socket.create_connection(("127.0.0.1", endpoint.port), timeout=30) for _ in range(60)]
    try:
        assert silent[0].recv(1) == b"", "the oldest makes room at once"
        assert threading.active_count() <= before + MAX_SCRAPES
        assert all(connection.recv(1) == b"" for connection in silent), "in the end all are"
        assert page(endpoint.port) == ""
    finally:
        for connection in silent:
            connection.close()
        endpoint.close()


def test_a_request_that_trickles_in_is_ended_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_MAX_SECONDS", 0.3)
    endpoint = MetricsEndpoint.open(0, CollectorRegistry())
    try:
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=0.05) as slow:
            while True:  # until it is refused
                slow.send(b"G")
                try:
                    assert slow.recv(1) == b""
                except TimeoutError:
                    continue
                except ConnectionError:
                    pass
                break
    finally:
        endpoint.close()


def test_a_connection_beyond_the_bound_is_closed_while_all_others_are_answered() -> None:
    asked, go_on = threading.Semaphore(0), threading.Event()

    def slow(environ: Any, start_response: Any) -> list[bytes]:
        asked.release()
        go_on.wait(30)
        start_response("200 OK", [])
        return [b"answered"]

    endpoint = MetricsEndpoint.open(0, CollectorRegistry(), beside=lambda _: slow)
    try:
        with ThreadPoolExecutor(MAX_SCRAPES) as others:
            answers = [others.submit(page, endpoint.port) for _ in range(MAX_SCRAPES)]
            for _ in answers:
                asked.acquire()
            with pytest.raises((urllib.error.URLError, ConnectionError)):
                page(endpoint.port)
            go_on.set()
            assert [each.result() for each in answers] == ["answered"] * MAX_SCRAPES
    finally:
        go_on.set()
        endpoint.close()
