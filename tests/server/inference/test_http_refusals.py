"""Statuses of HTTP, and where the limits are; for requests that are wrong see test_refusals.py."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.builders.busy import busy
from tests.builders.inference import Array
from tests.builders.inference_http import (
    HttpPod,
    json_request,
    serving_http,
)
from tests.builders.releases import build_release, poison_model
from tests.builders.rpc import rpc_settings
from vireo.server.inference import http_server
from vireo.server.pod.run_queue import RunQueue
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases import layout
from vireo.server.rpc import reading

INFER = "/v2/models/ranker/infer"


async def test_an_unknown_model_or_version_is_404(pod: HttpPod, inputs: dict[str, Array]) -> None:
    for place in ("viewer_tower", "ranker/versions/2", "%ff", "..%2f..", "x" * 250):
        for path in ("", "/ready", "/config"):
            answer = await pod.get(f"/v2/models/{place}{path}")
            assert answer.status == 404, (place, path, answer.body)
            assert answer.error
        assert (await pod.infer(place, json_request(inputs))).status == 404
    assert (await pod.get(f"/v2/models/{'x' * 257}")).status == 400


async def test_other_paths_and_verbs_have_errors_in_json_too(pod: HttpPod) -> None:
    for method, path, status in (
        ("GET", "/", 404),
        ("GET", "/metrics", 404),
        ("POST", "/v2/repository/models/ranker/load", 404),
        ("POST", "/v2/repository/index", 404),
        ("GET", INFER, 405),
        ("DELETE", "/v2/models/ranker/config", 405),
    ):
        answer = await pod.ask(method, path)
        assert answer.status == status
        assert answer.error
    assert answer.headers["Allow"] == "GET"


async def test_a_body_beyond_the_limit_is_413(release_folder: Path) -> None:
    settings = rpc_settings(max_message_bytes=2048)
    async with serving_http(RANKING_POD, release_folder, settings=settings) as pod:
        answer = await pod.ask("POST", INFER, b" " * 2049)
        assert answer.status == 413
        assert "2,048 bytes" in answer.error
        assert "Retry-After" not in answer.headers


async def test_a_body_that_doesnt_arrive_is_ended(
    pod: HttpPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_MESSAGE_SECONDS", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", pod.port)
    writer.write(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
    assert (await reader.readline()).split()[1] == b"400"
    assert b"no message arrived" in await asyncio.wait_for(reader.read(), 30)
    writer.close()


async def test_a_call_that_is_shed_is_429_and_says_when_to_retry(
    release_folder: Path, inputs: dict[str, Array]
) -> None:
    async with serving_http(RANKING_POD, release_folder, max_calls=0) as pod:
        answer = await pod.infer("ranker", json_request(inputs))
        assert answer.status == 429
        assert answer.headers["Retry-After"] == "1"
        assert "too many calls" in answer.error
        answer = await pod.ask("POST", INFER, b"{")
        assert answer.status == 429, "it isn't read"
        assert (await pod.get("/v2/health/ready")).status == 200
        assert (await pod.get("/v2/models/ranker")).status == 200


async def test_a_call_whose_deadline_passes_is_504(
    release_folder: Path, inputs: dict[str, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = RunQueue()
    async with serving_http(RANKING_POD, release_folder, queue=queue) as pod, busy(queue):
        answer = await pod.infer("ranker", json_request(inputs), **{"grpc-timeout": "50m"})
        assert answer.status in (429, 504)
        monkeypatch.setattr(http_server, "MAX_SECONDS", 0.05)
        answer = await pod.infer("ranker", json_request(inputs), **{"grpc-timeout": "9S"})
        assert answer.status in (429, 504)


async def test_an_output_that_isnt_finite_is_400(tmp_path: Path, inputs: dict[str, Array]) -> None:
    folder = build_release(tmp_path)
    poison_model(folder, layout.RANKER, "video")
    async with serving_http(RANKING_POD, folder) as pod:
        answer = await pod.infer("ranker", json_request(inputs))
        assert answer.status == 400
        assert "isn't finite" in answer.error


async def test_a_stopping_pod_refuses_calls_with_503(
    release_folder: Path, inputs: dict[str, Array]
) -> None:
    async with serving_http(RANKING_POD, release_folder) as pod:
        await pod.server.drain()
        assert (await pod.get("/v2/health/ready")).status == 503
        answer = await pod.infer("ranker", json_request(inputs))
        assert answer.status == 503
        assert "shuts down" in answer.error
