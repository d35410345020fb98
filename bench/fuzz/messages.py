"""Bytes of requests: valid ones, and the ways in which they are spoilt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from inference.open_inference_pb2 import ModelInferRequest
from vireo.v1.candidate_pb2 import RetrieveCandidatesRequest
from vireo.v1.ranking_pb2 import RankCandidatesRequest
from vireo.v1.recommendation_pb2 import RecommendRequest
from vireo.v1.viewer_pb2 import ViewerFeatures

Spoil: TypeAlias = Callable[[Random, Message], bytes]

_EXTREME = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), -1, 0, 1, 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), -1, 0, 1, 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 1, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 1, 2**64 - 1),
    FieldDescriptor.CPPTYPE_FLOAT: (float("nan"), float("inf"), -float("inf"), 3e38, -1e-45, 0.0),
    FieldDescriptor.CPPTYPE_DOUBLE: (float("nan"), float("inf"), -float("inf"), 1e308, 5e-324),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), -1, 0, 1, 99, 2**31 - 1),
    FieldDescriptor.CPPTYPE_BOOL: (False, True),
}
_TEXTS = ("", "a", "\0", "..", "a/b c%", "日本", "\ufeff", "x" * 129, "é" * 70_000, "'\"\\;--")
_GIANT = (1_001, 20_000, 300_000)
"""Items; the largest lists are beyond what a server takes as one message."""
_DEEP = (50, 101, 20_000)
_MOST_BYTES = 6 << 20


def valid(random: Random, kind: Descriptor) -> Message:
    """A message that its server can answer, where it is one of ours that takes some making."""
    make = _VALID.get(kind.full_name)
    return make(random) if make else GetMessageClass(kind)()


def spoilt(random: Random, how: str, message: Message) -> bytes:
    """The message's bytes, spoilt in one of the ways of WAYS."""
    return WAYS[how](random, message)[:_MOST_BYTES]


def _viewer(random: Random) -> ViewerFeatures:
    keys = [random.getrandbits(63) for _ in range(random.randrange(20))]
    return ViewerFeatures(
        history_keys=keys,
        history_times=[1_700_000_000 + number for number in range(len(keys))],
        watched_keys=keys,
        attributes=["occupation=artist"],
        watch_count=len(keys),
    )


def _recommend(random: Random) -> Message:
    return RecommendRequest(viewer_id=str(random.randrange(1000)), page_size=10)


def _retrieve(random: Random) -> Message:
    return RetrieveCandidatesRequest(viewer=_viewer(random), count=50, page_size=10)


def _rank(random: Random) -> Message:
    count = random.randrange(1, 40)
    column = [random.random() for _ in range(count)]
    return RankCandidatesRequest(
        viewer=_viewer(random),
        keys=[random.getrandbits(63) for _ in range(count)],
        scores=column,
        co_watch_scores=column,
        ease_scores=column,
        source_masks=[2] * count,
        page_size=10,
    )


def _infer(random: Random) -> Message:
    tensor = ModelInferRequest.InferInputTensor(name="history", datatype="INT64", shape=[1, 4])
    tensor.contents.int64_contents.extend([1, 2, 3, 4])
    name = random.choice(("viewer_tower", "ranker"))
    return ModelInferRequest(model_name=name, inputs=[tensor])


_VALID: Mapping[str, Callable[[Random], Message]] = {
    RecommendRequest.DESCRIPTOR.full_name: _recommend,
    RetrieveCandidatesRequest.DESCRIPTOR.full_name: _retrieve,
    RankCandidatesRequest.DESCRIPTOR.full_name: _rank,
    ModelInferRequest.DESCRIPTOR.full_name: _infer,
}


def _unspoilt(_: Random, message: Message) -> bytes:
    return message.SerializeToString()


def _changed(random: Random, message: Message) -> bytes:
    """Some fields replaced by extreme values, cleared, or repeated."""
    for _ in range(random.randrange(1, 4)):
        _change(random, message)
    return message.SerializeToString()


def _change(random: Random, message: Message) -> None:
    fields: Any = message.DESCRIPTOR.fields  # to its types, of either of two implementations
    if not fields:
        return
    field: FieldDescriptor = random.choice(fields)
    if field.message_type is not None:
        if field.message_type.GetOptions().map_entry or random.random() < 0.1:
            message.ClearField(field.name)
        elif field.is_repeated:
            _change(random, getattr(message, field.name).add())
        else:
            inner: Message = getattr(message, field.name)
            inner.SetInParent()
            _change(random, inner)
    elif field.is_repeated:
        values = getattr(message, field.name)
        values.extend(_value(random, field) for _ in range(random.choice((1, 2, 40))))
    else:
        setattr(message, field.name, _value(random, field))


def _value(random: Random, field: FieldDescriptor) -> Any:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        text = random.choice(_TEXTS)
        return text if field.type == FieldDescriptor.TYPE_STRING else text.encode()
    return random.choice(_EXTREME[field.cpp_type])


def _random_bytes(random: Random, _: Message) -> bytes:
    return random.randbytes(random.choice((0, 1, 7, 100, 5_000)))


def _flipped(random: Random, message: Message) -> bytes:
    data = bytearray(message.SerializeToString() or b"\x0a\x01x")
    for _ in range(random.randrange(1, 8)):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(data)


def _cut(random: Random, message: Message) -> bytes:
    data = message.SerializeToString() or b"\x0a\x05x"
    return data[: random.randrange(len(data))]


def _no_utf8(random: Random, message: Message) -> bytes:
    """A text that is no UTF-8 at the end of one of its fields."""
    return message.SerializeToString() + _tagged(_field(random, message), b"\xff\xfe\xc0")


def _giant_list(random: Random, message: Message) -> bytes:
    """One field many times over, of whatever type it may be."""
    item = _tagged(_field(random, message), b"1")
    return message.SerializeToString() + item * random.choice(_GIANT)


def _giant_text(random: Random, message: Message) -> bytes:
    text = b"x" * random.choice((129, 100_000, 1 << 20, 5 << 20))
    return message.SerializeToString() + _tagged(_field(random, message), text)


def _deep(random: Random, message: Message) -> bytes:
    """Groups or messages within each other."""
    depth, number = random.choice(_DEEP), _field(random, message)
    if random.random() < 0.5:
        return message.SerializeToString() + bytes([number << 3 & 0x7F | 3]) * depth
    nested = b""
    for _ in range(min(depth, 2_000)):
        nested = _tagged(number, nested)
    return message.SerializeToString() + nested


def _field(random: Random, message: Message) -> int:
    """Return the number of one of a message's fields."""
    return random.choice([field.number for field in message.DESCRIPTOR.fields] or [1])


def _tagged(number: int, value: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


WAYS: Mapping[str, Spoil] = {
    "valid": _unspoilt,
    "changed": _changed,
    "random bytes": _random_bytes,
    "flipped bits": _flipped,
    "cut": _cut,
    "no UTF-8": _no_utf8,
    "giant list": _giant_list,
    "giant text": _giant_text,
    "deep": _deep,
}
"""By name."""
