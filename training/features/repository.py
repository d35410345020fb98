"""The folder that holds a Feast repository's state, and the online store behind it."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import secrets
from datetime import datetime
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import yaml
from feast import FeatureStore
from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.errors import VireoError
from training.features.definitions import DEFINITIONS, VIEWS, video, viewer

CONFIGURATION = "feature_store.yaml"


class OnlineStoreSettings(BaseSettings):
    """Where the values that requests read are kept; from VIREO_ONLINE_STORE and the like."""

    model_config = SettingsConfigDict(env_prefix="VIREO_")

    online_store: Literal["sqlite", "redis"] = "sqlite"
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """redis[s]://[user:password@]host[:port][/database]"""

    @staticmethod
    def current() -> OnlineStoreSettings:
        """The settings of this process; raises VireoError where one can't be read."""
        try:
            settings = OnlineStoreSettings()
        except ValidationError as error:
            raise VireoError("VIREO_ONLINE_STORE must be sqlite or redis") from error
        if settings.online_store == "redis" and importlib.util.find_spec("redis") is None:
            raise VireoError(
                "VIREO_ONLINE_STORE=redis needs the redis package; "
                "install it with: pip install 'redis>=5'"
            )
        return settings


def write_configuration(folder: Path, dataset: str, settings: OnlineStoreSettings) -> None:
    """Writes feature_store.yaml: paths are relative to it, so that the folder can move.

    Every build gets a project name of its own, so that one in Redis can be made while the
    one before still answers.
    """
    online: dict[str, str] = {"type": "sqlite", "path": "online.db"}
    if settings.online_store == "redis":
        url = settings.redis_url.get_secret_value()
        online = {"type": "redis", "connection_string": redis_connection(url)}
    configuration = {
        "project": f"vireo_{re.sub('[^a-z0-9]', '_', dataset)}_{secrets.token_hex(4)}",
        "provider": "local",
        "registry": "registry.db",
        "online_store": online,
        "offline_store": {"type": "file"},
        "entity_key_serialization_version": 3,
    }
    path = folder / CONFIGURATION
    path.touch(mode=0o600 if settings.online_store == "redis" else 0o644)
    path.write_text(yaml.safe_dump(configuration, sort_keys=False))


def redis_connection(url: str) -> str:
    """Feast's connection string for a Redis URL.

    Raises:
        VireoError: it isn't one, or its password has a comma, which Feast can't pass on.
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


def open_repository(folder: Path) -> FeatureStore:
    """The Feast store of a folder of features, whatever the working directory.

    Raises:
        VireoError: there is none.
    """
    if not (folder / CONFIGURATION).exists():
        raise VireoError(
            f"{folder} has no {CONFIGURATION}; build it with: vireo features build {folder.name}"
        )
    return FeatureStore(repo_path=str(folder.absolute()))


def apply_definitions(store: FeatureStore) -> None:
    """Registers the entities, views and services."""
    with contextlib.redirect_stdout(io.StringIO()):  # Feast prints; the command line reports
        store.apply(DEFINITIONS)


def materialize(store: FeatureStore, view: str, first: datetime, last: datetime) -> None:
    """Copies the newest row of each entity from the offline to the online store.

    The online store must hold nothing newer: SQLite would let it be overwritten.
    """
    assert view in VIEWS
    with contextlib.redirect_stdout(io.StringIO()):
        store.materialize(first, last, feature_views=[view])


def forget_online_rows(store: FeatureStore) -> None:
    """Deletes what a store's project has in Redis; other stores lie in the folder itself."""
    if store.config.online_store.type == "redis":
        from feast.infra.online_stores.redis import RedisOnlineStore

        for entity in (viewer, video):
            RedisOnlineStore().delete_entity_values(store.config, [entity.join_key])


_BAD_REDIS_URL = (
    "VIREO_REDIS_URL must look like redis://user:password@host:6379/0, "
    "with rediss for TLS and no comma in user or password"
)
