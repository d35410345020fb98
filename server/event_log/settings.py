"""Settings of every process that writes or reads the log."""

from __future__ import annotations

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.errors import VireoError

GIB = 1 << 30
_DAY = 86_400.0


class EventLogSettings(BaseSettings):
    """Read from `VIREO_…` environment variables."""

    model_config = SettingsConfigDict(env_prefix="VIREO_", frozen=True, extra="ignore")

    nats_url: str = ""
    """Servers of the log, nats://host:port, with commas between them; empty for no log."""
    nats_token: SecretStr = SecretStr("")
    """Token of the log's servers; empty if they ask for none."""
    nats_ca: str = ""
    """File of the authority that signed the servers' certificates, to use TLS."""
    event_partitions: int = Field(default=1, ge=1, le=256)
    """Number of partitions of the events, by viewer; each needs a consumer. It can't be changed for
    a log that exists."""
    event_replicas: int = Field(default=1, ge=1, le=5)
    """Number of servers that store each message."""
    event_retention: float = Field(default=30 * _DAY, gt=0)
    """Seconds for which events are kept."""
    event_max_bytes: int = Field(default=20 * GIB, ge=1 << 20)
    """Maximum bytes of the events; beyond it they are refused, and the oldest are kept."""

    @staticmethod
    def load() -> EventLogSettings:
        """Return the settings from the environment; raise VireoError that names the variable."""
        try:
            return EventLogSettings()
        except ValidationError as error:
            first = error.errors()[0]
            name = "VIREO_" + ".".join(map(str, first["loc"])).upper()
            raise VireoError(f"{name}={first['input']!r}: {first['msg']}") from error

    @property
    def servers(self) -> list[str]:
        """The servers' addresses; empty if there is no log."""
        return [url.strip() for url in self.nats_url.split(",") if url.strip()]
