"""What went wrong with loading releases: logged once, counted always, told while it lasts."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog
from prometheus_client import Counter

from server.errors import VireoError
from server.releases.progress import Failure, Stage

log = structlog.get_logger()

FAILURES = Counter(
    "vireo_release_load_failures",
    "Loads of a release, or looks at the channel, that failed, by the stage that did.",
    ["stage"],
)


class LoadFailures:
    """The failures of one loader."""

    def __init__(self, channel: str) -> None:
        """Takes the channel that is followed."""
        self.latest: Failure | None = None
        """Also when all has been well since."""
        self._channel = channel
        self._lasts = False
        # Since the last success, of those that are in the log.
        self._reported: set[str] = set()

    @property
    def reason(self) -> str:
        """Why the latest attempt failed; empty when it did not."""
        return self.latest.reason if self.latest is not None and self._lasts else ""

    def ended(self) -> None:
        """An attempt succeeded."""
        self._lasts = False
        self._reported.clear()

    def report(
        self,
        error: Exception,
        stage: Stage,
        release_id: str,
        still_serving: str | None,
        before: str = "",
    ) -> None:
        """Tells of a failed attempt.

        Args:
            error: why it failed.
            stage: where it did.
            release_id: what was to be loaded; empty where that was to be found out.
            still_serving: what is served all the same, if anything.
            before: why what was tried before failed, which is told with it.
        """
        expected = isinstance(error, VireoError)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        FAILURES.labels(stage).inc()
        if reason not in self._reported:
            self._reported.add(reason)
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
        self._lasts = True
