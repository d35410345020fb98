"""The Feast repository of a data set's features, and where its online store is.

A repository says which kind its online store is. Where Redis is, and how one signs in, is this
process's setting: so a password can change, and a server move, while the features stay.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from vireo.server.errors import VireoError
from vireo.server.features.sqlite_store import SqliteStore
from vireo.server.features.viewer_store import ViewerStore
from vireo.server.settings import EnvironmentSettings
from vireo.v1.viewer_pb2 import ViewerFeatures

CONFIGURATION = "feature_store.yaml"
_SECONDS = 10.0
"""Maximum seconds of a read that nobody else waits for."""


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
        try:
            parts = urlsplit(url.get_secret_value())
            fits = parts.scheme in ("redis", "rediss") and parts.hostname and parts.port != 0
            int(parts.path.strip("/") or 0)
        except ValueError:
            fits = False
        if not fits or parts.query or parts.fragment:
            raise ValueError(
                "it must look like redis://user:password@host:6379/0, with rediss for TLS"
            ) from None
        return url

    @property
    def address(self) -> str:
        """Its host:port."""
        parts = urlsplit(self.url.get_secret_value())
        return f"{parts.hostname}:{parts.port or 6379}"


def identity(repo: Path) -> tuple[int, ...]:
    """Return what changes if other features are in a folder; empty if there are none."""
    try:
        found = (repo / CONFIGURATION).stat()
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class OnlineStore(BaseModel):
    """The part of a repository's configuration about its online store."""

    type: Literal["sqlite", "redis"]
    path: str = ""
    key_ttl_seconds: int = 0


class Repository(BaseModel):
    """What is read of a repository's configuration."""

    project: str
    online_store: OnlineStore


def load_config(repo: Path) -> Repository:
    """Return a repository's configuration; raise VireoError if there is none, or it is invalid."""
    try:
        return Repository.model_validate(yaml.safe_load((repo / CONFIGURATION).read_text()))
    except FileNotFoundError as error:
        raise VireoError(
            f"there are no features in {repo}; build them with: vireo features build --data "
            f"{repo.name}"
        ) from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise VireoError(f"cannot read {repo / CONFIGURATION}: {error}; build it again") from error


def open_rows(
    repo: Path,
    timeout: float,
    redis: RedisSettings | None = None,
    *,
    announced: bool = True,
    served: bool = False,
) -> ViewerStore:
    """Open the viewers' rows of a feature folder.

    Args:
        repo: the folder.
        timeout: maximum seconds to wait for the store.
        redis: where Redis is; of this process's environment if None.
        announced: whether rows are those of the build that Redis announces, rather than the
            folder's own, which may not be announced yet.
        served: whether they are only read, in an event loop; then the store isn't asked yet.

    Raises:
        StoreAwayError: the online store can't be opened now.
        VireoError: there are no features.
    """
    config = load_config(repo)
    online = config.online_store
    rows: ViewerStore
    if online.type != "redis":
        wait = 0.0 if served else timeout
        rows = SqliteStore(repo, repo / online.path, config.project, wait)
    else:
        # Imported late: without Redis its client needn't be installed.
        from vireo.server.features.redis_store import RedisStore

        url, expiry = (redis or RedisSettings.load()).url, online.key_ttl_seconds
        rows = RedisStore(
            repo, config.project, expiry, url.get_secret_value(), timeout, announced=announced
        )
    if announced and not served:
        rows.prepare()
    return rows


def read_viewer(repo: Path, viewer: str) -> ViewerFeatures:
    """Return what a request would read of a viewer now, without the time of the last change.

    Raises:
        UnfitRowError: the viewer's row can't be used.
        VireoError: there are no features, or the store can't be read.
    """
    with closing(open_rows(repo, _SECONDS)) as rows:
        found = rows.features(viewer)
    found.ClearField("updated_at")
    return found
