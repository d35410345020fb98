"""Settings of every process that writes or reads the log."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_serializer, field_validator

from vireo.server.settings import EnvironmentSettings

GIB = 1 << 30
_DAY = 86_400.0


class EventLogSettings(EnvironmentSettings):
    """Read from `VIREO_…` environment variables."""

    nats_url: str = ""
    """Servers of the log, nats://host:port, with commas between them; empty for no log."""
    nats_user: str = ""
    """User of the log's servers, whose password is the token; empty if they know no users."""
    nats_token: SecretStr = SecretStr("")
    """Token of the log's servers, or the user's password; empty if they ask for none."""
    nats_ca: str = ""
    """File of the authority that signed the servers' certificates, to use TLS."""
    event_partitions: int = Field(default=1, ge=1, le=256)
    """Number of partitions of the events, by viewer; each needs a consumer. It is fixed with the
    log, and another number is refused."""
    event_replicas: int = Field(default=1, ge=1, le=5)
    """Number of servers that store each message."""
    event_retention: float = Field(default=30 * _DAY, gt=0)
    """Seconds for which events are kept."""
    event_max_bytes: int = Field(default=20 * GIB, ge=1 << 20)
    """Maximum bytes of the events; beyond it they are refused, and the oldest are kept."""
    slate_max_bytes: int = Field(default=4 * GIB, ge=1 << 20)
    """Maximum bytes of recorded slates that aren't archived yet; beyond it slates are refused."""

    @field_validator("nats_url")
    @classmethod
    def _addresses(cls, text: str) -> str:
        for number, url in enumerate(_parts(text), start=1):
            parts = urlsplit(url)
            if parts.scheme not in ("nats", "tls") or not parts.hostname:
                # Without its text, which may hold a token.
                raise ValueError(f"address {number} isn't nats://host:port")
        return text

    @field_serializer("nats_url", when_used="json")
    def _without_credentials(self, text: str) -> str:
        """Return the addresses as a log may have them: without user, password or token."""
        return ",".join(
            urlsplit(url)._replace(netloc=urlsplit(url).netloc.rpartition("@")[2]).geturl()
            for url in _parts(text)
        )

    @property
    def named(self) -> bool:
        """Whether there is a log."""
        return bool(self.servers)

    @property
    def servers(self) -> list[str]:
        """The addresses of its servers; empty for no log."""
        return _parts(self.nats_url)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
