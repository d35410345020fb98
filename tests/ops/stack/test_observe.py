"""Prometheus and Alertmanager beside a running stack, and what its rules and panels find there."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from tests.builders.alert_rules import DASHBOARDS, RULES, panels
from tests.builders.stack import Stack
from tests.builders.tiny_home import VIEWER
from tests.builders.waiting import wait_until
from vireo.ops.doctor.deployment import Deployment
from vireo.ops.doctor.facts import SERVICES, Facts
from vireo.ops.doctor.probes.envoy import COUNTED, OPEN
from vireo.ops.doctor.probes.metrics import ask_prometheus, series_of
from vireo.ops.stack.nats import reachable_log
from vireo.ops.stack.observe import check_programs, observers, prometheus_url, targets
from vireo.ops.stack.probes import ProcessSpec, http_probe
from vireo.ops.stack.processes import (
    consumer_processes,
    control_process,
    pod_processes,
)
from vireo.ops.stack.s3 import access
from vireo.ops.stack.settings import StackSettings
from vireo.server.errors import VireoError
from vireo.v1 import catalog_pb2, event_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.catalog_pb2_grpc import CatalogServiceStub
from vireo.v1.event_pb2_grpc import EventServiceStub
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

pytestmark = pytest.mark.integration

_PATIENCE = 90.0
_WITHOUT = {
    "releases: Age of data, A": "the release is made up, and doesn't say",
    "monitoring: VireoMetricsMissing, ticket": "no metrics are missing",
    "serving: vireo:uncalled_clusters": "one Envoy calls all",
    "jobs: VireoJobFailed, ticket": "Kubernetes has no job",
    "jobs: VireoJobLate, ticket": "Kubernetes has no job",
    **{
        f"slo: VireoSlates{what}, {severity}": "no budget is used up"
        for what in ("Fail", "Slow", "Degraded")
        for severity in ("page", "ticket")
    },
}
"""Rules and panels that have no data on this stack."""


@pytest.fixture(scope="module")
def prometheus(tiny_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Prometheus that observes the stack, as `vireo up --observe` does but more often."""
    try:
        check_programs()
    except VireoError as error:
        pytest.skip(str(error))
    environment = tiny_stack.environment
    settings = StackSettings(
        home=tiny_stack.home.root,
        port_base=int(environment["VIREO_PORT_BASE"]),
        edge_port=int(environment["VIREO_EDGE_PORT"]),
        observe=True,
    )
    started = observers(settings, specs(settings))
    hasten(tiny_stack.home.root / "observe" / "prometheus.yaml", tmp_path_factory.mktemp("rules"))
    with ExitStack() as running:
        for spec in started:
            process = running.enter_context(subprocess.Popen(spec.command))
            running.callback(process.terminate)
        for spec in started:
            wait_until(partial(is_well, spec), _PATIENCE)
        yield prometheus_url(settings)


def is_well(spec: ProcessSpec) -> bool:
    async def problem() -> str:
        return await spec.probe()

    return not asyncio.run(problem())


def specs(settings: StackSettings) -> list[ProcessSpec]:
    """The processes of the stack that serve metrics."""
    server, log = access(settings), reachable_log(settings)
    assert server is not None
    return [
        control_process(settings, server, Path()),
        *pod_processes(settings, server, log),
        *consumer_processes(settings, server, log),
    ]


def hasten(configuration: Path, folder: Path) -> None:
    """Scrape and evaluate each second."""
    document = yaml.safe_load(configuration.read_text())
    for name in ("scrape_interval", "scrape_timeout", "evaluation_interval"):
        document["global"][name] = "1s"
    for file in RULES:
        groups = yaml.safe_load(file.read_text())["groups"]
        often = [{**group, "interval": "1s"} for group in groups]
        (folder / file.name).write_text(yaml.safe_dump({"groups": often}))
    document["rule_files"] = [str(folder / "*.yaml")]
    configuration.write_text(yaml.safe_dump(document))


def asked(url: str, path: str, **parameters: str) -> Any:
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{query}", timeout=10) as answer:
        return json.loads(answer.read())["data"]


def has_data(url: str, expression: str) -> bool:
    """Whether an expression has a value that is a number."""
    result = asked(url, "query", query=expression)["result"]
    return any(not math.isnan(float(sample["value"][1])) for sample in result)


def expressions() -> dict[str, str]:
    """Each rule's and panel's expression by where it is; alerts' with their values, true or not."""
    found = {}
    for file in RULES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                labels = "".join(f", {label}" for label in rule.get("labels", {}).values())
                name = rule.get("alert") or rule["record"]
                found[f"{file.stem}: {name}{labels}"] = without_filters(rule["expr"])
    for file in DASHBOARDS:
        for panel in panels(file):
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", "1m")
                expression = expression.replace("$installation", ".*")  # all, or without a name
                found[f"{file.stem}: {panel['title']}, {target['refId']}"] = expression
    assert found.keys() >= _WITHOUT.keys()
    return {name: each for name, each in found.items() if name not in _WITHOUT}


def without_filters(expression: str) -> str:
    """An alert's expression whose comparisons are 0 or 1, so that it has data if its parts have."""
    parts = re.split(r"(\{[^}]*\})", expression)
    compared = [
        part if part.startswith("{") else re.sub(r" (==|!=|>=|<=|>|<) ", r" \1 bool ", part)
        for part in parts
    ]
    return "".join(compared)


def drive(edge: str) -> None:
    """Ask for slates, record what viewers did, and change the catalogue: once each."""
    now = int(time.time())
    play = event_pb2.Event(
        event_id=f"observed-{time.time_ns()}",
        viewer_id="observed",
        video_id="video-7",
        kind=event_pb2.EVENT_KIND_PLAY,
    )
    play.time.FromSeconds(now)
    with grpc.insecure_channel(edge) as channel:
        slates = RecommendationServiceStub(channel)
        for viewer in (VIEWER, "1"):
            slates.Recommend(pb.RecommendRequest(viewer_id=viewer), timeout=10)
        slates.SimilarVideos(pb.SimilarVideosRequest(video_id="video-3"), timeout=10)
        EventServiceStub(channel).RecordEvents(
            event_pb2.RecordEventsRequest(events=[play]), timeout=10
        )
        catalog, video = CatalogServiceStub(channel), catalog_pb2.Video(video_id="observed")
        catalog.UpsertVideos(catalog_pb2.UpsertVideosRequest(videos=[video]), timeout=10)
        # Other tests know what this stack's slates can have.
        removed = catalog_pb2.RemoveVideosRequest(video_ids=[video.video_id])
        catalog.RemoveVideos(removed, timeout=10)


def test_every_rule_and_panel_finds_data_on_a_running_stack(
    tiny_stack: Stack, prometheus: str
) -> None:
    waiting = expressions()

    def all_have_data() -> bool:
        drive(tiny_stack.edge)
        for name in [name for name, each in waiting.items() if has_data(prometheus, each)]:
            del waiting[name]
        return not waiting

    deadline = time.monotonic() + _PATIENCE
    while not all_have_data():
        shown = "\n".join(f"{name}: {each}" for name, each in sorted(waiting.items()))
        assert time.monotonic() < deadline, shown


def test_no_alert_fires_and_all_targets_answer(prometheus: str) -> None:
    def all_up() -> bool:
        found = asked(prometheus, "targets", state="active")["activeTargets"]
        return len(found) == 10 and all(each["health"] == "up" for each in found)

    wait_until(all_up, _PATIENCE)
    firing = {
        alert["labels"]["alertname"]
        for alert in asked(prometheus, "alerts")["alerts"]
        if alert["state"] == "firing"
    }
    assert "VireoWatchdog" in firing
    assert firing <= {"VireoWatchdog", "VireoSlatesSlow"}, "a busy machine may be slow, and no more"
    [alertmanager] = asked(prometheus, "alertmanagers")["activeAlertmanagers"]
    with urllib.request.urlopen(alertmanager["url"].replace("/alerts", "/status")) as answer:
        assert answer.status == 200


def test_doctor_reads_there_what_processes_and_envoy_say(
    tiny_stack: Stack, prometheus: str
) -> None:

    def found() -> Facts:
        drive(tiny_stack.edge)
        with suppress(VireoError):  # it has scraped nothing yet
            return ask_prometheus(Deployment(prometheus=prometheus, answer=10.0))
        return Facts()

    wait_until(lambda: len(found().pages) == 8 and bool(found().edges), _PATIENCE)
    facts = found()
    assert facts.increase("vireo_rpcs_total") > 0
    assert all(page.value("process_resident_memory_bytes") for page in facts.pages)
    [edge] = facts.edges
    assert edge.requests > 0
    assert edge.knows_control
    assert not facts.hosts, "there are pods of each kind"
    # A name that Envoy doesn't have would be a count that is always 0.
    names = [
        f"{name}{{{label}={json.dumps(value)}}}"
        for name, labels in map(series_of, chain(*COUNTED.values(), [OPEN]))
        for label, value in labels.items()
    ]
    assert [each for each in names if not has_data(prometheus, each)] == []
    for kind in SERVICES:
        of_kind = f'{{envoy_cluster_name="{kind}"}}'
        assert has_data(prometheus, f"envoy_cluster_membership_healthy{of_kind} > 0")


def test_a_missing_program_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "prometheus").symlink_to(shutil.which("true") or "/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VireoError, match=r"alertmanager is missing.*apt-get install prometheus"):
        check_programs()


def test_targets_are_the_processes_that_serve_metrics() -> None:
    settings = StackSettings(port_base=20000, edge_port=20003, observe=True, canary_pods=1)
    probe = http_probe(1, "/")
    observed = [
        ProcessSpec(
            "ranking-canary-1", [], 20061, probe, {"VIREO_METRICS_PORT": "21061"}, "canary"
        ),
        ProcessSpec("envoy", [], 20003, probe),
    ]
    jobs = targets(settings, observed)
    labels = {"instance": "ranking-canary-1", "component": "ranking", "pool": "canary"}
    assert jobs["vireo"] == [{"targets": ["127.0.0.1:21061"], "labels": labels}]
    labels = {"instance": "envoy", "component": "edge"}
    assert jobs["envoy"] == [{"targets": ["127.0.0.1:20000"], "labels": labels}]
    ports = settings.ports(embedded_s3=True)
    assert {20006, 20007} <= ports.keys()
