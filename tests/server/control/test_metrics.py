"""What the control plane shows to Prometheus."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse
from prometheus_client import REGISTRY

from tests.builders.control import SetChannels, control_of, running_control
from tests.builders.edge import CandidatePod, serve_candidate
from tests.builders.http_page import page
from tests.builders.kubernetes_api import RecordedApi
from tests.builders.process import start, wait_for_health, watched_channel
from tests.builders.s3 import unreachable_s3
from tests.builders.samples import Grown, sample
from tests.builders.waiting import until
from tests.builders.xds import xds_client
from vireo.ops.stack.ports import free_port_base
from vireo.server.control.discovery import FileDiscovery
from vireo.server.control.mesh import POOLS, Pool
from vireo.server.control.snapshot import CLUSTER, ENDPOINTS, LISTENER, version_of

CANDIDATE = Pool("candidate")


async def test_clients_pushes_and_their_answers_are_counted_by_kind_and_refusals_shown(
    grown: Grown,
) -> None:
    async with (
        running_control({}) as control,
        xds_client(control.port) as client,
    ):
        assert sample("vireo_xds_clients", client="other") == 0
        await client.ask(CLUSTER)
        for _ in POOLS:
            await client.taken()
        assert sample("vireo_xds_clients", client="other") == 1
        await client.ask(ENDPOINTS, "candidate")
        await client.taken()
        await client.ask(LISTENER)
        await client.refuse(await client.receive(), "no such filter")
        await until(lambda: sample("vireo_xds_refused_resources", kind="listeners") == 1)
        assert sample("vireo_xds_refused_resources", kind="clusters") == 0
        clusters, listeners = (
            [grown(f"vireo_xds_{event}_total", kind=kind) for event in ("pushes", "acks", "nacks")]
            for kind in ("clusters", "listeners")
        )
        await client.hears_nothing()  # ends the stream
        await until(lambda: sample("vireo_xds_refused_resources", kind="listeners") == 0)
        assert sample("vireo_xds_clients", client="other") == 0
    assert clusters == [len(POOLS), len(POOLS), 0]
    assert listeners[1:] == [0, 1]


async def test_each_kind_has_the_version_of_the_newest_snapshot() -> None:
    async with running_control({}) as control:
        published = sample("vireo_xds_snapshots_total")

        def version() -> str:
            assert control.servicer.snapshot is not None
            resources = control.servicer.snapshot[ENDPOINTS].values()
            return version_of({each.name: each.version for each in resources})

        first = version()
        assert sample("vireo_xds_snapshot_info", kind="endpoints", version=first) == 1
        control.discovery.set(CANDIDATE, 1)
        await until(lambda: version() != first)
        of_the_first = {"kind": "endpoints", "version": first}
        assert REGISTRY.get_sample_value("vireo_xds_snapshot_info", of_the_first) is None
        assert sample("vireo_xds_snapshot_info", kind="endpoints", version=version()) == 1
        assert sample("vireo_xds_snapshots_total") == published + 1


async def test_pods_are_counted_by_cluster_and_state() -> None:
    port = free_port_base()
    async with AsyncExitStack() as stack:
        for each in (port, port + 1):
            await serve_candidate(CandidatePod(str(each)), each, stack)
        control = await stack.enter_async_context(running_control({}))

        def states(cluster: str = "candidate") -> list[float]:
            return [
                sample("vireo_endpoints", cluster=cluster, state=state)
                for state in ("admitted", "unadmitted")
            ]

        assert states() == states("gateway") == [0, 0]
        control.discovery.set(CANDIDATE, port, port + 1, port + 2)
        await until(lambda: states() == [2, 1])
        control.discovery.set(CANDIDATE, port)
        await until(lambda: states() == [1, 0])
        assert states("candidate-canary") == [0, 0]


@pytest.mark.usefixtures("quick_file_polls")
async def test_discovery_failures_and_the_age_of_the_last_success_are_exported(
    tmp_path: Path, grown: Grown
) -> None:
    path = tmp_path / "endpoints.json"
    path.write_text("{}")
    age = partial(sample, "vireo_discovery_success_age_seconds", source="file")
    async with control_of(FileDiscovery(path), SetChannels()):
        path.write_text("{")
        await until(lambda: grown("vireo_discovery_failures_total", source="file") >= 2)
        await until(lambda: age() > 0.3)
        longest = age()
        path.write_text("{}")
        await until(lambda: age() < longest)


async def test_members_that_no_snapshot_can_be_made_of_are_counted_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, grown: Grown
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no snapshot")

    async with running_control({}) as control:
        with monkeypatch.context() as patched:
            patched.setattr("vireo.server.control.resources.snapshot", fail)
            control.discovery.set(CANDIDATE, 1)
            await until(lambda: grown("vireo_discovery_failures_total", source="members") >= 2)
            assert not control.mesh.of(CANDIDATE)
        await until(lambda: bool(control.mesh.of(CANDIDATE)))


@pytest.mark.integration
async def test_a_process_that_follows_kubernetes_exports_them_and_stops_on_sigterm(
    tmp_path: Path,
) -> None:
    port = free_port_base()
    metrics_port = port + 1
    async with RecordedApi().running() as api:
        environment = {
            "VIREO_PORT": str(port),
            "VIREO_METRICS_PORT": str(metrics_port),
            "VIREO_DRAIN_SECONDS": "0",
            "VIREO_DISCOVERY": "kubernetes",
            "VIREO_KUBERNETES_CONFIG": str(api.kubeconfig(tmp_path)),
            **unreachable_s3().environment(),
        }
        process = start("vireo.server.control", tmp_path / "log", environment)
        try:
            with watched_channel(port) as channel:
                await asyncio.to_thread(wait_for_health, channel, HealthCheckResponse.SERVING)
            _, shown = await asyncio.to_thread(page, metrics_port)
            process.terminate()
            code = await asyncio.to_thread(process.wait, 30)
        finally:
            process.kill()
    assert code == 0
    assert "Traceback" not in (tmp_path / "log").read_text()
    for line in (
        'vireo_discovery_failures_total{source="kubernetes"} 0.0',
        'vireo_endpoints{cluster="ranking",state="admitted"} 2.0',
        'vireo_xds_clients{client="envoy"} 0.0',
        'vireo_xds_nacks_total{kind="routes"} 0.0',
        "vireo_xds_snapshots_total 1.0",
    ):
        assert f"{line}\n" in shown
    assert 'vireo_discovery_success_age_seconds{source="kubernetes"}' in shown
