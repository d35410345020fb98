"""The online store of the values that requests read: SQLite in the feature folder, or Redis."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sqlite3
from typing import Literal
from urllib.parse import unquote, urlsplit

from feast import FeatureStore
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.errors import VireoError

_BAD_REDIS_URL = (
    "VIREO_REDIS_URL must look like redis://user:password@host:6379/0, "
    "with rediss for TLS and no comma in user or password"
)
_REDIS_IS_HERE = importlib.util.find_spec("redis") is not None


class OnlineStoreSettings(BaseSettings):
    """Choice of the online store; from VIREO_ONLINE_STORE and VIREO_REDIS_URL."""

    model_config = SettingsConfigDict(env_prefix="VIREO_")

    online_store: Literal["sqlite", "redis"] = "sqlite"
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """redis[s]://[user:password@]host[:port][/database]"""
    viewer_expiry: int = Field(default=365 * 86_400, ge=1)
    """Seconds after which Redis deletes rows that weren't written; SQLite's are by the consumer. A
    build leaves out viewers without an interaction for as long before the data set's last one."""

    @staticmethod
    def current() -> OnlineStoreSettings:
        """Return this process's settings; raise VireoError if one is invalid."""
        try:
            settings = OnlineStoreSettings()
        except ValidationError as error:
            raise VireoError(
                "VIREO_ONLINE_STORE must be sqlite or redis, and VIREO_VIEWER_EXPIRY whole seconds"
            ) from error
        if settings.online_store == "redis" and not _REDIS_IS_HERE:
            raise VireoError(
                "VIREO_ONLINE_STORE=redis needs the redis package; "
                "install it with: pip install 'redis>=5,<8'"
            )
        return settings


def redis_connection(url: str) -> str:
    """Return Feast's connection string for a Redis URL.

    Raises:
        VireoError: the URL is invalid, or user or password has a comma, which Feast can't escape.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 6379
        database = int(parts.path.strip("/") or 0)
    except ValueError as error:
        raise VireoError(_BAD_REDIS_URL) from error
    credentials = [unquote(part) for part in (parts.username or "", parts.password or "")]
    if parts.scheme not in ("redis", "rediss") or not host or "," in "".join(credentials):
        raise VireoError(_BAD_REDIS_URL)
    options = [f"{host}:{port}", f"db={database}"]
    for name, value in zip(("username", "password"), credentials, strict=True):
        if value:
            options.append(f"{name}={json.dumps(value)}")
    if parts.scheme == "rediss":
        options.append("ssl=true")
    return ",".join(options)


def store_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that online stores raise on failure."""
    if not _REDIS_IS_HERE:
        return (sqlite3.Error,)
    return (sqlite3.Error, importlib.import_module("redis.exceptions").RedisError)


def forget_online_rows(store: FeatureStore) -> None:
    """Delete a store's rows in Redis; SQLite's file is deleted with its folder."""
    if store.config.online_store.type == "redis":
        from feast.infra.online_stores.redis import RedisOnlineStore

        for key in ("viewer_id", "partition"):
            RedisOnlineStore().delete_entity_values(store.config, [key])
