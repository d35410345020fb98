"""Requests and responses of the Open Inference Protocol by HTTP.

They are JSON. In the binary form the values of tensors follow it, raw as in gRPC.
"""

from __future__ import annotations

import itertools
import math
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, TypeVar

import numpy as np
import pydantic_core
from google.protobuf.message import Message
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vireo.inference import open_inference_pb2 as pb
from vireo.server.inference.tensors import DATATYPES, shown
from vireo.server.rpc.errors import RpcError, invalid_argument

JSON_LENGTH = "Inference-Header-Content-Length"
"""Header: number of bytes of the JSON, if binary tensors follow it."""
_BINARY_SIZE = "binary_data_size"
_MAX_ITEMS = 64
"""Maximum inputs, outputs, or dimensions of a tensor, as in the proto."""
_MAX_NESTED = 1 << 15
"""Maximum lists and objects: the parser, which lets no other thread run, takes 17 ms for them. No
valid request needs more, even if its data are nested."""
_RAW: Mapping[str, str] = {each.name: each.raw for each in DATATYPES.values()}
"""NumPy dtype of the raw form of each datatype."""
_ARRAYS: Mapping[str, str] = {"FP32": "f", "INT64": "q"}
"""Type code of Python's arrays, which check each value, for each datatype."""

_Field: TypeAlias = Any
"""A FieldDescriptor, of either of protobuf's two implementations."""
_Parameters = dict[str, Any]
_Size = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


_PartT = TypeVar("_PartT", bound=_Part)


class _Input(_Part):
    name: str
    datatype: str
    shape: Annotated[list[_Size], Field(max_length=_MAX_ITEMS)]
    parameters: _Parameters = {}
    data: list[Any] | None = None


class _Output(_Part):
    name: str
    parameters: _Parameters = {}


class _Request(_Part):
    id: str = ""
    parameters: _Parameters = {}
    inputs: Annotated[list[_Input], Field(max_length=_MAX_ITEMS)]
    outputs: Annotated[list[_Output], Field(max_length=_MAX_ITEMS)] = []


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
        if body.count(b"[", 0, length) + body.count(b"{", 0, length) > _MAX_NESTED:
            reason = f"the JSON has more than {_MAX_NESTED:,} lists and objects; send data flat"
            raise invalid_argument([("", reason)])
        request = _parsed(_Request, body[:length])
        message = pb.ModelInferRequest(model_name=name, model_version=version, id=request.id)
        _add_inputs(message, request.inputs, memoryview(body)[length:])
        for output in request.outputs:
            _add_parameters(message.outputs.add(name=output.name), output.parameters)
        otherwise = request.parameters.get("binary_data_output") is True
        binary = {
            each.name: each.parameters.get("binary_data", otherwise) is True
            for each in request.outputs
        }
        return InferRequest(message, binary, otherwise)


def encode(response: pb.ModelInferResponse, request: InferRequest) -> tuple[bytes, int | None]:
    """Return the body of the response to a request, and the length of its JSON.

    The length is None if no output is binary: then the body is the JSON.
    """
    outputs, tail = [], []
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        output: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        if request.binary.get(tensor.name, request.otherwise_binary):
            output["parameters"] = {_BINARY_SIZE: len(raw)}
            tail.append(raw)
        else:
            output["data"] = np.frombuffer(raw, _RAW[tensor.datatype]).tolist()
        outputs.append(output)
    document = as_json(response) | {"outputs": outputs}
    del document["raw_output_contents"]
    if not response.id:
        del document["id"]
    head = pydantic_core.to_json(document)
    return b"".join((head, *tail)), len(head) if tail else None


def as_json(message: Message) -> dict[str, Any]:
    """Return a message as the protocol's JSON has it: integers as numbers, and every field."""
    return {
        field.name: _value(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _value(field: _Field, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        # Parameters, the only map: of each, its one value.
        return {key: next(iter(as_json(each).values()), None) for key, each in value.items()}
    if field.is_repeated:
        return [_item(field, each) for each in value]
    return _item(field, value)


def _item(field: _Field, value: Any) -> Any:
    if field.message_type is not None:
        return as_json(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value


def _json_length(header: str | None, available: int) -> int:
    if header is None:
        return available
    if not (header.isascii() and header.isdecimal() and len(header) < 10):
        raise invalid_argument([(JSON_LENGTH, "must be a number of bytes")])
    if int(header) > available:
        reason = f"is {int(header)}, and the body has {available} bytes"
        raise invalid_argument([(JSON_LENGTH, reason)])
    return int(header)


def _parsed(kind: type[_PartT], body: bytes) -> _PartT:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise invalid_argument(list(_violations(error))) from error


def _violations(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Yield the field and message of each error."""
    for each in error.errors(include_url=False, include_context=False, include_input=False):
        place = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in each["loc"]
        )
        yield place.removeprefix("."), each["msg"]


def _add_inputs(message: pb.ModelInferRequest, inputs: Sequence[_Input], tail: memoryview) -> None:
    """Add the inputs, with the values in `tail` of those that are binary."""
    for place, given in enumerate(inputs):
        tensor = message.inputs.add(name=given.name, datatype=given.datatype, shape=given.shape)
        _add_parameters(tensor, given.parameters)
        field = f"inputs[{place}]"
        size = given.parameters.get(_BINARY_SIZE)
        if size is None:
            message.raw_input_contents.append(_raw(given, field))
            continue
        field += f".parameters.{_BINARY_SIZE}"
        if given.data is not None:
            raise invalid_argument([(field, "and data: an input may have one of them")])
        if type(size) is not int or not 0 <= size <= len(tail):
            reason = f"must be a number of bytes, at most the {len(tail)} that are left of the body"
            raise invalid_argument([(field, reason)])
        message.raw_input_contents.append(bytes(tail[:size]))
        tail = tail[size:]
    if len(tail):
        raise invalid_argument([("", f"the body has {len(tail)} bytes that belong to no input")])


def _add_parameters(
    tensor: pb.ModelInferRequest.InferInputTensor | pb.ModelInferRequest.InferRequestedOutputTensor,
    parameters: _Parameters,
) -> None:
    """Add the names of parameters: some are refused, and the others ignored, whatever they say."""
    for name in parameters:
        tensor.parameters[name].SetInParent()


def _raw(given: _Input, field: str) -> bytes:
    """Return the raw form of values in JSON, which are flat or nested as the shape says.

    Raises:
        RpcError: INVALID_ARGUMENT if they have other types, or don't fit the shape.
    """
    code = _ARRAYS.get(given.datatype)
    if code is None:
        return b""  # of a type that no model has: refused as such
    values = _flat(given, field)
    if len(values) != math.prod(given.shape):
        raise _misfit(f"must have {math.prod(given.shape)} values, has {len(values)}", given, field)
    try:
        native = array(code, values)
    except (TypeError, OverflowError) as error:
        raise _misfit(f"must have values of {given.datatype}: {error}", given, field) from error
    if sys.byteorder == "big":
        native.byteswap()
    return native.tobytes()


def _flat(given: _Input, field: str) -> list[Any]:
    """Return the values in JSON as a flat list; raise INVALID_ARGUMENT if they are ragged."""
    values = given.data or []
    for size in given.shape[1:]:
        if not values or type(values[0]) is not list:
            break
        if any(type(row) is not list or len(row) != size for row in values):
            raise _misfit("must be flat, or nested as its shape", given, field)
        values = list(itertools.chain.from_iterable(values))
    return values


def _misfit(reason: str, given: _Input, field: str) -> RpcError:
    what = f"input {shown(given.name)} of shape {given.shape}"
    return invalid_argument([(f"{field}.data", f"{what} {reason}")])
