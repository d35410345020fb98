"""gRPC's own xDS client under the same control plane, without an Envoy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc
import pytest

from bench.stack import free_port_base
from server.control.mesh import Pool
from server.stack.processes import xds_bootstrap
from tests.builders.control import ControlPlane, local, running_control
from tests.builders.edge import CANDIDATE, CandidatePod, serve_candidate, serve_ranking
from tests.envoy.test_control import Caller

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Mesh:
    """A control plane, a client, and where pods answer by their names."""

    control: ControlPlane
    caller: Caller
    ports: dict[str, int]


@pytest.fixture
async def mesh(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mesh]:
    base = free_port_base()
    names = ("one", "two", "canary", "shadow")
    ports = {name: base + 20 + number for number, name in enumerate(names)}
    async with AsyncExitStack() as stack:
        for name, port in ports.items():
            await serve_candidate(CandidatePod(name), port, stack)
        await serve_ranking(base + 30, stack)  # without it the canary has no route
        endpoints = {
            Pool("ranking", "canary"): local(base + 30),
            Pool("candidate"): local(ports["one"]),
            Pool("candidate", "canary"): local(ports["canary"]),
            Pool("candidate", "shadow"): local(ports["shadow"]),
        }
        control = await stack.enter_async_context(running_control(endpoints, port=base + 4))
        bootstrap = xds_bootstrap(f"127.0.0.1:{control.port}", "gateway-1")
        monkeypatch.setenv("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"xds:///{CANDIDATE}"))
        yield Mesh(control, Caller(channel), ports)


async def test_a_grpc_client_follows_endpoints_shares_and_pools(mesh: Mesh) -> None:
    caller, control = mesh.caller, mesh.control
    assert await caller.call() == "one"
    # Endpoints.
    control.discovery.set(Pool("candidate"), mesh.ports["two"])
    answers = await caller.until(lambda name: name == "two")
    assert answers.keys() <= {"one", "two"}, "no call fails while traffic moves"
    # The canary's share of the buckets.
    control.channels.share = 0.1
    answers = await caller.until(lambda name: name == "canary", bucket="999")
    assert answers.keys() <= {"two", "canary"}
    assert await caller.call(bucket="1000") == "two"
    # The shadow pool, by name.
    assert await caller.call(pool="shadow") == "shadow"
    status = (await control.status())["gateway-1"]
    assert ("Listener", CANDIDATE) in status
    assert not any(each.error_state.details for each in status.values())


async def test_when_the_canary_pods_stop_production_answers(mesh: Mesh) -> None:
    mesh.control.channels.share = 1.0
    await mesh.caller.until(lambda name: name == "canary", bucket="9999")
    # A pod that is admitted, and stops.
    async with AsyncExitStack() as stack:
        port = mesh.ports["shadow"] + 1
        await serve_candidate(CandidatePod("brief"), port, stack)
        mesh.control.discovery.set(Pool("candidate", "canary"), port)
        await mesh.caller.until(lambda name: name == "brief", bucket="9999")
    answers = await mesh.caller.until(lambda name: name == "one", bucket="9999")
    assert answers.keys() <= {"brief", "one"}
