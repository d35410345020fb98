"""Who may connect to what, and who may ask the API of Kubernetes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.builders.chart import Rendered, flags, render
from tests.deploy.helm.layouts import LAYOUTS, SECURED, SETS, rendered

pytestmark = pytest.mark.integration

EDGE = ("edge", 8080)
PORTS = {"gateway": 8140, "slate": 8150, "candidate": 8120, "ranking": 8130}
METRICS = {9080, 9104, 9190, *(port + 1000 for port in PORTS.values())}


def made(chart: Rendered) -> list[tuple[str, str, int]]:
    """Component, kind and port of each Deployment of pods that make slates."""
    names = [name.removeprefix("vireo-") for name in chart.named("Deployment")]
    split = [(name, name.partition("-")[0]) for name in names]
    return [(name, kind, PORTS[kind]) for name, kind in split if kind in PORTS]


def port_of(each: dict[str, Any]) -> int:
    port: int = each["port"]
    return port


def allowed(chart: Rendered) -> Iterator[tuple[str, str, int]]:
    """Component that may call, component that is called, and the port."""
    for policy in chart.named("NetworkPolicy").values():
        spec = policy["spec"]
        called = spec["podSelector"]["matchLabels"].get("app.kubernetes.io/component", "")
        for rule in spec.get("ingress") or ():
            for port in map(port_of, rule["ports"]):
                for peer in rule.get("from", [{}]):
                    labels = peer.get("podSelector", {}).get("matchLabels", {})
                    caller = labels.get("app.kubernetes.io/component", "others")
                    yield caller, called, port


def calls(chart: Rendered) -> set[tuple[str, str, int]]:
    """The calls between processes on which a deployment depends."""
    found = {("others", "edge", 8080)}
    for name, kind, port in made(chart):
        found |= {("control", name, port), (name, "control", 8104)}
        if kind in ("gateway", "slate"):
            found.add(("edge", name, port))
        if kind != "gateway":  # slate pods, too, from gateways that they replace
            found.add(("gateway", name, port))
    followers = ("edge", "gateway", "consumer")
    return found | {(name, "control", 8104) for name in followers}


@pytest.mark.parametrize("values", ["default", *SECURED])
def test_processes_reach_what_they_call_and_nobody_reaches_more(values: str) -> None:
    chart = rendered(values)
    found = set(allowed(chart))
    metrics = {each for each in found if each[2] in METRICS}
    assert {each for each in found - metrics if each[2] < 10000} == calls(chart)
    assert {caller for caller, _, _ in metrics} == {"others"}


@pytest.mark.parametrize("values", ["canary", *LAYOUTS])
def test_the_edge_reaches_the_open_inference_protocol_of_every_pool(values: str) -> None:
    chart = rendered(values)
    assert {each for each in allowed(chart) if each[2] > 10000} == {
        ("edge", name, 2000 + port) for name, kind, port in made(chart) if kind != "gateway"
    }


@pytest.mark.parametrize("values", ["default", "canary", *SECURED])
def test_every_pod_is_closed_but_to_those_that_are_named(values: str) -> None:
    chart = rendered(values)
    closed = [
        policy["spec"]["podSelector"]["matchLabels"]
        for policy in chart.named("NetworkPolicy").values()
        if "Ingress" in policy["spec"]["policyTypes"]
    ]
    for name, pod in chart.pods().items():
        labels = pod["metadata"]["labels"].items()
        assert any(each.items() <= labels for each in closed), name


def test_callers_that_are_named_do_not_keep_operators_from_the_edge() -> None:
    named = {"networkPolicy": {"callers": [{"podSelector": {"matchLabels": {"app": "site"}}}]}}
    given = flags(*(f"{key}={json.dumps(value)}" for key, value in named.items()))
    found = {caller for caller, called, port in allowed(render(*given)) if (called, port) == EDGE}
    assert found == {"others", "operations", "test"}


def test_policies_are_left_out_if_they_are_not_wanted() -> None:
    assert not rendered("minimal").named("NetworkPolicy")


def test_pods_may_call_out_only_to_each_other_to_dns_and_to_what_is_named() -> None:
    policy = rendered("production").named("NetworkPolicy")["vireo-egress"]["spec"]
    dns, own, *named = policy["egress"]
    assert {each["port"] for each in dns["ports"]} == {53}
    assert own == {"to": [{"podSelector": policy["podSelector"]}]}
    assert {each["port"] for rule in named for each in rule["ports"]} == {
        *(443, 6443, 9000, 6379, 4222, 4317, 9090)
    }


@pytest.mark.parametrize("values", SETS)
def test_the_control_plane_may_read_slices_and_nothing_else(values: str) -> None:
    chart = rendered(values)
    [role] = chart.named("Role").values()
    assert role["rules"] == [
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list"],
        }
    ]
    [binding] = chart.named("RoleBinding").values()
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "vireo-control"}]
    for name, pod in chart.pods().items():
        own = name == "vireo-control"
        assert (pod["spec"]["serviceAccountName"] == "vireo-control") is own
        assert pod["spec"]["serviceAccountName"] in chart.named("ServiceAccount")
        assert pod["spec"]["automountServiceAccountToken"] is own
