"""What a caller notices of others: of a batch, and of one at its limit."""

from __future__ import annotations

import asyncio
import itertools
import math
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from typing import Any, TypeAlias

import grpc
import grpc.aio
import numpy as np
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2

from bench.live.stack import LiveStack
from bench.load import Answer, SteadyLoad, beside, closed_load
from bench.rows import Figures, Row
from bench.site import event
from vireo.v1 import catalog_pb2, event_pb2, filter_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo_client import AsyncClient

_ROUNDS, _GREEDY_ROUNDS = (11, 1), (3, 1)
"""Rounds of slates beside a batch, and beside each kind of greedy caller; in the short form. Short
ones, so that what else the machine does meets slates with and without something beside alike."""
_SECONDS = (3.0, 0.5)
"""Length of each."""
_BATCH_VIEWERS = (3_000, 100)
"""Viewers of the batch whose gateways are killed."""
_SETTLING = 0.3
"""Seconds after something has begun beside slates that don't count."""
_MAX_RATIO = 1.1
_LOAD_SHARE = 0.6
"""Share of the capacity that callers use beside a batch."""
_CALLERS = 8
"""Callers in a closed loop, who use all of the capacity."""
_TURN = 4
"""Length of a turn of slates beside a batch over that of others: p99 takes more of them."""
_VIEWERS_OF_A_CALL = 2_000

_ADDRESS = (("x-forwarded-for", "10.1.0.2"),)
_GREEDY_ADDRESS = (("x-forwarded-for", "10.1.0.1"),)
_MAX_GREEDY_RATIO, _MAX_LOST = 1.2, 0.01
_WRONG = ("INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND")
"""How calls end that ask for what the stack doesn't have."""
_GREEDY_CALLERS, _DEADLINE = 16, 10.0
_MAX_EVENTS, _MAX_TERMS = 1000, 64

_Beside: TypeAlias = Callable[[], AbstractAsyncContextManager[Any]]


async def _in_turns(
    figures: Figures,
    rounds: int,
    slates: Callable[[], Awaitable[list[Answer]]],
    what: tuple[str, _Beside],
    than: tuple[str, _Beside] = ("nothing", nullcontext),
    *,
    percentile: int = 50,
    bound: float | None,
    max_lost: float | None,
) -> None:
    """Measure slates beside something over slates beside something else, in turns."""
    for _ in range(rounds):
        latencies = []
        for name, begin in (than, what):
            async with begin():
                await asyncio.sleep(_SETTLING)
                answers = await slates()
            good = [each.seconds for each in answers if not each.failure]
            latency = float(np.percentile(good, percentile)) if good else math.inf
            latencies.append(latency)
            figures.add(f"slates beside {name}, p{percentile} ms", latency * 1e3)
            lost = 1 - len(good) / max(1, len(answers))
            figures.add(f"share of slates that failed beside {name}", lost, max_lost)
        over = f"slates beside {what[0]} over slates beside {than[0]}, p{percentile}"
        figures.add(over, latencies[1] / latencies[0], bound)


async def measure_batches(live: LiveStack) -> list[Row]:
    """Measure slates at 60% load beside a batch, and kill gateways in the middle of one."""
    plan, figures = live.plan, Figures(live.console)
    rounds, seconds = plan.of(*_ROUNDS), _TURN * plan.of(*_SECONDS)
    edge, viewers, received = live.edge, live.viewers, Counter[str]()
    many = [viewers[number % len(viewers)] for number in range(_VIEWERS_OF_A_CALL)]

    async def batch() -> None:
        async with AsyncClient(edge) as client:
            while True:
                async for viewer, _ in client.batch(many):
                    received[viewer] += 1

    async def slates() -> list[Answer]:
        at = time.monotonic()
        await asyncio.sleep(seconds)
        return [each for each in load.answers if each.at >= at]

    capacity = await closed_load(edge, viewers, _CALLERS, seconds)
    rate = _LOAD_SHARE * len(capacity) / seconds
    async with SteadyLoad(edge, viewers, rate) as load:  # it never pauses
        what, bound = ("a batch", lambda: beside(batch())), plan.judged(_MAX_RATIO)
        # A machine that has become slower since sheds what it could answer before.
        lost = plan.judged(0.0)
        await _in_turns(figures, rounds, slates, what, percentile=99, bound=bound, max_lost=lost)
    rate = received.total() / (rounds * (seconds + _SETTLING))
    beside_it = Row("slates/s of a batch beside 60% load", rate)
    rows = [*figures.rows(), beside_it, *await _killed_gateways(live)]
    await live.stack.until_healthy()
    return rows


async def _killed_gateways(live: LiveStack) -> list[Row]:
    """Kill -9 each gateway in the middle of a batch; count the viewers who didn't come once."""
    live.console.print("killing gateways in the middle of a batch")
    viewers = [f"mail-{number}" for number in range(live.plan.of(*_BATCH_VIEWERS))]
    gateways = live.stack.names("gateway", "slate")
    due = {len(viewers) * n // (len(gateways) + 1): name for n, name in enumerate(gateways, 1)}
    received: Counter[str] = Counter()
    degraded = 0
    async with AsyncClient(live.edge) as client:
        async for viewer, slate in client.batch(viewers):
            received[viewer] += 1
            degraded += bool(slate.degradations)
            if gateway := due.get(received.total()):
                live.stack.send(gateway, signal.SIGKILL)
    wrong = sum(received[viewer] != 1 for viewer in viewers)
    return [
        Row("viewers of a batch with killed gateways who didn't come exactly once", wrong, bound=0),
        Row("degraded slates in it", degraded, bound=0),
    ]


async def measure_share(live: LiveStack) -> list[Row]:
    """Measure one caller's slates beside another caller at its limit, of each kind of call.

    Filters cost next to nothing on a small catalogue, and are charged accordingly: one of a million
    videos has them charged.
    """
    plan, figures, seconds = live.plan, Figures(live.console), live.plan.of(*_SECONDS)

    async def slates() -> list[Answer]:
        return await closed_load(
            live.edge, live.viewers, 1, seconds, deadline=lambda: 5.0, metadata=_ADDRESS
        )

    # It has processors of its own as far as the machine has some; what it costs itself isn't what
    # it costs others.
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawned, os.nice, (10,)) as elsewhere:
        elsewhere.submit(_repeated, _PLAIN, live.edge, 0.0, {}).result()  # its imports take seconds

        def greedy(kind: str, ended: Counter[str]) -> tuple[str, _Beside]:
            @asynccontextmanager
            async def begin() -> AsyncIterator[None]:
                loop = asyncio.get_running_loop()
                given = (kind, live.edge, seconds + 2 * _SETTLING, live.catalogue.labels)
                calls = loop.run_in_executor(elsewhere, _repeated, *given)
                try:
                    yield
                finally:
                    ended.update(await calls)

            return kind, begin

        for kind in KINDS:
            ended, nothing = Counter[str](), ("nothing", nullcontext)
            await _in_turns(
                figures,
                plan.of(*_GREEDY_ROUNDS),
                slates,
                greedy(kind, ended),
                # Filters are slates themselves: they are compared with as many plain ones.
                greedy(_PLAIN, Counter()) if kind == _FILTERS else nothing,
                # What plain slates at once do to another caller's is shown, and has no bound: slots
                # are shared by caller, but whoever comes finds them taken.
                bound=plan.judged(_MAX_GREEDY_RATIO) if kind != _PLAIN else None,
                max_lost=plan.judged(_MAX_LOST),
            )
            wrong = sum(ended[each] for each in _WRONG)
            figures.add(f"{kind}, calls that aren't what they should be", wrong, 0)
            live.console.print(f"beside slates, {kind} ended with {dict(ended)}")
    return figures.rows()


# The greedy caller, in a process of its own.

_Labels: TypeAlias = Mapping[str, Sequence[str]]
"""Values by attribute."""
_Messages: TypeAlias = Callable[[int, _Labels], Iterable[Message]]
"""Returns the messages of the call of a number."""


def _repeated(kind: str, edge: str, seconds: float, labels: _Labels) -> Counter[str]:
    """Repeat calls of a kind for a while; return how many ended with each status."""
    return asyncio.run(_repeat(kind, edge, seconds, labels))


async def _repeat(kind: str, edge: str, seconds: float, labels: _Labels) -> Counter[str]:
    ended, numbers = Counter[str](), itertools.count(time.time_ns())
    until = asyncio.get_running_loop().time() + seconds

    async def work(channel: grpc.aio.Channel) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                while True:
                    ended[await _call(channel, kind, next(numbers), labels)] += 1

    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(edge, options) as channel:
        await asyncio.gather(*(work(channel) for _ in range(_GREEDY_CALLERS)))
    return ended


async def _call(channel: grpc.aio.Channel, kind: str, number: int, labels: _Labels) -> str:
    """Make one call, read all that comes, and return its status."""
    method, messages = KINDS[kind]
    ask: Any = channel.stream_stream(method)
    sent = (each.SerializeToString() for each in messages(number, labels))
    call = ask(sent, timeout=_DEADLINE, metadata=_GREEDY_ADDRESS)
    with suppress(grpc.aio.AioRpcError):
        async for _ in call:
            pass
    code: grpc.StatusCode = await call.code()
    return code.name


def _valid(number: int) -> event_pb2.RecordEventsRequest:
    events = [
        event(f"{number}-{place}", f"greedy-{place}", event_pb2.EVENT_KIND_PLAY, str(place))
        for place in range(_MAX_EVENTS)
    ]
    return event_pb2.RecordEventsRequest(events=events)


def _filtered(number: int, labels: _Labels) -> pb.RecommendRequest:
    """Return a request with a filter of its own, whose labels many videos have."""
    new = filter_pb2.Condition(attribute="tag", none_of=[str(number)])
    made = filter_pb2.Filter(conditions=[new])
    every = [(name, value) for name, values in labels.items() for value in values]
    some: dict[str, list[str]] = {}
    for name, value in random.Random(number).sample(every, min(_MAX_TERMS - 1, len(every))):  # noqa: S311
        some.setdefault(name, []).append(value)
    for name, values in some.items():
        made.any.add(conditions=[filter_pb2.Condition(attribute=name, any_of=values)])
    return pb.RecommendRequest(viewer_id="greedy", filter=made)


def _upserted(number: int) -> catalog_pb2.UpsertVideosRequest:
    title = f"{number} {'x' * 900}"
    videos = [catalog_pb2.Video(video_id=f"greedy-{place}", title=title) for place in range(1000)]
    return catalog_pb2.UpsertVideosRequest(videos=videos)


def _batch(number: int) -> pb.BatchRecommendRequest:
    viewers = [f"greedy-{number}-{place}" for place in range(10_000)]
    return pb.BatchRecommendRequest(viewer_ids=viewers)


_PLAIN, _FILTERS = "plain slates", "new filters"
_RECOMMEND = "/vireo.v1.RecommendationService/Recommend"
_ASKED = reflection_pb2.ServerReflectionRequest(
    file_containing_symbol="vireo.v1.RecommendationService"
)
KINDS: Mapping[str, tuple[str, _Messages]] = {
    _PLAIN: (_RECOMMEND, lambda *_: [pb.RecommendRequest(viewer_id="greedy")]),
    _FILTERS: (_RECOMMEND, lambda number, labels: [_filtered(number, labels)]),
    "events": ("/vireo.v1.EventService/RecordEvents", lambda number, _: [_valid(number)]),
    "upserts": ("/vireo.v1.CatalogService/UpsertVideos", lambda number, _: [_upserted(number)]),
    "batches": (
        "/vireo.v1.RecommendationService/BatchRecommend",
        lambda number, _: [_batch(number)],
    ),
    "reflection": (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        lambda *_: [_ASKED] * 200,
    ),
}
