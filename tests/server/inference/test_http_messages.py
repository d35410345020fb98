"""Whatever a body by HTTP has, it is read as a request, or refused as one, and nothing else.

A pod serves on after it.
"""

from __future__ import annotations

import json
from typing import Any

import grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.builders.inference import Array
from tests.builders.inference_http import LENGTH, HttpPod, binary_request, json_request
from tests.builders.spoilt import spoilt
from vireo.server.inference.http_messages import InferRequest
from vireo.server.rpc.errors import RpcError

REQUEST = {
    "id": "mine",
    "inputs": [
        {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [[0.5, 1]]},
        {
            "name": "b",
            "datatype": "INT64",
            "shape": [2],
            "parameters": {"binary_data_size": 16},
        },
    ],
    "outputs": [{"name": "c", "parameters": {"binary_data": True}}],
    "parameters": {"binary_data_output": True},
}


@settings(deadline=None, max_examples=300)
@given(spoilt(REQUEST), st.sampled_from([bytes(16), b""]) | st.binary(max_size=40))
def test_any_body_is_read_or_refused(head: bytes, tail: bytes) -> None:
    for length in (str(len(head)), str(len(head) - 1), None):
        code = grpc.StatusCode.INVALID_ARGUMENT
        try:
            InferRequest.decode(head + tail, length, "ranker", "").message.SerializeToString()
        except RpcError as error:  # anything else fails the test
            code = error.code
        assert code is grpc.StatusCode.INVALID_ARGUMENT


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
async def test_a_pod_answers_or_refuses_any_body_and_serves_on(
    pod: HttpPod, inputs: dict[str, Array], data: st.DataObject
) -> None:
    whole, (body, headers) = json_request(inputs), binary_request(inputs)
    length = int(headers[LENGTH])
    head = data.draw(spoilt(json.loads(body[:length])))
    asked: list[tuple[bytes, dict[str, Any]]] = [
        (data.draw(spoilt(whole)), {}),
        (head + body[length:], {LENGTH: str(len(head))}),
        (body[: data.draw(st.integers(0, len(body) - 1))], headers),
    ]
    for spoilt_body, sent in asked:
        answer = await pod.ask("POST", "/v2/models/ranker/infer", spoilt_body, sent)
        if answer.status != 200:  # what was replaced may not matter
            assert 400 <= answer.status < 500
            assert answer.error
    assert (await pod.infer("ranker", whole)).status == 200
