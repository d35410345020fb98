"""Asks a ranking pod as Triton's users do, and prints what came back as JSON.

Run in the environment that `make oip-env` makes: triton_client.py ADDRESS GOLDEN.npz
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

MODEL = "ranker"
CONTENTS = {"FP32": "fp32_contents", "FP64": "fp64_contents", "INT64": "int64_contents"}


def raw_inputs(arrays: dict[str, Any]) -> list[Any]:
    """Inputs as the client sends them: raw."""
    inputs = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def typed_request(arrays: dict[str, Any]) -> Any:
    """The same with typed contents, which takes the client's own stubs."""
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    for name, array in arrays.items():
        datatype = np_to_triton_dtype(array.dtype)
        tensor = request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        getattr(tensor.contents, CONTENTS[datatype]).extend(array.ravel().tolist())
    return request


def failure(call: Callable[[], Any]) -> list[str]:
    """Status and message of a call that fails; empty where it doesn't."""
    try:
        call()
    except InferenceServerException as error:
        return [str(error.status()), str(error.message())]
    except grpc.RpcError as error:
        return [str(error.code()), str(error.details())]
    return []


def main(address: str, golden: str) -> None:
    """Prints one JSON object."""
    with np.load(golden) as file:
        arrays = {name[6:]: file[name] for name in file.files if name.startswith("input/")}
    features = arrays["viewer_features"]
    others = {name: array for name, array in arrays.items() if name != "viewer_features"}
    client = triton.InferenceServerClient(address)
    stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(address))

    def refused(**inputs: Any) -> list[list[str]]:
        """How a request fails, raw and typed, that has these instead of `viewer_features`."""
        sent = {**others, **inputs}
        return [
            failure(lambda: client.infer(MODEL, raw_inputs(sent), client_timeout=30)),
            failure(lambda: stub.ModelInfer(typed_request(sent), timeout=30)),
        ]

    raw = client.infer(
        MODEL,
        raw_inputs(arrays),
        request_id="mine",
        outputs=[triton.InferRequestedOutput("scores")],
        client_timeout=30,
    )
    # As the client's own stubs have it: its InferResult reads numbers from raw answers alone.
    [typed] = stub.ModelInfer(typed_request(arrays), timeout=30).outputs
    typed_scores = np.array(typed.contents.fp32_contents).reshape(tuple(typed.shape))
    results = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": [client.is_model_ready(MODEL), client.is_model_ready("other")],
        "server": client.get_server_metadata(as_json=True),
        "model": client.get_model_metadata(MODEL, as_json=True),
        "raw": raw.as_numpy("scores").tolist(),
        "raw_bytes": len(raw.get_response().raw_output_contents[0]),
        "id": raw.get_response().id,
        "release": raw.get_response().parameters["release_id"].string_param,
        "typed": typed_scores.tolist(),
        "typed_values": len(typed.contents.fp32_contents),
        "wrong_name": refused(viewer_mood=features),
        "wrong_shape": refused(viewer_features=np.zeros((1, 3), np.float32)),
        "wrong_dtype": refused(viewer_features=features.astype(np.float64)),
        "missing": refused(),
        "no_model": failure(lambda: client.infer("other", raw_inputs(arrays))),
        "no_version": failure(lambda: client.infer(MODEL, raw_inputs(arrays), model_version="2")),
        "no_load": failure(lambda: client.load_model(MODEL)),
        "config": client.get_model_config(MODEL, as_json=True)["config"],
        "no_statistics": failure(lambda: client.get_inference_statistics(MODEL)),
    }
    print(json.dumps(results))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
