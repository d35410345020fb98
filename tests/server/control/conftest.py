from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from tests.builders.s3 import unreachable_s3
from vireo.server.control import attempts
from vireo.server.control.ads import DiscoveryServicer
from vireo.server.control.control import control_server
from vireo.server.control.discovery import file
from vireo.server.control.settings import ControlSettings
from vireo.server.control.snapshot import Snapshot


@dataclass(frozen=True)
class Server:
    """A discovery server whose snapshots a test publishes."""

    port: int
    servicer: DiscoveryServicer

    def publish(self, resources: Mapping[str, str]) -> None:
        """Publish clusters with their endpoints, listeners and routes, each with some content.

        Args:
            resources: content by name; a name starts with "c", "l" or "r" for its kind.
        """
        messages = []
        for name, content in resources.items():
            if name.startswith("c"):
                messages.append(Cluster(name=name, alt_stat_name=content))
                messages.append(ClusterLoadAssignment(cluster_name=name))
            elif name.startswith("l"):
                messages.append(Listener(name=name, stat_prefix=content))
            else:
                messages.append(RouteConfiguration(name=name, response_headers_to_remove=[content]))
        self.servicer.publish(Snapshot.of(messages))


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    settings = ControlSettings(port=0, drain_seconds=0, s3=unreachable_s3())
    rpc_server, servicer = control_server(settings)
    await rpc_server.start()
    yield Server(rpc_server.port, servicer)
    await rpc_server.drain()


@pytest.fixture
def quick_file_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a file of endpoints read every few milliseconds, valid or not."""
    monkeypatch.setattr(file, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(attempts, "_MAX_PAUSE_SECONDS", 0.1)
