"""What callers get for mistakes, whether they send them by gRPC or by HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from tests.builders.inference import Array, add_input
from tests.builders.inference_http import (
    LENGTH,
    HttpPod,
    binary_request,
    json_request,
    serving_http,
)
from tests.builders.releases import VECTOR_SIZE, build_release, poison_model
from vireo.inference import open_inference_pb2 as pb
from vireo.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases import layout

Request = dict[str, Any]
"""A request as HTTP has it, with arrays as data."""
Spoil = Callable[[Request], Any]
INFER = "/v2/models/ranker/infer"


def of(tensor: str, /, **changes: Any) -> Spoil:
    """A change of the input with this name."""
    return lambda request: _tensor(request, tensor).update(changes)


def _tensor(request: Request, name: str) -> dict[str, Any]:
    return next(each for each in request["inputs"] if each["name"] == name)


def _repeat(request: Request) -> None:
    request["inputs"].append(_tensor(request, "attributes"))


def _parameter(name: str, parameter: str) -> Spoil:
    return of(name, parameters={parameter: "x"})


def _wanted(**output: Any) -> Spoil:
    return lambda request: request.update(outputs=[output])


MISTAKES: dict[str, tuple[Spoil, list[str]]] = {
    "another name": (
        of("attributes", name="mood"),
        [
            "inputs[7].name: ranker has no input 'mood'",
            "inputs: input 'attributes' is missing; it is INT64 of sizes [batch, 16]",
        ],
    ),
    "a long name": (of("attributes", name="x" * 257), ["inputs[7].name: "]),
    "a missing input": (
        lambda request: request["inputs"].remove(_tensor(request, "viewer_features")),
        ["inputs: input 'viewer_features' is missing; it is FP32 of sizes [batch, 2]"],
    ),
    "an input twice": (_repeat, ["inputs[8].name: input 'attributes' is given twice"]),
    "another type": (
        of("attributes", datatype="INT32"),
        ["inputs[7].datatype: input 'attributes' must be INT64, is 'INT32'"],
    ),
    "no type": (
        of("history_vectors", datatype=""),
        ["inputs[4].datatype: input 'history_vectors' must be FP32, is ''"],
    ),
    "a size that is the model's": (
        of("history_vectors", shape=[1, 2, VECTOR_SIZE + 1]),
        [
            "inputs[4].shape: input 'history_vectors' must have sizes [batch, history, 8], "
            "each 1 or more, has [1, 2, 9]"
        ],
    ),
    "too few sizes": (
        of("history_vectors", shape=[2, VECTOR_SIZE]),
        ["input 'history_vectors' must have sizes [batch, history, 8], has 2 sizes"],
    ),
    "a size of 0": (of("history_vectors", shape=[1, 0, VECTOR_SIZE]), ["has [1, 0, 8]"]),
    "a negative size": (of("history_vectors", shape=[1, -1, VECTOR_SIZE]), ["has [1, -1, 8]"]),
    "no size": (of("attributes", shape=[]), ["must have sizes [batch, 16], has 0 sizes"]),
    "many sizes": (of("attributes", shape=[1] * 65), ["inputs[7].shape"]),
    "sizes that differ": (
        of("match_features", shape=[1, 4, 1]),
        [
            "inputs[3].shape: size candidates of input 'match_features' is 4, "
            "of input 'candidate_vectors' it is 5"
        ],
    ),
    "a long history": (
        of("history_vectors", shape=[1, 51, VECTOR_SIZE]),
        ["inputs[4].shape: size history of input 'history_vectors' is 51, more than 50"],
    ),
    "a huge size": (
        of("history_vectors", shape=[1, 2**62, VECTOR_SIZE]),
        [f"size history of input 'history_vectors' is {2**62}, more than 50"],
    ),
    "another output": (
        _wanted(name="vectors"),
        ["outputs[0].name: ranker has no output 'vectors', only 'scores'"],
    ),
    "classification": (
        _wanted(name="scores", parameters={"classification": 3}),
        ["outputs[0].parameters: 'scores' has classification, which isn't supported here"],
    ),
    "shared memory": (
        _parameter("match_features", "shared_memory_region"),
        ["inputs[3].parameters: 'match_features' has shared_memory_region"],
    ),
    "many inputs": (
        lambda request: request.update(inputs=request["inputs"] * 9),
        ["inputs: "],
    ),
    "a long id": (lambda request: request.update(id="x" * 1025), ["id: "]),
    "another number of values": (
        of("match_features", data=np.zeros((1, 6, 1), np.float32)),
        ["input 'match_features' of shape [1, 5, 1] must have "],
    ),
    "not a number": (
        of("match_features", data=np.full((1, 5, 1), np.nan, np.float32)),
        ["inputs[3]: every value of input 'match_features' must be finite"],
    ),
    "infinity": (
        of("viewer_features", data=np.full((1, 2), np.inf, np.float32)),
        ["every value of input 'viewer_features' must be finite"],
    ),
}


async def by_grpc(
    pod: HttpPod, request: Request, *, raw: bool, code: str = "INVALID_ARGUMENT"
) -> str:
    """The message with which gRPC refuses a request."""
    message = pb.ModelInferRequest(model_name="ranker", id=request.get("id", ""))
    for each in request["inputs"]:
        fields = {name: each[name] for name in ("name", "datatype", "shape")}
        tensor = add_input(message, each["data"], raw=raw, **fields)
        for name in each.get("parameters", ()):
            tensor.parameters[name].string_param = "x"
    for each in request.get("outputs", ()):
        output = message.outputs.add(name=each["name"])
        for name in each.get("parameters", ()):
            output.parameters[name].int64_param = 1
    async with grpc.aio.insecure_channel(f"127.0.0.1:{pod.server.port}") as channel:
        stub: Any = GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ModelInfer(message)
    assert caught.value.code() is grpc.StatusCode[code]
    return caught.value.details() or ""


async def by_http(pod: HttpPod, request: Request) -> str:
    """The message with which HTTP refuses a request with binary tensors."""
    raws = [each["data"].tobytes() for each in request["inputs"]]
    inputs = [
        {name: each[name] for name in ("name", "datatype", "shape")}
        | {"parameters": each.get("parameters", {}) | {"binary_data_size": len(raw)}}
        for each, raw in zip(request["inputs"], raws, strict=True)
    ]
    head = json.dumps(request | {"inputs": inputs}).encode()
    answer = await pod.ask("POST", INFER, b"".join((head, *raws)), {LENGTH: str(len(head))})
    assert answer.status == 400
    assert len(answer.body) < 4_000
    return answer.error


def request_of(inputs: dict[str, Array]) -> Request:
    described = json_request(inputs)["inputs"]
    return {
        "inputs": [each | {"data": inputs[each["name"]]} for each in described],
    }


@pytest.mark.parametrize("form", ["raw", "typed", "http"])
@pytest.mark.parametrize(("spoil", "messages"), MISTAKES.values(), ids=MISTAKES)
async def test_a_mistake_is_named_in_whichever_form_it_comes(
    pod: HttpPod, inputs: dict[str, Array], spoil: Spoil, messages: list[str], form: str
) -> None:
    request = request_of(inputs)
    spoil(request)
    said = await (
        by_http(pod, request) if form == "http" else by_grpc(pod, request, raw=form == "raw")
    )
    for message in messages:
        assert message in said


async def test_an_output_that_isnt_finite_is_a_mistake_too(
    tmp_path: Path, inputs: dict[str, Array]
) -> None:
    folder, request = build_release(tmp_path), request_of(inputs)
    poison_model(folder, layout.RANKER, "video")
    async with serving_http(RANKING_POD, folder) as pod:
        said = await by_http(pod, request)
        assert said.startswith("ranker gave a value that isn't finite for these inputs")
        assert await by_grpc(pod, request, raw=True, code="FAILED_PRECONDITION") == said


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (of("attributes", datatype=7), "Failed to parse datatype field: expected string"),
        (of("attributes", shape="1"), "Failed to parse shape field: repeated field"),
        (of("attributes", shape=[2**63]), "Failed to parse shape field: Value out of range"),
        (of("attributes", shape=[1, 1]), "inputs[7].data: input "),
        (of("attributes", data=[True, [1]]), "inputs[7].data: "),
        (of("attributes", data=[[1] * 15, [1]]), "must be flat, or nested as its shape"),
        (of("attributes", data=["1"] * 16), "must have values of INT64"),
        (of("attributes", data=[1.5] * 16), "must have values of INT64"),
        (of("attributes", data=[2**63] * 16), "must have values of INT64"),
        (of("attributes", data=None), "inputs[7].data: input "),
        (of("attributes", data={}), "inputs[7].data: input "),
        (of("attributes", data=[[]] * 40_000), "the JSON has more than 32,768 lists and objects"),
        (of("viewer_features", data=[1e300, 0]), "'viewer_features' must be finite"),
        (lambda request: request.pop("inputs"), "inputs: input 'candidate_vectors' is missing"),
        (lambda request: request.update(inputs=[0] * 100_000), "inputs: must be a list of objects"),
        (lambda request: request.update(id=5), "Failed to parse id field: expected string"),
        (of("attributes", shape=[9] * 100_000), "inputs[7].shape: has 100000 items, at most 64"),
        (lambda request: request.update(outputs=[{}] * 65), "outputs: has 65 items, at most 64"),
        (lambda request: request.update(inputs=[{}] * 65), "inputs: has 65 items, at most 64"),
    ],
)
async def test_a_mistake_in_json_is_named(
    pod: HttpPod, inputs: dict[str, Array], spoil: Spoil, message: str
) -> None:
    request = json_request(inputs)
    spoil(request)
    answer = await pod.infer("ranker", request)
    assert answer.status == 400
    assert message in answer.error


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"inputs":' * 10_000,
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
        ({LENGTH: "0"}, "the body isn't JSON"),
        ({}, "the body isn't JSON"),
        ({"Content-Encoding": "gzip"}, "must be identity"),
    ],
)
async def test_a_bad_header_of_a_binary_request_is_refused(
    pod: HttpPod, inputs: dict[str, Array], headers: dict[str, str], message: str
) -> None:
    answer = await pod.ask("POST", INFER, binary_request(inputs)[0], headers)
    assert answer.status == 400
    assert message in answer.error
