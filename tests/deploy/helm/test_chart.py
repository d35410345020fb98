"""That Helm and Kubernetes take the chart, with its own and with the published values."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

from tests.builders.chart import CHART, CHECKOUT, VALUES, flags, helm, refusal, render
from tests.deploy.helm.layouts import LAYOUTS, SETS, arguments, rendered

pytestmark = pytest.mark.integration

CUSTOM = {"PodMonitor", "PrometheusRule"}
"""Resources of Prometheus' operator, which Kubernetes has no schema of."""


@pytest.fixture(scope="module", autouse=True)
def schemas_are_read_once() -> Iterator[None]:
    """Keep the schemas: each is read for each object otherwise, and all their definitions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", cache(utils.schema_contents))
        yield


def test_the_published_values_are_those_that_the_documentation_names() -> None:
    assert VALUES.keys() == {"minimal", "production", "canary"}


@pytest.mark.parametrize("values", SETS)
def test_helm_finds_nothing_to_lint(values: str) -> None:
    done = helm("lint", str(CHART), "--strict", "--quiet", *arguments(values))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", SETS)
@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_every_object_is_valid_for_the_oldest_and_the_newest_kubernetes(
    values: str, version: str
) -> None:
    for document in rendered(values).documents:
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(dict(document), version, strict=True)


@pytest.mark.parametrize("values", SETS)
def test_no_two_objects_of_a_kind_have_one_name(values: str) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in rendered(values).documents]
    assert len(names) == len(set(names))


def test_two_releases_share_no_name_and_no_label_of_pods() -> None:
    one, other = rendered("canary"), render("--values", str(VALUES["canary"]), release="other")
    assert {each["metadata"]["name"] for each in other.documents} & {
        each["metadata"]["name"] for each in one.documents
    } == set()
    for pod in other.pods().values():
        assert pod["metadata"]["labels"]["app.kubernetes.io/instance"] == "other"
    environment = {
        each["name"]: each.get("value") for each in other.servers()["other-vireo-control"]["env"]
    }
    assert json.loads(str(environment["VIREO_KUBERNETES_SERVICES"]))["ranking-canary"] in (
        other.named("Service")
    )


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('gatway={"replicas": 3}', "gatway"),
        ('gateway.replicas="3"', "integer"),
        ('features.store="postgres"', "/features/store"),
        ('settings={"VIERO_RULES": "x"}', "VIERO_RULES"),
        ('tokens.jwksUrl="http://keys.example.com"', "/tokens/jwksUrl"),
        ('s3.existingSecret=""', "/s3/existingSecret"),
        (
            'gateway.autoscaling={"enabled": true, "callsUnderWay": 0, "cpuPercent": 0}',
            "autoscaling",
        ),
        ("jobs.enabled=true", "jobs.dataset: the name of the data set to train on"),
        ('jobs.backup.schedule="30 * * * *"', "jobs.backup.schedule needs jobs.enabled"),
        ("consumer.replicas=3", "/consumer/replicas"),
        ('layout="apart"', "/layout"),
        ('images.digests.envy=""', "envy"),
        ('edge.service.type="LoadBalancer"', "set tls.enabled and tokens, or edge.service.allow"),
        ("events.enabled=true", "set events.nats.url"),
        ('tracing.otlpEndpoint="https://collector:4317"', "https needs tls.enabled"),
    ],
)
def test_values_that_can_not_be_right_are_refused_with_their_name(setting: str, words: str) -> None:
    assert words in refusal(setting)


def test_events_need_a_store_that_consumers_and_gateways_share() -> None:
    words = refusal(
        "events.enabled=true", 'events.nats.url="nats://a:4222"', 'features.store="sqlite"'
    )
    assert "events.enabled needs features.store redis" in words


@pytest.mark.parametrize("layout", LAYOUTS)
def test_beside_slate_pods_a_canary_is_refused(layout: str) -> None:
    words = refusal(f'layout="{layout}"', "canary.enabled=true")
    assert "set canary.enabled to false, or layout to separate" in words


@pytest.mark.parametrize("missing", ["tls.enabled", "tokens.jwksUrl"])
def test_strangers_reach_no_edge_without_tls_and_tokens_unless_values_say_so(missing: str) -> None:
    values = {
        "edge.service.type": '"NodePort"',
        "tls.enabled": "true",
        "tokens.jwksUrl": '"https://login.example.com/keys"',
    }
    del values[missing]
    settings = [f"{name}={value}" for name, value in values.items()]
    assert "lets strangers call the edge" in refusal(*settings)
    render(*flags(*settings, "edge.service.allowInsecure=true"))


SIGNED = 'tokens.jwksUrl="https://login.example.com/keys"'
CALLER = 'test.token.existingSecret="caller"'


@pytest.mark.parametrize(
    ("settings", "trusts", "variables"),
    [
        ((), False, set()),
        (("tls.enabled=true",), True, {"VIREO_CA"}),
        (("tls.enabled=true", SIGNED, CALLER), True, {"VIREO_CA", "VIREO_TOKEN"}),
    ],
)
def test_helm_test_asks_as_the_edge_demands_and_gets_no_key(
    settings: tuple[str, ...], trusts: bool, variables: set[str]
) -> None:
    callers = "networkPolicy.callers=[{}]"
    found = render(*flags(*settings, callers, "edge.service.port=8443"))
    spec = found.named("Pod")["vireo-test"]["spec"]
    [container] = spec["containers"]
    assert container["command"][-2:] == ["--target", "vireo-edge:8443"]
    assert {each["name"] for each in container["env"]} - {"VIREO_HOME", "HOME"} == variables
    secrets = [each["secret"]["items"] for each in spec["volumes"] if "secret" in each]
    assert secrets == ([[{"key": "ca.crt", "path": "ca.crt"}]] if trusts else [])
    policy = found.named("NetworkPolicy")["vireo-edge"]["spec"]["ingress"][0]["from"]
    assert "test" in str(policy), "and the edge may be reached by it"


@pytest.mark.parametrize("settings", [("tls.enabled=true", SIGNED), (SIGNED, CALLER)])
def test_there_is_no_helm_test_without_a_token_or_a_way_to_send_it(
    settings: tuple[str, ...],
) -> None:
    assert render(*flags(*settings)).named("Pod") == {}


def test_every_value_is_described_by_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def described(values: Any, node: dict[str, Any], path: str) -> None:
        properties: dict[str, Any] = {}
        while True:
            properties |= node.get("properties", {})
            closed = node.get("additionalProperties", node.get("unevaluatedProperties"))
            if "$ref" not in node:
                break
            refers = schema["$defs"][node["$ref"].rpartition("/")[2]]
            node = {"unevaluatedProperties": closed, **refers}
        if isinstance(values, dict) and properties:
            assert values.keys() <= properties.keys(), path
            assert closed is False, path
            for key, value in values.items():
                described(value, properties[key], f"{path}.{key}")

    described(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")


def test_the_chart_runs_the_images_of_this_version_as_their_user() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == project["version"]
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    images = (CHECKOUT / "deploy" / "images" / "Containerfile").read_text()
    for name in values["images"]["repositories"].values():
        assert f'org.opencontainers.image.title="{name}"' in images
    context = values["podSecurityContext"]
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}" in images


SELECTED = r"installation=\"shop/vireo\""
"""What each selector of the chart's rules begins with, in JSON."""


def numbers(rules: Any) -> Any:
    """Return rules whose numbers are evaluated, 14 * 86400 and 1.2096e+06 alike."""
    text = json.dumps(rules)
    products = re.sub(r"(\d+) \* (\d+)\)", lambda two: f"{int(two[1]) * int(two[2])})", text)
    floats = re.sub(r"vector\(([\d.e+]+)\)", lambda one: f"vector({float(one[1])})", products)
    return json.loads(floats)


def test_objectives_thresholds_and_the_installation_of_rules_are_values() -> None:
    given = {
        "installation": "shop-eu",
        "podMonitor": {"enabled": True},
        "rules": {
            "enabled": True,
            "objectives": {"availability": 0.995, "latencySeconds": 0.25},
            "thresholds": {"fleet": 0.5},
        },
    }
    found = render("--set-json", f"monitoring={json.dumps(given)}")
    rules = [
        rule
        for each in found.named("PrometheusRule").values()
        for group in each["spec"]["groups"]
        for rule in group["rules"]
    ]
    compared = {
        rule["labels"].get("slo") or rule["labels"].get("of"): rule["expr"]
        for rule in rules
        if rule.get("record") in ("vireo:slo_objective:ratio", "vireo:threshold")
    }
    assert compared["availability"] == "vector(0.995)"
    assert compared["quality"] == "vector(0.99)"
    assert compared["fleet"] == "vector(0.5)"
    assert any('le="0.25"' in rule["expr"] for rule in rules)
    for rule in rules:
        assert rule["labels"]["installation"] == "shop-eu"
        if "kube_" not in rule["expr"]:  # Kubernetes' own metrics are of a namespace
            assert rule["expr"].count("{") == rule["expr"].count('{installation="shop-eu"')
    [monitor] = found.named("PodMonitor").values()
    for endpoint in monitor["spec"]["podMetricsEndpoints"]:
        labels = {each["targetLabel"]: each.get("replacement") for each in endpoint["relabelings"]}
        assert labels["installation"] == "shop-eu"
        assert labels.keys() >= {"job", "component", "instance"}


@pytest.mark.parametrize("layout", ["separate", *LAYOUTS])
def test_targets_of_another_installation_hide_no_loss(layout: str, tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool isn't installed: apt-get install prometheus")
    given = flags("monitoring.rules.enabled=true", f'layout="{layout}"')
    found = render(*given).named("PrometheusRule")
    groups = [group for each in found.values() for group in each["spec"]["groups"]]
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": groups}))
    separate = ("gateway", "candidate", "ranking")
    kinds = ("edge", *(separate if layout == "separate" else ("slate",)), "control")
    firing = "ALERTS{alertstate='firing',severity!='watchdog',installation='shop/vireo'}"
    test = {
        "interval": "30s",
        "input_series": [
            {"series": f"up{{installation='other',component='{kind}'}}", "values": "1x20"}
            for kind in kinds
        ],
        "promql_expr_test": [
            {
                "expr": f"count by (alertname) ({firing})",
                "eval_time": "8m",
                "exp_samples": [
                    {"labels": "{alertname='VireoEdgeDown'}", "value": 2},  # a page, and a ticket
                    {"labels": "{alertname='VireoMetricsMissing'}", "value": 4},
                ],
            }
        ],
    }
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "30s", "tests": [test]}
    (tmp_path / "test.yaml").write_text(json.dumps(document))
    command = ["promtool", "test", "rules", "test.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_operator_finds_targets_by_the_label_by_which_it_finds_rules() -> None:
    found = rendered("production")
    [monitor] = found.named("PodMonitor").values()
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    for each in found.named("PrometheusRule").values():
        assert each["metadata"]["labels"]["release"] == "prometheus"


def test_rules_and_dashboards_are_those_of_the_repository() -> None:
    found = render(
        "--set", "monitoring.rules.enabled=true", "--set", "monitoring.dashboards.enabled=true"
    )
    observability = CHART.parents[1] / "observability"
    files = sorted((observability / "rules").glob("*.yaml"))
    for file, rules in zip(files, found.named("PrometheusRule").values(), strict=True):
        expected = yaml.safe_load(file.read_text())
        for group in expected["groups"]:
            for rule in group["rules"]:
                rule["labels"] = {**rule.get("labels", {}), "installation": "shop/vireo"}
        plain = json.loads(
            json.dumps(rules["spec"])
            .replace(SELECTED + ",", "")
            .replace(SELECTED, "")
            .replace(r",namespace=\"shop\"", "")
        )
        assert numbers(plain) == numbers(expected)
    other = render("--set", "monitoring.rules.enabled=true", release="shop")
    named = str([each["spec"] for each in other.named("PrometheusRule").values()])
    job = 'cronjob="shop-vireo-nightly",namespace="shop"'
    assert job in named, "they watch the job of their release, and no other installation's"
    assert '"vireo-nightly"' not in named
    kept = [name for name in found.named("ConfigMap") if "-dashboard-" in name]
    assert len(kept) == len(list((observability / "dashboards").glob("*.json")))


def test_processes_are_scraped_as_often_as_rules_rely_on() -> None:
    [monitor] = rendered("production").named("PodMonitor").values()
    prometheus = yaml.safe_load(
        (CHART.parents[1] / "observability" / "prometheus.yaml").read_text()
    )
    intervals = {each["interval"] for each in monitor["spec"]["podMetricsEndpoints"]}
    assert intervals == {prometheus["global"]["scrape_interval"]}
