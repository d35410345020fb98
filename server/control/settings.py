"""Settings of a control plane process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from vireo.server.control.discovery import EndpointsDocument
from vireo.server.control.keys import check_source
from vireo.server.control.mesh import POOLS, SLATE, Pool
from vireo.server.releases.s3 import S3Settings
from vireo.server.rpc.settings import RpcSettings
from vireo.server.settings import EnvironmentSettings

_CLUSTERS = {pool.cluster: pool for pool in (*POOLS, SLATE)}

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
"""A valid name of a namespace or a Service in Kubernetes, also as the value of a label."""


class KubernetesSettings(EnvironmentSettings):
    """Services of the pods, and how their EndpointSlices are listed."""

    model_config = SettingsConfigDict(env_prefix="VIREO_KUBERNETES_")

    config: Path | None = None
    """A kubeconfig file. By default the service account in a pod; elsewhere the file that
    KUBECONFIG names, or ~/.kube/config."""
    namespace: Name | None = None
    """Namespace of the Services; by default the service account's, or the kubeconfig's."""
    services: dict[str, Name] = Field(default={})
    """Names of Services, as JSON by cluster: {"candidate-canary": "next"}; by default vireo- and
    the cluster."""

    @field_validator("services")
    @classmethod
    def _known_clusters(cls, services: dict[str, str]) -> dict[str, str]:
        unknown = services.keys() - _CLUSTERS.keys()
        if unknown:
            raise ValueError(f"no cluster is called {min(unknown)!r}; there are {[*_CLUSTERS]}")
        names = list(_named(services))
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two clusters can't both be Service {name!r}")
        return services

    @property
    def pools(self) -> Mapping[str, Pool]:
        """The pool of each Service, and SLATE, by the Service's name."""
        return dict(zip(_named(self.services), _CLUSTERS.values(), strict=True))


def _named(services: Mapping[str, str]) -> tuple[str, ...]:
    """Return the name of each pool's Service, in the order of _CLUSTERS."""
    return tuple(services.get(cluster, f"vireo-{cluster}") for cluster in _CLUSTERS)


class ControlSettings(RpcSettings):
    """Settings of Envoys' configuration and of the source of endpoints."""

    port: int = Field(default=8104, ge=0, le=65535)
    """Port to listen on; 0 selects a free one and logs it."""
    max_connection_age: float = Field(default=0, ge=0)
    """Maximum age of a connection in seconds; 0 for no limit, since Envoys keep one stream."""

    edge_host: str = "127.0.0.1"
    """Address that the edge listens on; 0.0.0.0 opens it to other machines."""
    edge_port: int = Field(default=8080, ge=1, le=65535)
    """Port of the edge: gRPC, gRPC-Web and REST."""
    candidate_port: int = Field(default=8101, ge=1, le=65535)
    """Port of Envoy's inner listener for the candidate pods."""
    ranking_port: int = Field(default=8102, ge=1, le=65535)
    """Port of Envoy's inner listener for the ranking pods."""
    cors_origins: str = r"https?://(localhost|127\.0\.0\.1)(:[0-9]+)?"
    """Regular expression of the web origins that browsers may call from."""
    default_deadline: float = Field(default=1.0, gt=0)
    """Deadline in seconds of calls that carry none."""

    trusted_hops: int = Field(default=0, ge=0, le=10)
    """Number of your own proxies between callers and the edge, on the path of every call: a
    caller's address is the one that the first of them adds to `x-forwarded-for`. By default it is
    the connection's."""

    oip_http_offset: int = Field(default=0, ge=0, le=65534)
    """Offset from the port of a candidate or ranking pod to its `VIREO_OIP_HTTP_PORT`, to which the
    edge then has routes, below /v2; if 0, it has none."""

    trace_share: float = Field(default=0.01, ge=0, le=1)
    """Share of the calls at the edge that are traced, of callers whose own trace doesn't say so, if
    there is a `VIREO_OTLP_ENDPOINT`, which Envoy must reach, too."""
    trace_callers: bool = True
    """Whether calls are traced that their callers trace; if not, the edge removes callers'
    `traceparent` while there is a `VIREO_OTLP_ENDPOINT`. For edges that strangers can reach."""

    envoy_secrets: Path | None = None
    """Folder, on Envoy's machine, with the secret files that refer to its certificates; if set, the
    edge uses TLS, and Envoy mutual TLS with pods and gateways."""
    jwks: str = ""
    """File, or https URL, of the public keys that callers' tokens are verified with; if empty,
    calls need no token."""
    jwt_issuer: str = "vireo"
    """Required issuer of tokens (`iss`)."""
    jwt_audience: str = "vireo"
    """Required audience of tokens (`aud`)."""
    viewer_claim: str = Field(default="vireo_viewer", pattern=r"^[\w.:/~-]+$")
    """Claim that names a token's viewer, for example `sub`; if it is there, others are denied."""
    rate_limit: int = Field(default=0, ge=0)
    """Maximum calls a second of one caller on each Envoy, by the subject of its token, or by its
    address without one; 0 for no limit."""
    rate_burst: int = Field(default=0, ge=0)
    """Maximum burst of calls of one caller; 0 for the calls of one second."""

    discovery: Literal["list", "kubernetes"] = "list"
    """Source of endpoints: `list` for the list or the file below, or a Kubernetes cluster."""
    endpoints: EndpointsDocument | None = None
    """The pods, as JSON: {"candidate": {"production": ["address:port"]}}; used without a file."""
    endpoints_file: Path | None = None
    """A JSON or YAML file with the same content; it is watched for changes."""
    kubernetes: KubernetesSettings = Field(default_factory=KubernetesSettings.load)
    """Settings of discovery in a Kubernetes cluster."""
    s3: S3Settings = Field(default_factory=S3Settings.load)
    """Storage of the channels."""

    @field_validator("jwks")
    @classmethod
    def _check_jwks(cls, source: str) -> str:
        check_source(source)
        return source

    @model_validator(mode="after")
    def _check_both_ends(self) -> Self:
        if (self.tls is None) != (self.envoy_secrets is None):
            raise ValueError(
                "mutual TLS needs certificates on both ends: set VIREO_ENVOY_SECRETS together with "
                "VIREO_TLS_CERTIFICATE, VIREO_TLS_KEY and VIREO_TLS_CA, or none of them"
            )
        return self
