"""Pods from a Kubernetes API, whatever it does."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import structlog
from kubernetes.aio.config import incluster_config

from server.control.control import discovery_of
from server.control.discovery.kubernetes import KubernetesDiscovery
from server.control.discovery.kubernetes_settings import KubernetesSettings
from server.control.mesh import Endpoint, Endpoints, Pool
from server.control.settings import ControlSettings
from tests.builders.kubernetes_api import (
    Fault,
    RecordedApi,
    Refusal,
    endpoint_slice,
    recorded,
    recorded_api,
    recorded_lines,
)
from tests.builders.s3 import unreachable_s3
from tests.builders.waiting import until

pytestmark = pytest.mark.slow

CANDIDATE, GATEWAY, RANKING = Pool("candidate"), Pool("gateway"), Pool("ranking")
CANARY = Pool("candidate", "canary")


def pods(port: int, *hosts: str) -> frozenset[Endpoint]:
    return frozenset(Endpoint(f"10.244.{host}", port) for host in hosts)


LISTED: Endpoints = {
    **dict.fromkeys(KubernetesSettings().pools.values(), frozenset[Endpoint]()),
    CANDIDATE: pods(8120, "1.21", "3.23"),
    GATEWAY: pods(8140, "1.11", "2.12"),
    RANKING: pods(8130, "1.31", "2.32"),
}
"""What list.json comes to."""
LISTED_LATER: Endpoints = {
    **LISTED,
    CANDIDATE: pods(8120, "2.22"),
    GATEWAY: pods(8140, "1.11", "3.13"),
    RANKING: pods(8130, "1.31"),
}
"""What list_later.json comes to."""


Logs: TypeAlias = list[MutableMapping[str, Any]]


@pytest.fixture
def logs() -> Iterator[Logs]:
    """What is logged."""
    with structlog.testing.capture_logs() as entries:
        yield entries


def reasons(logs: Logs) -> list[str]:
    """The reason of each failure that was logged."""
    return [str(entry["reason"]) for entry in logs if entry["log_level"] == "error"]


@dataclass
class Following:
    """A source that is followed in the background."""

    discovery: KubernetesDiscovery
    published: list[Endpoints] = field(default_factory=list)

    @property
    def failures(self) -> int:
        return self.discovery.attempts.failures

    async def run(self) -> None:
        async for endpoints in self.discovery.watch():
            self.published.append(endpoints)


@asynccontextmanager
async def following(settings: KubernetesSettings) -> AsyncIterator[Following]:
    follower = Following(KubernetesDiscovery(settings))
    running = asyncio.create_task(follower.run())
    try:
        yield follower
        assert not running.done(), "it goes on for as long as it is asked"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def quick(api: RecordedApi, folder: Path, **changes: Any) -> KubernetesSettings:
    used = {"config": api.kubeconfig(folder), "max_backoff": 0.05, **changes}
    return KubernetesSettings(**used)


@pytest.fixture
async def api() -> AsyncIterator[RecordedApi]:
    async with recorded_api() as running:
        yield running


async def test_slices_are_listed_and_each_change_is_followed(
    api: RecordedApi, tmp_path: Path
) -> None:
    async with following(quick(api, tmp_path)) as follower:
        await until(lambda: bool(api.open_watches))
        assert follower.published == [LISTED]
        api.send(*recorded_lines("watch.jsonl"))
        await until(lambda: len(follower.published) == 6)
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
        (b"x" * (5 << 20) + b"\n", "LineTooLong"),
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


async def test_the_time_since_the_last_success_grows_until_the_next(
    api: RecordedApi, tmp_path: Path
) -> None:
    async with following(quick(api, tmp_path)) as follower:
        attempts = follower.discovery.attempts
        await until(lambda: attempts.age > 0.3)
        before = attempts.age
        api.send(recorded_lines("watch.jsonl")[1])
        await until(lambda: attempts.age < before)


def certificate(folder: Path) -> Path:
    """A certificate for loopback that signs itself, with its key in the same folder."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    names = ["-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", f"{folder}/tls.key", "-out", f"{folder}/ca.crt"]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    return folder / "ca.crt"


async def test_in_a_pod_the_service_account_is_used_and_its_token_reread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path, tmp_path / "tls.key")
    token = tmp_path / "token"
    token.write_text("first")
    (tmp_path / "namespace").write_text("recommender")
    api = RecordedApi(tokens=frozenset({"first"}))
    async with api.running(context):
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(path))
        async with following(KubernetesSettings(max_backoff=0.05)) as follower:
            await until(lambda: bool(api.open_watches))
            assert follower.published == [LISTED]
            assert {each.namespace for each in api.asked} == {"recommender"}
            api.tokens = frozenset({"second"})
            api.send(*recorded_lines("expired.jsonl"))
            await until(lambda: follower.failures >= 1)
            token.write_text("second")
            await until(lambda: api.asked[-1].watches and api.asked[-1].token == "second")


@pytest.mark.parametrize(
    "text",
    [None, "{", "kind: Config", "2001-99-99", "[]", "current-context: a\nclusters: 5", "[" * 1200],
)
async def test_a_kubeconfig_that_is_missing_or_wrong_is_reported_and_read_again(
    text: str | None, api: RecordedApi, tmp_path: Path, logs: Logs
) -> None:
    settings = quick(api, tmp_path)
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


async def test_services_may_have_other_names_in_another_namespace(
    api: RecordedApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_DISCOVERY", "kubernetes")
    monkeypatch.setenv("VIREO_KUBERNETES_CONFIG", str(api.kubeconfig(tmp_path)))
    monkeypatch.setenv("VIREO_KUBERNETES_NAMESPACE", "elsewhere")
    monkeypatch.setenv(
        "VIREO_KUBERNETES_SERVICES", '{"ranking-canary": "vireo-candidate","candidate": "other"}'
    )
    settings = ControlSettings(s3=unreachable_s3())
    discovery = discovery_of(settings)
    assert isinstance(discovery, KubernetesDiscovery)
    async with following(settings.kubernetes) as follower:
        await until(lambda: bool(follower.published))
    assert follower.published[0][Pool("ranking", "canary")] == LISTED[CANDIDATE]
    assert follower.published[0][CANDIDATE] == frozenset()
    assert api.lists[0].namespace == "elsewhere"
