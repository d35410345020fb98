"""Pods as a Kubernetes API knows them, their changes, and that no fault of it removes one."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from envoy.config.core.v3.health_check_pb2 import DRAINING, UNKNOWN
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from kubernetes.aio.config import incluster_config

from tests.builders.control import SetChannels, control_of
from tests.builders.edge import CandidatePod, serve_candidate
from tests.builders.kubernetes_api import (
    Fault,
    RecordedApi,
    Refusal,
    endpoint_slice,
    listing,
    modified,
    recorded,
    recorded_api,
    recorded_lines,
)
from tests.builders.kubernetes_following import (
    CANARY,
    CANDIDATE,
    GATEWAY,
    LISTED,
    LISTED_LATER,
    RANKING,
    Logs,
    following,
    pods,
    reasons,
)
from tests.builders.s3 import unreachable_s3
from tests.builders.waiting import until
from tests.builders.xds import XdsClient, xds_client
from vireo.ops.stack.ports import free_port_base
from vireo.server.control import kubernetes
from vireo.server.control.control import discovery_of
from vireo.server.control.kubernetes import KubernetesDiscovery
from vireo.server.control.mesh import Endpoint, Pool
from vireo.server.control.settings import ControlSettings, KubernetesSettings
from vireo.server.control.snapshot import ENDPOINTS
from vireo.server.errors import VireoError

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(api: RecordedApi, tmp_path: Path) -> KubernetesSettings:
    """Settings that lead to the API."""
    return KubernetesSettings(config=api.kubeconfig(tmp_path))


async def test_slices_are_listed_and_each_change_is_followed(
    api: RecordedApi, settings: KubernetesSettings
) -> None:
    async with following(settings) as follower:
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
    api: RecordedApi, settings: KubernetesSettings
) -> None:
    hosts = [f"10.9.0.{number}" for number in range(4)]
    events = [
        modified(endpoint_slice("vireo-ranking", 52000 + each, 8130, {hosts[each]: {}}))
        for each in range(4)
    ]
    async with following(settings) as follower:
        await until(lambda: bool(api.open_watches))
        api.send(b"".join(events))
        await until(lambda: len(follower.published) == 2)
    assert Endpoint(hosts[-1], 8130) in follower.published[1][RANKING]
    assert Endpoint(hosts[0], 8130) not in follower.published[1][RANKING]


async def test_a_watch_resumes_from_the_last_event_or_bookmark(
    api: RecordedApi, settings: KubernetesSettings
) -> None:
    _, bookmark, event, *_ = recorded_lines("watch.jsonl")
    async with following(settings) as follower:
        for number, line in enumerate((bookmark, event), start=1):
            await until(lambda: bool(api.open_watches))
            api.send(line)
            api.end_watches()
            await until(lambda number=number: len(api.watches) > number)  # type: ignore[misc]
    assert [each.query["resourceVersion"] for each in api.watches] == ["48211", "48300", "48311"]
    assert len(api.lists) == 1
    assert follower.failures == 0


async def test_a_silent_watch_is_restarted_after_its_timeout(
    api: RecordedApi, settings: KubernetesSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "_WATCH_SECONDS", 1)
    async with following(settings) as follower:
        await until(lambda: len(api.watches) == 2)
    assert api.watches[0].query["timeoutSeconds"] == "1"
    assert len(api.lists) == 1
    assert follower.failures == 0


async def test_a_slice_of_a_thousand_pods_is_followed(
    api: RecordedApi, settings: KubernetesSettings
) -> None:
    addresses = {f"10.9.{each // 250}.{each % 250}": {"ready": True} for each in range(1000)}
    fresh = endpoint_slice("vireo-ranking", 52000, 8130, addresses)
    fresh["metadata"]["annotations"] = {"room": "x" * 200_000}
    async with following(settings) as follower:
        await until(lambda: bool(api.open_watches))
        api.send(json.dumps({"type": "ADDED", "object": fresh}).encode() + b"\n")
        await until(lambda: len(follower.published) == 2)
    assert len(follower.published[1][RANKING]) == 1002
    assert follower.failures == 0


async def test_ten_thousand_pods_are_found_in_a_burst_and_deleted(
    api: RecordedApi, settings: KubernetesSettings
) -> None:
    slices = []
    for number in range(100):
        hosts = {f"10.{number}.0.{each}": {"ready": True} for each in range(100)}
        slices.append(endpoint_slice("vireo-ranking", 52000 + number, 8130, hosts))
        slices[-1]["metadata"]["name"] = f"slice-{number}"

    def events(kind: str) -> bytes:
        lines = (json.dumps({"type": kind, "object": each}) for each in slices)
        return "".join(f"{line}\n" for line in lines).encode()

    async with following(settings) as follower:
        await until(lambda: bool(api.open_watches))
        api.send(events("ADDED"))
        await until(lambda: len(follower.published[-1][RANKING]) == 10_000 + 2)
        api.send(events("DELETED"))
        await until(lambda: follower.published[-1] == LISTED)
    assert follower.failures == 0


async def test_slices_of_other_services_are_left_out_whatever_the_api_sends(
    api: RecordedApi, settings: KubernetesSettings
) -> None:
    async with following(settings) as follower:
        await until(lambda: bool(api.open_watches))
        api.send(modified(endpoint_slice("another", 52000, 1, {"10.9.0.1": {}})))
        api.send(modified(endpoint_slice("vireo-ranking", 52001, 8130, {"10.9.0.2": {}})))
        await until(lambda: len(follower.published) == 2)
    added = {Endpoint("10.9.0.2", 8130)}
    assert follower.published[1] == {**LISTED, RANKING: LISTED[RANKING] | added}


@pytest.mark.parametrize("how", ["as an event", "as a status"])
async def test_a_version_that_has_expired_is_cured_by_a_new_list(
    how: str, api: RecordedApi, settings: KubernetesSettings
) -> None:
    async with following(settings) as follower:
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
    api: RecordedApi, settings: KubernetesSettings
) -> None:
    async with following(settings) as follower:
        attempts = follower.discovery.attempts
        await until(lambda: attempts.age > 0.3)
        before = attempts.age
        api.send(recorded_lines("watch.jsonl")[1])
        await until(lambda: attempts.age < before)


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


@pytest.fixture
def impatient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short request timeout for an API that hangs."""
    if name == "hanging":
        monkeypatch.setattr(kubernetes, "_REQUEST_SECONDS", 1.5)


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.usefixtures("impatient")
async def test_a_failed_list_removes_no_pod_and_is_reported_until_it_works(
    name: str, api: RecordedApi, settings: KubernetesSettings, logs: Logs
) -> None:
    fault, words = FAULTS[name]
    async with following(settings) as follower:
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
@pytest.mark.usefixtures("impatient")
async def test_a_failed_watch_removes_no_pod_and_is_restarted(
    name: str, api: RecordedApi, settings: KubernetesSettings, logs: Logs
) -> None:
    fault, words = FAULTS[name]
    async with following(settings) as follower:
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


@pytest.mark.parametrize("doing", ["listing", "watching"])
async def test_a_throttled_request_waits_as_long_as_the_api_asks_and_removes_no_pod(
    doing: str, api: RecordedApi, settings: KubernetesSettings, logs: Logs
) -> None:
    throttled = Refusal(429, b'{"message": "try again later"}', {"Retry-After": "1"})
    async with following(settings) as follower:
        await until(lambda: bool(api.open_watches))
        if doing == "listing":
            api.list_fault = throttled
            api.send(*recorded_lines("expired.jsonl"))
        else:
            api.watch_fault = throttled
            api.send(recorded_lines("watch.jsonl")[1])  # or its end would be a failure, too
            api.end_watches()
        await until(lambda: follower.failures >= 1)
        refused = time.monotonic()
        await until(lambda: follower.failures >= 2)
        assert time.monotonic() - refused > 0.9, "at once it would stay throttled"
        api.list_fault = api.watch_fault = None
        await until(lambda: bool(api.open_watches))
    assert follower.published == [LISTED]
    [reason] = reasons(logs)  # what goes on is logged once
    assert reason == f"{doing}: 429: try again later"


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
    line: bytes, words: str, api: RecordedApi, settings: KubernetesSettings, logs: Logs
) -> None:
    async with following(settings) as follower:
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
    api: RecordedApi, settings: KubernetesSettings
) -> None:
    async with following(settings) as follower:
        await until(lambda: bool(api.open_watches))
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


async def test_a_slice_without_the_port_is_reported_once_beside_those_that_have_it(
    api: RecordedApi, settings: KubernetesSettings, logs: Logs
) -> None:
    api.listing = recorded("list.json").replace(b'"name": "grpc"', b'"name": "http"', 1)
    async with following(settings) as follower:
        await until(lambda: bool(api.open_watches))
        api.send(recorded_lines("watch.jsonl")[2])
        await until(lambda: len(follower.published) == 2)
    assert reasons(logs) == ["EndpointSlice vireo-candidate-9q8rt: no port is called 'grpc'"]
    assert follower.failures == 1
    assert follower.published[0][RANKING] == LISTED[RANKING]


async def test_it_stops_at_once_while_the_api_hangs(
    api: RecordedApi, settings: KubernetesSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "_REQUEST_SECONDS", 300)
    api.list_fault = "hang"
    async with asyncio.timeout(60):
        async with following(settings):
            await until(lambda: bool(api.asked))


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
        async with following(KubernetesSettings()) as follower:
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


READY = {"ready": True, "serving": True, "terminating": False}
STARTING = {"ready": False, "serving": False, "terminating": False}
STOPPING = {"ready": False, "serving": True, "terminating": True}


class PublishedEndpoints:
    """Endpoints of the cluster `candidate` as a client gets them."""

    def __init__(self, client: XdsClient) -> None:
        self._client = client

    async def next(self) -> dict[str, int]:
        """Health status by address, in the next response."""
        [body] = (await self._client.taken()).bodies
        assignment = ClusterLoadAssignment.FromString(body.value)
        return {
            each.endpoint.address.socket_address.address: each.health_status
            for locality in assignment.endpoints
            for each in locality.lb_endpoints
        }


async def test_pods_are_published_once_healthy_and_drain_before_removal(
    tmp_path: Path,
) -> None:
    first, second, third = "127.0.0.1", "127.0.0.2", "127.0.0.3"
    port = free_port_base()

    def pods(version: int, **conditions: dict[str, bool]) -> dict[str, object]:
        addresses = {"first": first, "second": second, "third": third}
        named = {addresses[name]: each for name, each in conditions.items()}
        return endpoint_slice("vireo-candidate", version, port, named)

    async with AsyncExitStack() as stack:
        for host in (first, second):
            await serve_candidate(CandidatePod(host), port, stack, host=host)
        api = await stack.enter_async_context(recorded_api())
        api.listing = listing(10, pods(9, first=READY, second=STARTING))
        settings = KubernetesSettings(config=api.kubeconfig(tmp_path))
        discovery = KubernetesDiscovery(settings)
        control_port, _ = await stack.enter_async_context(
            control_of(discovery, SetChannels(), endpoint_drain_seconds=3.0)
        )
        client = await stack.enter_async_context(xds_client(control_port))
        published = PublishedEndpoints(client)
        await client.ask(ENDPOINTS, "candidate")
        assert await published.next() == {first: UNKNOWN}, "the other isn't ready"
        await until(lambda: bool(api.open_watches))
        # Of the two that are ready now the third answers nobody.
        api.send(modified(pods(11, first=READY, second=READY, third=READY)))
        assert await published.next() == {first: UNKNOWN, second: UNKNOWN}
        # A failing API removes no pod: the next update comes after it.
        api.list_fault = api.watch_fault = Refusal(500, recorded("internal_error.json"))
        api.end_watches()
        await until(lambda: discovery.attempts.failures >= 2)
        api.listing = listing(20, pods(15, first=STOPPING, second=READY))
        api.list_fault = api.watch_fault = None
        assert await published.next() == {second: UNKNOWN, first: DRAINING}
        assert await published.next() == {second: UNKNOWN}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SERVICES", '{"candidates": "a"}', "no cluster is called 'candidates'"),
        ("SERVICES", '{"candidate": "vireo-ranking"}', "two clusters can't both be"),
        ("SERVICES", '{"candidate": "a,b"}', "should match pattern"),
        ("NAMESPACE", "a/b", "should match pattern"),
    ],
)
def test_invalid_settings_are_reported_with_their_variable(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"VIREO_KUBERNETES_{name}", value)
    with pytest.raises(VireoError, match=f"VIREO_KUBERNETES_{name}") as raised:
        KubernetesSettings.load()
    assert words in str(raised.value)


def test_without_the_client_the_error_names_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = ControlSettings(discovery="kubernetes", s3=unreachable_s3())
    monkeypatch.delitem(sys.modules, "vireo.server.control.kubernetes")
    monkeypatch.setitem(sys.modules, "kubernetes.aio", None)
    with pytest.raises(VireoError, match=r"pip install 'vireo\[kubernetes\]'"):
        discovery_of(settings)


def test_a_list_beside_the_cluster_is_refused() -> None:
    settings = ControlSettings(
        discovery="kubernetes", endpoints_file=Path("endpoints.json"), s3=unreachable_s3()
    )
    with pytest.raises(VireoError, match="unset VIREO_ENDPOINTS_FILE"):
        discovery_of(settings)


def test_other_sources_import_nothing_of_the_client() -> None:
    code = "import vireo.server.control.control, sys; assert 'kubernetes' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
