"""Bytes of requests: valid ones, and the ways to spoil them."""

from __future__ import annotations

import struct
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from vireo.inference.open_inference_pb2 import (
    ModelConfigRequest,
    ModelInferRequest,
)

from vireo.server.signals import SCORES
from vireo.v1.candidate_pb2 import RetrieveCandidatesRequest
from vireo.v1.catalog_pb2 import RemoveVideosRequest, UpsertVideosRequest, Video
from vireo.v1.event_pb2 import (
    EVENT_KIND_PLAY,
    Event,
    RecordEventsRequest,
    StreamEventsRequest,
)
from vireo.v1.filter_pb2 import Condition, Filter
from vireo.v1.ranking_pb2 import RankCandidatesRequest
from vireo.v1.recommendation_pb2 import (
    BatchRecommendRequest,
    ExplainVideoRequest,
    RecommendRequest,
    RequestContext,
    SessionVideo,
    SimilarVideosRequest,
)
from vireo.v1.viewer_pb2 import ScoreColumn, ViewerFeatures

_Make: TypeAlias = Callable[[Random], Message]

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
UNKNOWN = b"of a field that nobody knows "
"""What unknown fields hold, over and over."""
_UNKNOWN_NUMBER = 15_000
_UNKNOWN_BYTES = (100, 100_000, 1_000_000, 4_000_000)
"""Sizes of unknown fields: up to the maximum message at the edge, and at a pod."""


def valid(random: Random, kind: Descriptor) -> Message:
    """Return a message that its server can answer; an empty one of types that aren't ours."""
    make = _VALID.get(kind.full_name)
    return make(random) if make else GetMessageClass(kind)()


def spoilt(random: Random, way: str, message: Message) -> bytes:
    """Return the message's bytes, spoilt in one of WAYS."""
    if way == "changed":
        return _changed(random, message)[:_MAX_BYTES]
    if way == "unknown field":
        return _with_unknown(random, message)
    number = random.choice([field.number for field in message.DESCRIPTOR.fields] or [1])
    return _OF_BYTES[way](random, message.SerializeToString(), number)[:_MAX_BYTES]


def _viewer(random: Random) -> ViewerFeatures:
    keys = [random.getrandbits(63) for _ in range(random.randrange(20))]
    return ViewerFeatures(
        history_keys=keys,
        history_times=[1_700_000_000 + number for number in range(len(keys))],
        watched_keys=keys,
        attributes=["occupation=artist"],
        watch_count=len(keys),
    )


def _filter(random: Random) -> Filter | None:
    if random.random() < 0.5:
        return None
    conditions = [Condition(attribute="tag", none_of=[random.choice("abc")])]
    if random.random() < 0.2:
        # Also times that no calendar has.
        bound = random.choice((-1e300, -1e11, 0, 1e9, 1e12, 1e300))
        conditions.append(Condition(attribute="published", max=bound))
    return Filter(
        conditions=conditions,
        any=[Filter(conditions=[Condition(attribute="duration", max=random.random() * 9000)])],
    )


def _recommend(random: Random) -> RecommendRequest:
    return RecommendRequest(
        viewer_id=str(random.randrange(1000)),
        page_size=10,
        filter=_filter(random),
        session=[SessionVideo(video_id=str(random.randrange(1000))) for _ in range(2)],
        context=RequestContext(
            device=random.choice(("tv", "", "toaster")),
            time_zone=random.choice(("Europe/Zurich", "-03:30", "", "Nowhere", "../etc")),
            region=random.choice(("CH", "", "é")),
        ),
    )


def _recommend_page(random: Random) -> Message:
    request = _recommend(random)
    if random.random() < 0.3:
        request.page_token = _forged_token(random)
    return request


def _forged_token(random: Random) -> str:
    """Return a page token that no gateway issued, in one of several shapes."""
    keys = random.randbytes(8 * random.choice((0, 1, 10, 2_500, 6_000)))
    # Version, id of the key, time and digest; and a signature.
    head = struct.pack(">B16sI16s", 1, b"home", random.getrandbits(32), random.randbytes(16))
    token = urlsafe_b64encode(head + keys + random.randbytes(16)).decode().rstrip("=")
    return random.choice((token, token[: random.randrange(len(token))], "~" * 65_536, "é", "="))


def _similar(random: Random) -> Message:
    return SimilarVideosRequest(video_id=str(random.randrange(1000)), filter=_filter(random))


def _batch(random: Random) -> Message:
    viewers = [str(random.randrange(1000)) for _ in range(random.choice((1, 3, 20)))]
    token = random.choice(("", random.randbytes(24).hex()))
    return BatchRecommendRequest(viewer_ids=viewers, filter=_filter(random), resume_token=token)


def _explain(random: Random) -> Message:
    return ExplainVideoRequest(request=_recommend(random), video_id=str(random.randrange(1000)))


def _retrieve(random: Random) -> Message:
    return RetrieveCandidatesRequest(
        viewer=_viewer(random),
        count=50,
        page_size=10,
        filter=_filter(random),
        session_keys=[random.getrandbits(63)],
        session_weights=[random.random()],
    )


def _rank(random: Random) -> Message:
    count = random.randrange(1, 40)
    column = [random.random() for _ in range(count)]
    return RankCandidatesRequest(
        viewer=_viewer(random),
        keys=[random.getrandbits(63) for _ in range(count)],
        scores=[ScoreColumn(name=score.name, values=column) for score in SCORES],
        source_masks=[2] * count,
        page_size=10,
    )


def _infer(random: Random) -> Message:
    tensor = ModelInferRequest.InferInputTensor(name="history", datatype="INT64", shape=[1, 4])
    tensor.contents.int64_contents.extend([1, 2, 3, 4])
    name = random.choice(("viewer_tower", "ranker"))
    return ModelInferRequest(model_name=name, inputs=[tensor])


def _config(random: Random) -> Message:
    return ModelConfigRequest(name=random.choice(("viewer_tower", "ranker", "")))


def _events(random: Random) -> list[Event]:
    return [
        Event(
            event_id=str(random.getrandbits(63)),
            viewer_id=str(random.randrange(1000)),
            kind=EVENT_KIND_PLAY,
            video_id=str(random.randrange(1000)),
            watched_fraction=random.random(),
        )
        for _ in range(random.randrange(1, 20))
    ]


def _record(random: Random) -> Message:
    return RecordEventsRequest(events=_events(random))


def _stream(random: Random) -> Message:
    return StreamEventsRequest(events=_events(random))


def _upsert(random: Random) -> Message:
    video = Video(video_id=f"fuzz-{random.randrange(1000)}", title="a title", tags=["a", "b"])
    return UpsertVideosRequest(videos=[video])


def _remove(random: Random) -> Message:
    return RemoveVideosRequest(video_ids=[f"fuzz-{random.randrange(1000)}"])


_VALID: Mapping[str, _Make] = {
    RecommendRequest.DESCRIPTOR.full_name: _recommend_page,
    SimilarVideosRequest.DESCRIPTOR.full_name: _similar,
    BatchRecommendRequest.DESCRIPTOR.full_name: _batch,
    ExplainVideoRequest.DESCRIPTOR.full_name: _explain,
    RetrieveCandidatesRequest.DESCRIPTOR.full_name: _retrieve,
    RankCandidatesRequest.DESCRIPTOR.full_name: _rank,
    ModelInferRequest.DESCRIPTOR.full_name: _infer,
    ModelConfigRequest.DESCRIPTOR.full_name: _config,
    RecordEventsRequest.DESCRIPTOR.full_name: _record,
    StreamEventsRequest.DESCRIPTOR.full_name: _stream,
    UpsertVideosRequest.DESCRIPTOR.full_name: _upsert,
    RemoveVideosRequest.DESCRIPTOR.full_name: _remove,
}


def _changed(random: Random, message: Message) -> bytes:
    """Return the bytes with some fields extreme, cleared or repeated."""
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


def _with_unknown(random: Random, message: Message) -> bytes:
    """Return the bytes with an unknown field, in the message or in one of a list."""
    fields: Any = message.ListFields()
    inner = [
        each
        for field, values in fields
        if field.message_type is not None and field.is_repeated
        for each in values
    ]
    text = UNKNOWN * (random.choice(_UNKNOWN_BYTES) // len(UNKNOWN))
    random.choice([message, *inner]).MergeFromString(_tagged(_UNKNOWN_NUMBER, text))
    return message.SerializeToString()


def _value(random: Random, field: FieldDescriptor) -> Any:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        text = random.choice(_TEXTS)
        return text if field.type == FieldDescriptor.TYPE_STRING else text.encode()
    return random.choice(_EXTREME[field.cpp_type])


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
