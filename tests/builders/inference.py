"""Requests of the Open Inference Protocol, made of the golden inputs of a release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vireo.inference import open_inference_pb2 as pb

Array = npt.NDArray[Any]


def golden(folder: Path, path: str) -> tuple[dict[str, Array], dict[str, Array]]:
    """The golden inputs and outputs in a file of a release, by name."""
    with np.load(folder / path) as arrays:
        parts = {name: arrays[name] for name in arrays.files}
    inputs = {name[6:]: part for name, part in parts.items() if name.startswith("input/")}
    outputs = {name[7:]: part for name, part in parts.items() if name.startswith("output/")}
    return inputs, outputs


def infer_request(
    model: str, inputs: dict[str, Array], *, raw: bool, **fields: Any
) -> pb.ModelInferRequest:
    """A request for a model, with other fields as given."""
    request = pb.ModelInferRequest(model_name=model, **fields)
    for name, array in inputs.items():
        add_input(request, array, raw=raw, **described(name, array))
    return request


def described(name: str, array: Array) -> dict[str, Any]:
    """An input without its values."""
    datatype = "FP32" if array.dtype == np.float32 else "INT64"
    return {"name": name, "datatype": datatype, "shape": list(array.shape)}


def add_input(
    request: pb.ModelInferRequest, array: Array, *, raw: bool, **fields: Any
) -> pb.ModelInferRequest.InferInputTensor:
    """Add an input with these values and fields to a request."""
    tensor = request.inputs.add(**fields)
    if raw:
        request.raw_input_contents.append(array.tobytes())
    elif array.dtype == np.float32:
        tensor.contents.fp32_contents.extend(array.ravel().tolist())
    else:
        tensor.contents.int64_contents.extend(array.ravel().tolist())
    return tensor


def output_of(response: pb.ModelInferResponse, place: int = 0) -> Array:
    """An output of an answer, typed or raw."""
    tensor = response.outputs[place]
    assert tensor.datatype == "FP32"
    values: Array = (
        np.frombuffer(response.raw_output_contents[place], "<f4")
        if response.raw_output_contents
        else np.array(tensor.contents.fp32_contents, np.float32)
    )
    return values.reshape(tuple(tensor.shape))
