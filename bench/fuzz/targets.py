"""Whom the fuzzer asks for what: every method of every service, at each place that serves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from inference import open_inference_pb2
from vireo.v1 import candidate_pb2, ranking_pb2, recommendation_pb2, release_pb2

from server.stack.settings import StackSettings

_EVERYWHERE = (release_pb2, health_pb2, reflection_pb2)
_PODS = (*_EVERYWHERE, open_inference_pb2, channelz_pb2)


@dataclass(frozen=True)
class Method:
    """A method at one place."""

    address: str
    """host:port"""
    edge: bool
    """Whether Envoy's edge is there, which has REST too."""
    descriptor: MethodDescriptor

    @property
    def path(self) -> str:
        """As gRPC has it in `:path`."""
        return f"/{self.descriptor.containing_service.full_name}/{self.descriptor.name}"

    @property
    def name(self) -> str:
        """The method's name in results: the place, the service and the method."""
        service = self.descriptor.containing_service.name
        return f"{'edge' if self.edge else 'pod'} {service}.{self.descriptor.name}"


def methods(edge: str, candidate: str, ranking: str) -> list[Method]:
    """All methods of an edge, a candidate pod and a ranking pod, by their addresses."""
    places: Sequence[tuple[str, bool, Sequence[object]]] = (
        (edge, True, (recommendation_pb2, *_EVERYWHERE)),
        (candidate, False, (candidate_pb2, *_PODS)),
        (ranking, False, (ranking_pb2, *_PODS)),
    )
    return [
        Method(address, is_edge, method)
        for address, is_edge, modules in places
        for module in modules
        for service in _services(module)
        for method in service.methods
    ]


def methods_of(settings: StackSettings) -> list[Method]:
    """Those of a stack: its edge, and the first pod of each kind."""
    pods = [f"127.0.0.1:{settings.pod_ports(kind)[0]}" for kind in ("candidate", "ranking")]
    return methods(settings.edge, *pods)


def _services(module: object) -> list[ServiceDescriptor]:
    return list(module.DESCRIPTOR.services_by_name.values())  # type: ignore[attr-defined]
