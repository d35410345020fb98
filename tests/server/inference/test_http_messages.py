"""Whatever a body by HTTP has, it is read as a request, or refused as one, and nothing else."""

from __future__ import annotations

import grpc
from hypothesis import given, settings
from hypothesis import strategies as st

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
