"""Endpoints that an xDS client gets while Kubernetes starts and stops pods."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from envoy.config.core.v3.health_check_pb2 import DRAINING, UNKNOWN
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from tests.builders.control import SetShare, control_of
from tests.builders.edge import CandidatePod, serve_candidate
from tests.builders.kubernetes_api import (
    Refusal,
    endpoint_slice,
    listing,
    modified,
    recorded,
    recorded_api,
)
from tests.builders.waiting import until
from tests.builders.xds import XdsClient, xds_client
from vireo.ops.stack.ports import free_port_base
from vireo.server.control.discovery.kubernetes import KubernetesDiscovery
from vireo.server.control.discovery.kubernetes_settings import KubernetesSettings
from vireo.server.control.snapshot import ENDPOINTS

pytestmark = pytest.mark.slow

READY = {"ready": True, "serving": True, "terminating": False}
STARTING = {"ready": False, "serving": False, "terminating": False}
STOPPING = {"ready": False, "serving": True, "terminating": True}


class PublishedEndpoints:
    """Endpoints of the cluster `candidate` as a client gets them."""

    def __init__(self, client: XdsClient) -> None:
        self._client = client

    async def next(self) -> dict[str, int]:
        """Health status by address, in the next response."""
        [body] = (await self._client.taken()).bodies
        assignment = ClusterLoadAssignment.FromString(body.value)
        return {
            each.endpoint.address.socket_address.address: each.health_status
            for locality in assignment.endpoints
            for each in locality.lb_endpoints
        }


async def test_pods_are_published_once_healthy_and_drain_before_removal(
    tmp_path: Path,
) -> None:
    first, second, third = "127.0.0.1", "127.0.0.2", "127.0.0.3"
    port = free_port_base()

    def pods(version: int, **conditions: dict[str, bool]) -> dict[str, object]:
        addresses = {"first": first, "second": second, "third": third}
        named = {addresses[name]: each for name, each in conditions.items()}
        return endpoint_slice("vireo-candidate", version, port, named)

    async with AsyncExitStack() as stack:
        for host in (first, second):
            await serve_candidate(CandidatePod(host), port, stack, host=host)
        api = await stack.enter_async_context(recorded_api())
        api.listing = listing(10, pods(9, first=READY, second=STARTING))
        settings = KubernetesSettings(config=api.kubeconfig(tmp_path), max_backoff=0.05)
        discovery = KubernetesDiscovery(settings)
        control_port, _, _ = await stack.enter_async_context(
            control_of(discovery, SetShare(), endpoint_drain_seconds=3.0)
        )
        client = await stack.enter_async_context(xds_client(control_port))
        published = PublishedEndpoints(client)
        await client.ask(ENDPOINTS, "candidate")
        assert await published.next() == {first: UNKNOWN}, "the other isn't ready"
        await until(lambda: bool(api.open_watches))
        # Of the two that are ready now the third answers nobody.
        api.send(modified(pods(11, first=READY, second=READY, third=READY)))
        assert await published.next() == {first: UNKNOWN, second: UNKNOWN}
        # A failing API removes no pod: the next update comes after it.
        api.list_fault = api.watch_fault = Refusal(500, recorded("internal_error.json"))
        api.end_watches()
        await until(lambda: discovery.attempts.failures >= 2)
        api.listing = listing(20, pods(15, first=STOPPING, second=READY))
        api.list_fault = api.watch_fault = None
        assert await published.next() == {second: UNKNOWN, first: DRAINING}
        assert await published.next() == {second: UNKNOWN}
