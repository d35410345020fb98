"""Settings of the S3 storage of releases, `VIREO_S3_…`, and of backups, `VIREO_BACKUP_S3_…`."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

from pydantic import Field, SecretStr, field_validator
from pydantic_core.core_schema import ValidationInfo
from pydantic_settings import SettingsConfigDict

from vireo.server.settings import EnvironmentSettings

_SHORT_READ_SECONDS = 1.25
_BUCKET = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"


@dataclass(frozen=True)
class Patience:
    """For how long requests wait."""

    connect_timeout: float = 1.0
    """Maximum seconds to wait for a connection; short, so that pods soon fall back on the cache."""
    read_timeout: float = 10.0
    """Maximum seconds to wait for the next byte of a response."""
    retries: int = 2
    """Number of immediate retries of a request after a network or server error."""


class S3Settings(EnvironmentSettings):
    """An S3 server and a bucket on it: AWS, MinIO, SeaweedFS or another."""

    model_config = SettingsConfigDict(env_prefix="VIREO_S3_")

    endpoint: str = Field(pattern=r"^[^/]+$")
    """Host and port, without a scheme, for example 127.0.0.1:8110."""
    workload_identity: bool = False
    """Whether the keys are those of the pod's role instead, by the environment that EKS, ECS or EC2
    gives it; they are renewed before they expire."""
    access_key: str = Field(default="", validate_default=True)
    """Access key: with write access for publishing, with read access for pods. Needed without
    workload identity, as is the secret key."""
    secret_key: SecretStr = Field(default=SecretStr(""), validate_default=True)
    """Secret key; never printed."""
    session_token: SecretStr = SecretStr("")
    """Session token of temporary keys; never printed."""
    bucket: str = Field(default="vireo", pattern=_BUCKET)
    """Name of the bucket; the first publish creates it if it is missing."""
    secure: bool = False
    """Whether to use TLS."""
    region: str = "us-east-1"
    """Region that requests are signed for."""
    patience: Patience = Patience()
    """No variable sets it."""

    @field_validator("access_key", "secret_key")
    @classmethod
    def _given(cls, key: str | SecretStr, info: ValidationInfo) -> str | SecretStr:
        if not key and not info.data.get("workload_identity"):
            prefix = cls.model_config["env_prefix"]
            raise ValueError(f"is missing; or set {prefix}WORKLOAD_IDENTITY=true")
        return key

    def with_short_timeouts(self) -> S3Settings:
        """Return settings for requests that aren't worth waiting for: they fail within 3 s."""
        read_timeout = min(_SHORT_READ_SECONDS, self.patience.read_timeout)
        retries = min(1, self.patience.retries)
        return self.with_patience(read_timeout=read_timeout, retries=retries)

    def with_patience(self, **changes: float) -> S3Settings:
        """Return the settings with other timeouts or retries; see `Patience`."""
        patience = dataclasses.replace(self.patience, **changes)  # type: ignore[arg-type]
        return self.model_copy(update={"patience": patience})

    def environment(self) -> dict[str, str]:
        """Return the variables that give a child process these settings."""
        values = self.model_dump(exclude={"patience"})
        for name in ("secret_key", "session_token"):
            values[name] = values[name].get_secret_value()
        return {f"VIREO_S3_{name.upper()}": str(value) for name, value in values.items()}


class BackupSettings(S3Settings):
    """The S3 server and bucket of backups; nobody but their commands needs its keys."""

    model_config = SettingsConfigDict(env_prefix="VIREO_BACKUP_S3_")

    bucket: str = Field(default="vireo-backup", pattern=_BUCKET)
    """Name of the bucket; the first backup creates it if it is missing."""

    @staticmethod
    def named() -> bool:
        """Return whether the environment names one."""
        return bool(os.environ.get("VIREO_BACKUP_S3_ENDPOINT"))
