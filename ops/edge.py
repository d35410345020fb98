"""Connections of commands to an edge, plain text or TLS, and to the processes behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from vireo.ops.stack.settings import StackSettings
from vireo.ops.stack.state import ProcessState, StackState, running_stack
from vireo.server.errors import NoAnswerError, UsageError, VireoError
from vireo.server.home import Home
from vireo.server.rpc.tls import TlsFiles, open_blocking_channel
from vireo.server.security.folder import SecurityFolder
from vireo.v1.release_pb2 import GetServingReleaseRequest, GetServingReleaseResponse
from vireo.v1.release_pb2_grpc import ReleaseServiceStub

Stub = TypeVar("Stub")
_LOCAL_SECONDS = 3600
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_LOCAL_SCOPES = (
    "vireo.read",
    "vireo.batch",
    "vireo.explain",
    "vireo.events",
    "vireo.catalog",
    "vireo.admin",
)


@dataclass(frozen=True)
class Edge:
    """An edge and the credentials to call it."""

    target: str
    """host:port."""
    ca: Path | None = None
    """CA of its certificate; None if it uses plain text."""
    token: str = field(default="", repr=False)

    def channel(self) -> grpc.Channel:
        """Open a channel to the edge; raise VireoError if the CA can't be read."""
        credentials = self.credentials()
        if credentials is None:
            return grpc.insecure_channel(self.target)
        return grpc.secure_channel(self.target, credentials)

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Return channel credentials, None if the edge uses plain text.

        Raises:
            VireoError: the CA can't be read, or a token would be sent in plain text.
        """
        if self.ca is None:
            if self.token:
                raise VireoError(
                    "the token would be sent in plain text; set the CA of the edge's certificate "
                    "with --ca or VIREO_CA"
                )
            return None
        try:
            credentials = grpc.ssl_channel_credentials(self.ca.read_bytes())
        except OSError as error:
            raise VireoError(f"{self.ca}: {error.strerror}; it must be a PEM file") from error
        if self.token:
            token = grpc.access_token_call_credentials(self.token)
            credentials = grpc.composite_channel_credentials(credentials, token)
        return credentials

    @contextmanager
    def calls(self, stub: Callable[[grpc.Channel], Stub], scope: str) -> Iterator[Stub]:
        """Yield a stub of the edge; raise VireoError with the reason if a call of it fails.

        Args:
            stub: its class.
            scope: of tokens, which the calls ask for.
        """
        with self.channel() as channel:
            try:
                yield stub(channel)
            except grpc.RpcError as error:
                raise self.failure(error, scope) from error

    def failure(self, error: grpc.RpcError, scope: str) -> VireoError:
        """Return what to raise if a call failed that asks for a token of a scope."""
        away = cast("grpc.Call", error).code() in _AWAY
        return (NoAnswerError if away else VireoError)(_explain(error, self.target, scope))


def edge_of(target: str = "", ca: Path | None = None, token: str = "") -> Edge:
    """Return the edge to call.

    Args:
        target: host:port; by default that of the stack running on this home, or of the settings
            if none runs. A secured stack of this home is called with its own CA and a token
            signed here.
        ca: CA of the edge's certificate.
        token: bearer token to send.
    """
    if target:
        return Edge(target, ca, token)
    state = running_stack(Home.current())
    settings = StackSettings.load()
    stack = state or settings
    if not stack.secure:
        return Edge(stack.edge, ca, token)
    return Edge(stack.edge, ca or settings.security.authority, token or _local_token(settings))


def unpack_detail(error: grpc.RpcError, detail: Message) -> bool:
    """Fill a message of google.rpc from an error; return whether the error has such a detail."""
    status = rpc_status.from_call(cast("grpc.Call", error))  # type: ignore[no-untyped-call]
    return any(each.Unpack(detail) for each in (status.details if status else ()))


def _explain(error: grpc.RpcError, target: str, scope: str) -> str:
    """Return one line for the user: the field violations, or what to do."""
    bad, call = error_details_pb2.BadRequest(), cast("grpc.Call", error)
    if unpack_detail(error, bad) and bad.field_violations:
        return "; ".join(f"{each.field}: {each.description}" for each in bad.field_violations)
    if call.code() == grpc.StatusCode.UNAVAILABLE:
        if "WRONG_VERSION_NUMBER" in (call.details() or ""):
            return f"{target} answers without TLS; unset VIREO_CA, or leave out --ca"
        return (
            f"nothing serves at {target} ({call.details()}); start the stack with: vireo up, or "
            "name another with --target; a secured one needs --ca"
        )
    answered = f"{target} answered {call.code().name}: {call.details()}"
    if call.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return f"{answered}; set VIREO_TOKEN to a token with the scope {scope}"
    return answered


def require_stack(alternative: str) -> StackState:
    """Return the stack that runs on this home.

    Raises:
        NoAnswerError: none does; the message offers `alternative` besides `vireo up`.
    """
    state = running_stack(Home.current())
    if state is None:
        raise NoAnswerError(
            f"no stack runs on {Home.current().root}; start it with: vireo up, or {alternative}"
        )
    return state


def client_files(certificate: Path | None, key: Path | None, ca: Path | None) -> TlsFiles | None:
    """Return files for mutual TLS, None without a certificate; raise UsageError if one lacks."""
    if certificate and key and ca:
        return TlsFiles(certificate, key, ca)
    if certificate or key:
        raise UsageError("--certificate, --key and --ca go together")
    return None


def operator_tls(state: StackState) -> TlsFiles | None:
    """Return TLS files to call a stack's processes with; None if it isn't secured."""
    return SecurityFolder(Home.current().security).tls("operator") if state.secure else None


def _local_token(settings: StackSettings) -> str:
    from vireo.server.security.tokens import TokenSigner

    return TokenSigner(settings.security).token(
        subject="operator",
        scopes=_LOCAL_SCOPES,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        seconds=_LOCAL_SECONDS,
    )


_SECONDS = 2.0
_CONCURRENT = 16
"""Maximum number of pods queried concurrently."""
_PODS = ("candidate", "ranking", "gateway", "slate")


def serving_releases(state: StackState) -> dict[str, GetServingReleaseResponse | None]:
    """Return the response of each pod of a stack by name; None if it doesn't answer."""
    tls = operator_tls(state)

    def ask(pod: ProcessState) -> GetServingReleaseResponse | None:
        role = pod.name.partition("-")[0]
        with open_blocking_channel(f"127.0.0.1:{pod.port}", tls, role) as channel:
            try:
                return ReleaseServiceStub(channel).GetServingRelease(
                    GetServingReleaseRequest(), timeout=_SECONDS
                )
            except grpc.RpcError:
                return None

    pods = [each for each in state.processes if each.name.startswith(_PODS)]
    # Concurrent: a pod that hangs uses up its whole deadline.
    with ThreadPoolExecutor(_CONCURRENT) as threads:
        return dict(zip([pod.name for pod in pods], threads.map(ask, pods), strict=True))


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
        NoAnswerError: the control plane doesn't answer.
        VireoError: a TLS file can't be read.
    """
    # Imported here, since only these need the extra "control".
    from envoy.admin.v3.config_dump_shared_pb2 import ClientResourceStatus
    from envoy.service.status.v3.csds_pb2 import ClientStatusRequest
    from envoy.service.status.v3.csds_pb2_grpc import ClientStatusDiscoveryServiceStub

    from vireo.server.control.snapshot import KINDS, version_of

    request = ClientStatusRequest(exclude_resource_contents=True)
    with open_blocking_channel(target, tls, "control") as channel:
        try:
            answer = ClientStatusDiscoveryServiceStub(channel).FetchClientStatus(
                request, timeout=seconds
            )
        except grpc.RpcError as error:
            raise NoAnswerError(
                f"no control plane answers at {target} ({error.code().name}); start one with "
                "`vireo up` or `vireo control serve`, or name another with --control"
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
