"""What the fuzzer calls: every method of every service, at each place that serves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from vireo.inference import open_inference_pb2
from vireo.ops.stack.settings import POD_KINDS, StackSettings
from vireo.server.rpc.standard import v1_file
from vireo.v1 import (
    candidate_pb2,
    catalog_pb2,
    event_pb2,
    ranking_pb2,
    recommendation_pb2,
    release_pb2,
)


@dataclass(frozen=True)
class Method:
    """A method at one place."""

    place: str
    """The edge, or a kind of pod."""
    address: str
    """host:port"""
    descriptor: MethodDescriptor

    @property
    def path(self) -> str:
        """The `:path` of a call."""
        return f"/{self.descriptor.containing_service.full_name}/{self.descriptor.name}"

    @property
    def name(self) -> str:
        """Its name in results: the place, the service and the method."""
        return f"{self.place} {self.path[1:]}"


def methods(addresses: Mapping[str, str]) -> list[Method]:
    """Return all methods, given host:port of `edge`, `gateway`, `candidate` and `ranking`."""
    reflection = (reflection_pb2.DESCRIPTOR, _reflection_v1())
    everywhere = (release_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR, *reflection)
    public = (recommendation_pb2.DESCRIPTOR, event_pb2.DESCRIPTOR, catalog_pb2.DESCRIPTOR)
    with_model = (*everywhere, channelz_pb2.DESCRIPTOR, open_inference_pb2.DESCRIPTOR)
    served: Mapping[str, Sequence[FileDescriptor]] = {
        "edge": (*public, *everywhere),
        "gateway": (*public, *everywhere, channelz_pb2.DESCRIPTOR),
        "candidate": (candidate_pb2.DESCRIPTOR, *with_model),
        "ranking": (ranking_pb2.DESCRIPTOR, *with_model),
    }
    return [
        Method(place, addresses[place], method)
        for place, files in served.items()
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    ]


def methods_of(settings: StackSettings) -> list[Method]:
    """Return the methods of a stack's edge, and of its first pod of each kind."""
    addresses = {"edge": settings.edge}
    for kind in POD_KINDS:
        addresses[kind] = f"127.0.0.1:{settings.pod_ports(kind)[0]}"
    return methods(addresses)


def _reflection_v1() -> FileDescriptor:
    """Return its file, which no package has, from a pool of its own."""
    pool = DescriptorPool()
    pool.AddSerializedFile(v1_file())
    return pool.FindFileContainingSymbol("grpc.reflection.v1.ServerReflection")
