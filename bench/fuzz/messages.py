"""Bytes of requests: valid ones, and the ways to spoil them."""

from __future__ import annotations

import struct
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from vireo.server.signals import SCORES

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
"""Items; the largest lists exceed a server's limit of a message."""
_DEEP = (50, 101, 20_000)
_MAX_BYTES = 6 << 20
_UNKNOWN_NUMBER = 15_000
_UNKNOWN_BYTES = (100, 100_000, 1_000_000, 4_000_000)
"""Sizes of unknown fields: up to the maximum message at the edge, and at a pod."""

# Text of valid messages; names in braces stand for what `_parts` draws.
_RECOMMEND = (
    'viewer_id: "<id>" page_size: 10 <filter> session { video_id: "<id>" } '
    'session { video_id: "7" } context { device: "<device>" time_zone: "<zone>" region: "CH" }'
)
_EVENT = (
    'events { event_id: "<key>" viewer_id: "<id>" kind: EVENT_KIND_PLAY video_id: "<id>" '
    "watched_fraction: <share> } "
)
_VIEWER = (
    "viewer { history_keys: <keys> history_times: <times> watched_keys: <keys> "
    'attributes: "occupation=artist" watch_count: <count> }'
)
_VALID = {
    "vireo.v1.RecommendRequest": _RECOMMEND,
    "vireo.v1.SimilarVideosRequest": 'video_id: "<id>" <filter>',
    "vireo.v1.BatchRecommendRequest": 'viewer_ids: <ids> <filter> resume_token: "<resume>"',
    "vireo.v1.ExplainVideoRequest": f'request {{ {_RECOMMEND} }} video_id: "<id>"',
    "vireo.v1.RetrieveCandidatesRequest": f"{_VIEWER} count: 50 page_size: 10 <filter> "
    "session_keys: [<key>] session_weights: [<share>]",
    "vireo.v1.RankCandidatesRequest": f"{_VIEWER} keys: <keys> <scores> source_masks: <masks> "
    "page_size: 10",
    "vireo.v1.RecordEventsRequest": 3 * _EVENT,
    "vireo.v1.StreamEventsRequest": 3 * _EVENT,
    "vireo.v1.UpsertVideosRequest": 'videos { video_id: "fuzz-<id>" title: "a title" tags: "a" }',
    "vireo.v1.RemoveVideosRequest": 'video_ids: "fuzz-<id>"',
    "inference.ModelInferRequest": 'model_name: "<model>" inputs { name: "history" '
    'datatype: "INT64" shape: [1, 4] contents { int64_contents: [1, 2, 3, 4] } }',
    "inference.ModelConfigRequest": 'name: "<model>"',
}


def valid(random: Random, kind: Descriptor) -> Message:
    """Return a message that its server can answer; an empty one of types that aren't ours."""
    text = _VALID.get(kind.full_name, "")
    for name, value in _parts(random).items():
        text = text.replace(f"<{name}>", value)
    message: Message = text_format.Parse(text, GetMessageClass(kind)())
    if kind.full_name == "vireo.v1.RecommendRequest" and random.random() < 0.3:
        message.page_token = _forged_token(random)  # type: ignore[attr-defined]
    return message


def _parts(random: Random) -> dict[str, str]:
    """Return what stands for the names in texts of valid messages."""
    count = random.randrange(1, 40)
    keys = [random.getrandbits(63) for _ in range(count)]
    share = random.random()
    return {
        "id": str(random.randrange(1000)),
        "ids": str([str(random.randrange(1000)) for _ in range(random.choice((1, 3, 20)))]),
        "key": str(keys[0]),
        "keys": str(keys),
        "times": str([1_700_000_000 + number for number in range(count)]),
        "masks": str([2] * count),
        "count": str(count),
        "share": str(share),
        "scores": " ".join(
            f'scores {{ name: "{score.name}" values: {[share] * count} }}' for score in SCORES
        ),
        "filter": _filter(random),
        "resume": random.choice(("", random.randbytes(24).hex())),
        "device": random.choice(("tv", "", "toaster")),
        "zone": random.choice(("Europe/Zurich", "-03:30", "", "Nowhere", "../etc")),
        "model": random.choice(("viewer_tower", "ranker", "")),
    }


def _filter(random: Random) -> str:
    if random.random() < 0.5:
        return ""
    # Also times that no calendar has.
    bound = random.choice((-1e300, -1e11, 0.0, 1e9, 1e12, 1e300))
    return (
        f'filter {{ conditions {{ attribute: "tag" none_of: "{random.choice("abc")}" }} '
        f'conditions {{ attribute: "published" max: {bound} }} '
        f'any {{ conditions {{ attribute: "duration" max: {random.random() * 9000} }} }} }}'
    )


def _forged_token(random: Random) -> str:
    """Return a page token that no gateway issued, in one of several shapes."""
    keys = random.randbytes(8 * random.choice((0, 1, 10, 2_500, 6_000)))
    # Version, time and digest.
    head = struct.pack(">BI16s", 2, random.getrandbits(32), random.randbytes(16))
    token = urlsafe_b64encode(head + keys).decode().rstrip("=")
    return random.choice((token, token[: random.randrange(len(token))], "~" * 65_536, "é", "="))


def spoilt(random: Random, way: str, message: Message) -> bytes:
    """Return the message's bytes, spoilt in one of WAYS."""
    if way == "changed":
        for _ in range(random.randrange(1, 4)):
            _change(random, message)
        return message.SerializeToString()[:_MAX_BYTES]
    if way == "unknown field":
        return _with_unknown(random, message)
    number = random.choice([field.number for field in message.DESCRIPTOR.fields] or [1])
    return _OF_BYTES[way](random, message.SerializeToString(), number)[:_MAX_BYTES]


def _change(random: Random, message: Message) -> None:
    """Make a field extreme, clear it or repeat it."""
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


def _with_unknown(random: Random, message: Message) -> bytes:
    """Return the bytes with an unknown field, in the message or in one of a list."""
    fields: Any = message.ListFields()
    inner = [
        each
        for field, values in fields
        if field.message_type is not None and field.is_repeated
        for each in values
    ]
    text = b"?" * random.choice(_UNKNOWN_BYTES)
    random.choice([message, *inner]).MergeFromString(_tagged(_UNKNOWN_NUMBER, text))
    return message.SerializeToString()


def _flipped(random: Random, data: bytes, _: int) -> bytes:
    spoilt = bytearray(data or b"\x0a\x01x")
    for _ in range(random.randrange(1, 8)):
        spoilt[random.randrange(len(spoilt))] ^= 1 << random.randrange(8)
    return bytes(spoilt)


def _cut(random: Random, data: bytes, _: int) -> bytes:
    data = data or b"\x0a\x05x"
    return data[: random.randrange(len(data))]


def _giant_text(random: Random, data: bytes, number: int) -> bytes:
    return data + _tagged(number, b"x" * random.choice((129, 100_000, 1 << 20, 5 << 20)))


def _deep(random: Random, data: bytes, number: int) -> bytes:
    """Append groups or messages within each other."""
    depth = random.choice(_DEEP)
    if random.random() < 0.5:
        return data + bytes([number << 3 & 0x7F | 3]) * depth
    nested = b""
    for _ in range(min(depth, 2_000)):
        nested = _tagged(number, nested)
    return data + nested


def _tagged(number: int, value: bytes) -> bytes:
    """Return a length-delimited field."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    high, low = number >> 7, number & 0x7F
    return bytes([low | 0x80]) + _varint(high) if high else bytes([low])


_OF_BYTES: Mapping[str, Callable[[Random, bytes, int], bytes]] = {
    "valid": lambda _, data, __: data,
    "random bytes": lambda random, _, __: random.randbytes(random.choice((0, 1, 7, 100, 5_000))),
    "flipped bits": _flipped,
    "cut": _cut,
    "no UTF-8": lambda _, data, number: data + _tagged(number, b"\xff\xfe\xc0"),
    "giant list": lambda random, data, number: data + _tagged(number, b"1") * random.choice(_GIANT),
    "giant text": _giant_text,
    "deep": _deep,
}
"""Ways to spoil a message's bytes, given the number of one of its fields."""
WAYS = ("changed", "unknown field", *_OF_BYTES)
"""Names of all ways."""
