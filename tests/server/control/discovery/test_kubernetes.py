"""Pods as a Kubernetes API knows them, their changes, and that no fault of it removes one."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from kubernetes.aio.config import incluster_config

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
    Following,
    Logs,
    following,
    pods,
    reasons,
)
from tests.builders.s3 import unreachable_s3
from tests.builders.waiting import until
from vireo.server.control import kubernetes
from vireo.server.control.control import discovery_of
from vireo.server.control.kubernetes import KubernetesDiscovery
from vireo.server.control.mesh import Endpoint, Pool
from vireo.server.control.settings import ControlSettings, KubernetesSettings
from vireo.server.errors import VireoError

pytestmark = pytest.mark.slow


async def test_slices_are_listed_and_each_change_is_followed(
    api: RecordedApi, follower: Following
) -> None:
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
    api: RecordedApi, follower: Following
) -> None:
    hosts = [f"10.9.0.{number}" for number in range(4)]
    events = [
        modified(endpoint_slice("vireo-ranking", 52000 + each, 8130, {hosts[each]: {}}))
        for each in range(4)
    ]
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


async def test_ten_thousand_pods_are_found_in_a_burst_and_deleted(
    api: RecordedApi, follower: Following
) -> None:
    slices = []
    for number in range(100):
        hosts = {f"10.{number}.0.{each}": {"ready": True} for each in range(100)}
        slices.append(endpoint_slice("vireo-ranking", 52000 + number, 8130, hosts))
        slices[-1]["metadata"]["name"] = f"slice-{number}"
    slices[-1]["metadata"]["annotations"] = {"room": "x" * 200_000}  # for a long line

    def events(kind: str) -> bytes:
        lines = (json.dumps({"type": kind, "object": each}) for each in slices)
        return "".join(f"{line}\n" for line in lines).encode()

    api.send(events("ADDED"))
    await until(lambda: len(follower.published[-1][RANKING]) == 10_000 + 2)
    api.send(events("DELETED"))
    await until(lambda: follower.published[-1] == LISTED)
    assert follower.failures == 0


async def test_slices_of_other_services_are_left_out_whatever_the_api_sends(
    api: RecordedApi, follower: Following
) -> None:
    api.send(modified(endpoint_slice("another", 52000, 1, {"10.9.0.1": {}})))
    api.send(modified(endpoint_slice("vireo-ranking", 52001, 8130, {"10.9.0.2": {}})))
    await until(lambda: len(follower.published) == 2)
    added = {Endpoint("10.9.0.2", 8130)}
    assert follower.published[1] == {**LISTED, RANKING: LISTED[RANKING] | added}


@pytest.mark.parametrize("how", ["as an event", "as a status"])
async def test_a_version_that_has_expired_is_cured_by_a_new_list(
    how: str, api: RecordedApi, follower: Following
) -> None:
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
