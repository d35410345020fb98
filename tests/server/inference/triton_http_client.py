"""Asks a ranking pod by HTTP as Triton's users do, and prints what came back as JSON.

Run in the environment that `make oip-env` makes: triton_http_client.py ADDRESS GOLDEN.npz
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

MODEL = "ranker"


def inputs_of(arrays: dict[str, Any], *, binary: bool) -> list[Any]:
    """Inputs as the client sends them."""
    inputs = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array, binary_data=binary)
        inputs.append(tensor)
    return inputs


def failure(call: Callable[[], Any]) -> list[str]:
    """Status and message of a call that fails; empty where it doesn't."""
    try:
        call()
    except InferenceServerException as error:
        return [str(error.status()), str(error.message())]
    return []


def main(address: str, golden: str) -> None:
    """Prints one JSON object."""
    with np.load(golden) as file:
        arrays = {name[6:]: file[name] for name in file.files if name.startswith("input/")}
    client = triton.InferenceServerClient(address)

    def scores(*, binary: bool, **options: Any) -> Any:
        result = client.infer(MODEL, inputs_of(arrays, binary=binary), **options)
        return result.as_numpy("scores").tolist()

    requested = [triton.InferRequestedOutput("scores", binary_data=False)]
    results = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": [client.is_model_ready(MODEL), client.is_model_ready("other")],
        "server": client.get_server_metadata(),
        "model": client.get_model_metadata(MODEL, "1"),
        "config": client.get_model_config(MODEL),
        "binary": scores(binary=True),
        "json": scores(binary=False, outputs=requested),
        "mixed": scores(binary=False, request_id="mine"),
        "missing": failure(lambda: client.infer(MODEL, inputs_of(arrays, binary=True)[1:])),
        "no_model": failure(lambda: client.infer("other", inputs_of(arrays, binary=True))),
        "no_load": failure(lambda: client.load_model(MODEL)),
    }
    print(json.dumps(results))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
