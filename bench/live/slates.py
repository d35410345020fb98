"""Slates that must keep to what requests say, while pods are killed and releases are swapped.

Random filters: no answer has a forbidden video. Page after page: nothing comes twice. Releases
swapped back and forth under load: no answer is lost or mixed.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from bench.live.stack import Catalogue, LiveStack
from bench.load import PAGE, Answer, SteadyLoad, beside, for_each, p99
from bench.rows import Row
from bench.site import Site, event, ids
from tests.builders.filters import random_expression
from vireo.server.errors import VireoError
from vireo.training.evaluation.served import Stack as ServedStack
from vireo.training.evaluation.served import ask_in_full
from vireo.v1 import event_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb

_CALM = (4.0, 1.0)
"""Seconds between two faults; here and below, the second is the short form."""
_CALLERS = 8
"""Requests at a time."""
_POSITIONS = (1_000_000, 3_000)
"""Positions of slates that are compared with their filters."""
_MAX_DEGRADED = (0.5, 0.9)
"""Maximum share of filtered slates that are degraded: fallback alone must not pass. In the short
form all may be asked for during one fault."""
_SIZES = (10, 50, 200, 500)
_MAX_PAGES = 4
_MAX_EXCLUDED = 20
_READERS, _PAGES = (1_000, 4), 50
"""Viewers who ask for page after page, and pages of each."""
_PAGE = 10
_PLAYS_EVERY = 5
"""Pages after which a viewer plays a video, which must not come again either."""

_SWAPS, _SWAP_RATE, _SWAP_DEADLINE = (20, 2), (60.0, 20.0), (2.0, 20.0)
"""Promotions, back and forth; slates a second meanwhile, and their deadline in seconds."""
_QUIET_SECONDS = (33.0, 0.5)
"""Slates before the first one."""
_SWAP_PAUSE = 6.0
"""Seconds between all pods serving one release and the next swap: longer than pods keep the
previous one, so that each swap loads one."""
_SWAP_VIEWERS, _LEARNERS = 200, 8
_SETTLING = 1.0
"""Seconds after a swap that still count as swapping."""

Slates = Mapping[tuple[str, str], tuple[str, ...]]
"""Video ids of a slate, best first, by release and viewer."""


async def _pods_killed(live: LiveStack) -> None:
    """Kill -9 pods until cancelled: one at a time, and now and then all of an inner kind."""
    draw = random.Random(7)  # noqa: S311
    for number in itertools.count():
        await asyncio.sleep(live.plan.of(*_CALM))
        kinds = live.stack.settings.kinds
        kind = kinds[number % len(kinds)]
        names = live.stack.names(kind)
        # Without a gateway nothing answers.
        every = kind in ("candidate", "ranking") and number % 2 == 0
        await live.stack.kill(names if every else [draw.choice(names)])


async def _swapped_and_killed(live: LiveStack) -> None:
    """Promote the stack's releases in turn and kill -9 a pod after each, until cancelled."""
    draw, releases = random.Random(8), live.stack.releases  # noqa: S311
    for number in itertools.count(1):
        await live.stack.promote(releases[number % len(releases)])
        await live.stack.kill([draw.choice(live.stack.names(*live.stack.settings.kinds))])
        await asyncio.sleep(live.plan.of(*_CALM))


async def measure_filters(live: LiveStack) -> list[Row]:
    """Compare every position of many slates with its filter, by the data set's own columns."""
    plan, counts = live.plan, Counter[str]()

    async def ask(number: int) -> None:
        draw = random.Random(number)  # noqa: S311
        while counts["positions"] < plan.of(*_POSITIONS):
            await _ask_filtered(site, live.catalogue, draw, counts)

    async with live.site() as site, beside(_pods_killed(live)):
        await for_each(range(_CALLERS), ask, _CALLERS)
    await live.stack.until_healthy()
    degraded = counts["degraded"] / max(1, counts["slates"])
    declared = sorted(name for name in counts if name.startswith("DEGRADATION"))
    return [
        Row(f"forbidden videos in {counts['positions']} positions", counts["forbidden"], bound=0),
        Row("videos that a later page of a filtered slate repeats", counts["repeated"], bound=0),
        Row("filtered pages with fewer videos than there are", counts["short"], bound=0),
        Row("share of filtered slates that were degraded", degraded, bound=plan.of(*_MAX_DEGRADED)),
        Row("filtered slates", counts["slates"]),
        *(Row(f"filtered slates that declare {name}", counts[name]) for name in declared),
        Row("filtered slates without a video", counts["empty"]),
    ]


async def _ask_filtered(
    site: Site, catalogue: Catalogue, draw: random.Random, counts: Counter[str]
) -> None:
    """Ask for the pages of one slate of a viewer without a history."""
    wanted, expression = random_expression(draw, catalogue.labels, catalogue.numbers)
    every = [*catalogue.videos]
    request = pb.RecommendRequest(
        viewer_id=f"nobody-{draw.randrange(1 << 30)}",
        page_size=draw.choice(_SIZES),
        filter=wanted,
        excluded_video_ids=draw.sample(every, draw.randrange(_MAX_EXCLUDED)),
    )
    left = {each for each, known in catalogue.videos.items() if expression.holds(*known)}
    left.difference_update(request.excluded_video_ids)
    if draw.random() < 0.5:
        request.surface = pb.SURFACE_UP_NEXT
        request.seed_video_id = draw.choice(every)
        left.discard(request.seed_video_id)
    allowed = frozenset(left)
    for _ in range(draw.randrange(1, _MAX_PAGES + 1)):
        slate = await site.recommend(request)
        shown = ids(slate)
        counts["slates"] += 1
        counts["positions"] += len(shown)
        counts["empty"] += not shown
        counts["degraded"] += bool(slate.degradations)
        counts.update(map(viewer_pb2.Degradation.Name, slate.degradations))
        counts["forbidden"] += sum(each not in allowed for each in shown)
        counts["repeated"] += sum(each in allowed and each not in left for each in shown)
        if not slate.degradations:
            counts["short"] += len(shown) < min(len(left), request.page_size)
        left.difference_update(shown)
        request.page_token = slate.next_page_token
        if not request.page_token:
            return


async def measure_pages(live: LiveStack) -> list[Row]:
    """Follow the pages of many viewers."""
    readers, counts = live.plan.of(*_READERS), Counter[str]()

    async def read(number: int) -> None:
        await _read(site, f"reader-{number}", counts)

    async with live.site() as site:
        async with beside(_swapped_and_killed(live)):
            await for_each(range(readers), read, 2 * _CALLERS)
        retried = len(site.refusals)
    await live.stack.until_healthy()
    failed = readers * _PAGES - counts["slates"]
    return [
        Row(f"videos that came twice within {_PAGES} pages", counts["repeated"], bound=0),
        Row("pages that were not full", counts["short"], bound=0),
        Row("pages that failed", failed, bound=0),
        Row("pages that were asked for again, since a gateway died", retried),
        Row("degraded pages", counts["degraded"]),
    ]


async def _read(site: Site, viewer: str, counts: Counter[str]) -> None:
    request = pb.RecommendRequest(viewer_id=viewer, page_size=_PAGE)
    seen = set[str]()
    for number in range(_PAGES):
        slate = await site.recommend(request)
        shown = ids(slate)
        counts["slates"] += 1
        counts["degraded"] += bool(slate.degradations)
        counts["short"] += len(shown) < _PAGE
        counts["repeated"] += len(shown) - len({*shown} - seen)
        seen.update(shown)
        request.page_token = slate.next_page_token
        if number % _PLAYS_EVERY == 0 and shown:
            play = f"{viewer}-{number}"
            await site.record([event(play, viewer, event_pb2.EVENT_KIND_PLAY, shown[0])])


def count(answers: Sequence[Answer], slates: Slates) -> Counter[str]:
    """Compare each answer with the slate of its viewer under the release that it declares.

    Returns:
        How many "failed", declare a degradation ("degraded", and "declared" if it is that releases
        are mixed), or aren't the slate of the release that they declare and don't say so
        ("undeclared").
    """
    counts = Counter[str]()
    for answer in answers:
        if answer.failure:
            counts["failed"] += 1
        elif answer.degradations:
            counts["degraded"] += 1
            counts["declared"] += viewer_pb2.DEGRADATION_MIXED_RELEASES in answer.degradations
        elif slates.get((answer.release_id, answer.viewer_id)) != answer.items:
            counts["undeclared"] += 1
    return counts


async def measure_swaps(live: LiveStack) -> list[Row]:
    """Promote two releases in turn, and judge what callers got meanwhile."""
    plan, stack = live.plan, live.stack
    viewers = [f"swapped-{number}" for number in range(_SWAP_VIEWERS)]  # whom no event changes
    moment = int(time.time())  # the same for all slates, so that a viewer's are the same
    slates: dict[tuple[str, str], tuple[str, ...]] = {}
    for release in stack.releases:
        await stack.promote(release)
        slates |= await _learned(live, viewers, moment, release)
    first, second = stack.releases
    if all(slates[first, viewer] == slates[second, viewer] for viewer in viewers):
        raise VireoError("both releases give the same slates: a mixture could not be detected")
    memory, windows, swaps = [0], [], plan.of(*_SWAPS)
    rate, deadline = plan.of(*_SWAP_RATE), plan.of(*_SWAP_DEADLINE)
    async with SteadyLoad(live.edge, viewers, rate, deadline, moment) as load:
        await asyncio.sleep(plan.of(*_QUIET_SECONDS))
        quiet = p99(load.answers)
        for number in range(1, swaps + 1):
            started = time.monotonic()
            took = await stack.promote(stack.releases[(number + 1) % 2])
            windows.append((started, started + took + _SETTLING))
            live.console.print(f"swap {number} of {swaps}: {took:.2f} s on every pod")
            await asyncio.sleep(_SWAP_PAUSE)
            memory.append(stack.memory())
    await stack.promote(first)
    busy = [each for each in load.answers if any(a <= each.at <= b for a, b in windows)]
    counts = count(load.answers, slates)
    return [
        Row("slates beside swaps", len(load.answers)),
        Row("slates beside swaps that failed", counts["failed"], bound=0),
        Row("slates of mixed releases that don't say so", counts["undeclared"], bound=0),
        Row("slates of mixed releases that say so", counts["declared"], bound=0),
        Row("degraded slates beside swaps", counts["degraded"]),
        Row("slates during a swap over slates before, p99", p99(busy) / quiet),
        Row("memory of pods after the last swap over the second", memory[-1] / memory[2]),
        Row("slowest swap, s", max(end - start for start, end in windows) - _SETTLING),
    ]


async def _learned(live: LiveStack, viewers: Sequence[str], moment: int, release: str) -> Slates:
    """Return every viewer's slate under the release that is served."""
    edge = ServedStack(live.edge, concurrency=_LEARNERS)
    answers = await ask_in_full(edge, viewers, [moment] * len(viewers))
    for answer in answers:
        if answer.failure or answer.degradations or answer.release_id != release:
            raise VireoError(f"the quiet stack did not answer in full: {answer}")
    return {(release, answer.viewer_id): answer.items[:PAGE] for answer in answers}
