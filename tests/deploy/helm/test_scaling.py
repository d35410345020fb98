"""How many pods there are, where they run, and what tells it."""

from __future__ import annotations

import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from tests.builders.chart import CHART, VALUES, render
from tests.builders.metrics_table import documented
from tests.deploy.helm.layouts import SECURED, SETS, kinds, rendered

pytestmark = pytest.mark.integration

RUNNING = {"vireo-gateway": 7, "vireo-candidate": 1}
RELEASE = {"name": "vireo", "namespace": "shop"}


@pytest.mark.parametrize("values", SETS)
def test_a_number_of_pods_is_given_once(values: str) -> None:
    chart = rendered(values)
    scaled = chart.named("HorizontalPodAutoscaler")
    for name, each in chart.named("Deployment").items():
        assert ("replicas" in each["spec"]) != (name in scaled), "an upgrade would undo the scaling"


@pytest.mark.parametrize("values", SECURED)
def test_pods_follow_the_calls_under_way_and_processor_time(values: str) -> None:
    scaled = rendered(values).named("HorizontalPodAutoscaler")
    assert scaled.keys() == {f"vireo-{name}" for name in ("edge", *kinds(values))}
    for name, each in scaled.items():
        assert each["spec"]["scaleTargetRef"]["name"] == name
        metrics = [metric["type"] for metric in each["spec"]["metrics"]]
        if name == "vireo-edge":
            assert metrics == ["ContainerResource"], "Envoy doesn't count its calls by that metric"
            continue
        assert metrics == ["Pods", "ContainerResource"]
        pods, cpu = each["spec"]["metrics"]
        assert pods["pods"]["metric"]["name"] == "vireo_rpcs_in_flight"
        containers = {
            container["name"] for owner, container in rendered(values).containers() if owner == name
        }
        assert cpu["containerResource"]["container"] in containers


def test_without_the_custom_metric_processor_time_alone_tells() -> None:
    chart = render(
        "--set", "gateway.autoscaling.enabled=true", "--set", "gateway.autoscaling.callsUnderWay=0"
    )
    scaled = chart.named("HorizontalPodAutoscaler")["vireo-gateway"]["spec"]
    assert [each["type"] for each in scaled["metrics"]] == ["ContainerResource"]


def test_processor_time_is_scaled_by_as_the_capacity_page_reckons() -> None:
    page = (CHART.parents[2] / "docs" / "capacity.md").read_text()
    [share] = re.findall(r"share of a core in use at the busiest time \| (0\.\d+) ", page)
    for component in ("edge", "gateway", "slate", "candidate", "ranking"):
        values = yaml.safe_load((CHART / "values.yaml").read_text())[component]
        assert values["autoscaling"]["cpuPercent"] == round(100 * float(share))
        assert values["resources"]["requests"]["cpu"] == "1", "the share is of what is requested"


class Cluster(BaseHTTPRequestHandler):
    """The API of Kubernetes, as far as Helm asks it: its kinds, and two Deployments."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        known = {(it["apiVersion"], it["kind"]) for it in rendered("production").documents}
        versions = {version for version, _ in known}
        _, _, version = path.removeprefix("/api/").rpartition("/apis/")
        found: dict[str, object] | None = None
        if path == "/version":
            found = {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}
        elif path == "/api":
            found = {"kind": "APIVersions", "versions": ["v1"]}
        elif path == "/apis":
            offered = [{"groupVersion": it, "version": it.partition("/")[2]} for it in versions]
            named = [(it["groupVersion"].partition("/"), it) for it in offered]
            groups = [{"name": name, "versions": [it]} for (name, tail, _), it in named if tail]
            found = {"kind": "APIGroupList", "groups": groups}
        elif version in versions:
            kinds = [kind for each, kind in known if each == version]
            resources = [{"name": f"{it.lower()}s", "kind": it, "namespaced": True} for it in kinds]
            found = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        elif (name := path.removeprefix("/apis/apps/v1/namespaces/shop/deployments/")) in RUNNING:
            made = rendered("production").named("Deployment")[name]
            ours = {f"meta.helm.sh/release-{key}": of for key, of in RELEASE.items()}
            metadata = {**made["metadata"], "annotations": ours}
            found = {**made, "metadata": metadata, "spec": {"replicas": RUNNING[name]}}
        missing = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
        self.send_response(404 if found is None else 200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(found or missing).encode())

    def log_message(self, *_: object) -> None:
        """Stay silent."""


def test_from_a_number_of_pods_to_scaling_there_are_never_fewer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), Cluster) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        chart = render(
            *("--values", str(VALUES["production"]), "--dry-run=server"),
            *("--disable-openapi-validation", "--kube-apiserver", url, "--kube-token", "t"),
        )
        server.shutdown()
    given = {name: each["spec"].get("replicas") for name, each in chart.named("Deployment").items()}
    assert given["vireo-gateway"] == 7, "Kubernetes would make it one if the number were left out"
    assert given["vireo-candidate"] == 6, "no fewer than are asked for"
    assert given["vireo-ranking"] is None, "it isn't there yet"


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
            selected = dict(each["spec"]["selector"]["matchLabels"])
            alone = selected.pop("vireo/partition", None) is None
            assert constraint["labelSelector"] == {"matchLabels": selected}
            # Of a rollout's two versions only one counts; consumers of all partitions do.
            assert ("matchLabelKeys" in constraint) is alone


@pytest.mark.parametrize("values", SETS)
def test_no_pod_waits_for_a_zone_that_is_lost(values: str) -> None:
    for pod in rendered(values).pods().values():
        for each in pod["spec"].get("topologySpreadConstraints", ()):
            assert each["nodeTaintsPolicy"] == "Honor"
            assert each["whenUnsatisfiable"] == "ScheduleAnyway"


@pytest.mark.parametrize("values", SETS)
def test_a_new_version_takes_no_pod_away_before_it_serves(values: str) -> None:
    for name, each in rendered(values).named("Deployment").items():
        assert each["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": "25%", "maxUnavailable": 0}
        if not name.startswith(("vireo-con", "vireo-edge")):
            startup = each["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
            most = startup["periodSeconds"] * startup["failureThreshold"]
            assert each["spec"]["progressDeadlineSeconds"] > most


def test_a_canary_has_pods_of_its_channel_and_perhaps_another_build() -> None:
    chart = rendered("canary")
    for service in ("candidate", "ranking"):
        deployment = chart.named("Deployment")[f"vireo-{service}-canary"]["spec"]
        assert deployment["replicas"] == 2
        assert deployment["template"]["metadata"]["labels"]["vireo/pool"] == "canary"
        image = deployment["template"]["spec"]["containers"][0]["image"]
        assert image == f"vireo-{service}:0.2.0-rc1"


def test_envoy_may_be_the_official_image() -> None:
    name = "envoyproxy/envoy:distroless-v1.40.0"
    chart = render(
        *("--set", f"images.repositories.envoy={name}", "--set", "images.registry=reg.io/a/"),
        *("--set", "images.tag=1.2"),
    )
    for envoy in chart.envoys().values():
        assert envoy["image"] == name
        assert "exec" not in str(envoy.get("lifecycle", {})), "it has no program but Envoy"
    assert chart.servers()["vireo-gateway"]["image"] == "reg.io/a/vireo-gateway:1.2"


def test_an_image_may_be_pinned_by_its_digest() -> None:
    digest = f"sha256:{'0' * 64}"
    chart = render(
        "--set", f"images.digests.gateway={digest}", "--set", "images.registry=reg.io/a/"
    )
    assert chart.servers()["vireo-gateway"]["image"] == f"reg.io/a/vireo-gateway@{digest}"
    assert chart.servers()["vireo-ranking"]["image"] == "reg.io/a/vireo-ranking:0.1.0"
