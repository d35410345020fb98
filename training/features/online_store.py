"""The online store that features are built into: SQLite in the feature folder, or Redis."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from vireo.server.errors import VireoError
from vireo.server.features.online_store import RedisSettings
from vireo.server.features.viewer_store import StoreAwayError

_REDIS_IS_HERE = importlib.util.find_spec("redis") is not None


class OnlineStoreSettings(BaseSettings):
    """Choice of the online store; from VIREO_ONLINE_STORE and VIREO_REDIS_URL."""

    model_config = SettingsConfigDict(env_prefix="VIREO_")

    online_store: Literal["sqlite", "redis"] = "sqlite"
    redis: RedisSettings = Field(default_factory=RedisSettings.load)
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


def store_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that online stores raise on failure."""
    if not _REDIS_IS_HERE:
        return (StoreAwayError,)
    return (StoreAwayError, importlib.import_module("redis.exceptions").RedisError)
