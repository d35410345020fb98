"""The folder that holds a Feast repository's state."""

from __future__ import annotations

import contextlib
import io
import re
import secrets
from datetime import datetime
from pathlib import Path

import yaml
from feast import FeatureStore

from server.errors import VireoError
from training.features.definitions import DEFINITIONS, VIEWS
from training.features.online_store import OnlineStoreSettings, redis_connection

CONFIGURATION = "feature_store.yaml"


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
