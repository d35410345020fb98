"""Asks a ranking pod as Triton's users do, and prints what came back as JSON.

Run in the environment that `make oip-env` makes: triton_client.py grpc|http ADDRESS GOLDEN.npz
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

MODEL = "ranker"


def failure(call: Callable[[], Any]) -> list[str]:
    """Status and message of a call that fails; empty if it doesn't."""
    try:
        call()
    except InferenceServerException as error:
        return [str(error.status()), str(error.message())]
    return []


def main(protocol: str, address: str, golden: str) -> None:
    """Print one JSON object."""
    triton: Any = importlib.import_module(f"tritonclient.{protocol}")
    with np.load(golden) as file:
        arrays = {name[6:]: file[name] for name in file.files if name.startswith("input/")}
    client = triton.InferenceServerClient(address)

    def inputs(changes: dict[str, Any], **options: Any) -> list[Any]:
        made = []
        for name, array in {**arrays, **changes}.items():
            datatype = np_to_triton_dtype(array.dtype)
            made.append(triton.InferInput(name, list(array.shape), datatype))
            made[-1].set_data_from_numpy(array, **options)
        return made

    def infer(model: str = MODEL, **changes: Any) -> Any:
        return client.infer(model, inputs(changes), request_id="mine")

    def form(**options: Any) -> Any:
        """The scores, by HTTP with values in JSON or not."""
        requested = [triton.InferRequestedOutput("scores", **options)]
        return client.infer(MODEL, inputs({}, **options), outputs=requested).as_numpy("scores")

    shown = {"as_json": True} if protocol == "grpc" else {}
    config = client.get_model_config(MODEL, **shown)
    result = infer()
    forms = [{}] if protocol == "grpc" else [{"binary_data": True}, {"binary_data": False}]
    response = result.get_response(**shown)
    results = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": [client.is_model_ready(MODEL), client.is_model_ready("other")],
        "server": client.get_server_metadata(**shown),
        "model": client.get_model_metadata(MODEL, "1", **shown),
        "config": config.get("config", config),
        "scores": [result.as_numpy("scores").tolist(), *(form(**each).tolist() for each in forms)],
        "id": response["id"],
        "release": response["parameters"]["release_id"],
        "wrong_shape": failure(lambda: infer(viewer_features=np.zeros((1, 3), np.float32))),
        "no_model": failure(lambda: infer("other")),
        "no_statistics": failure(lambda: client.get_inference_statistics(MODEL)),
    }
    print(json.dumps(results))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
