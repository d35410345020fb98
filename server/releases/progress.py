"""Progress and failures of loads, as pods report them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

import structlog
from prometheus_client import Counter

from vireo.server.errors import VireoError

log = structlog.get_logger()

FAILURES = Counter(
    "vireo_release_load_failures",
    "Loads of a release, or reads of the channel, that failed, by stage.",
    ["stage"],
)


class Stage(StrEnum):
    """What a loader is doing, in the order of a load."""

    LOOKING = "looking"
    """Reading from the channel which release to serve."""
    VERIFYING = "verifying"
    """Comparing the cached files with the manifest's digests."""
    DOWNLOADING = "downloading"
    BUILDING = "building"
    """Building sessions, index and tables beside those that serve."""
    REPLAYING = "replaying"
    """Comparing golden requests with their recorded outputs."""
    WAITING = "waiting"
    """Ready, and waiting until the pods that it calls serve the same release."""
    SERVING = "serving"
    """Nothing is being loaded."""


class LoadStoppedError(Exception):
    """The load was stopped: its process is about to end, or another release is wanted."""


@dataclass
class LoadProgress:
    """The progress of one load; its threads write it, and anybody may read it."""

    stage: Stage = Stage.LOOKING
    release_id: str = ""
    """The release that is loaded; empty while looking for the first one."""
    bytes_total: int = 0
    """Size of the files that this pod needs; 0 until the manifest is known."""
    stopped: bool = False
    """Whether the load is to end, at its next byte."""
    _files: dict[str, int] = field(default_factory=dict)

    @property
    def bytes_done(self) -> int:
        """Bytes of those files that are verified in the cache or have arrived."""
        return sum(list(self._files.values()))

    def arrived(self, path: str, size: int) -> None:
        """Set how many bytes of a file have arrived; raise LoadStoppedError to stop the load."""
        self.check()
        self._files[path] = size

    def check(self) -> None:
        """Raise LoadStoppedError if the load is stopped."""
        if self.stopped:
            raise LoadStoppedError


@dataclass(frozen=True)
class Failure:
    """A load, or a read of the channel, that failed."""

    reason: str
    stage: Stage
    release_id: str
    """The release that failed to load; empty if it wasn't known yet."""
    at: datetime


class LoadFailures:
    """The failures of one loader: logged once, always counted, reported while they last."""

    def __init__(self, channel: str) -> None:
        """Start without failures of `channel`, the channel that is followed."""
        self.latest: Failure | None = None
        """The latest failure; kept after a later success."""
        self.reason = ""
        """Why the latest attempt failed; empty if it succeeded."""
        self._channel = channel
        self._logged: set[str] = set()
        """Failures since the last success that are in the log."""

    def ended(self) -> None:
        """Record that an attempt succeeded."""
        self.reason = ""
        self._logged.clear()

    def report(
        self, error: Exception, load: LoadProgress, serving: str | None, before: str = ""
    ) -> None:
        """Report a failed attempt.

        Args:
            error: why it failed.
            load: the load that failed, in the stage that failed.
            serving: the release that is still served, if any.
            before: why the attempt before this one failed, reported with it.
        """
        expected = isinstance(error, VireoError)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        FAILURES.labels(load.stage).inc()
        if reason not in self._logged:
            self._logged.add(reason)
            log.error(
                "release not loaded",
                channel=self._channel,
                stage=load.stage.value,
                reason=reason,
                still_serving=serving,
                exc_info=not expected,
            )
        self.reason = f"{before}; {reason}" if before else reason
        self.latest = Failure(self.reason, load.stage, load.release_id, datetime.now(UTC))
