"""Progress and failures of loads, as pods report them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Progress:
    """Progress of a load."""

    stage: Stage
    release_id: str = ""
    """The release that is loaded; empty while looking for the first one."""
    bytes_done: int = 0
    """Bytes of this pod's files that are verified in the cache or have arrived."""
    bytes_total: int = 0
    """Size of all those files; 0 until the manifest is known."""


@dataclass(frozen=True)
class Failure:
    """A load, or a read of the channel, that failed."""

    reason: str
    stage: Stage
    release_id: str
    """The release that failed to load; empty if it wasn't known yet."""
    at: datetime


class LoadStoppedError(Exception):
    """The load was stopped: its process is about to end, or another release is wanted."""


class LoadProgress:
    """The progress of one load after another. Safe to use from several threads."""

    def __init__(self) -> None:
        """Start with the stage LOOKING."""
        self.value = Progress(Stage.LOOKING)
        """The current progress."""
        self._lock = threading.Lock()
        self._files: dict[str, int] = {}
        self._stopped = False

    def begin(self, stage: Stage, release_id: str = "") -> None:
        """Start a new load, with no bytes."""
        with self._lock:
            self._stopped = False
            self._files.clear()
            self.value = Progress(stage, release_id)

    def enter(self, stage: Stage) -> None:
        """Enter a stage of the same load."""
        with self._lock:
            self.value = replace(self.value, stage=stage)

    def expect(self, total: int) -> None:
        """Set the total number of bytes."""
        with self._lock:
            self.value = replace(self.value, bytes_total=total)

    def arrived(self, path: str, size: int) -> None:
        """Set how many bytes of a file have arrived; raise LoadStoppedError to stop the load."""
        with self._lock:
            if self._stopped:
                raise LoadStoppedError
            self._files[path] = size
            self.value = replace(self.value, bytes_done=sum(self._files.values()))

    def stop(self) -> None:
        """Stop the load at its next byte; the next one begins as usual."""
        with self._lock:
            self._stopped = True


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
        self,
        error: Exception,
        stage: Stage,
        release_id: str,
        still_serving: str | None,
        before: str = "",
    ) -> None:
        """Report a failed attempt.

        Args:
            error: why it failed.
            stage: the stage that failed.
            release_id: the release to be loaded; empty if it wasn't known yet.
            still_serving: the release that is still served, if any.
            before: why the attempt before this one failed, reported with it.
        """
        expected = isinstance(error, VireoError)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        FAILURES.labels(stage).inc()
        if reason not in self._logged:
            self._logged.add(reason)
            log.error(
                "release not loaded",
                channel=self._channel,
                stage=stage.value,
                reason=reason,
                still_serving=still_serving,
                exc_info=not expected,
            )
        shown = f"{before}; {reason}" if before else reason
        self.latest = Failure(shown, stage, release_id, datetime.now(UTC))
        self.reason = shown
