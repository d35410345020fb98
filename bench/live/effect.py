"""From a play, a hide, a new video or a removal to the slate: how soon, and whether it stays so."""

from __future__ import annotations

import time

import numpy as np

from bench.live.stack import LiveStack
from bench.load import for_each
from bench.rows import Row
from bench.site import Site, ids, removed_by
from bench.stack import counted, memory_of, until
from vireo.v1 import catalog_pb2, event_pb2

_EVENT_RATE = (1_000.0, 200.0)
"""Events a second beside the plays that are timed; here and below, the second is the short form."""
_VIEWERS = (200, 4)
"""Viewers whose plays are timed."""
_PAGE = 20
_PLAYS = 3
_AT_A_TIME = 2
"""Viewers who are timed side by side: more would measure the queue before the processors."""
_HIDING_AT_A_TIME = 4
_MAX_MEDIAN, _MAX_P99 = 0.5, 1.0

_VIDEOS, _UPSERTS = (20, 1), (100_000, 200)
"""Videos that are added and timed, and that are added for pods' memory."""
_LONG_PAGE = 100
_FAN_PLAYS = 5
_IN_A_ROW = 8
"""Slates that have to agree before a change counts as known to all pods: each is asked for."""
_MAX_SECONDS = 5.0
_MAX_MEGABYTES = {"candidate": 500.0, "ranking": 600.0, "slate": 1000.0}
_BATCH = 500


async def measure_effect(live: LiveStack, store: str) -> list[Row]:
    """Let viewers without history play three videos of their first slate."""
    plan, seconds, came_back = live.plan, list[float](), 0
    rate = plan.of(*_EVENT_RATE)

    async with live.flow(rate), live.site() as site:

        async def watch(number: int) -> None:
            nonlocal came_back
            took, again = await _effect(site, f"newcomer-{store}-{number}")
            seconds.append(took)
            came_back += again

        # A consumer that has just started may still be opening the features.
        await _effect(site, f"first-{store}")
        await for_each(range(plan.of(*_VIEWERS)), watch, _AT_A_TIME)
    median, p99 = np.percentile(seconds, [50, 99]).tolist()
    what = f"{store}: play to effect beside {rate:.0f} events/s"
    return [
        Row(f"{what}, median s", median, bound=plan.judged(_MAX_MEDIAN)),
        Row(f"{what}, p99 s", p99, bound=plan.judged(_MAX_P99)),
        Row(f"{store}: slates with a video that was played", came_back, bound=0),
    ]


async def _effect(site: Site, viewer: str) -> tuple[float, bool]:
    """Return the seconds until plays had their effect, and whether a video came back after it."""
    played = ids(await site.slate(viewer, _PAGE))[:_PLAYS]
    seconds = await removed_by(event_pb2.EVENT_KIND_PLAY, site, viewer, played, _PAGE)
    return seconds, bool({*played} & {*ids(await site.slate(viewer, _PAGE))})


async def measure_hides(live: LiveStack) -> list[Row]:
    """Let viewers hide the first video of their slate, and restart everything in between."""
    hidden: dict[str, str] = {}
    came_back = 0

    async with live.site() as site:

        async def hide(viewer: str) -> None:
            video = hidden[viewer] = ids(await site.slate(viewer, _PAGE))[0]
            await removed_by(event_pb2.EVENT_KIND_HIDE, site, viewer, [video], _PAGE)

        async def look(viewer: str) -> None:
            nonlocal came_back
            shown = ids(await site.slate(viewer, _PAGE))
            came_back += hidden[viewer] in shown

        await for_each(live.viewers, hide, _HIDING_AT_A_TIME)
        live.console.print("hides have their effect; restarting all that serves them")
        for kind in ("consumer", *live.stack.settings.kinds[::-1]):
            await live.stack.kill(live.stack.names(kind))
            await for_each(live.viewers, look, _HIDING_AT_A_TIME)
    return [Row(f"hidden videos that came back, of {len(hidden)}", came_back, bound=0)]


async def measure_catalogue(live: LiveStack) -> list[Row]:
    """Add videos for viewers whom they suit, remove them, and restart and swap in between."""
    plan, upserts = live.plan, live.plan.of(*_UPSERTS)
    added, removed = list[float](), list[float]()
    unscored = 0
    async with live.site() as site:
        for number in range(plan.of(*_VIDEOS)):
            viewer, video = f"fan-{number}", f"new-{number}"
            tags = await _become_fan(site, live, viewer, number)
            new = catalog_pb2.Video(video_id=video, title=video, tags=tags)
            new.published.GetCurrentTime()
            await site.upsert([new])
            added.append(await _known(site, viewer, video, shown=True))
            unscored += not await _scored(site, viewer, video)
            await site.remove([video])
            removed.append(await _known(site, viewer, video, shown=False))
        bound, first = plan.judged(_MAX_SECONDS), "in a matching viewer's first 100"
        rows = [
            Row(f"new video {first} on all pods, max s", max(added), bound=bound),
            Row("new videos without a score", unscored, bound=0),
            Row("removed video gone on all pods, max s", max(removed), bound=bound),
        ]
        gone = {f"fan-{number}": f"new-{number}" for number in range(len(added))}
        listed = ids(await site.slate("fan-0", _LONG_PAGE))[0]
        await site.remove([listed])
        await _known(site, "fan-0", listed, shown=False)
        came_back = 0

        async def look() -> None:
            nonlocal came_back
            for viewer, video in gone.items():
                came_back += bool({video, listed} & set(ids(await site.slate(viewer, _LONG_PAGE))))

        for names in (*map(live.stack.names, live.stack.settings.kinds), ["log"]):
            await live.stack.kill(names)
            await look()
        for release in (*live.stack.releases[::-1], live.stack.releases[1]):
            await live.stack.promote(release)
            await look()
        await live.stack.promote(live.stack.releases[0])
        outlast = "after restarts, swaps and a rollback"
        rows.append(Row(f"removed videos that came back {outlast}", came_back, bound=0))
        live.console.print(f"adding {upserts} videos")
        await _add_many(site, live, upserts)
    return rows + _memory(live, upserts)


async def _become_fan(site: Site, live: LiveStack, viewer: str, turn: int) -> list[str]:
    """Let a viewer play some videos with the tags of one of them, and return these."""
    shown = ids(await site.slate(viewer, _LONG_PAGE))
    model = live.tags[shown[turn % len(shown)]]
    alike = sorted(shown, key=lambda video: -len(model & live.tags.get(video, frozenset())))
    await removed_by(event_pb2.EVENT_KIND_PLAY, site, viewer, alike[:_FAN_PLAYS], _LONG_PAGE)
    return sorted(model)


async def _known(site: Site, viewer: str, video: str, *, shown: bool) -> float:
    """Return the seconds until the first of several slates in a row that have a video, or not."""
    begun = since = time.monotonic()
    in_a_row = 0

    async def agreed() -> bool:
        nonlocal in_a_row, since
        if (video in ids(await site.slate(viewer, _LONG_PAGE))) == shown:
            since = since if in_a_row else time.monotonic()
            in_a_row += 1
        else:
            in_a_row = 0
        return in_a_row >= _IN_A_ROW

    await until(agreed, f"{video}, {'added' if shown else 'removed'},")
    return since - begun


async def _scored(site: Site, viewer: str, video: str) -> bool:
    slate = await site.slate(viewer, _LONG_PAGE)
    return any(each.video_id == video and each.HasField("task_scores") for each in slate.items)


async def _add_many(site: Site, live: LiveStack, count: int) -> None:
    """Add videos, and return once all pods have placed them."""
    tags = [sorted(each) for each in live.tags.values()]
    videos = [
        catalog_pb2.Video(video_id=f"bulk-{number}", title="bulk", tags=tags[number % len(tags)])
        for number in range(count)
    ]
    for start in range(0, len(videos), _BATCH):
        await site.upsert(videos[start : start + _BATCH])

    ports = live.stack.pod_ports(*_MAX_MEGABYTES)

    async def placed() -> bool:
        pods = [await counted([port]) for port in ports]
        return all(
            each["vireo_live_videos"] >= count and not each["vireo_live_waiting_videos"]
            for each in pods
        )

    await until(placed, f"placing {count} videos", pause=0.5)


def _memory(live: LiveStack, upserts: int) -> list[Row]:
    rows = []
    for kind in set(live.stack.settings.kinds) - {"gateway"}:
        pids = [live.stack.process(name).pid for name in live.stack.names(kind)]
        most = max(memory_of(pid, live.stack.home.cache) for pid in pids if pid is not None)
        what = f"memory of a {kind} pod with {upserts} new videos, MB"
        rows.append(Row(what, most, bound=_MAX_MEGABYTES[kind]))
    return rows
