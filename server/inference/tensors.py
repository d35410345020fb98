"""Tensors of the Open Inference Protocol: from requests to NumPy, and from NumPy to responses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vireo.inference import open_inference_pb2 as pb
from vireo.server.arrays import Float32Array
from vireo.server.models.model import Model
from vireo.server.models.signature import Tensor
from vireo.server.rpc.errors import invalid_argument

_Violations = Iterator[tuple[str, str]]
"""Field of the request and what is wrong with it; callers' names in it are truncated."""

_UNSUPPORTED = ("shared_memory_region", "classification")
"""Parameters of tensors that change the response: ignoring them would make it wrong."""


@dataclass(frozen=True)
class Datatype:
    """The protocol's encoding of one NumPy dtype."""

    name: str
    contents: str
    """Its field of InferTensorContents."""
    raw: str
    """NumPy dtype of its raw form."""


DATATYPES: Mapping[str, Datatype] = {
    "float32": Datatype("FP32", "fp32_contents", "<f4"),
    "int64": Datatype("INT64", "int64_contents", "<i8"),
}


@dataclass(frozen=True)
class Limits:
    """Maximum work of one request: memory grows faster with sizes than requests do."""

    sizes: Mapping[str, int]
    """Maximum of each size that requests choose, by its name in the signature."""
    product: int
    """Maximum of the product of all sizes."""


def metadata(name: str, tensor: Tensor) -> pb.ModelMetadataResponse.TensorMetadata:
    """Return the protocol's metadata of an input or output."""
    shape = [-1 if isinstance(size, str) else size for size in tensor.shape]
    return pb.ModelMetadataResponse.TensorMetadata(
        name=name, datatype=DATATYPES[tensor.dtype].name, shape=shape
    )


def read_inputs(
    request: pb.ModelInferRequest, model: Model, limits: Limits
) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays in a request for a model.

    Raises:
        RpcError: INVALID_ARGUMENT with all violations of names; if there are none, of types and
            shapes; then of values.
    """
    _refuse([*_name_violations(request, model), *_form_violations(request)])
    _refuse(_layout_violations(request, model))
    _refuse(_size_violations(request, model, limits))
    _refuse(_content_violations(request, model))
    arrays = {
        tensor.name: _array(request, place, DATATYPES[model.inputs[tensor.name].dtype])
        for place, tensor in enumerate(request.inputs)
    }
    _refuse(
        (f"inputs[{place}]", f"every value of input {name!r} must be finite")
        for place, (name, array) in enumerate(arrays.items())
        if not np.isfinite(array).all()
    )
    return arrays


def write_output(
    response: pb.ModelInferResponse, name: str, values: Float32Array, *, raw: bool
) -> None:
    """Add an output to a response."""
    datatype = DATATYPES["float32"]
    tensor = response.outputs.add(name=name, datatype=datatype.name, shape=values.shape)
    if raw:
        response.raw_output_contents.append(values.astype(datatype.raw).tobytes())
    else:
        getattr(tensor.contents, datatype.contents).extend(values.ravel().tolist())


def _refuse(violations: Iterable[tuple[str, str]]) -> None:
    if found := list(violations):
        raise invalid_argument(found)


def _name_violations(request: pb.ModelInferRequest, model: Model) -> _Violations:
    """Yield unknown inputs and outputs, missing inputs, and duplicate inputs."""
    seen: set[str] = set()
    for place, tensor in enumerate(request.inputs):
        if tensor.name not in model.inputs:
            yield f"inputs[{place}].name", f"{model.name} has no input {shown(tensor.name)}"
        elif tensor.name in seen:
            yield f"inputs[{place}].name", f"input {tensor.name!r} is given twice"
        seen.add(tensor.name)
    for name, wanted in model.inputs.items():
        if name not in seen:
            yield "inputs", f"input {name!r} is missing; it is {_described(wanted)}"
    for place, output in enumerate(request.outputs):
        if output.name != model.output:
            reason = f"{model.name} has no output {shown(output.name)}, only {model.output!r}"
            yield f"outputs[{place}].name", reason


def _form_violations(request: pb.ModelInferRequest) -> _Violations:
    """Yield unsupported parameters, and values both raw and typed."""
    tensors: dict[str, Sequence[Any]] = {"inputs": request.inputs, "outputs": request.outputs}
    for kind, listed in tensors.items():
        for place, tensor in enumerate(listed):
            for parameter in _UNSUPPORTED:
                if parameter in tensor.parameters:
                    reason = f"{shown(tensor.name)} has {parameter}, which isn't supported here"
                    yield f"{kind}[{place}].parameters", reason
    if not request.raw_input_contents:
        return
    for place, tensor in enumerate(request.inputs):
        if tensor.HasField("contents"):
            yield (
                f"inputs[{place}].contents",
                f"input {shown(tensor.name)} has contents, and the request raw_input_contents: "
                "it may have one of them",
            )
    if len(request.raw_input_contents) != len(request.inputs):
        yield (
            "raw_input_contents",
            f"must have one item for each of the {len(request.inputs)} inputs, "
            f"has {len(request.raw_input_contents)}",
        )


def _layout_violations(request: pb.ModelInferRequest, model: Model) -> _Violations:
    """Yield types and shapes that aren't the model's."""
    for place, tensor in enumerate(request.inputs):
        wanted = model.inputs[tensor.name]
        name, shape = DATATYPES[wanted.dtype].name, tensor.shape
        must = f"input {tensor.name!r} must"
        if tensor.datatype != name:
            yield f"inputs[{place}].datatype", f"{must} be {name}, is {shown(tensor.datatype)}"
        if len(shape) != len(wanted.shape):
            yield f"inputs[{place}].shape", f"{must} have {_sizes(wanted)}, has {len(shape)} sizes"
        elif any(
            size < 1 or (size != fixed and not isinstance(fixed, str))
            for size, fixed in zip(shape, wanted.shape, strict=True)
        ):
            reason = f"{must} have {_sizes(wanted)}, each 1 or more, has {list(shape)}"
            yield f"inputs[{place}].shape", reason


def _size_violations(request: pb.ModelInferRequest, model: Model, limits: Limits) -> _Violations:
    """Yield sizes that should be equal and aren't, and those beyond the limits."""
    first: dict[str, tuple[str, int]] = {}
    for place, tensor in enumerate(request.inputs):
        for size, name in zip(tensor.shape, model.inputs[tensor.name].shape, strict=True):
            if not isinstance(name, str):
                continue
            other, before = first.setdefault(name, (tensor.name, size))
            found = f"size {name} of input {tensor.name!r} is {size}"
            if size != before:
                yield f"inputs[{place}].shape", f"{found}, of input {other!r} it is {before}"
            if size > limits.sizes[name]:
                yield f"inputs[{place}].shape", f"{found}, more than {limits.sizes[name]}"
    product = math.prod(size for _, size in first.values())
    if product > limits.product:
        yield "inputs", f"{' x '.join(first)} is {product}, more than {limits.product}"


def _content_violations(request: pb.ModelInferRequest, model: Model) -> _Violations:
    """Yield tensors whose number of values differs from the shape, or that use the wrong field."""
    for place, tensor in enumerate(request.inputs):
        datatype, count = DATATYPES[model.inputs[tensor.name].dtype], math.prod(tensor.shape)
        must = f"input {tensor.name!r} of shape {list(tensor.shape)} must"
        if request.raw_input_contents:
            length = len(request.raw_input_contents[place])
            wanted = count * np.dtype(datatype.raw).itemsize
            if length != wanted:
                yield f"raw_input_contents[{place}]", f"{must} have {wanted} bytes, has {length}"
            continue
        for field, _ in tensor.contents.ListFields():
            if field.name != datatype.contents:
                reason = f"{field.name}; {datatype.name} has {datatype.contents}"
                yield (
                    f"inputs[{place}].contents.{field.name}",
                    f"input {tensor.name!r} has {reason}",
                )
        values = len(getattr(tensor.contents, datatype.contents))
        if values != count:
            reason = f"{must} have {count} values in {datatype.contents}, has {values}"
            yield f"inputs[{place}].contents", reason


def _array(request: pb.ModelInferRequest, place: int, datatype: Datatype) -> npt.NDArray[Any]:
    tensor = request.inputs[place]
    values: npt.NDArray[Any]
    if request.raw_input_contents:
        values = np.frombuffer(request.raw_input_contents[place], datatype.raw)
    else:
        values = np.array(getattr(tensor.contents, datatype.contents), datatype.raw)
    return values.reshape(tuple(tensor.shape))


def _described(wanted: Tensor) -> str:
    return f"{DATATYPES[wanted.dtype].name} of {_sizes(wanted)}"


def _sizes(wanted: Tensor) -> str:
    """Return the shape with the names of sizes that requests choose, for example [batch, 16]."""
    return f"sizes [{', '.join(map(str, wanted.shape))}]"


def shown(text: str) -> str:
    """Return a caller's text as it may stand in an error: errors travel in trailers of 8 KB."""
    quoted = ascii(text)
    return quoted if len(quoted) <= 66 else f"{quoted[:62]}...'"
