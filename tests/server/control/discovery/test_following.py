"""Pods as a Kubernetes API tells of them, and their changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.builders.kubernetes_api import (
    RecordedApi,
    Refusal,
    endpoint_slice,
    modified,
    recorded,
    recorded_lines,
)
from tests.builders.kubernetes_following import (
    CANARY,
    CANDIDATE,
    GATEWAY,
    LISTED,
    LISTED_LATER,
    RANKING,
    following,
    pods,
    quick,
)
from tests.builders.waiting import until
from vireo.server.control.mesh import Endpoint

pytestmark = pytest.mark.slow


async def test_slices_are_listed_and_each_change_is_followed(
    api: RecordedApi, tmp_path: Path
) -> None:
    async with following(quick(api, tmp_path)) as follower:
        await until(lambda: bool(api.open_watches))
        assert follower.published == [LISTED]
        for line in recorded_lines("watch.jsonl"):
            before = len(follower.published)
            api.send(line)
            if b"BOOKMARK" not in line:
                await until(lambda before=before: len(follower.published) > before)  # type: ignore[misc]
    changes = [
        (CANDIDATE, pods(8120, "1.21", "2.22", "3.23")),  # ready at last; then a bookmark
        (GATEWAY, pods(8140, "1.11")),  # one terminates, a new one isn't ready
        (GATEWAY, pods(8140, "1.11", "3.13")),
        (CANARY, pods(8120, "2.42")),
        (CANDIDATE, pods(8120, "1.21", "2.22")),  # a slice is deleted
    ]
    expected = dict(LISTED)
    for (pool, members), published in zip(changes, follower.published[1:], strict=True):
        expected[pool] = members
        assert published == expected
    assert follower.failures == 0
    [listed], [watched] = api.lists, api.watches
    assert listed.namespace == watched.namespace == "vireo"
    assert listed.token == "token"
    services = "gateway,vireo-ranking,vireo-ranking-canary,vireo-ranking-shadow"
    names = f"vireo-candidate,vireo-candidate-canary,vireo-candidate-shadow,vireo-{services}"
    selector = {"labelSelector": f"kubernetes.io/service-name in ({names})"}
    assert listed.query == selector
    assert watched.query == {
        **selector,
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": "48211",
        "timeoutSeconds": "30",
    }


async def test_changes_that_arrive_together_are_published_once(
    api: RecordedApi, tmp_path: Path
) -> None:
    hosts = [f"10.9.0.{number}" for number in range(4)]
    events = [
        modified(endpoint_slice("vireo-ranking", 52000 + each, 8130, {hosts[each]: {}}))
        for each in range(4)
    ]
    async with following(quick(api, tmp_path)) as follower:
        await until(lambda: bool(api.open_watches))
        api.send(b"".join(events))
        await until(lambda: len(follower.published) == 2)
    assert Endpoint(hosts[-1], 8130) in follower.published[1][RANKING]
    assert Endpoint(hosts[0], 8130) not in follower.published[1][RANKING]


async def test_a_watch_resumes_from_the_last_event_or_bookmark(
    api: RecordedApi, tmp_path: Path
) -> None:
    _, bookmark, event, *_ = recorded_lines("watch.jsonl")
    async with following(quick(api, tmp_path)) as follower:
        for number, line in enumerate((bookmark, event), start=1):
            await until(lambda: bool(api.open_watches))
            api.send(line)
            api.end_watches()
            await until(lambda number=number: len(api.watches) > number)  # type: ignore[misc]
    assert [each.query["resourceVersion"] for each in api.watches] == ["48211", "48300", "48311"]
    assert len(api.lists) == 1
    assert follower.failures == 0


async def test_a_silent_watch_is_restarted_after_its_timeout(
    api: RecordedApi, tmp_path: Path
) -> None:
    async with following(quick(api, tmp_path, watch_seconds=1)) as follower:
        await until(lambda: len(api.watches) == 2)
    assert api.watches[0].query["timeoutSeconds"] == "1"
    assert len(api.lists) == 1
    assert follower.failures == 0


async def test_a_slice_of_a_thousand_pods_is_followed(api: RecordedApi, tmp_path: Path) -> None:
    addresses = {f"10.9.{each // 250}.{each % 250}": {"ready": True} for each in range(1000)}
    fresh = endpoint_slice("vireo-ranking", 52000, 8130, addresses)
    fresh["metadata"]["annotations"] = {"room": "x" * 200_000}
    async with following(quick(api, tmp_path)) as follower:
        await until(lambda: bool(api.open_watches))
        api.send(json.dumps({"type": "ADDED", "object": fresh}).encode() + b"\n")
        await until(lambda: len(follower.published) == 2)
    assert len(follower.published[1][RANKING]) == 1002
    assert follower.failures == 0


@pytest.mark.parametrize("how", ["as an event", "as a status"])
async def test_a_version_that_has_expired_is_cured_by_a_new_list(
    how: str, api: RecordedApi, tmp_path: Path
) -> None:
    async with following(quick(api, tmp_path)) as follower:
        await until(lambda: bool(api.open_watches))
        api.listing = recorded("list_later.json")
        if how == "as an event":
            api.send(*recorded_lines("expired.jsonl"))
        else:
            api.watch_fault = Refusal(410, recorded("expired.json"))
            api.send(recorded_lines("watch.jsonl")[1])
            api.end_watches()
            await until(lambda: len(api.lists) > 1)
            api.watch_fault = None
        await until(lambda: len(follower.published) == 2)
        await until(lambda: api.watches[-1].query["resourceVersion"] == "52007")
    assert follower.published == [LISTED, LISTED_LATER]
    assert follower.failures == 0, "that is no failure"


async def test_the_time_since_the_last_success_grows_until_the_next(
    api: RecordedApi, tmp_path: Path
) -> None:
    async with following(quick(api, tmp_path)) as follower:
        attempts = follower.discovery.attempts
        await until(lambda: attempts.age > 0.3)
        before = attempts.age
        api.send(recorded_lines("watch.jsonl")[1])
        await until(lambda: attempts.age < before)
