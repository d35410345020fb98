"""Prometheus metrics and spans of the stages that a slate goes through, in each service."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cache

import structlog
from prometheus_client import Counter, Histogram

from vireo.server.recommend.runner import Observer
from vireo.server.rpc import spans
from vireo.server.rpc.trace import note_failure

log = structlog.get_logger()

SECONDS = Histogram(
    "vireo_stage_seconds",
    "Time of a stage of a slate.",
    ["service", "stage"],
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
)
FAILURES = Counter(
    "vireo_stage_failures",
    "Stages that failed, and that the slate was made without, by reason.",
    ["service", "stage", "reason"],
)


@cache  # a look-up of labels takes longer than what is observed
def _seconds(service: str, stage: str) -> Histogram:
    return SECONDS.labels(service, stage)


class ExpectedFailureError(Exception):
    """A failure that a chain is made for: it is counted by its reason, and logged without stack."""

    reason = "error"
    """One of the reasons that metrics distinguish."""
    level = logging.WARNING
    """Level at which it is logged."""


@dataclass(frozen=True)
class StageMetrics(Observer):
    """Counts and times the stages of one service."""

    service: str
    timed: bool = field(default=True, kw_only=True)
    """Whether times are observed."""
    traced: bool = field(default=False, kw_only=True)
    """Whether each stage is a span; stages that call others make their own."""

    def ended(self, stage: str, seconds: float) -> None:
        """Observe a stage's time."""
        if self.timed:
            _seconds(self.service, stage).observe(seconds)
        if self.traced:
            spans.ended(stage, seconds)

    def failed(self, stage: str, error: Exception, seconds: float) -> None:
        """Log and count that a stage failed; what is expected is noted in the call's trace."""
        expected = error if isinstance(error, ExpectedFailureError) else None
        reason = expected.reason if expected else "error"
        FAILURES.labels(self.service, stage, reason).inc()
        if expected:
            note_failure("stage failed", stage=stage, reason=str(error))
        log.log(
            expected.level if expected else logging.ERROR,
            "stage failed; answering without it",
            stage=stage,
            reason=str(error),
            seconds=round(seconds, 4),
            exc_info=None if expected else error,
        )
