"""The Open Inference Protocol by HTTP, on real sockets."""

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
from google.protobuf import json_format
from prometheus_client import REGISTRY

from tests.builders.busy import busy
from tests.builders.inference import Array
from tests.builders.inference_http import (
    LENGTH,
    HttpPod,
    binary_request,
    json_request,
    serving_http,
)
from tests.builders.s3 import unreachable_s3
from tests.builders.waiting import until
from vireo.inference import model_config_pb2
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.inference.http_messages import InferRequest
from vireo.server.pod.run_queue import RunQueue
from vireo.server.ranking.service import RANKING_POD

INFER = "/v2/models/ranker/infer"
METHOD = "/inference.GRPCInferenceService/ModelInfer"


def answered(code: str) -> float:
    return REGISTRY.get_sample_value("vireo_rpcs_total", {"method": METHOD, "code": code}) or 0


async def test_a_pod_tells_its_health_and_what_it_is(pod: HttpPod) -> None:
    assert (await pod.get("/v2/health/live")).json == {"live": True}
    assert (await pod.get("/v2/health/ready")).json == {"ready": True}
    server = (await pod.get("/v2")).json
    assert server["name"] == "vireo"
    assert server["extensions"] == ["model_configuration", "binary_tensor_data"]


async def test_a_pod_without_a_release_lives_but_isnt_ready() -> None:
    async with serving_http(RANKING_POD, None) as pod:
        assert (await pod.get("/v2/health/live")).status == 200
        assert (await pod.get("/v2/health/ready")).status == 503
        for path in ("", "/ready", "/config"):
            answer = await pod.get(f"/v2/models/ranker{path}")
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "1"
            assert "no release" in answer.error


@pytest.mark.parametrize(
    ("kind", "model"), [(RANKING_POD, "ranker"), (CANDIDATE_POD, "viewer_tower")]
)
async def test_a_models_descriptions_equal_those_of_grpc(
    release_folder: Path, kind: Any, model: str
) -> None:
    async with serving_http(kind, release_folder) as pod:
        for place in (f"/v2/models/{model}", f"/v2/models/{model}/versions/1"):
            metadata = (await pod.get(place)).json
            assert metadata["name"] == model
            assert metadata["versions"] == ["1"]
            assert all(type(size) is int for each in metadata["inputs"] for size in each["shape"])
            assert (await pod.get(f"{place}/ready")).json == {"name": model, "ready": True}
            config = json_format.ParseDict(
                (await pod.get(f"{place}/config")).json, model_config_pb2.ModelConfig()
            )
            assert [each.name for each in config.input] == [
                each["name"] for each in metadata["inputs"]
            ]
            assert config.max_batch_size == 0


@pytest.mark.parametrize("nested", [True, False])
async def test_values_in_json_give_the_golden_scores(
    pod: HttpPod, inputs: dict[str, Array], scores: Array, *, nested: bool
) -> None:
    request = json_request(inputs, id="mine")
    if not nested:
        for tensor in request["inputs"]:
            tensor["data"] = np.ravel(tensor["data"]).tolist()
    answer = await pod.infer("ranker", request)
    assert answer.status == 200
    assert (answer.json["model_name"], answer.json["model_version"]) == ("ranker", "1")
    assert (answer.json["id"], answer.json["parameters"]) == ("mine", {"release_id": "tiny-1"})
    [output] = answer.json["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == (
        "scores",
        "FP32",
        list(scores.shape),
    )
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


async def test_inputs_of_one_request_may_be_in_both_forms(
    pod: HttpPod, inputs: dict[str, Array], scores: Array
) -> None:
    first, *others = inputs
    body, headers = binary_request({name: inputs[name] for name in others})
    head, tail = body[: int(headers[LENGTH])], body[int(headers[LENGTH]) :]
    request = json.loads(head)
    request["inputs"].insert(0, json_request({first: inputs[first]})["inputs"][0])
    head = json.dumps(request).encode()
    answer = await pod.ask("POST", INFER, head + tail, {LENGTH: str(len(head))})
    values = np.reshape(answer.json["outputs"][0]["data"], scores.shape)
    assert np.abs(values - scores).max() < 1e-5


async def test_calls_are_counted_with_those_of_grpc_and_return_their_request_id(
    pod: HttpPod, inputs: dict[str, Array]
) -> None:
    before = answered("OK"), answered("INVALID_ARGUMENT")
    answer = await pod.infer("ranker", json_request(inputs), **{"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    wrong = await pod.infer("ranker", {"inputs": []}, **{"x-request-id": "mine-2"})
    assert wrong.headers["x-request-id"] == "mine-2"
    assert (answered("OK"), answered("INVALID_ARGUMENT")) == (before[0] + 1, before[1] + 1)


async def test_a_caller_that_leaves_ends_its_call(
    release_folder: Path, inputs: dict[str, Array]
) -> None:
    queue = RunQueue()
    async with serving_http(RANKING_POD, release_folder, queue=queue) as pod:
        before = answered("CANCELLED")
        async with busy(queue):
            asked = asyncio.ensure_future(pod.infer("ranker", json_request(inputs)))
            await until(lambda: queue.queued == 2)
            asked.cancel()
            await until(lambda: answered("CANCELLED") > before)


def test_pods_without_http_dont_load_its_server() -> None:
    module = "vireo.server.inference.http_server"
    script = f"import sys, vireo.server.ranking.__main__; assert {module!r} not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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
    assert pod.server.budget.used("page") > 0.05
