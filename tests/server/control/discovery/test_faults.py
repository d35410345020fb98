"""That no fault of a Kubernetes API removes a pod."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.builders.kubernetes_api import (
    Fault,
    RecordedApi,
    Refusal,
    recorded,
    recorded_lines,
)
from tests.builders.kubernetes_following import (
    LISTED,
    LISTED_LATER,
    RANKING,
    Logs,
    following,
    quick,
    reasons,
)
from tests.builders.waiting import until

pytestmark = pytest.mark.slow


FAULTS: dict[str, tuple[Fault, str]] = {
    "401": (Refusal(401, recorded("unauthorized.json")), "401: Unauthorized"),
    "403": (Refusal(403, recorded("forbidden.json")), "403: endpointslices.discovery.k8s.io is"),
    "404": (Refusal(404, recorded("not_found.txt")), "404: 404 page not found"),
    "500": (Refusal(500, recorded("internal_error.json")), "500: Internal error occurred: etcd"),
    "empty": (Refusal(503, b""), "503: "),
    "deep": (Refusal(502, b"[" * 200_000), "502: [[["),
    "deep list": (Refusal(200, b"[" * 200_000), "ValidationError"),
    "huge refusal": (Refusal(502, b"x" * (1 << 20)), "502: xxx"),
    "no list": (Refusal(200, b'{"kind": "Table"}'), "ValidationError"),
    "hanging": ("hang", "the API has not answered in time"),
    "cut": ("cut", "ServerDisconnectedError"),
}


def impatience(name: str) -> dict[str, float]:
    """Return a short request timeout for an API that hangs, and the default otherwise."""
    return {"request_timeout": 1.5} if name == "hanging" else {}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_failed_list_removes_no_pod_and_is_reported_until_it_works(
    name: str, api: RecordedApi, tmp_path: Path, logs: Logs
) -> None:
    fault, words = FAULTS[name]
    async with following(quick(api, tmp_path, **impatience(name))) as follower:
        await until(lambda: bool(api.open_watches))
        assert follower.published == [LISTED]
        api.list_fault = fault
        api.send(*recorded_lines("expired.jsonl"))  # has it list again
        await until(lambda: follower.failures >= 2)
        assert follower.published == [LISTED]
        [reason] = reasons(logs)  # what goes on is logged once
        assert reason.startswith(f"listing: {words}")
        api.listing, api.list_fault = recorded("list_later.json"), None
        await until(lambda: len(follower.published) == 2)
        assert follower.published == [LISTED, LISTED_LATER]
        await until(lambda: logs[-1]["event"] == "source recovered")


@pytest.mark.parametrize("name", [name for name in FAULTS if "list" not in name])
async def test_a_failed_watch_removes_no_pod_and_is_restarted(
    name: str, api: RecordedApi, tmp_path: Path, logs: Logs
) -> None:
    fault, words = FAULTS[name]
    async with following(quick(api, tmp_path, **impatience(name))) as follower:
        await until(lambda: bool(api.open_watches))
        api.watch_fault = fault
        api.send(recorded_lines("watch.jsonl")[1])
        api.end_watches()
        await until(lambda: follower.failures >= 2)
        assert follower.published == [LISTED]
        [reason] = reasons(logs)  # though lists work in between
        assert reason.startswith(f"watching: {words}")
        api.watch_fault = None
        await until(lambda: bool(api.open_watches))
        api.send(recorded_lines("watch.jsonl")[0])
        await until(lambda: len(follower.published) == 2)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"<html>\n", "Invalid JSON"),
        (b'{"type":"MODIFIED","object":{"metadata"', "Invalid JSON"),
        (b'{"type":"RENAMED","object":{}}\n', "type"),
        (b'{"type":"MODIFIED","object":{"metadata":{"name":"a"}}}\n', "resourceVersion"),
        (b'{"type":"BOOKMARK","object":{}}\n', "metadata"),
        (b'{"type":"ERROR","object":{"code":500,"message":"storage broke"}}\n', "storage broke"),
        (b'{"type":"ERROR","object":{}}\n', "watching: 0"),
        (b'{"type":"ERROR","object":{"code":[1]}}\n', "code"),
        (b'{"type":"ERROR","object":{"code":Infinity}}\n', "code"),
        (b'{"type":"MODIFIED","object":' + b"[" * 5000 + b"\n", "recursion limit"),
        (b"x" * (5 << 20) + b"\n", "an event has more than 4194304 bytes"),
        (bytes(range(256)) + b"\n", "Invalid JSON"),
        (b"null\n", "_Change"),
    ],
)
async def test_an_unparsable_watch_is_reported_and_restarted(
    line: bytes, words: str, api: RecordedApi, tmp_path: Path, logs: Logs
) -> None:
    async with following(quick(api, tmp_path)) as follower:
        await until(lambda: bool(api.open_watches))
        api.listing = recorded("list_later.json")
        api.send(line)
        api.end_watches()
        await until(lambda: len(follower.published) == 2)
    assert follower.published == [LISTED, LISTED_LATER]
    assert follower.failures == 1
    [reason] = reasons(logs)
    assert words in reason


async def test_watches_that_end_as_soon_as_they_begin_are_a_failure(
    api: RecordedApi, tmp_path: Path
) -> None:
    async with following(quick(api, tmp_path)) as follower:
        await until(lambda: bool(api.open_watches))
        api.watch_fault = Refusal(200, b"")
        api.end_watches()
        await until(lambda: follower.failures >= 2)
    assert follower.published == [LISTED]


async def test_a_watch_that_neither_speaks_nor_ends_is_given_up(
    api: RecordedApi, tmp_path: Path
) -> None:
    api.keeps_time = False
    settings = quick(api, tmp_path, watch_seconds=1, request_timeout=0.5)
    async with following(settings) as follower:
        await until(lambda: bool(api.open_watches))
        api.listing = recorded("list_later.json")
        await until(lambda: len(follower.published) == 2)
    assert follower.published == [LISTED, LISTED_LATER]
    assert follower.failures >= 1, "and perhaps the next one, silent too, as well"


async def test_an_api_that_is_gone_is_found_when_it_is_back(tmp_path: Path) -> None:
    api = RecordedApi()
    async with api.running():
        settings = quick(api, tmp_path)
    async with following(settings) as follower:
        await until(lambda: follower.failures >= 2)  # refused from the start
        async with api.running():
            await until(lambda: bool(api.open_watches))
        before = follower.failures
        await until(lambda: follower.failures >= before + 2)
        assert follower.published == [LISTED]
        api.listing = recorded("list_later.json")
        async with api.running():
            await until(lambda: len(follower.published) == 2)
    assert follower.published == [LISTED, LISTED_LATER]


async def test_a_slice_without_the_port_is_reported_once_beside_those_that_have_it(
    api: RecordedApi, tmp_path: Path, logs: Logs
) -> None:
    api.listing = recorded("list.json").replace(b'"name": "grpc"', b'"name": "http"', 1)
    async with following(quick(api, tmp_path)) as follower:
        await until(lambda: bool(api.open_watches))
        api.send(recorded_lines("watch.jsonl")[2])
        await until(lambda: len(follower.published) == 2)
    assert reasons(logs) == ["EndpointSlice vireo-candidate-9q8rt: no port is called 'grpc'"]
    assert follower.failures == 1
    assert follower.published[0][RANKING] == LISTED[RANKING]


async def test_it_stops_at_once_while_the_api_hangs(api: RecordedApi, tmp_path: Path) -> None:
    api.list_fault = "hang"
    async with asyncio.timeout(60):
        async with following(quick(api, tmp_path, request_timeout=300)):
            await until(lambda: bool(api.asked))
