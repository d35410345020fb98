"""One caller at its limit beside another one, who asks for one slate after the other.

    python -m bench.requests.share KIND EDGE SECONDS

is the former, in a process of its own, which repeats one kind of call at once. It says that it is
ready, reads a line of JSON with labels of the data set by attribute, works for so many seconds from
then on, and prints how many calls ended with each status.
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
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any, TypeAlias

import grpc
import grpc.aio
import numpy as np
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2

from bench.live.stack import LiveStack
from bench.load import closed_load
from bench.requests.plan import RequestsPlan
from bench.rows import Figures, Row
from vireo.server.errors import VireoError
from vireo.v1 import catalog_pb2, event_pb2, filter_pb2
from vireo.v1 import recommendation_pb2 as pb

SETTINGS = {"VIREO_TRUSTED_HOPS": "1", "VIREO_OIP_HTTP": "true"}
"""Settings of the measured stack: its edge knows callers by the address that they state."""
_ADDRESS = (("x-forwarded-for", "10.1.0.2"),)
_GREEDY_ADDRESS = (("x-forwarded-for", "10.1.0.1"),)
_MAX_RATIO, _MAX_LOST = 1.2, 0.01
_OF_SLATES = frozenset({"new filters", "repeated filters"})
"""Kinds that are slates themselves: their baseline is a caller of as many plain ones. What plain
slates at once do to another caller's is shown, and has no bound: slots are shared by caller, but
whoever comes finds them taken."""
_ENDS = {"invalid events": "INVALID_ARGUMENT", "large JSON": "400"}
"""How calls end that aren't refused, unless they end with OK."""
_WRONG = frozenset({"INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND", "400", "404"})
"""How they end if they ask for what the stack doesn't have."""
_SETTLING = 0.3
"""Seconds after the start of an attack that don't count."""
_CALLERS, _DEADLINE = 16, 10.0
_MAX_EVENTS, _MAX_TERMS = 1000, 64
_REPEATED = 32
_SERVICE = "/vireo.v1."
_REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

Labels: TypeAlias = Mapping[str, Sequence[str]]
"""Values by attribute."""


async def measure_share(live: LiveStack, labels: Labels, plan: RequestsPlan) -> list[Row]:
    """Measure the median of slates beside each kind of greedy caller over that without, in turns.

    Filters cost next to nothing on a small catalogue, and are charged accordingly: one of a million
    videos has them charged.

    Raises:
        VireoError: slates failed without anybody beside.
    """
    figures, seconds = Figures(live.console), plan.share_seconds
    turn = partial(_turn, live.edge, live.viewers, labels, seconds)
    await turn(None)
    for kind in KINDS:
        ended: Counter[str] = Counter()
        baseline = _PLAIN if kind in _OF_SLATES else None
        than = f"beside {baseline}" if baseline else "without"
        for _ in range(plan.share_rounds):
            before, failed, _ = await turn(baseline)
            if failed:
                raise VireoError("slates failed without this caller beside")
            beside, failed, some = await turn(kind)
            ended += some
            bound = _MAX_RATIO if plan.timed and kind != _PLAIN else None
            ratio = float(np.median(beside) / np.median(before)) if beside else float("inf")
            figures.add(f"slates beside {kind} over slates {than}, p50", ratio, bound)
            lost = failed / max(1, failed + len(beside))
            lost_bound = _MAX_LOST if plan.timed else None
            figures.add(f"share of slates that failed beside {kind}", lost, lost_bound)
            figures.add(f"{kind}, calls/s beside slates", some.total() / seconds)
        if plan.timed:
            alone = await _greedy(live.edge, kind, labels, seconds)
            figures.add(f"{kind}, calls/s alone", alone.total() / seconds)
        wrong = sum(ended[each] for each in _WRONG - {_ENDS.get(kind, "OK")})
        figures.add(f"{kind}, calls that aren't what they should be", wrong, 0)
        live.console.print(f"beside slates, {kind} ended with {dict(ended)}")
    return figures.rows()


async def _turn(
    edge: str, viewers: Sequence[str], labels: Labels, seconds: float, kind: str | None
) -> tuple[list[float], int, Counter[str]]:
    """Return what `_slates` does, beside a greedy caller if a kind is named, and how that ended."""
    if kind is None:
        return *await _slates(edge, viewers, seconds), Counter()
    (latencies, failed), ended = await asyncio.gather(
        _slates(edge, viewers, seconds, begun := asyncio.Event()),
        _greedy(edge, kind, labels, seconds + _SETTLING, begun),
    )
    return latencies, failed, ended


async def _slates(
    edge: str, viewers: Sequence[str], seconds: float, begun: asyncio.Event | None = None
) -> tuple[list[float], int]:
    """Return the latencies in seconds of one caller's slates, and how many failed."""
    if begun is not None:
        await begun.wait()
        await asyncio.sleep(_SETTLING)
    answers = await closed_load(edge, viewers, 1, seconds, deadline=lambda: 5.0, metadata=_ADDRESS)
    good = [each.seconds for each in answers if not each.failure]
    return good, len(answers) - len(good)


async def _greedy(
    edge: str, kind: str, labels: Labels, seconds: float, begun: asyncio.Event | None = None
) -> Counter[str]:
    """Run a greedy caller; return how many of its calls ended with each status."""
    command = (sys.executable, "-m", "bench.requests.share", kind, edge, str(seconds))
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        await process.stdout.readline()
        process.stdin.write(json.dumps(labels).encode() + b"\n")
        await process.stdin.drain()
        if begun is not None:
            begun.set()
        line = await process.stdout.readline()
        await process.wait()
    finally:
        if begun is not None:
            begun.set()  # or the other one would wait for good
        if process.returncode is None:
            process.kill()
            await process.wait()
    if not line:
        raise VireoError(f"the caller of {kind} failed")
    return Counter(json.loads(line))


# The greedy caller.

_labels: dict[str, Sequence[str]] = {}
"""Labels that videos have."""

Call: TypeAlias = Callable[[grpc.aio.Channel, int], Awaitable[str]]
"""Makes the call of a number; returns its status."""


def _call(method: str, messages: Callable[[int], Iterable[Message]]) -> Call:
    """Return calls of a method that each send some messages, and read all that comes."""

    async def call(channel: grpc.aio.Channel, number: int) -> str:
        ask: Any = channel.stream_stream(method)
        sent = ask(
            (each.SerializeToString() for each in messages(number)),
            timeout=_DEADLINE,
            metadata=_GREEDY_ADDRESS,
        )
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


def _filtered(number: int) -> pb.RecommendRequest:
    """Return a request with a filter of its own, whose labels many videos have."""
    draw = random.Random(number)  # noqa: S311
    new = filter_pb2.Condition(attribute="tag", none_of=[f"{os.getpid()} {number}"])
    made = filter_pb2.Filter(conditions=[new])
    every = [(name, value) for name, values in _labels.items() for value in values]
    some: dict[str, list[str]] = {}
    for name, value in draw.sample(every, min(_MAX_TERMS - 1, len(every))):
        some.setdefault(name, []).append(value)
    for name, values in some.items():
        made.any.add(conditions=[filter_pb2.Condition(attribute=name, any_of=values)])
    return pb.RecommendRequest(viewer_id="greedy", filter=made)


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


async def _json(_: grpc.aio.Channel, __: int) -> str:
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
        headers = {**dict(_GREEDY_ADDRESS), "content-type": "application/json"}
        connection.request("POST", "/v2/models/ranker/infer", _large_json(), headers)
        return str(connection.getresponse().status)
    except OSError as error:
        return type(error).__name__
    finally:
        connection.close()


_PLAIN = "plain slates"
_RECOMMEND = f"{_SERVICE}RecommendationService/Recommend"
_RECORD = f"{_SERVICE}EventService/RecordEvents"
_ASKED = reflection_pb2.ServerReflectionRequest(
    file_containing_symbol="vireo.v1.RecommendationService"
)
_BAD = event_pb2.RecordEventsRequest(events=[event_pb2.Event()] * _MAX_EVENTS)
KINDS: Mapping[str, Call] = {
    _PLAIN: _call(_RECOMMEND, lambda _: [pb.RecommendRequest(viewer_id="greedy")]),
    "valid events": _call(_RECORD, lambda number: [_valid(number)]),
    "invalid events": _call(_RECORD, lambda _: [_BAD]),
    "new filters": _call(_RECOMMEND, lambda number: [_filtered(number)]),
    "repeated filters": _call(_RECOMMEND, lambda number: [_filtered(number % _REPEATED)]),
    "reflection": _call(_REFLECTION, lambda _: [_ASKED] * 200),
    "upserts": _call(f"{_SERVICE}CatalogService/UpsertVideos", lambda number: [_upserted(number)]),
    "large JSON": _json,
    "event streams": _call(
        f"{_SERVICE}EventService/StreamEvents",
        lambda number: (_valid(1000 * number + message) for message in range(20)),
    ),
    "batches": _call(
        f"{_SERVICE}RecommendationService/BatchRecommend", lambda number: [_batch(number)]
    ),
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
    _labels.update(json.loads(await asyncio.to_thread(sys.stdin.readline)))
    async with grpc.aio.insecure_channel(edge, options) as channel:
        until = time.monotonic() + float(seconds)
        await asyncio.gather(*(work(channel, until) for _ in range(_CALLERS)))
        print(json.dumps(ended), flush=True)  # noqa: T201
        os._exit(0)  # gRPC may take long to end what was broken off


if __name__ == "__main__":
    os.nice(10)  # what it costs itself isn't what it costs others
    asyncio.run(main(*sys.argv[1:]))
