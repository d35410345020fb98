"""One caller at his limit, in a process of its own: it repeats one kind of call at once.

    python -m bench.requests.greedy KIND EDGE SECONDS

It says that it is ready, reads a line of JSON with labels of the data set, (attribute, value)
pairs, works for so many seconds from then on, and prints how many calls ended with each status.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, TypeAlias

import grpc
import grpc.aio
from grpc_reflection.v1alpha import reflection_pb2

from vireo.v1 import catalog_pb2, event_pb2, filter_pb2
from vireo.v1 import recommendation_pb2 as pb

ADDRESS = "10.1.0.1"
_CALLERS = 16
_MAX_EVENTS = 1000
_MAX_TERMS = 64
_REPEATED = 32
_DEADLINE = 10.0
_METADATA = (("x-forwarded-for", ADDRESS),)
_SERVICE = "/vireo.v1."
_REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

_labels = list[tuple[str, str]]()
"""Labels that videos have."""

Call: TypeAlias = Callable[[grpc.aio.Channel, int], Awaitable[str]]
"""Makes the call of a number; returns its status."""


def _unary(method: str, body: Callable[[int], Any]) -> Call:
    async def call(channel: grpc.aio.Channel, number: int) -> str:
        ask: Any = channel.unary_unary(_SERVICE + method)
        sent = ask(body(number).SerializeToString(), timeout=_DEADLINE, metadata=_METADATA)
        code: grpc.StatusCode = await sent.code()
        return code.name

    return call


def _streams(method: str, messages: Callable[[int], AsyncIterator[bytes]]) -> Call:
    async def call(channel: grpc.aio.Channel, number: int) -> str:
        ask: Any = channel.stream_stream(method)
        sent = ask(messages(number), timeout=_DEADLINE, metadata=_METADATA)
        with suppress(grpc.aio.AioRpcError):
            async for _ in sent:
                pass
        code: grpc.StatusCode = await sent.code()
        return code.name

    return call


def _valid(number: int) -> event_pb2.RecordEventsRequest:
    return event_pb2.RecordEventsRequest(
        events=[
            event_pb2.Event(
                event_id=f"{os.getpid()}-{number}-{place}",
                viewer_id=f"greedy-{place}",
                video_id=str(place),
                kind=event_pb2.EVENT_KIND_PLAY,
            )
            for place in range(_MAX_EVENTS)
        ]
    )


def _invalid(_: int) -> event_pb2.RecordEventsRequest:
    return event_pb2.RecordEventsRequest(events=[event_pb2.Event()] * _MAX_EVENTS)


def _plain(_: int) -> pb.RecommendRequest:
    return pb.RecommendRequest(viewer_id="greedy")


def _filtered(number: int) -> pb.RecommendRequest:
    """Return a request with a filter of its own, whose labels many videos have."""
    draw = random.Random(number)  # noqa: S311
    new = filter_pb2.Condition(attribute="tag", none_of=[f"{os.getpid()} {number}"])
    made = filter_pb2.Filter(conditions=[new])
    values: dict[str, list[str]] = {}
    for name, value in draw.sample(_labels, min(_MAX_TERMS - 1, len(_labels))):
        values.setdefault(name, []).append(value)
    for name, some in values.items():
        made.any.add(conditions=[filter_pb2.Condition(attribute=name, any_of=some)])
    return pb.RecommendRequest(viewer_id="greedy", filter=made)


def _filtered_again(number: int) -> pb.RecommendRequest:
    return _filtered(number % _REPEATED)


def _upserted(number: int) -> catalog_pb2.UpsertVideosRequest:
    return catalog_pb2.UpsertVideosRequest(
        videos=[
            catalog_pb2.Video(video_id=f"greedy-{place}", title=f"{number} {'x' * 900}")
            for place in range(1000)
        ]
    )


def _batch(number: int) -> pb.BatchRecommendRequest:
    viewers = [f"greedy-{number}-{place}" for place in range(10_000)]
    return pb.BatchRecommendRequest(viewer_ids=viewers)


async def _reflection(_number: int) -> AsyncIterator[bytes]:
    name = "vireo.v1.RecommendationService"
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
    for _ in range(200):
        yield asked.SerializeToString()


async def _events(number: int) -> AsyncIterator[bytes]:
    for message in range(20):
        yield _valid(1000 * number + message).SerializeToString()


async def _whole_batch(number: int) -> AsyncIterator[bytes]:
    yield _batch(number).SerializeToString()


async def _json(channel: grpc.aio.Channel, number: int) -> str:
    del channel, number
    return await asyncio.to_thread(_posted)


@cache
def _large_json() -> bytes:
    tensor = {"name": "keys", "datatype": "INT64", "shape": [1, 340_000]}
    request = {"inputs": [{**tensor, "data": [10] * 340_000}]}
    return json.dumps(request, separators=(",", ":")).encode()


def _posted() -> str:
    host, _, port = sys.argv[2].partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=_DEADLINE)
    try:
        headers = {"x-forwarded-for": ADDRESS, "content-type": "application/json"}
        connection.request("POST", "/v2/models/ranker/infer", _large_json(), headers)
        return str(connection.getresponse().status)
    except OSError as error:
        return type(error).__name__
    finally:
        connection.close()


PLAIN = "plain slates"
KINDS: Mapping[str, Call] = {
    PLAIN: _unary("RecommendationService/Recommend", _plain),
    "valid events": _unary("EventService/RecordEvents", _valid),
    "invalid events": _unary("EventService/RecordEvents", _invalid),
    "new filters": _unary("RecommendationService/Recommend", _filtered),
    "repeated filters": _unary("RecommendationService/Recommend", _filtered_again),
    "reflection": _streams(_REFLECTION, _reflection),
    "upserts": _unary("CatalogService/UpsertVideos", _upserted),
    "large JSON": _json,
    "event streams": _streams(_SERVICE + "EventService/StreamEvents", _events),
    "batches": _streams(_SERVICE + "RecommendationService/BatchRecommend", _whole_batch),
}


async def main(kind: str, edge: str, seconds: str) -> None:
    """Make calls of a kind."""
    ended: Counter[str] = Counter()
    numbers = itertools.count()
    options = [("grpc.use_local_subchannel_pool", 1)]

    async def work(channel: grpc.aio.Channel, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    ended[await KINDS[kind](channel, next(numbers))] += 1

    print("ready", flush=True)  # noqa: T201 - for who started it
    _labels.extend(json.loads(await asyncio.to_thread(sys.stdin.readline)))
    async with grpc.aio.insecure_channel(edge, options) as channel:
        until = time.monotonic() + float(seconds)
        await asyncio.gather(*(work(channel, until) for _ in range(_CALLERS)))
    print(json.dumps(ended), flush=True)  # noqa: T201


if __name__ == "__main__":
    os.nice(10)  # what it costs itself isn't what it costs others
    asyncio.run(main(*sys.argv[1:]))
