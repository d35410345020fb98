"""The Open Inference Protocol by HTTP, on real sockets: responses, statuses and limits.

For requests that are wrong see test_refusals.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
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
from tests.builders.rpc import rpc_settings
from tests.builders.s3 import unreachable_s3
from tests.builders.samples import Grown
from tests.builders.waiting import until
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.inference import http_server
from vireo.server.inference.http_messages import InferRequest
from vireo.server.pod.run_queue import RunQueue
from vireo.server.ranking.service import RANKING_POD
from vireo.server.rpc import reading

INFER = "/v2/models/ranker/infer"
METHOD = "/inference.GRPCInferenceService/ModelInfer"


@pytest.mark.parametrize(
    ("kind", "model", "tensor", "datatype"),
    [
        (RANKING_POD, "ranker", ("attributes", [-1, 16]), "FP32"),
        (CANDIDATE_POD, "viewer_tower", ("history", [-1, -1]), "INT64"),
    ],
)
async def test_a_pod_describes_itself_and_its_model_in_json(
    release_folder: Path, kind: Any, model: str, tensor: tuple[str, list[int]], datatype: str
) -> None:
    place = f"models/{model}"
    async with serving_http(kind, release_folder) as pod:
        for path, expected in (
            ("health/live", {"live": True}),
            ("health/ready", {"ready": True}),
            (f"{place}/ready", {"name": model, "ready": True}),
            (f"{place}/versions/1/ready", {"name": model, "ready": True}),
        ):
            assert (await pod.get(f"/v2/{path}")).json == expected
        server, metadata, config = [
            (await pod.get(f"/v2{path}")).json
            for path in ("", f"/{place}", f"/{place}/versions/1/config")
        ]
    assert server["extensions"] == ["model_configuration", "binary_tensor_data"]
    tensors = {each["name"]: each["shape"] for each in metadata["inputs"]}
    assert tensor in tensors.items(), "sizes are numbers"
    assert {each["name"]: each["dims"] for each in config["input"]} == tensors
    assert (config["max_batch_size"], config["input"][0]["data_type"]) == (0, f"TYPE_{datatype}")


@pytest.mark.parametrize(
    ("options", "status", "retry_after", "message"),
    [
        ({"folder": None}, 503, "1", "no release"),
        ({"max_calls": 0}, 429, "1", "too many calls"),
        ({"settings": rpc_settings(max_message_bytes=2048)}, 413, None, "2,048 bytes"),
    ],
)
async def test_a_refused_call_has_its_status_and_says_when_to_retry(
    release_folder: Path,
    inputs: dict[str, Array],
    options: dict[str, Any],
    status: int,
    retry_after: str | None,
    message: str,
) -> None:
    async with serving_http(RANKING_POD, **{"folder": release_folder, **options}) as pod:
        answer = await pod.infer("ranker", json_request(inputs))
        assert (answer.status, answer.headers.get("Retry-After")) == (status, retry_after)
        assert message in answer.error
        if status == 429:
            assert (await pod.ask("POST", INFER, b"{")).status == 429, "it isn't read"
        served = 503 if status == 503 else 200
        for path in ("health/ready", "models/ranker", "models/ranker/ready"):
            assert (await pod.get(f"/v2/{path}")).status == served
        assert (await pod.get("/v2/health/live")).status == 200


@pytest.mark.parametrize("form", ["nested", "flat", "one in JSON and others binary"])
async def test_values_in_json_give_the_golden_scores(
    pod: HttpPod, inputs: dict[str, Array], scores: Array, form: str
) -> None:
    request, tail = json_request(inputs, id="mine"), b""
    if form == "flat":
        for tensor in request["inputs"]:
            tensor["data"] = np.ravel(tensor["data"]).tolist()
    elif form != "nested":
        body, headers = binary_request(inputs)
        binary = json.loads(body[: int(headers[LENGTH])])["inputs"]
        size = binary[0]["parameters"]["binary_data_size"]
        request["inputs"][1:], tail = binary[1:], body[int(headers[LENGTH]) + size :]
    head = json.dumps(request).encode()
    sent = {LENGTH: str(len(head))} if tail else {}
    answer = await pod.ask("POST", INFER, head + tail, sent)
    assert answer.status == 200
    assert (answer.json["model_name"], answer.json["model_version"]) == ("ranker", "1")
    assert (answer.json["id"], answer.json["parameters"]) == ("mine", {"release_id": "tiny-1"})
    [output] = answer.json["outputs"]
    assert (output["name"], output["datatype"]) == ("scores", "FP32")
    assert output["shape"] == list(scores.shape)
    assert np.abs(np.reshape(output["data"], scores.shape) - scores).max() < 1e-5


BINARY_OUTPUTS = [
    {"parameters": {"binary_data_output": True}},
    {"outputs": [{"name": "scores", "parameters": {"binary_data": True}}]},
    {"outputs": [{"name": "scores"}], "parameters": {"binary_data_output": True}},
]
JSON_OUTPUTS: list[dict[str, Any]] = [
    {},
    {"outputs": [{"name": "scores"}]},
    {
        "outputs": [{"name": "scores", "parameters": {"binary_data": False}}],
        "parameters": {"binary_data_output": True},
    },
]


@pytest.mark.parametrize("fields", BINARY_OUTPUTS + JSON_OUTPUTS)
async def test_binary_tensors_give_the_golden_scores_in_the_form_that_was_asked(
    pod: HttpPod, inputs: dict[str, Array], scores: Array, fields: dict[str, Any]
) -> None:
    body, headers = binary_request(inputs, **fields)
    answer = await pod.ask("POST", INFER, body, headers)
    assert answer.status == 200, answer.body
    [output] = answer.json["outputs"]
    if fields in BINARY_OUTPUTS:
        assert output["parameters"] == {"binary_data_size": scores.size * 4}
        assert "data" not in output
        values = np.frombuffer(answer.body[int(answer.headers[LENGTH]) :], "<f4")
    else:
        assert LENGTH not in answer.headers
        values = np.array(output["data"], np.float32)
    assert np.abs(values.reshape(scores.shape) - scores).max() < 1e-5


async def test_calls_are_counted_with_those_of_grpc_and_return_their_request_id(
    pod: HttpPod, inputs: dict[str, Array], grown: Grown
) -> None:
    answer = await pod.infer("ranker", json_request(inputs), **{"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    wrong = await pod.infer("ranker", {"inputs": []}, **{"x-request-id": "mine-2"})
    assert wrong.headers["x-request-id"] == "mine-2"
    for code in ("OK", "INVALID_ARGUMENT"):
        assert grown("vireo_rpcs_total", method=METHOD, code=code) == 1


async def test_a_caller_that_leaves_ends_its_call(
    release_folder: Path, inputs: dict[str, Array], grown: Grown
) -> None:
    queue = RunQueue()
    async with serving_http(RANKING_POD, release_folder, queue=queue) as pod, busy(queue):
        asked = asyncio.ensure_future(pod.infer("ranker", json_request(inputs)))
        await until(lambda: queue.queued == 2)
        asked.cancel()
        await until(lambda: grown("vireo_rpcs_total", method=METHOD, code="CANCELLED") > 0)


def test_without_the_library_the_setting_says_what_to_install() -> None:
    script = """
import runpy
import sys

sys.modules["aiohttp"] = None
sys.argv[1:] = ["--port", "0", "--oip-http-port", "10130"]
runpy.run_module("vireo.server.ranking", run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **unreachable_s3().environment()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "VIREO_OIP_HTTP_PORT needs aiohttp: pip install 'vireo[http]'" in done.stderr


async def test_a_large_body_is_decoded_off_the_event_loop_and_charged_to_its_caller(
    pod: HttpPod, inputs: dict[str, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def decode(*given: Any) -> InferRequest:
        threads.append(threading.get_ident())
        return decoded(*given)

    decoded = InferRequest.decode
    monkeypatch.setattr(InferRequest, "decode", decode)
    body = json.dumps(json_request(inputs)).encode()
    headers = {"x-vireo-caller": "page"}
    for size in (0, 1 << 20):
        answer = await pod.ask("POST", INFER, body + b" " * size, headers)
        assert answer.status == 200
    small, large = threads
    assert small == threading.get_ident() != large
    assert pod.server.guard.budget.used("page") > 0.05


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


async def test_a_body_that_doesnt_arrive_is_ended(
    pod: HttpPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_MESSAGE_SECONDS", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", pod.port)
    writer.write(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
    assert (await reader.readline()).split()[1] == b"400"
    assert b"no message arrived" in await asyncio.wait_for(reader.read(), 30)
    writer.close()


async def test_a_call_whose_deadline_passes_is_504(
    release_folder: Path, inputs: dict[str, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = RunQueue()
    async with serving_http(RANKING_POD, release_folder, queue=queue) as pod, busy(queue):
        monkeypatch.setattr(http_server, "MAX_SECONDS", 0.05)
        answer = await pod.infer("ranker", json_request(inputs))
        assert answer.status == 504


@pytest.mark.parametrize("field", ["raw_input_contents", "rawInputContents"])
async def test_fields_of_grpcs_message_alone_are_ignored(
    pod: HttpPod, inputs: dict[str, Array], field: str
) -> None:
    request = json_request(inputs, **{field: ["AAAA"]})
    request["inputs"][0]["contents"] = {"fp32_contents": [1]}
    assert (await pod.infer("ranker", request)).status == 200


async def test_a_stopping_pod_refuses_calls_with_503(
    release_folder: Path, inputs: dict[str, Array]
) -> None:
    async with serving_http(RANKING_POD, release_folder) as pod:
        await pod.server.drain()
        assert (await pod.get("/v2/health/ready")).status == 503
        answer = await pod.infer("ranker", json_request(inputs))
        assert answer.status == 503
        assert "shuts down" in answer.error
