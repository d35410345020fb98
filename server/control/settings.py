"""Settings of a control plane process."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from server.control.discovery.document import EndpointsDocument
from server.control.discovery.kubernetes_settings import KubernetesSettings
from server.control.keys import check_source
from server.releases.s3 import S3Settings
from server.rpc.settings import RpcSettings


class ControlSettings(RpcSettings):
    """What Envoys are told besides endpoints, and where endpoints come from."""

    port: int = Field(default=8104, ge=0, le=65535)
    """Port to listen on; 0 takes a free one and logs it."""
    max_connection_age: float = Field(default=0, ge=0)
    """Seconds after which a connection is made anew; 0 never, since Envoys keep one stream."""

    edge_host: str = "127.0.0.1"
    """Address that Envoy's edge listens on."""
    edge_port: int = Field(default=8080, ge=1, le=65535)
    """Port of the edge."""
    candidate_port: int = Field(default=8101, ge=1, le=65535)
    """Port of Envoy's inner listener before the candidate pods."""
    ranking_port: int = Field(default=8102, ge=1, le=65535)
    """Port of Envoy's inner listener before the ranking pods."""
    cors_origins: str = r"https?://(localhost|127\.0\.0\.1)(:[0-9]+)?"
    """Regular expression of the web origins that browsers may call from."""
    default_deadline: float = Field(default=1.0, gt=0)
    """Seconds that the edge gives a caller which sets no deadline."""

    trusted_hops: int = Field(default=0, ge=0, le=10)
    """Proxies of yours between callers and the edge, which pass every call: a caller's address is
    what the first of them adds to `x-forwarded-for`. By default it is the connection's."""

    envoy_secrets: Path | None = None
    """Folder, on Envoy's machine, with the files that say where its certificates are; with it the
    edge speaks TLS, and Envoy mutual TLS with pods and gateways."""
    jwks: str = ""
    """File, or https URL, of the public keys that callers' tokens are checked by; without it none
    needs a token."""
    jwks_seconds: float = Field(default=60.0, gt=0)
    """How often to look at the URL."""
    jwt_issuer: str = "vireo"
    """Who must have issued a token: its `iss`."""
    jwt_audience: str = "vireo"
    """Whom a token must be for: its `aud`."""
    rate_limit: int = Field(default=0, ge=0)
    """Calls a second that one caller may make on each Envoy, by the subject of its token, or by its
    address without one; 0 for any number."""
    rate_burst: int = Field(default=0, ge=0)
    """Calls that a caller who has been silent may make at once; 0 for those of a second."""

    discovery: Literal["list", "kubernetes"] = "list"
    """Where pods are found: in the list or the file that follows, or in a Kubernetes cluster."""
    endpoints: EndpointsDocument | None = None
    """The pods, as JSON: {"candidate": {"production": ["address:port"]}}; used without a file."""
    endpoints_file: Path | None = None
    """A JSON or YAML file with the same; each change of it is followed."""
    admission_interval: float = Field(default=0.25, gt=0)
    """Seconds between the checks of a pod that has not been healthy yet."""
    first_admission_seconds: float = Field(default=5.0, ge=0)
    """How long to wait at the start for pods of production that are not healthy; told after it."""
    leave_seconds: float = Field(default=3.0, ge=0)
    """How long a pod that discovery no longer names is told as draining before it is left out."""
    empty_seconds: float = Field(default=30.0, ge=0)
    """How long discovery must find no pod of a pool that had some, before they are left out."""
    canary_poll_seconds: float = Field(default=0.5, gt=0)
    """How often to read the canary's share from its channel."""
    kubernetes: KubernetesSettings = Field(default_factory=KubernetesSettings.load)
    """How pods are found in a Kubernetes cluster."""
    s3: S3Settings = Field(default_factory=S3Settings.load)
    """Where channels are stored."""

    @field_validator("jwks")
    @classmethod
    def _check_jwks(cls, source: str) -> str:
        check_source(source)
        return source

    @model_validator(mode="after")
    def _check_both_ends(self) -> Self:
        if (self.tls is None) != (self.envoy_secrets is None):
            raise ValueError(
                "pods speak mutual TLS or they don't: set VIREO_ENVOY_SECRETS together with "
                "VIREO_TLS_CERTIFICATE, VIREO_TLS_KEY and VIREO_TLS_CA, or none of them"
            )
        return self
