"""Pods as a Kubernetes API lists them, their changes, and that no fault of it removes one."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from kubernetes.config import incluster_config

from tests.builders.certificates import authority, signed
from tests.builders.kubernetes_api import (
    CANDIDATE,
    LISTED,
    LISTED_LATER,
    Fault,
    Following,
    RecordedApi,
    following,
    reasons,
    recorded,
)
from tests.builders.s3 import unreachable_s3
from tests.builders.waiting import until
from vireo.server.control import attempts, kubernetes
from vireo.server.control.control import discovery_of
from vireo.server.control.kubernetes import KubernetesDiscovery, found
from vireo.server.control.mesh import Endpoint, Pool
from vireo.server.control.settings import ControlSettings, KubernetesSettings
from vireo.server.errors import VireoError

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API is asked every few milliseconds, also after failures."""
    monkeypatch.setattr(kubernetes, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(kubernetes, "_REQUEST_SECONDS", 30)  # of a busy machine
    monkeypatch.setattr(attempts, "_MAX_PAUSE_SECONDS", 0.05)


@pytest.fixture
async def api() -> AsyncIterator[RecordedApi]:
    async with RecordedApi().running() as running:
        yield running


@pytest.fixture
def settings(api: RecordedApi, tmp_path: Path) -> KubernetesSettings:
    """Settings that lead to the API."""
    return KubernetesSettings(config=api.kubeconfig(tmp_path))


@pytest.fixture
async def follower(settings: KubernetesSettings) -> AsyncIterator[Following]:
    """A source that has listed."""
    async with following(settings) as follower:
        await until(lambda: follower.published == [LISTED])
        yield follower


async def test_slices_are_listed_again_and_again_and_each_change_is_published_once(
    api: RecordedApi, follower: Following
) -> None:
    await until(lambda: len(api.asked) > 3)
    assert follower.published == [LISTED]
    api.listing = recorded("list_later.json")
    await until(lambda: follower.published == [LISTED, LISTED_LATER])
    assert follower.failures == 0
    services = "gateway,vireo-ranking,vireo-ranking-canary,vireo-slate"
    names = f"vireo-candidate,vireo-candidate-canary,vireo-{services}"
    assert (api.asked[-1].namespace, api.asked[-1].token) == ("vireo", "token")
    assert api.asked[-1].query == {
        "labelSelector": f"kubernetes.io/service-name in ({names})",
        "resourceVersion": "0",
    }


async def test_a_list_of_which_only_the_version_has_changed_isnt_parsed_again(
    api: RecordedApi, follower: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "found", None)
    api.listing = api.listing.replace(b'"48211"', b'"48212"')
    before = len(api.asked)
    await until(lambda: len(api.asked) > before + 2)
    assert follower.failures == 0


FAULTS: dict[str, tuple[Fault, str]] = {
    "throttled": ((429, b'{"message": "try again later"}'), "429: try again later"),
    "page": ((404, b"404 page\n not found"), "404: 404 page not found"),
    "empty": ((503, b""), "503: "),
    "deep": ((502, b"[" * 200_000), "502: [[["),
    "deep list": ((200, b"[" * 200_000), "no list: "),
    "no list": ((200, b'{"kind": "Table"}'), "no list: "),
    "hanging": ("hang", "ReadTimeoutError: "),
    "trickling": ("trickle", "TimeoutError: the response took too long"),
    "cut": ("cut", "ProtocolError: "),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_failed_request_removes_no_pod_and_is_reported_until_it_works(
    name: str, api: RecordedApi, follower: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = name in ("hanging", "trickling")
    monkeypatch.setattr(kubernetes, "_REQUEST_SECONDS", 0.5 if slow else 30)
    with structlog.testing.capture_logs() as logs:
        api.fault, words = FAULTS[name]
        await until(lambda: follower.failures >= 2)
        assert follower.published == [LISTED]
        assert reasons(logs)[0].startswith(f"listing EndpointSlices: {words}")
        api.listing, api.fault = recorded("list_later.json"), None
        await until(lambda: follower.published == [LISTED, LISTED_LATER])
        await until(lambda: logs[-1]["event"] == "source recovered")


async def test_an_api_that_is_gone_is_found_when_it_is_back(tmp_path: Path) -> None:
    api = RecordedApi()
    async with api.running():
        settings = KubernetesSettings(config=api.kubeconfig(tmp_path))
    async with following(settings) as follower:
        await until(lambda: follower.failures >= 2)  # refused from the start
        async with api.running():
            await until(lambda: follower.published == [LISTED])
        before = follower.failures
        await until(lambda: follower.failures >= before + 2)
        api.listing = recorded("list_later.json")
        async with api.running():
            await until(lambda: follower.published == [LISTED, LISTED_LATER])


@pytest.mark.parametrize(
    "text",
    [None, "{", "kind: Config", "2001-99-99", "[]", "current-context: a\nclusters: 5", "[" * 1200],
)
async def test_a_kubeconfig_that_is_missing_or_wrong_is_reported_and_read_again(
    text: str | None, api: RecordedApi, settings: KubernetesSettings
) -> None:
    assert settings.config is not None
    good = settings.config.read_text()
    settings.config.unlink()
    if text is not None:
        settings.config.write_text(text)
    async with following(settings) as follower:
        await until(lambda: follower.failures >= 2)
        settings.config.write_text(good)
        await until(lambda: follower.published == [LISTED])


async def test_in_a_pod_the_service_account_is_used_and_its_token_reread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = authority(tmp_path)
    own = signed(tmp_path, "kubernetes", trusted)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(own.certificate, own.key)
    token = tmp_path / "token"
    token.write_text("first")
    (tmp_path / "namespace").write_text("recommender")
    api = RecordedApi(tokens=frozenset({"first"}))
    async with api.running(context):
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(trusted.certificate))
        async with following(KubernetesSettings()) as follower:
            await until(lambda: follower.published == [LISTED])
            assert {each.namespace for each in api.asked} == {"recommender"}
            api.tokens, api.listing = frozenset({"second"}), recorded("list_later.json")
            await until(lambda: follower.failures >= 1)
            token.write_text("second")
            await until(lambda: follower.published == [LISTED, LISTED_LATER])


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
    assert api.asked[0].namespace == "elsewhere"


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


def test_without_the_client_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ControlSettings(discovery="kubernetes", s3=unreachable_s3())
    monkeypatch.delitem(sys.modules, "vireo.server.control.kubernetes")
    monkeypatch.setitem(sys.modules, "kubernetes", None)
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


# What slices come to.


POOLS = KubernetesSettings().pools
RANKING = Pool("ranking")
Slice = dict[str, Any]


def endpoint(address: str, pod: str | None = None, **conditions: bool | None) -> Slice:
    reference = {"targetRef": {"kind": "Pod", "uid": pod}} if pod else {}
    return {"addresses": [address], "conditions": conditions, **reference}


def slice_of(
    *endpoints: Slice,
    family: str = "IPv4",
    ports: Any = ({"name": "grpc", "port": 8130, "protocol": "TCP"},),
    service: str = "vireo-ranking",
) -> Slice:
    labels = {"kubernetes.io/service-name": service}
    return {
        "metadata": {"name": f"{service}-abcde", "resourceVersion": "1", "labels": labels},
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    }


def listed(*slices: Slice) -> tuple[set[tuple[str, int]], frozenset[str]]:
    """The ranking pods of these slices, and what is wrong with them."""
    endpoints, flaws = found(json.dumps({"items": slices}).encode(), POOLS)
    return {(each.host, each.port) for each in endpoints[RANKING]}, flaws


def test_slate_pods_are_in_the_pools_of_production_alone() -> None:
    slices = [slice_of(endpoint("10.0.0.1")), slice_of(endpoint("10.0.0.9"), service="vireo-slate")]
    endpoints, _ = found(json.dumps({"items": slices}).encode(), POOLS)
    hosts = {pool.cluster: {each.host for each in pods} for pool, pods in endpoints.items() if pods}
    every = {"gateway": {"10.0.0.9"}, "candidate": {"10.0.0.9"}}
    assert hosts == {**every, "ranking": {"10.0.0.1", "10.0.0.9"}}


METRICS_FIRST = ({"name": "metrics", "port": 9130}, {"name": "grpc", "port": 7000})


@pytest.mark.parametrize(
    ("slices", "hosts"),
    [
        (
            [
                slice_of(endpoint("fd00::1", "one"), endpoint("fd00::3", "three"), family="IPv6"),
                slice_of(endpoint("10.0.0.1", "one"), endpoint("10.0.0.2", "two")),
            ],
            {"10.0.0.1:8130", "10.0.0.2:8130", "[fd00::3]:8130"},
        ),
        ([slice_of(endpoint("fd00:0:0::00a1"), family="IPv6")], {"[fd00::a1]:8130"}),
        (
            [
                slice_of(endpoint("10.0.0.1", "one", ready=True)),
                slice_of(endpoint("10.0.0.1", "one", ready=False, terminating=True)),
            ],
            set(),
        ),
        (
            [slice_of(endpoint("10.0.0.1", "old", ready=False), endpoint("10.0.0.1", "new"))],
            {"10.0.0.1:8130"},
        ),
        (
            [slice_of(endpoint("10.0.0.1")), slice_of(endpoint("10.0.0.2"), ports=METRICS_FIRST)],
            {"10.0.0.1:8130", "10.0.0.2:7000"},
        ),
        ([slice_of(endpoint("10.0.0.1"), service="another"), slice_of(ports=None)], set()),
    ],
    ids=[
        "a pod of both families is listed once, by IPv4",
        "IPv6 in its short form",
        "out in one slice, though another is stale",
        "a new pod with the address of a terminating one",
        "each slice has a port of its own",
        "other Services, and slices without pods",
    ],
)
def test_the_slices_of_a_service_are_merged(slices: list[Slice], hosts: set[str]) -> None:
    endpoints, flaws = listed(*slices)
    assert {str(Endpoint(*each)) for each in endpoints} == hosts
    assert not flaws


@pytest.mark.parametrize(
    ("conditions", "takes_traffic"),
    [
        ({}, True),
        ({"ready": None, "serving": None, "terminating": None}, True),
        ({"ready": True, "serving": True, "terminating": False}, True),
        ({"ready": False}, False),
        ({"ready": False, "serving": True, "terminating": True}, False),
        # Of a Service that publishes addresses that aren't ready.
        ({"ready": True, "serving": False, "terminating": False}, False),
        ({"ready": True, "serving": True, "terminating": True}, False),
    ],
)
def test_only_ready_serving_and_not_terminating_pods_are_listed(
    conditions: dict[str, bool | None], *, takes_traffic: bool
) -> None:
    assert bool(listed(slice_of(endpoint("10.0.0.1", None, **conditions)))[0]) == takes_traffic


@pytest.mark.parametrize(
    ("flawed", "words"),
    [
        (slice_of(endpoint("10.0.0.1"), ports=None), "no port is called 'grpc'"),
        (slice_of(endpoint("10.0.0.1"), ports=({"name": "grpc"},)), "no port"),
        (slice_of(endpoint("pod.example"), family="FQDN"), "addresses of the type FQDN"),
        (slice_of(endpoint("10.0.0.300")), "'10.0.0.300' does not appear to be an IP"),
        (slice_of(endpoint("fe80::1%eth0"), family="IPv6"), "scope"),
        (slice_of(endpoint("10.0.0.1"), ports=({"name": "grpc", "port": 0},)), ": 0 is"),
    ],
)
def test_unusable_entries_are_reported_and_remove_nothing_else(flawed: Slice, words: str) -> None:
    endpoints, [flaw] = listed(flawed, slice_of(endpoint("10.0.0.2")))
    assert words in flaw
    assert "vireo-ranking-abcde" in flaw
    assert endpoints == {("10.0.0.2", 8130)}
