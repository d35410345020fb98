from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from tests.builders.rpc import rpc_settings, running_server
from vireo.server.control import ads, attempts, discovery
from vireo.server.control.ads import DiscoveryServicer, add_xds_services
from vireo.server.control.clients import Client, Push
from vireo.server.control.snapshot import KINDS, Resource, Snapshot, by_kind
from vireo.server.rpc.server import RpcServer

MAX_STREAMS = 3


def snapshot_of(contents: Mapping[str, str]) -> Snapshot:
    """Return a snapshot of clusters with their endpoints, listeners and routes.

    Args:
        contents: some content by name; a name starts with "c", "l" or "r" for its kind.
    """
    messages = []
    for name, content in contents.items():
        if name.startswith("c"):
            messages.append(Cluster(name=name, alt_stat_name=content))
            messages.append(ClusterLoadAssignment(cluster_name=name))
        elif name.startswith("l"):
            messages.append(Listener(name=name, stat_prefix=content))
        else:
            messages.append(RouteConfiguration(name=name, response_headers_to_remove=[content]))
    return by_kind(map(Resource.of, messages))


class Envoy:
    """An Envoy with one stream, which asks for all as Envoy does, and answers as a test decides."""

    def __init__(self) -> None:
        self.client = Client("envoy")
        self.snapshot = snapshot_of({})

    def publish(self, **contents: str) -> None:
        """Publish contents by name, with an underscore for the hyphen."""
        self.snapshot = snapshot_of({k.replace("_", "-"): v for k, v in contents.items()})

    def ask(self, kind: str, *names: str, has: dict[str, str] | None = None) -> None:
        """Subscribe to names; to all of a kind without any."""
        self.client.change(kind, names, (), has or {})

    def leave(self, kind: str, *names: str) -> None:
        self.client.change(kind, (), names, {})

    def receive(self) -> Push:
        """The next response."""
        push = self.client.next(self.snapshot)
        assert push is not None
        return push

    def take(self, push: Push) -> None:
        self.client.ack(push.kind, push.nonce)

    def refuse(self, push: Push, words: str = "bad") -> None:
        self.client.nack(push.kind, push.nonce, words)

    def taken(self) -> list[str]:
        """Kind, and names with a sign, of all responses until nothing comes."""
        found = []
        while (push := self.client.next(self.snapshot)) is not None:
            signs = [f"+{push.resource.name}"] if push.resource else []
            signs += [f"-{name}" for name in sorted(push.removed)]
            found.append(" ".join([KINDS[push.kind], *signs]))
            self.take(push)
        return found


@dataclass(frozen=True)
class Server:
    """A discovery server whose snapshots a test publishes."""

    port: int
    servicer: DiscoveryServicer

    def publish(self, contents: Mapping[str, str]) -> None:
        """Publish a snapshot of contents by name; see `snapshot_of`."""
        self.servicer.publish(snapshot_of(contents))


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    monkeypatch.setattr(ads, "_MAX_STREAMS", MAX_STREAMS)
    rpc_server = RpcServer(rpc_settings())
    servicer = add_xds_services(rpc_server)
    async with running_server(rpc_server):
        yield Server(rpc_server.port, servicer)


@pytest.fixture
def quick_file_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a file of endpoints read every few milliseconds, valid or not."""
    monkeypatch.setattr(discovery, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(attempts, "_MAX_PAUSE_SECONDS", 0.1)
