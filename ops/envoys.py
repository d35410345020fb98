"""What a control plane knows of its Envoys: the configuration that each has, or refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vireo.server.errors import VireoError

if TYPE_CHECKING:
    from vireo.server.rpc.tls import TlsFiles

TIMEOUT = 5.0


@dataclass(frozen=True)
class ResourceStatus:
    """One resource on one Envoy."""

    kind: str
    """One of "clusters", "endpoints", "listeners" and "routes"."""
    name: str
    version: str
    """Version that the Envoy has; empty if it never accepted one."""
    state: str
    """ACKED, NACKED (a newer version was rejected) or REQUESTED (a version is in flight)."""
    refused_version: str
    words: str
    """Error details of the rejection, as sent by Envoy."""


@dataclass(frozen=True)
class EnvoyStatus:
    """One Envoy that is connected to the control plane."""

    node: str
    agent: str
    versions: dict[str, str]
    """Version of each kind."""
    resources: tuple[ResourceStatus, ...]


def envoys_of(
    target: str, tls: TlsFiles | None = None, seconds: float = TIMEOUT
) -> list[EnvoyStatus]:
    """Return the status of each client of a control plane.

    Args:
        target: host:port of the control plane.
        tls: client TLS files, if it uses mutual TLS.
        seconds: maximum time to wait for its answer.

    Raises:
        VireoError: the control plane doesn't answer, or a TLS file can't be read.
    """
    import grpc
    from envoy.admin.v3.config_dump_shared_pb2 import ClientResourceStatus
    from envoy.service.status.v3.csds_pb2 import ClientStatusRequest
    from envoy.service.status.v3.csds_pb2_grpc import ClientStatusDiscoveryServiceStub

    from vireo.server.control.snapshot import KINDS, version_of
    from vireo.server.rpc.tls import open_blocking_channel

    request = ClientStatusRequest(exclude_resource_contents=True)
    with open_blocking_channel(target, tls, "control") as channel:
        try:
            answer = ClientStatusDiscoveryServiceStub(channel).FetchClientStatus(
                request, timeout=seconds
            )
        except grpc.RpcError as error:
            raise VireoError(
                f"no control plane answers at {target} ({error.code().name}); start one with "
                "`vireo up` or `vireo control serve`, or name another with --target"
            ) from error
    envoys = []
    for config in answer.config:
        resources = tuple(
            ResourceStatus(
                kind=KINDS.get(each.type_url, each.type_url),
                name=each.name,
                version=each.version_info,
                state=ClientResourceStatus.Name(each.client_status),
                refused_version=each.error_state.version_info,
                words=each.error_state.details,
            )
            for each in config.generic_xds_configs
        )
        versions = {
            kind: version_of({each.name: each.version for each in resources if each.kind == kind})
            for kind in dict.fromkeys(each.kind for each in resources)
        }
        envoys.append(
            EnvoyStatus(
                node=config.node.id,
                agent=config.node.user_agent_name,
                versions=versions,
                resources=resources,
            )
        )
    return envoys
