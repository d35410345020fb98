"""Videos that come and go: how soon every pod knows, and whether what is gone stays gone."""

from __future__ import annotations

import time

from google.protobuf.timestamp_pb2 import Timestamp

from bench.live.stack import LiveStack
from bench.process import counted, memory_of
from bench.rows import Row
from bench.site import Site, event, ids
from bench.stack import until
from vireo.v1 import catalog_pb2, event_pb2

_PAGE = 100
_PLAYS = 5
_IN_A_ROW = 8
"""Slates that have to agree before a change counts as known to all pods: each is asked for."""
_MAX_SECONDS = 5.0
_MAX_MEGABYTES = {"candidate": 500.0, "ranking": 600.0}
_BATCH = 500


async def measure_catalogue(live: LiveStack) -> list[Row]:
    """Add videos for viewers whom they suit, remove them, and restart and swap in between."""
    plan = live.plan
    added, removed = list[float](), list[float]()
    unscored = 0
    async with live.site() as site:
        for number in range(plan.videos):
            viewer, video = f"fan-{number}", f"new-{number}"
            tags = await _become_fan(site, live, viewer, number)
            published = Timestamp()
            published.GetCurrentTime()
            new = catalog_pb2.Video(video_id=video, title=video, tags=tags, published=published)
            await site.upsert([new])
            added.append(await _known(site, live, viewer, video, shown=True))
            unscored += not await _scored(site, viewer, video)
            await site.remove([video])
            removed.append(await _known(site, live, viewer, video, shown=False))
        bound, first = plan.judged(_MAX_SECONDS), "in a matching viewer's first 100"
        rows = [
            Row(f"new video {first} on all pods, max s", max(added), bound=bound),
            Row("new videos without a score", unscored, bound=0),
            Row("removed video gone on all pods, max s", max(removed), bound=bound),
        ]
        gone = {f"fan-{number}": f"new-{number}" for number in range(plan.videos)}
        listed = ids(await site.slate("fan-0", _PAGE))[0]
        await site.remove([listed])
        await _known(site, live, "fan-0", listed, shown=False)
        came_back = 0

        async def look() -> None:
            nonlocal came_back
            for viewer, video in gone.items():
                came_back += bool({video, listed} & set(ids(await site.slate(viewer, _PAGE))))

        for names in (*map(live.stack.names, ("gateway", *_MAX_MEGABYTES)), ["log"]):
            await live.kill(names)
            await look()
        for release in (*live.stack.releases[::-1], live.stack.releases[1]):
            await live.stack.promote(release, plan.patience)
            await look()
        await live.stack.promote(live.stack.releases[0], plan.patience)
        outlast = "after restarts, swaps and a rollback"
        rows.append(Row(f"removed videos that came back {outlast}", came_back, bound=0))
        live.console.print(f"adding {plan.upserts} videos")
        await _add_many(site, live)
    return rows + _memory(live)


async def _become_fan(site: Site, live: LiveStack, viewer: str, turn: int) -> list[str]:
    """Let a viewer play some videos with the tags of one of them, and return these."""
    shown = ids(await site.slate(viewer, _PAGE))
    model = live.tags[shown[turn % len(shown)]]
    alike = sorted(shown, key=lambda video: -len(model & live.tags.get(video, frozenset())))
    played = alike[:_PLAYS]
    plays = [
        event(f"{viewer}-{video}", viewer, event_pb2.EVENT_KIND_PLAY, video) for video in played
    ]
    await site.record(plays)

    async def applied() -> bool:
        return not set(played) & set(ids(await site.slate(viewer, _PAGE)))

    await until(applied, "the effect of plays", live.plan.patience)
    return sorted(model)


async def _known(site: Site, live: LiveStack, viewer: str, video: str, *, shown: bool) -> float:
    """Return the seconds until the first of several slates in a row that have a video, or not."""
    begun = since = time.monotonic()
    in_a_row = 0

    async def agreed() -> bool:
        nonlocal in_a_row, since
        if (video in ids(await site.slate(viewer, _PAGE))) == shown:
            since = since if in_a_row else time.monotonic()
            in_a_row += 1
        else:
            in_a_row = 0
        return in_a_row >= _IN_A_ROW

    await until(agreed, f"{video}, {'added' if shown else 'removed'},", live.plan.patience)
    return since - begun


async def _scored(site: Site, viewer: str, video: str) -> bool:
    slate = await site.slate(viewer, _PAGE)
    return any(each.video_id == video and each.HasField("task_scores") for each in slate.items)


async def _add_many(site: Site, live: LiveStack) -> None:
    """Add videos, and return once all pods have placed them."""
    tags = [sorted(each) for each in live.tags.values()]
    videos = [
        catalog_pb2.Video(
            video_id=f"bulk-{number}", title=f"bulk {number}", tags=tags[number % len(tags)]
        )
        for number in range(live.plan.upserts)
    ]
    for start in range(0, len(videos), _BATCH):
        await site.upsert(videos[start : start + _BATCH])

    ports = [live.stack.process(name).port for name in live.stack.names(*_MAX_MEGABYTES)]

    async def placed() -> bool:
        pods = [await counted([port]) for port in ports]
        return all(
            each["vireo_live_videos"] >= live.plan.upserts and not each["vireo_live_waiting_videos"]
            for each in pods
        )

    await until(placed, f"placing {live.plan.upserts} videos", live.plan.patience, pause=0.5)


def _memory(live: LiveStack) -> list[Row]:
    rows = []
    for kind, bound in _MAX_MEGABYTES.items():
        pids = [live.stack.process(name).pid for name in live.stack.names(kind)]
        most = max(memory_of(pid, live.stack.home.cache) for pid in pids if pid is not None)
        what = f"memory of a {kind} pod with {live.plan.upserts} new videos, MB"
        rows.append(Row(what, most, bound=bound))
    return rows
