"""How many pods there are, where they run, and what tells it."""

from __future__ import annotations

import pytest

from tests.builders.chart import VALUES, render, rendered
from tests.builders.metrics_table import documented

pytestmark = pytest.mark.integration

SETS = ("default", *VALUES)
SCALED = {f"vireo-{name}" for name in ("edge", "gateway", "candidate", "ranking")}


@pytest.mark.parametrize("values", SETS)
def test_a_number_of_pods_is_given_once(values: str) -> None:
    chart = rendered(values)
    scaled = chart.named("HorizontalPodAutoscaler")
    for name, each in chart.named("Deployment").items():
        assert ("replicas" in each["spec"]) != (name in scaled), "an upgrade would undo the scaling"


def test_pods_follow_the_calls_under_way_and_processor_time() -> None:
    scaled = rendered("production").named("HorizontalPodAutoscaler")
    assert scaled.keys() == SCALED
    for name, each in scaled.items():
        assert each["spec"]["scaleTargetRef"]["name"] == name
        kinds = [metric["type"] for metric in each["spec"]["metrics"]]
        if name == "vireo-edge":
            assert kinds == ["ContainerResource"], "Envoy doesn't count its calls by that metric"
            continue
        assert kinds == ["Pods", "ContainerResource"]
        pods, cpu = each["spec"]["metrics"]
        assert pods["pods"]["metric"]["name"] == "vireo_rpcs_in_flight"
        containers = {
            container["name"]
            for owner, container in rendered("production").containers()
            if owner == name
        }
        assert cpu["containerResource"]["container"] in containers


def test_without_the_custom_metric_processor_time_alone_tells() -> None:
    chart = render(
        "--set", "gateway.autoscaling.enabled=true", "--set", "gateway.autoscaling.callsUnderWay=0"
    )
    scaled = chart.named("HorizontalPodAutoscaler")["vireo-gateway"]["spec"]
    assert [each["type"] for each in scaled["metrics"]] == ["ContainerResource"]


def test_the_custom_metric_is_one_that_pods_have() -> None:
    row = documented()["vireo_rpcs_in_flight"]
    assert row.kind == "gauge"
    assert row.processes >= {"gateway", "candidate", "ranking"}


@pytest.mark.parametrize("values", SETS)
def test_pods_of_a_component_are_spread_over_zones_and_nodes(values: str) -> None:
    chart = rendered(values)
    for name, each in chart.named("Deployment").items():
        constraints = each["spec"]["template"]["spec"]["topologySpreadConstraints"]
        keys = [constraint["topologyKey"] for constraint in constraints]
        assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"], name
        for constraint in constraints:
            assert constraint["labelSelector"] == each["spec"]["selector"]


@pytest.mark.parametrize("values", SETS)
def test_a_new_version_takes_no_pod_away_before_it_serves(values: str) -> None:
    for name, each in rendered(values).named("Deployment").items():
        assert each["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        if name not in ("vireo-control", "vireo-edge"):
            startup = each["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
            most = startup["periodSeconds"] * startup["failureThreshold"]
            assert each["spec"]["progressDeadlineSeconds"] > most


def test_side_pools_have_pods_of_their_channel_and_perhaps_another_build() -> None:
    chart = rendered("canary")
    for pool, replicas in (("canary", 2), ("shadow", 1)):
        for service in ("candidate", "ranking"):
            deployment = chart.named("Deployment")[f"vireo-{service}-{pool}"]["spec"]
            assert deployment["replicas"] == replicas
            assert deployment["template"]["metadata"]["labels"]["vireo/pool"] == pool
            image = deployment["template"]["spec"]["containers"][0]["image"]
            assert image == f"vireo-{service}:{'0.2.0-rc1' if pool == 'canary' else '0.1.0'}"
    gateway = {each["name"]: each.get("value") for each in chart.servers()["vireo-gateway"]["env"]}
    assert gateway["VIREO_SHADOW_SHARE"] == "0.1"


def test_an_image_may_be_pinned_by_its_digest() -> None:
    digest = f"sha256:{'0' * 64}"
    chart = render(
        "--set", f"images.digests.gateway={digest}", "--set", "images.registry=reg.io/a/"
    )
    assert chart.servers()["vireo-gateway"]["image"] == f"reg.io/a/vireo-gateway@{digest}"
    assert chart.servers()["vireo-ranking"]["image"] == "reg.io/a/vireo-ranking:0.1.0"
