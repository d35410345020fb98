"""That the chart's pods fit the settings, ports and services of the code."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic_settings import BaseSettings

from tests.builders.chart import VALUES, Document, flags, render
from tests.builders.s3 import unreachable_s3
from tests.deploy.helm.layouts import SECURED, SETS, arguments, kinds, rendered
from vireo.server.candidate.service import CandidateSettings
from vireo.server.consumer.consumer import ConsumerSettings
from vireo.server.control import ads
from vireo.server.control.kubernetes import PORT_NAME
from vireo.server.control.mesh import GRPC_SERVICES, POOLS, SLATE
from vireo.server.control.settings import ControlSettings, KubernetesSettings
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.features.online_store import RedisSettings
from vireo.server.gateway.settings import GatewaySettings
from vireo.server.live.settings import LiveSettings
from vireo.server.pod.pod import PodSettings
from vireo.server.releases.s3 import S3Settings
from vireo.server.rpc.settings import RpcSettings, load_settings
from vireo.server.slate.service import SlateSettings

pytestmark = pytest.mark.integration

PROCESSES: Mapping[str, tuple[type[RpcSettings], str | None]] = {
    "vireo.server.control": (ControlSettings, ads.NAME),
    "vireo.server.candidate": (CandidateSettings, GRPC_SERVICES["candidate"]),
    "vireo.server.ranking": (PodSettings, GRPC_SERVICES["ranking"]),
    "vireo.server.gateway": (GatewaySettings, GRPC_SERVICES["gateway"]),
    "vireo.server.slate": (SlateSettings, GRPC_SERVICES["slate"]),
    "vireo.server.consumer": (ConsumerSettings, None),
}
"""The settings of each process of ours, by its module in a wheel, and the gRPC service by which it
reports its health; None for the server as a whole."""
PROCESS_VARIABLES = {"GLIBC_TUNABLES", "OMP_NUM_THREADS"}


def settings_of(container: Document, monkeypatch: pytest.MonkeyPatch) -> RpcSettings:
    """The settings that its process would have."""
    kind, _ = PROCESSES[container["command"][2]]
    with monkeypatch.context() as patch:
        for variable in container["env"]:
            source = variable.get("valueFrom", {})
            if "secretKeyRef" in source:
                continue  # checked by the setting itself
            given = "0" if "fieldRef" in source else ""
            patch.setenv(variable["name"], variable.get("value", given))
        for name, value in unreachable_s3().environment().items():
            patch.setenv(name, value)
        EventLogSettings.load()
        return load_settings(kind, [])


def variables_of(*kinds: type[BaseSettings]) -> set[str]:
    return {
        f"{kind.model_config['env_prefix']}{field}".upper()
        for kind in kinds
        for field in kind.model_fields
    }


@pytest.mark.parametrize("values", SETS)
def test_every_variable_is_one_of_the_settings_of_its_process_and_has_a_fit_value(
    values: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, container in rendered(values).servers().items():
        kind, _ = PROCESSES[container["command"][2]]
        known = variables_of(kind, S3Settings, EventLogSettings, LiveSettings, RedisSettings)
        if kind is ControlSettings:
            known |= variables_of(KubernetesSettings) | {"VIREO_BACKUP_S3_ENDPOINT"}
        given = [each["name"] for each in container["env"]]
        assert len(given) == len(set(given)), name
        assert set(given) - PROCESS_VARIABLES <= known, name
        assert container["envFrom"] == [{"secretRef": {"name": "vireo-s3"}}]
        settings = settings_of(container, monkeypatch)
        assert (settings.host, settings.metrics_host) == ("0.0.0.0", "0.0.0.0")


@pytest.mark.parametrize("values", SETS)
def test_variables_that_kubernetes_makes_of_services_are_not_taken_for_settings(
    values: str,
) -> None:
    made = {f"{name.upper().replace('-', '_')}_PORT" for name in rendered(values).named("Service")}
    assert made & variables_of(ControlSettings), "there is a setting of the name of one"
    pods = rendered(values).pods().values()
    assert {pod["spec"]["enableServiceLinks"] for pod in pods} == {False}


@pytest.mark.parametrize("values", SETS)
def test_selectors_find_the_pods_of_their_name(values: str) -> None:
    chart = rendered(values)
    chosen: dict[str, Any] = {}
    for name, each in chart.named("Deployment").items():
        selector = dict(each["spec"]["selector"]["matchLabels"])
        assert selector.items() <= each["spec"]["template"]["metadata"]["labels"].items()
        partition = selector.pop("vireo/partition", None)
        service = f"vireo-{selector['app.kubernetes.io/component']}"
        assert name == (service if partition is None else f"{service}-{partition}")
        assert chart.named("Service")[service]["spec"]["selector"] == selector
        chosen[service] = {"matchLabels": selector}
    budgets = chart.named("PodDisruptionBudget")
    assert {name: each["spec"]["selector"] for name, each in budgets.items()} == chosen
    assert {each["spec"]["maxUnavailable"] for each in budgets.values()} == {"10%"}


@pytest.mark.parametrize("values", SETS)
def test_the_control_plane_finds_the_pods_of_each_pool(
    values: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chart = rendered(values)
    control = settings_of(chart.servers()["vireo-control"], monkeypatch)
    assert isinstance(control, ControlSettings)
    assert control.discovery == "kubernetes"
    pools = control.kubernetes.pools
    assert set(pools.values()) == {*POOLS, SLATE}
    names = {"production", "canary"} if values == "canary" else {"production"}
    served = {
        name: pool
        for name, pool in pools.items()
        if pool.name in names and pool.service in kinds(values)
    }
    others = {name for name in chart.servers() if name.startswith("vireo-con")}
    assert served.keys() == chart.servers().keys() - others
    for name, pool in served.items():
        service = chart.named("Service")[name]["spec"]
        assert service["clusterIP"] == "None"
        [port] = service["ports"]
        assert port["name"] == port["targetPort"] == PORT_NAME
        container = chart.servers()[name]
        assert container["command"] == ["python", "-m", f"vireo.server.{pool.service}"]
        settings = settings_of(container, monkeypatch)
        assert isinstance(settings, PodSettings)
        assert settings.channel == pool.name
        assert settings.control_target == f"vireo-control:{control.port}"


@pytest.mark.parametrize("values", SETS)
def test_ports_and_probes_are_those_on_which_processes_answer(
    values: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, container in rendered(values).servers().items():
        settings = settings_of(container, monkeypatch)
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        http = getattr(settings, "oip_http_port", 0)
        expected = {"grpc": settings.port, "metrics": settings.metrics_port}
        assert ports == expected | ({"oip-http": http} if http else {})
        headless = re.sub(r"(consumer)-\d+$", r"\1", name)
        [port] = rendered(values).named("Service")[headless]["spec"]["ports"]
        assert (port["port"], port["targetPort"]) == (settings.port, "grpc")
        probes = [container[f"{each}Probe"] for each in ("startup", "readiness", "liveness")]
        if settings.tls:
            pages = [each["httpGet"] for each in probes]
            assert [each["path"] for each in pages] == ["/ready", "/ready", "/live"]
            assert {each["port"] for each in pages} == {"metrics"}
            continue
        _, service = PROCESSES[container["command"][2]]
        named = {"service": service} if service else {}
        whole = {"port": settings.port}
        assert [each["grpc"] for each in probes] == [whole, whole | named, whole]


@pytest.mark.parametrize("values", SETS)
def test_pods_have_time_to_drain(values: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chart = rendered(values)
    for name, container in chart.servers().items():
        settings = settings_of(container, monkeypatch)
        whole = settings.drain_seconds + settings.grace_seconds
        assert chart.pods()[name]["spec"].get("terminationGracePeriodSeconds", 30) > whole
        if isinstance(settings, PodSettings):
            assert settings.drain_seconds == 5, "an EndpointSlice takes its time to tell"


@pytest.mark.parametrize("values", SETS)
def test_volumes_are_there_and_settings_lie_on_them(
    values: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chart = rendered(values)
    for name, container in chart.containers():
        mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
        volumes = {each["name"] for each in chart.pods()[name]["spec"]["volumes"]}
        assert set(mounts.values()) <= volumes
        assert mounts["/tmp"] == "tmp"
        if container is not chart.servers().get(name):
            continue
        settings = settings_of(container, monkeypatch)
        folders: list[Path | None] = [getattr(settings, "cache", None)]
        folders.append(getattr(settings, "features", None))
        if settings.tls:
            folders.append(settings.tls.certificate.parent)
        if rules := getattr(settings, "rules", None):
            folders.append(rules.parent)
        for each in ("VIREO_NATS_CA", "VIREO_JWKS"):
            path = next((it["value"] for it in container["env"] if it["name"] == each), "")
            folders.append(Path(path).parent if path.startswith("/") else None)
        for folder in filter(None, folders):
            assert str(folder) in mounts, f"{name} reads {folder}"


@pytest.mark.parametrize("values", SETS)
def test_no_process_is_root_or_writes_elsewhere_than_to_volumes(values: str) -> None:
    for pod in rendered(values).pods().values():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("values", SETS)
def test_every_container_asks_for_what_it_needs_and_may_not_take_all_memory(values: str) -> None:
    for name, container in rendered(values).containers():
        resources = container["resources"]
        assert resources["requests"].keys() == {"cpu", "memory"}, name
        assert resources["limits"].keys() == {"memory"}, "a limit of cpu makes calls wait"


@pytest.mark.parametrize("values", SETS)
def test_secrets_are_named_and_none_is_in_the_chart(values: str) -> None:
    assert not rendered(values).named("Secret")
    secret = ("SECRET_KEY", "TOKEN", "REDIS_URL")
    for name, container in rendered(values).containers():
        for variable in container["env"]:
            if variable["name"].endswith(secret):
                assert "secretKeyRef" in variable["valueFrom"], f"{name}: {variable}"


@pytest.mark.parametrize("values", SECURED)
def test_whatever_reads_or_writes_features_is_told_where_redis_is(values: str) -> None:
    told = {
        name.removeprefix("vireo-")
        for name, container in rendered(values).containers()
        if any(each["name"] == "VIREO_REDIS_URL" for each in container["env"])
    }
    jobs = {"nightly", "backup", "operations", "operations-data"}
    readers = {"gateway", "slate"} & kinds(values)
    assert told == {*readers, *jobs, *(f"consumer-{number}" for number in range(4))}


def test_each_partition_has_a_consumer_of_its_number_that_leaves_a_lost_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chart = rendered("production")
    assert not chart.named("StatefulSet"), "its pod would stay on a lost node until it is deleted"
    for number in range(4):
        name = f"vireo-consumer-{number}"
        assert chart.named("Deployment")[name]["spec"]["replicas"] == 1
        settings = settings_of(chart.servers()[name], monkeypatch)
        assert isinstance(settings, ConsumerSettings)
        assert settings.event_partition == number
        variables = {each["name"]: each.get("value") for each in chart.servers()[name]["env"]}
        assert variables["VIREO_EVENT_PARTITIONS"] == "4"


@pytest.mark.parametrize("values", SETS)
def test_pods_of_a_lost_node_are_soon_made_elsewhere(values: str) -> None:
    chart = rendered(values)
    for name in chart.named("Deployment"):
        left = {
            each["key"]: each["tolerationSeconds"]
            for each in chart.pods()[name]["spec"]["tolerations"]
            if each["effect"] == "NoExecute"
        }
        keys = ("not-ready", "unreachable")
        assert left == {f"node.kubernetes.io/{key}": 30 for key in keys}, name
    if "vireo-nightly" in chart.pods():
        assert "tolerations" not in chart.pods()["vireo-nightly"]["spec"], "a run takes hours"


def test_in_production_the_path_of_slates_is_never_preempted_and_two_control_planes_run() -> None:
    chart = rendered("production")
    for name, pod in chart.pods().items():
        waits = name in ("vireo-nightly", "vireo-backup", "vireo-operations-data")
        expected = None if waits else "serving"
        assert pod["spec"].get("priorityClassName") == expected, name
    assert chart.named("Deployment")["vireo-control"]["spec"]["replicas"] == 2


@pytest.mark.parametrize(("common", "own"), [(True, False), (5, 0), ("x", "")])
def test_a_component_wins_with_false_and_nothing_too(common: object, own: object) -> None:
    settings = [f"settings.VIREO_REFLECTION={json.dumps(common)}"]
    components = ("gateway", "slate", "candidate", "ranking", "control", "consumer", "jobs")
    settings += [f"{each}.settings.VIREO_REFLECTION={json.dumps(own)}" for each in components]
    chart = render(*arguments("both"), *flags(*settings))
    for name, container in chart.containers():
        if container["command"] != ["envoy"]:
            found = {each["name"]: each.get("value") for each in container["env"]}
            assert found["VIREO_REFLECTION"] == json.dumps(own).strip('"'), name


def test_every_container_may_have_volumes_and_all_processes_an_authority_of_their_own() -> None:
    volume = {"name": "authority", "configMap": {"name": "authority"}}
    mount = {"name": "authority", "mountPath": "/authority", "readOnly": True}
    chart = render(
        *("--values", str(VALUES["production"])),
        *flags(
            f"extraVolumes={json.dumps([volume])}",
            f"extraVolumeMounts={json.dumps([mount])}",
            'settings.SSL_CERT_FILE="/authority/ca.crt"',
        ),
    )
    for name, container in chart.containers():
        assert mount in container["volumeMounts"], name
        assert volume in chart.pods()[name]["spec"]["volumes"]
        if container["command"] != ["envoy"]:
            assert {"name": "SSL_CERT_FILE", "value": "/authority/ca.crt"} in container["env"]


@pytest.mark.parametrize("values", SECURED)
def test_each_process_has_its_own_key_and_the_edges_is_at_the_edge_alone(values: str) -> None:
    chart = rendered(values)
    secrets = {name: str(pod["spec"]["volumes"]) for name, pod in chart.pods().items()}
    assert [name for name, each in secrets.items() if "vireo-edge-tls" in each] == ["vireo-edge"]
    for name, container in chart.servers().items():
        kind = container["command"][2].rpartition(".")[2]
        assert f"'vireo-{kind}-tls'" in secrets[name]


@pytest.mark.parametrize("layout", ["separate", "together"])
def test_the_step_between_layouts_has_the_pods_of_either_unchanged(layout: str) -> None:
    found = render(*arguments("both"), *flags(f'layout="{layout}"'))
    for kind in ("Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"):
        assert found.named(kind).items() <= rendered("both").named(kind).items()


def test_settings_of_values_reach_their_processes_and_those_of_a_component_win(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everywhere = {
        "VIREO_MAX_MESSAGE_BYTES": 1 << 30,
        "VIREO_ACCESS_LOG_SHARE": 0.25,
        "VIREO_GRACE_SECONDS": 7,  # which the chart sets, too
    }
    chart = render(
        *("--set-json", f"settings={json.dumps(everywhere)}"),
        *("--set-json", 'gateway.settings={"VIREO_ACCESS_LOG_SHARE": 1}'),
    )
    for name, share in (("vireo-ranking", 0.25), ("vireo-gateway", 1)):
        container = chart.servers()[name]
        settings = settings_of(container, monkeypatch)
        assert (settings.max_message_bytes, settings.access_log_share) == (1 << 30, share)
        assert settings.grace_seconds == 7
        names = [each["name"] for each in container["env"]]
        assert len(names) == len(set(names)), "the API refuses a list with a name twice"


def test_every_process_is_told_of_the_collector_and_the_control_plane_whose_calls_are_traced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endpoint = "http://collector.monitoring:4317"
    values = {"otlpEndpoint": endpoint, "share": 0.05, "callers": False}
    servers = render("--set-json", f"tracing={json.dumps(values)}").servers()
    found = {name: settings_of(each, monkeypatch) for name, each in servers.items()}
    assert {settings.otlp_endpoint for settings in found.values()} == {endpoint}
    control = found["vireo-control"]
    assert isinstance(control, ControlSettings)
    assert (control.trace_share, control.trace_callers) == (0.05, False)
