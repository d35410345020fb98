"""That no fault of a Kubernetes API removes a pod, and each is reported until it is over."""

from __future__ import annotations

import asyncio
import time
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
    Following,
    Logs,
    following,
    reasons,
)
from tests.builders.waiting import until
from vireo.server.control import kubernetes
from vireo.server.control.settings import KubernetesSettings

pytestmark = pytest.mark.slow


FAULTS: dict[str, tuple[Fault, str]] = {
    "throttled": (Refusal(429, b'{"message": "try again later"}'), "429: try again later"),
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


def fail(api: RecordedApi, doing: str, fault: Fault) -> None:
    """Have the API fail when it is asked for a list or a watch, as it is at once."""
    if doing == "listing":
        api.list_fault = fault
        api.send(*recorded_lines("expired.jsonl"))
    else:
        api.watch_fault = fault
        api.send(recorded_lines("watch.jsonl")[1])  # or its end would be a failure, too
        api.end_watches()


@pytest.mark.parametrize(
    ("doing", "name"),
    [
        *(("listing", name) for name in FAULTS),
        *(("watching", name) for name in FAULTS if "list" not in name),
    ],
)
async def test_a_failed_request_removes_no_pod_and_is_reported_until_it_works(
    doing: str,
    name: str,
    api: RecordedApi,
    follower: Following,
    logs: Logs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == "hanging":
        monkeypatch.setattr(kubernetes, "_REQUEST_SECONDS", 1.5)
    fault, words = FAULTS[name]
    fail(api, doing, fault)
    await until(lambda: follower.failures >= 2)
    assert follower.published == [LISTED]
    [reason] = reasons(logs)  # what goes on is logged once, though lists work in between
    assert reason.startswith(f"{doing}: {words}")
    api.listing, api.list_fault, api.watch_fault = recorded("list_later.json"), None, None
    if doing == "listing":
        await until(lambda: len(follower.published) == 2)
        assert follower.published == [LISTED, LISTED_LATER]
        await until(lambda: logs[-1]["event"] == "source recovered")
    else:
        await until(lambda: bool(api.open_watches))


@pytest.mark.parametrize("doing", ["listing", "watching"])
async def test_a_throttled_request_waits_as_long_as_the_api_asks(
    doing: str, api: RecordedApi, follower: Following
) -> None:
    fail(api, doing, Refusal(429, b'{"message": "try again later"}', {"Retry-After": "1"}))
    await until(lambda: follower.failures >= 1)
    refused = time.monotonic()
    await until(lambda: follower.failures >= 2)
    assert time.monotonic() - refused > 0.9, "at once it would stay throttled"
    api.list_fault = api.watch_fault = None
    await until(lambda: bool(api.open_watches))


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        *((text, 0) for text in ("", "soon", "-1", "Wed, 21 Oct 2026 07:28:00 GMT", "1e9", "٣")),
        (" 7 ", 7),
        ("86400", 60),
    ],
)
def test_an_api_may_ask_for_seconds_up_to_a_minute(asked: str, seconds: float) -> None:
    assert kubernetes._seconds(asked) == seconds


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
    line: bytes, words: str, api: RecordedApi, follower: Following, logs: Logs
) -> None:
    api.listing = recorded("list_later.json")
    api.send(line)
    api.end_watches()
    await until(lambda: len(follower.published) == 2)
    assert follower.published == [LISTED, LISTED_LATER]
    assert follower.failures == 1
    [reason] = reasons(logs)
    assert words in reason


async def test_watches_that_end_as_soon_as_they_begin_are_a_failure(
    api: RecordedApi, follower: Following
) -> None:
    api.watch_fault = Refusal(200, b"")
    api.end_watches()
    await until(lambda: follower.failures >= 2)
    assert follower.published == [LISTED]


async def test_a_watch_that_neither_speaks_nor_ends_is_given_up(
    api: RecordedApi, settings: KubernetesSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.keeps_time = False
    monkeypatch.setattr(kubernetes, "_WATCH_SECONDS", 1)
    monkeypatch.setattr(kubernetes, "_REQUEST_SECONDS", 0.5)
    async with following(settings) as follower:
        await until(lambda: bool(api.open_watches))
        api.listing = recorded("list_later.json")
        await until(lambda: len(follower.published) == 2)
    assert follower.published == [LISTED, LISTED_LATER]
    assert follower.failures >= 1, "and perhaps the next one, silent too, as well"


async def test_an_api_that_is_gone_is_found_when_it_is_back(tmp_path: Path) -> None:
    api = RecordedApi()
    async with api.running():
        settings = KubernetesSettings(config=api.kubeconfig(tmp_path))
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


async def test_it_stops_at_once_while_the_api_hangs(
    api: RecordedApi, settings: KubernetesSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "_REQUEST_SECONDS", 300)
    api.list_fault = "hang"
    async with asyncio.timeout(60):
        async with following(settings):
            await until(lambda: bool(api.asked))


@pytest.mark.parametrize(
    "text",
    [None, "{", "kind: Config", "2001-99-99", "[]", "current-context: a\nclusters: 5", "[" * 1200],
)
async def test_a_kubeconfig_that_is_missing_or_wrong_is_reported_and_read_again(
    text: str | None, api: RecordedApi, settings: KubernetesSettings, logs: Logs
) -> None:
    assert settings.config is not None
    good = settings.config.read_text()
    settings.config.unlink()
    if text is not None:
        settings.config.write_text(text)
    async with following(settings) as follower:
        await until(lambda: follower.failures >= 2)
        assert reasons(logs)[0].startswith("reading the configuration: ")
        settings.config.write_text(good)
        await until(lambda: follower.published == [LISTED])
