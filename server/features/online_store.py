"""The Feast repository of a data set's features, and the online store that has viewers' rows.

A repository says which kind its online store is. Where Redis is, and how one signs in, is this
process's setting: so a password can change, and a server move, while the features stay.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from vireo.server.settings import EnvironmentSettings

if TYPE_CHECKING:
    from feast import FeatureStore

CONFIGURATION = "feature_store.yaml"


class RedisSettings(EnvironmentSettings):
    """The Redis server of online stores that are in Redis."""

    model_config = SettingsConfigDict(
        env_prefix="VIREO_REDIS_", env_ignore_empty=True, hide_input_in_errors=True
    )

    url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """redis[s]://[user:password@]host[:port][/database], `rediss` for TLS; never printed."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr) -> SecretStr:
        redis_connection(url.get_secret_value())
        return url

    @property
    def connection(self) -> str:
        """Feast's connection string."""
        return redis_connection(self.url.get_secret_value())


def redis_connection(url: str) -> str:
    """Return Feast's connection string for a Redis URL.

    Raises:
        ValueError: the URL is invalid or has a query, or user or password has a comma, which Feast
            can't escape.
    """
    wanted = (
        "it must look like redis://user:password@host:6379/0, "
        "with rediss for TLS and no comma in user or password"
    )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 6379
        database = int(parts.path.strip("/") or 0)
    except ValueError:
        raise ValueError(wanted) from None
    credentials = [unquote(part) for part in (parts.username or "", parts.password or "")]
    if parts.scheme not in ("redis", "rediss") or not host or parts.query or parts.fragment:
        raise ValueError(wanted)
    if "," in "".join(credentials):
        raise ValueError(wanted)
    options = [f"{host}:{port}", f"db={database}"]
    for name, value in zip(("username", "password"), credentials, strict=True):
        if value:
            options.append(f"{name}={json.dumps(value)}")
    if parts.scheme == "rediss":
        options.append("ssl=true")
    return ",".join(options)


def identity(repo: Path) -> tuple[int, ...]:
    """Return what changes if other features are in a folder; empty if there are none."""
    try:
        found = (repo / CONFIGURATION).stat()
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def open_features(
    repo: Path, redis: RedisSettings | None = None, timeout: float | None = None
) -> FeatureStore:
    """Return the Feast store of a repository, independent of the working directory.

    By default Feast waits for Redis forever, and its client retries with a backoff of seconds. With
    a timeout, reads aren't retried: requests have no time for it.

    Args:
        repo: the folder; it has a CONFIGURATION.
        redis: where Redis is; of this process's environment if None.
        timeout: maximum seconds for Redis to connect, and for each response.
    """
    from feast import FeatureStore
    from feast.repo_config import load_repo_config

    repo = repo.absolute()
    config = load_repo_config(repo, repo / CONFIGURATION)
    online = config.online_store
    if online.type == "redis":
        redis = redis or RedisSettings.load()
        # The build before wrote where Redis is into the file: that counts if no setting says it.
        if "url" in redis.model_fields_set or "connection_string" not in online.model_fields_set:
            online.connection_string = redis.connection
        if timeout is not None:
            online.connection_string += (
                f",socket_connect_timeout={timeout},socket_timeout={timeout},retry=null"
            )
    return FeatureStore(repo_path=str(repo), config=config)
