"""Settings that every server process has, read from `VIREO_…` variables and flags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from vireo.server.errors import VireoError
from vireo.server.rpc.tls import TlsFiles

Settings = TypeVar("Settings", bound=BaseSettings)

COLLECTOR = "collector"
"""Role that a collector's certificate must name."""


class Endpoint(NamedTuple):
    """Where an OTLP/gRPC collector listens."""

    host: str
    port: int
    secure: bool
    """Whether by mutual TLS."""

    @staticmethod
    def of(url: str) -> Endpoint:
        """Return the endpoint of `http://host:port` or `https://host:port`.

        Raises:
            ValueError: it is another kind of address; the message shows one that is right.
        """
        parts = urlsplit(url)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.port is None
            or parts.path.strip("/")
            or parts.query
            or parts.username is not None
        ):
            raise ValueError(
                f"{url!r} isn't the address of an OTLP/gRPC collector, for example "
                "http://127.0.0.1:4317 or https://collector:4317"
            )
        return Endpoint(parts.hostname, parts.port, parts.scheme == "https")


class RpcSettings(BaseSettings):
    """Settings of a gRPC server: ports, TLS, limits, logs and shutdown."""

    model_config = SettingsConfigDict(
        env_prefix="VIREO_",
        frozen=True,
        extra="ignore",
        cli_kebab_case=True,
        use_attribute_docstrings=True,
    )

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(ge=0, le=65535)
    """Port to listen on; 0 selects a free one and logs it."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port of the Prometheus endpoint /metrics; 0 for none."""
    metrics_host: str = "127.0.0.1"
    """Address of the Prometheus endpoint; 0.0.0.0 opens it to other machines."""
    tls_certificate: Path | None = None
    """This process's certificate, PEM; if set, the port requires mutual TLS."""
    tls_key: Path | None = None
    """Private key of the certificate, PEM."""
    tls_ca: Path | None = None
    """Certificate authority, PEM, of this process's clients and servers."""
    reflection: bool = True
    """Whether gRPC reflection and channelz are served."""
    pod_name: str = Field(default="", max_length=128)
    """Name of this process in logs and ReleaseService; by default its kind and port."""
    drain_seconds: float = Field(default=0.5, ge=0, le=600)
    """Seconds after SIGTERM to report NOT_SERVING but still answer, so that load balancers stop
    sending calls."""
    grace_seconds: float = Field(default=3.0, ge=0, le=600)
    """Seconds after the drain for calls in flight to finish."""
    max_message_bytes: int = Field(default=4 << 20, ge=1024)
    """Maximum bytes of a request."""
    max_connection_age: float = Field(default=300, ge=0)
    """Maximum age of a connection in seconds, so that load spreads to new pods; 0 for no limit."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum level of log lines."""
    access_log_share: float = Field(default=0.01, ge=0, le=1)
    """Share of calls that are logged; calls that fail with INTERNAL always are, within the rate
    limit of log lines."""
    otlp_endpoint: str = ""
    """Collector of traces by OTLP/gRPC, `http://host:port`, or `https://host:port` with mutual TLS;
    if empty, nothing is traced. It needs `pip install 'vireo[tracing]'`."""

    @field_validator("otlp_endpoint")
    @classmethod
    def _check_otlp_endpoint(cls, endpoint: str) -> str:
        if endpoint:
            Endpoint.of(endpoint)
        return endpoint

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        files = (self.tls_certificate, self.tls_key, self.tls_ca)
        if any(files) and not all(files):
            raise ValueError(
                "set all of VIREO_TLS_CERTIFICATE, VIREO_TLS_KEY and VIREO_TLS_CA, or none"
            )
        if self.otlp_endpoint.startswith("https:") and not all(files):
            raise ValueError(
                "VIREO_OTLP_ENDPOINT with https needs VIREO_TLS_CERTIFICATE, VIREO_TLS_KEY and "
                "VIREO_TLS_CA; with http it is plaintext"
            )
        return self

    @property
    def tls(self) -> TlsFiles | None:
        """The files for mutual TLS; None for plain connections."""
        if self.tls_certificate is None or self.tls_key is None or self.tls_ca is None:
            return None
        return TlsFiles(self.tls_certificate, self.tls_key, self.tls_ca)


def load_settings(kind: type[Settings], arguments: Sequence[str]) -> Settings:
    """Return a process's settings from its command line, then the environment, then defaults.

    Raises:
        VireoError: a setting is missing or unfit; the message names its variable and flag.
    """
    try:
        return kind(_cli_parse_args=list(arguments), _cli_exit_on_error=False)
    except ValidationError as error:
        problems = [
            f"{_setting_name(kind, problem['loc'])}: {problem['msg']}" for problem in error.errors()
        ]
        raise VireoError("bad settings: " + "; ".join(problems)) from error
    except SettingsError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise VireoError(f"bad settings: {reason}; --help lists all settings") from error


def _setting_name(kind: type[BaseSettings], place: tuple[int | str, ...]) -> str:
    name = "_".join(map(str, place))
    flag = "--" + ".".join(map(str, place)).replace("_", "-")
    return f"{kind.model_config.get('env_prefix', '')}{name}".upper() + f" or {flag}"
