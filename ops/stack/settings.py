"""Settings of a stack on one machine: ports, how many pods of each kind, where state lies."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from vireo.ops.stack.state import Layout
from vireo.server.control.mesh import INNER, POOLS, SLATE, PoolName
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.security.folder import SecurityFolder
from vireo.server.settings import EnvironmentSettings

PodKind = Literal["candidate", "ranking", "gateway", "slate"]
POD_KINDS: tuple[PodKind, ...] = ("candidate", "ranking", "gateway")

METRICS_PORT_OFFSET = 1000
"""Offset from the port of a pod, or of the control plane, to that of its metrics."""
OIP_HTTP_PORT_OFFSET = 2000
"""Offset from the port of a candidate or ranking pod to that of the Open Inference Protocol."""

_LOOPBACK_OF_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
_MAX_PODS = 10
_S3_PORTS = 9
_S3_ADMIN_OFFSET = 10008


class _FromBase:
    """A port at an offset from `port_base`."""

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def __get__(self, settings: StackSettings, _: type[StackSettings]) -> int:
        return settings.port_base + self._offset


class StackSettings(EnvironmentSettings):
    """Read from `VIREO_…` environment variables; each field says what it is for.

    Only `edge_port` is meant for callers. All other ports follow from `port_base`, and are bound
    on loopback.
    """

    home: Path = Field(default_factory=lambda: Home.current().root)
    """Folder of all state; `.vireo` in the checkout by default."""
    channel: str = Field(default="production", min_length=1)
    """The channel whose release is served."""

    edge_host: str = "127.0.0.1"
    """Address that the edge listens on; 0.0.0.0 opens it to other machines."""
    edge_port: int = Field(default=8080, ge=1, le=65535)
    """Port of the edge: gRPC, gRPC-Web and REST."""
    port_base: int = Field(default=8100, ge=1024, le=50000)
    """Port that all others but the edge's follow; a second stack needs both."""
    admin_port: int = Field(default_factory=lambda data: data["port_base"])
    """Port of Envoy's admin interface, always on loopback; 0 for none."""

    candidate_port: ClassVar = _FromBase(1)
    """Port of Envoy's inner listener for the candidate pods."""
    ranking_port: ClassVar = _FromBase(2)
    """Port of Envoy's inner listener for the ranking pods."""
    control_port: ClassVar = _FromBase(4)
    """Port of the control plane, which configures Envoy."""
    log_port: ClassVar = _FromBase(5)
    """Port of the embedded log of events, a NATS server."""
    prometheus_port: ClassVar = _FromBase(6)
    """Port of Prometheus, always on loopback, if it is run."""
    alertmanager_port: ClassVar = _FromBase(7)
    """Port of Alertmanager, always on loopback, if it is run."""
    s3_port: ClassVar = _FromBase(10)
    """Port of the embedded S3 server; it also uses the next eight ports, and s3_port + 10008."""
    candidate_pod_port: ClassVar = _FromBase(20)
    """Port of the first candidate pod; the next pods use the ports that follow."""
    ranking_pod_port: ClassVar = _FromBase(30)
    """Port of the first ranking pod."""
    gateway_pod_port: ClassVar = _FromBase(40)
    """Port of the first gateway pod."""
    canary_pod_port: ClassVar = _FromBase(50)
    """Port of the first canary pod: ten ports for candidate pods, ten for ranking pods."""
    slate_pod_port: ClassVar = _FromBase(50)
    """Port of the first slate pod: where these are, there is no canary pod."""
    consumer_port: ClassVar = _FromBase(90)
    """Port of the first consumer of events; that of each further partition uses the next."""

    layout: Layout = "separate"
    """Where slates are made: by candidate, ranking and gateway pods, or, `together`, by slate pods
    that are all three."""
    slate_pods: int = Field(default=2, ge=1, le=_MAX_PODS)
    """Number of slate pods, if services are together."""
    candidate_pods: int = Field(default=2, ge=1, le=_MAX_PODS)
    """Number of candidate pods."""
    ranking_pods: int = Field(default=2, ge=1, le=_MAX_PODS)
    """Number of ranking pods."""
    gateway_pods: int = Field(default=2, ge=1, le=_MAX_PODS)
    """Number of gateway pods."""
    canary_pods: int = Field(default=0, ge=0, le=_MAX_PODS)
    """Number of candidate pods, and of ranking pods, on the channel `canary`."""

    durable: bool = False
    """Whether the embedded log has each message on disk before it is acknowledged, as with
    `vireo up --durable`: no power cut loses it then."""
    observe: bool = False
    """Whether to run Prometheus and Alertmanager too, as `vireo up --observe` does."""

    oip_http: bool = False
    """Whether candidate and ranking pods serve the Open Inference Protocol by HTTP too, and the
    edge below /v2. It needs `pip install 'vireo[http]'`."""

    secure: bool = False
    """Whether to require certificates and tokens everywhere, as `vireo up --secure` does."""
    jwks: str = ""
    """File or https URL of the keys that a secured edge verifies tokens with; by default those of
    `vireo tokens make`."""
    jwt_issuer: str = "vireo"
    """Required issuer of tokens (`iss`)."""
    jwt_audience: str = "vireo"
    """Required audience of tokens (`aud`)."""
    viewer_claim: str = Field(default="vireo_viewer", pattern=r"^[\w.:/~-]+$")
    """Claim that names a token's viewer, for example `sub`; if it is there, others are denied."""
    rate_limit: int = Field(default=1000, ge=0)
    """Maximum calls a second by one caller of a secured edge; 0 for no limit."""
    cors_origins: str = r"https?://(localhost|127\.0\.0\.1)(:[0-9]+)?"
    """Regular expression of the web origins that browsers may call from."""
    envoy_threads: int = Field(default=1, ge=1, le=64)
    """Number of Envoy's worker threads. One proxies about two thousand slates a second, as many as
    pods on eight cores can answer, and wakes up less often than two that share the same calls."""
    start_timeout: float = Field(default=90, gt=0)
    """Seconds after which a process that isn't healthy yet is shown as unhealthy, and goes on
    starting: the stack is ready once all are healthy. `vireo restart` waits as long for each."""

    @property
    def envoy_id(self) -> str:
        """Envoy's node id; each Envoy of a control plane needs its own."""
        return f"envoy-{self.edge_port}"

    @property
    def home_folder(self) -> Home:
        """The home that holds the stack's state."""
        return Home(self.home)

    @property
    def security(self) -> SecurityFolder:
        """Folder of certificates and keys, in a secured stack."""
        return SecurityFolder(self.home_folder.security)

    @property
    def edge_reached_at(self) -> str:
        """Host by which this machine reaches the edge, IPv6 in brackets."""
        host = _LOOPBACK_OF_ANY.get(self.edge_host, self.edge_host)
        return f"[{host}]" if ":" in host else host

    @property
    def edge(self) -> str:
        """host:port by which this machine reaches the edge."""
        return f"{self.edge_reached_at}:{self.edge_port}"

    @property
    def kinds(self) -> tuple[PodKind, ...]:
        """Kinds of the layout's pods."""
        return ("slate",) if self.layout == "together" else POD_KINDS

    def pod_ports(self, kind: PodKind, pool: PoolName = "production") -> list[int]:
        """Return the port of each pod of a kind in a pool.

        Raises:
            VireoError: canary pods are to be beside slate pods, which never call them.
        """
        if self.layout == "together" and self.canary_pods:
            raise VireoError(
                "VIREO_LAYOUT=together has no canary pods: set VIREO_CANARY_PODS to 0, or "
                "VIREO_LAYOUT=separate"
            )
        if kind not in self.kinds:
            return []
        if pool == "production":
            first: int = getattr(self, f"{kind}_pod_port")
            count: int = getattr(self, f"{kind}_pods")
        elif kind in INNER:
            first = self.canary_pod_port + _MAX_PODS * INNER.index(kind)
            count = self.canary_pods
        else:
            return []
        return [first + index for index in range(count)]

    def consumer_ports(self, partitions: int) -> list[int]:
        """Return the port of the consumer of each partition of the log.

        Raises:
            VireoError: there are more partitions than a stack on one machine has consumers.
        """
        if partitions > _MAX_PODS:
            raise VireoError(
                f"VIREO_EVENT_PARTITIONS={partitions}: a stack on one machine runs a consumer for "
                f"each partition, and at most {_MAX_PODS}"
            )
        return [self.consumer_port + index for index in range(partitions)]

    def ports(
        self, *, embedded_s3: bool, embedded_log: bool = True, partitions: int = 1
    ) -> dict[int, str]:
        """Return every port that the stack binds, with the setting that moves it.

        Args:
            embedded_s3: whether it runs an S3 server of its own.
            embedded_log: whether it runs a log of its own.
            partitions: the log's number of partitions.

        Raises:
            VireoError: two settings lead to the same port.
        """
        models = [
            port
            for pool in (*POOLS, SLATE)
            if pool.service != "gateway"
            for port in self.pod_ports(pool.service, pool.name)
        ]
        monitored = [*models, *self.pod_ports("gateway"), *self.consumer_ports(partitions)]
        monitored += [self.control_port, *([self.log_port] if embedded_log else [])]
        # Listed, so that a clash with a stack whose base differs by the offset is detected.
        bound = [*monitored, *(port + METRICS_PORT_OFFSET for port in monitored)]
        bound += [self.candidate_port, self.ranking_port]
        if self.oip_http:
            bound += [port + OIP_HTTP_PORT_OFFSET for port in models]
        if self.observe:
            bound += [self.prometheus_port, self.alertmanager_port]
        if embedded_s3:
            bound += self.s3_ports()
        ports = dict.fromkeys(bound, "VIREO_PORT_BASE")
        for port, setting in (
            (self.admin_port, "VIREO_ADMIN_PORT"),
            (self.edge_port, "VIREO_EDGE_PORT"),
        ):
            if port in ports:
                raise VireoError(
                    f"port {port} is meant for {ports[port]} and {setting} both; "
                    "set one of them to another port"
                )
            if port:
                ports[port] = setting
        return ports

    def s3_ports(self) -> dict[int, str]:
        """Return the ports of the embedded S3 server, with the setting that moves them."""
        ports = [*range(self.s3_port, self.s3_port + _S3_PORTS), self.s3_port + _S3_ADMIN_OFFSET]
        return dict.fromkeys(ports, "VIREO_PORT_BASE")
