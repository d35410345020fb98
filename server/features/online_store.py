"""The Feast repository of a data set's features, and where its online store is.

A repository says which kind its online store is. Where Redis is, and how one signs in, is this
process's setting: so a password can change, and a server move, while the features stay.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from vireo.server.errors import VireoError
from vireo.server.features.sqlite_store import SqliteStore
from vireo.server.features.viewer_store import ViewerStore
from vireo.server.settings import EnvironmentSettings
from vireo.v1.viewer_pb2 import ViewerFeatures

if TYPE_CHECKING:
    from feast import FeatureStore, RepoConfig

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


def load_config(repo: Path) -> RepoConfig:
    """Return a repository's configuration; raise VireoError if there is none, or it is invalid."""
    # Imported late: Feast takes seconds, and only a process that uses features needs it.
    from feast.repo_config import load_repo_config

    if not (repo / CONFIGURATION).exists():
        raise VireoError(
            f"there are no features in {repo}; build them with: vireo features build {repo.name}"
        )
    repo = repo.absolute()
    try:
        return load_repo_config(repo, repo / CONFIGURATION)
    except Exception as error:
        # Feast raises errors of any type.
        raise VireoError(f"cannot read {repo / CONFIGURATION}: {error}; build it again") from error


def open_features(repo: Path) -> FeatureStore:
    """Return the Feast store of a repository, independent of the working directory.

    Where its Redis is it doesn't know: rows are read and written by `open_rows`.

    Raises:
        VireoError: there is none, or it is invalid.
    """
    from feast import FeatureStore

    return FeatureStore(repo_path=str(repo.absolute()), config=load_config(repo))


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

        url, expiry = (redis or RedisSettings.load()).url, online.key_ttl_seconds or 0
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


def prepare_lean_feast() -> None:
    """Leave out what Feast imports or does at its import and servers don't need.

    Call it before Feast is imported, in a process of its own.
    """
    # If torch is installed, Feast imports it: a second and 180 MB. None in its place makes that
    # import fail, which Feast expects.
    sys.modules["torch"] = None  # type: ignore[assignment]
    # Feast has typeguard check the arguments of its classes, and the decorator compiles each of
    # them again: three quarters of the processor time of the import.
    import typeguard

    typeguard.typechecked = _unchanged


def _unchanged(target: Any = None, **_: Any) -> Any:
    """Stand in for `typeguard.typechecked`, with and without arguments."""
    return (lambda decorated: decorated) if target is None else target
