"""Failures of loading releases: logged once, always counted, reported while they last."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog
from prometheus_client import Counter

from vireo.server.errors import VireoError
from vireo.server.releases.progress import Failure, Stage

log = structlog.get_logger()

FAILURES = Counter(
    "vireo_release_load_failures",
    "Loads of a release, or reads of the channel, that failed, by stage.",
    ["stage"],
)


class LoadFailures:
    """The failures of one loader."""

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
