"""What callers by HTTP get for mistakes, and where the limits are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders.busy import busy
from tests.builders.inference import Array
from tests.builders.inference_http import (
    LENGTH,
    HttpPod,
    binary_request,
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


def _set(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """A change of the first input."""
    return lambda request: request["inputs"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(name="mood"), "inputs[0].name: ranker has no input 'mood'"),
        (_set(name="x" * 300), "inputs[0].name: "),
        (_set(datatype="FP64"), "must be FP32, is 'FP64'"),
        (_set(datatype=7), "inputs[0].datatype: Input should be a valid string"),
        (_set(shape=[1, 1, 1]), "inputs[0].data: input "),
        (_set(shape="1"), "inputs[0].shape: Input should be a valid array"),
        (_set(shape=[2**63]), "inputs[0].shape[0]: "),
        (_set(shape=[1] * 65), "inputs[0].shape: "),
        (_set(data=[True, [1.0]]), "inputs[0].data: "),
        (_set(data=[[[1.0], [1.0, 2.0]]]), "must be flat, or nested as its shape"),
        (_set(data=["1"]), "inputs[0].data: input "),
        (_set(data=None), "inputs[0].data: input "),
        (_set(data={}), "inputs[0].data: Input should be a valid array"),
        (_set(data=[[]] * 40_000), "the JSON has more than 32,768 lists and objects"),
        (
            _set(parameters={"shared_memory_region": "x"}),
            "has shared_memory_region, which isn't supported here",
        ),
        (lambda request: request["inputs"].pop(), "is missing; it is "),
        (lambda request: request.pop("inputs"), "inputs: Field required"),
        (lambda request: request.update(inputs=[0] * 100_000), "inputs"),
        (lambda request: request.update(outputs=[{"name": "odds"}]), "no output 'odds'"),
        (
            lambda request: request.update(
                outputs=[{"name": "scores", "parameters": {"classification": 2}}]
            ),
            "has classification, which isn't supported here",
        ),
        (lambda request: request.update(id="x" * 1025), "id: "),
        (lambda request: request.update(id=5), "id: Input should be a valid string"),
    ],
)
async def test_a_mistake_is_named_with_400(
    pod: HttpPod,
    inputs: dict[str, Array],
    change: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    request = json_request(inputs)
    change(request)
    answer = await pod.infer("ranker", request)
    assert answer.status == 400
    assert message in answer.error
    assert len(answer.body) < 4_000


async def test_a_value_that_isnt_finite_or_whole_is_refused_as_by_grpc(
    pod: HttpPod, inputs: dict[str, Array]
) -> None:
    request = json_request(inputs)
    features = next(each for each in request["inputs"] if each["name"] == "viewer_features")
    for number in (float("nan"), float("inf"), 1e300):
        features["data"][0][0] = number
        answer = await pod.infer("ranker", request)
        assert answer.status == 400
        assert "every value of input 'viewer_features' must be finite" in answer.error
    features["data"][0][0] = 0.0
    lengths = next(each for each in request["inputs"] if each["datatype"] == "INT64")
    for value in (1.5, 2**63, None, "1"):
        lengths["data"] = np.full(lengths["shape"], value, object).tolist()
        answer = await pod.infer("ranker", request)
        assert answer.status == 400
        assert "must have values of INT64" in answer.error


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"inputs":' * 10_000,
        b'{"inputs": [], "id": "\\ud800"}',
        b'{"inputs": [{"name": "\\ud800", "datatype": "FP32", "shape": [1], "data": [1]}]}',
    ],
)
async def test_what_isnt_a_request_is_refused_with_400(pod: HttpPod, body: bytes) -> None:
    answer = await pod.ask("POST", INFER, body)
    assert answer.status == 400
    assert answer.error


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({LENGTH: "-1"}, "must be a number of bytes"),
        ({LENGTH: "1e3"}, "must be a number of bytes"),
        ({LENGTH: "9" * 300}, "must be a number of bytes"),
        ({LENGTH: "99999999"}, "is 99999999, and the body has"),
        ({LENGTH: "0"}, "Invalid JSON"),
        ({}, "Invalid JSON"),
        ({"Content-Encoding": "gzip"}, "must be identity"),
    ],
)
async def test_a_bad_header_of_a_binary_request_is_refused(
    pod: HttpPod, inputs: dict[str, Array], headers: dict[str, str], message: str
) -> None:
    answer = await pod.ask("POST", INFER, binary_request(inputs)[0], headers)
    assert answer.status == 400
    assert message in answer.error


@pytest.mark.parametrize("size", [-1, 10**9, 10**30, "4", True, None, 3])
async def test_a_bad_size_of_a_binary_tensor_is_refused(
    pod: HttpPod, inputs: dict[str, Array], size: Any
) -> None:
    body, headers = binary_request(inputs)
    request, tail = json.loads(body[: int(headers[LENGTH])]), body[int(headers[LENGTH]) :]
    request["inputs"][-1]["parameters"]["binary_data_size"] = size
    head = json.dumps(request).encode()
    answer = await pod.ask("POST", INFER, head + tail, {LENGTH: str(len(head))})
    assert answer.status == 400
    assert answer.error


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
