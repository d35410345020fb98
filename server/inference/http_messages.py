"""Requests and responses of the Open Inference Protocol by HTTP: gRPC's messages in JSON.

Values of tensors stand in the JSON or, in the binary form, after it, raw as in gRPC.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydantic_core
from google.protobuf import json_format
from google.protobuf.message import Message

from vireo.inference import open_inference_pb2 as pb
from vireo.server.inference.tensors import DATATYPES, shown
from vireo.server.rpc.errors import RpcError, invalid_argument

JSON_LENGTH = "Inference-Header-Content-Length"
"""Header: number of bytes of the JSON, if binary tensors follow it."""
_BINARY_SIZE = "binary_data_size"
_MAX_ITEMS = 64
"""Maximum inputs, outputs, or sizes of a shape, as in the proto, whose rules are checked after a
request is decoded: the product of a million sizes takes a minute, in which no other thread runs."""
_FIELDS = ("id", "parameters", "inputs", "outputs")
"""What of gRPC's message requests by HTTP have, too."""
_MAX_NESTED = 1 << 15
"""Maximum lists and objects: the parser, which lets no other thread run, takes 17 ms for them. No
valid request needs more, even if its data are nested."""
_RAW: Mapping[str, str] = {each.name: each.raw for each in DATATYPES.values()}
"""NumPy dtype of the raw form of each datatype."""
_ARRAYS: Mapping[str, str] = {"FP32": "f", "INT64": "q"}
"""Type code of Python's arrays, which check each value, for each datatype."""

_Json = dict[str, Any]


@dataclass(frozen=True)
class InferRequest:
    """A request to run a model, and the form of its response."""

    message: pb.ModelInferRequest
    """The request as gRPC has it; all values are raw."""
    binary: Mapping[str, bool]
    """Whether each output that the request names should be binary."""
    otherwise_binary: bool
    """Whether the outputs that it doesn't name should."""

    @staticmethod
    def decode(body: bytes, json_length: str | None, name: str, version: str) -> InferRequest:
        """Return the request in a body.

        Args:
            body: JSON, followed by the binary tensors.
            json_length: the header of this name; None if there is no binary tensor.
            name: name of the model.
            version: its version; empty for the only one.

        Raises:
            RpcError: INVALID_ARGUMENT that names what is invalid. What gRPC checks too, such as
                the names of inputs, isn't checked here.
        """
        length = _json_length(json_length, len(body))
        document = _parsed(body, length)
        otherwise = _take_parameters(document).get("binary_data_output") is True
        inputs, outputs = _objects(document, "inputs"), _objects(document, "outputs")
        for place, each in enumerate(inputs):
            _check_items(f"inputs[{place}].shape", each.get("shape"))
            each.pop("contents", None)  # a field of gRPC's message alone
        data = [each.pop("data", None) for each in inputs]
        sizes = [_take_parameters(each).get(_BINARY_SIZE) for each in inputs]
        binary = [_take_parameters(each).get("binary_data", otherwise) is True for each in outputs]
        message = pb.ModelInferRequest()
        try:
            json_format.ParseDict(document, message, ignore_unknown_fields=True)
        except json_format.ParseError as error:
            raise invalid_argument([("", f"{ascii(str(error))[1:-1]:.400}")]) from error
        message.model_name, message.model_version = name, version
        _add_values(message, data, sizes, memoryview(body)[length:])
        by_name = zip((each.name for each in message.outputs), binary, strict=True)
        return InferRequest(message, dict(by_name), otherwise)


def encode(response: pb.ModelInferResponse, request: InferRequest) -> tuple[bytes, int | None]:
    """Return the body of the response to a request, and the length of its JSON.

    The length is None if no output is binary: then the body is the JSON.
    """
    outputs, tail = [], []
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        shape = list(tensor.shape)
        output: _Json = {"name": tensor.name, "datatype": tensor.datatype, "shape": shape}
        if request.binary.get(tensor.name, request.otherwise_binary):
            output["parameters"] = {_BINARY_SIZE: len(raw)}
            tail.append(raw)
        else:
            output["data"] = np.frombuffer(raw, _RAW[tensor.datatype]).tolist()
        outputs.append(output)
    document = {
        "model_name": response.model_name,
        "model_version": response.model_version,
        **({"id": response.id} if response.id else {}),
        "parameters": {name: each.string_param for name, each in response.parameters.items()},
        "outputs": outputs,
    }
    head = pydantic_core.to_json(document)
    return b"".join((head, *tail)), len(head) if tail else None


def as_json(message: Message) -> _Json:
    """Return a description as the protocol's JSON has it: every field, and integers as numbers."""
    document: _Json = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    for part in (document, document.get("config", {})):
        for kind in ("inputs", "outputs", "input", "output"):
            for tensor in part.get(kind, ()):
                for sizes in tensor.keys() & {"shape", "dims"}:
                    tensor[sizes] = list(map(int, tensor[sizes]))
    return document


def _json_length(header: str | None, available: int) -> int:
    if header is None:
        return available
    if not (header.isascii() and header.isdecimal() and len(header) < 10):
        raise invalid_argument([(JSON_LENGTH, "must be a number of bytes")])
    if int(header) > available:
        reason = f"is {int(header)}, and the body has {available} bytes"
        raise invalid_argument([(JSON_LENGTH, reason)])
    return int(header)


def _parsed(body: bytes, length: int) -> _Json:
    """Return the JSON object in the first bytes of a body."""
    if body.count(b"[", 0, length) + body.count(b"{", 0, length) > _MAX_NESTED:
        reason = f"the JSON has more than {_MAX_NESTED:,} lists and objects; send data flat"
        raise invalid_argument([("", reason)])
    try:
        document = pydantic_core.from_json(body[:length])
    except ValueError as error:
        raise invalid_argument([("", f"the body isn't JSON: {error}")]) from error
    if not isinstance(document, dict):
        raise invalid_argument([("", "the body's JSON must be an object")])
    return {name: document[name] for name in _FIELDS if name in document}


def _objects(document: _Json, name: str) -> list[_Json]:
    """Return the objects in a list of the document; raise INVALID_ARGUMENT if it is another."""
    found = document.setdefault(name, [])
    if not (isinstance(found, list) and all(isinstance(each, dict) for each in found)):
        raise invalid_argument([(name, "must be a list of objects")])
    _check_items(name, found)
    return found


def _check_items(name: str, found: Any) -> None:
    """Raise INVALID_ARGUMENT if a list has more items than any request needs."""
    if isinstance(found, list) and len(found) > _MAX_ITEMS:
        raise invalid_argument([(name, f"has {len(found)} items, at most {_MAX_ITEMS} may be")])


def _take_parameters(part: _Json) -> _Json:
    """Return the parameters of a part; their names stay in it.

    Some names are refused, and the others ignored, whatever they say.
    """
    found = part.get("parameters")
    if not isinstance(found, dict):
        return {}
    part["parameters"] = {name: {} for name in found}
    return found


def _add_values(
    message: pb.ModelInferRequest, data: list[Any], sizes: list[Any], tail: memoryview
) -> None:
    """Add the raw values of each input: from its `data`, or the next of its size in `tail`."""
    for place, (tensor, values, size) in enumerate(zip(message.inputs, data, sizes, strict=True)):
        field = f"inputs[{place}]"
        if size is None:
            message.raw_input_contents.append(_raw(tensor, values, field))
            continue
        field += f".parameters.{_BINARY_SIZE}"
        if values is not None:
            raise invalid_argument([(field, "and data: an input may have one of them")])
        if type(size) is not int or not 0 <= size <= len(tail):
            reason = f"must be a number of bytes, at most the {len(tail)} that are left of the body"
            raise invalid_argument([(field, reason)])
        message.raw_input_contents.append(bytes(tail[:size]))
        tail = tail[size:]
    if len(tail):
        raise invalid_argument([("", f"the body has {len(tail)} bytes that belong to no input")])


def _raw(tensor: pb.ModelInferRequest.InferInputTensor, data: Any, field: str) -> bytes:
    """Return the raw form of values in JSON, which are flat or nested as the shape says.

    Raises:
        RpcError: INVALID_ARGUMENT if they have other types, or don't fit the shape.
    """
    code = _ARRAYS.get(tensor.datatype)
    if code is None:
        return b""  # of a type that no model has: refused as such
    shape = list(tensor.shape)

    def misfit(reason: str) -> RpcError:
        what = f"input {shown(tensor.name)} of shape {shape}"
        return invalid_argument([(f"{field}.data", f"{what} {reason}")])

    values = data if isinstance(data, list) else []
    for size in shape[1:]:
        if not values or type(values[0]) is not list:
            break
        if any(type(row) is not list or len(row) != size for row in values):
            raise misfit("must be flat, or nested as its shape")
        values = list(itertools.chain.from_iterable(values))
    if len(values) != math.prod(shape):
        raise misfit(f"must have {math.prod(shape)} values, has {len(values)}")
    try:
        return array(code, values).tobytes()
    except (TypeError, OverflowError) as error:
        raise misfit(f"must have values of {tensor.datatype}: {error}") from error
