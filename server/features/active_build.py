"""The build of features whose rows are read, if the rows are in Redis.

Each build writes rows of its own beside those that are read, and is then announced in Redis: on a
volume of many nodes a file may look as it did a minute ago. A reader believes Redis' answer for
TRUST_SECONDS; what it reads later counts once it has asked again. Rows stay for GRACE_SECONDS
after another build was announced, so nobody uses what was deleted.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feast import RepoConfig

ASK_SECONDS = 1.0
"""Seconds after which gateways ask again, so as not to have to wait for it."""
TRUST_SECONDS = 3.0
GRACE_SECONDS = 5.0
BUILD_MARK = "_B"
"""In a project, after its series; nothing else in a project is upper-case."""


def series_of(project: str) -> str:
    """Return what the builds of a feature folder have in common; of an earlier Vireo's, all."""
    return project.partition(BUILD_MARK)[0]


def active_key(series: str) -> str:
    """Return the key in Redis that has the project of the build that is read."""
    return f"vireo:features:{series}:active"


class ActiveBuild:
    """The build whose rows one process reads. Call `ask` from one thread at a time."""

    def __init__(self, config: RepoConfig, online: Any) -> None:
        """Begin with the build of a feature folder.

        Args:
            config: the folder's.
            online: its online store; with any but Feast's Redis store the folder decides.
        """
        self.config = config
        """That of the folder, with the project whose rows are to be read."""
        in_redis = online is not None and config.online_store.type == "redis"
        self._redis = online._get_client(config.online_store) if in_redis else None
        self._key = active_key(series_of(config.project))
        self._trusted_until = -math.inf if in_redis else math.inf

    @property
    def trusted(self) -> bool:
        """Whether no rows of `config` that were read before now were a deleted build's."""
        return _now() < self._trusted_until

    def ask(self) -> None:
        """Learn which build is announced; without an announcement it stays the one before.

        Raises:
            RedisError: Redis doesn't answer.
        """
        if self._redis is None:
            return
        asked = _now()
        project = (self._redis.get(self._key) or b"").decode()
        if project not in ("", self.config.project):
            self.config = self.config.model_copy(update={"project": project})
        self._trusted_until = asked + TRUST_SECONDS  # last: other threads read meanwhile


def _now() -> float:
    """Return seconds that pass also while the process is stopped or the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
