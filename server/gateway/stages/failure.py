"""How a stage fails: the request continues without it."""

from __future__ import annotations

import logging

import grpc
import structlog

from vireo.server.features.viewer_rows import UnfitRowError
from vireo.server.gateway.stages.check import BadAnswerError
from vireo.server.pipeline.stage_metrics import FAILURES
from vireo.server.rpc.trace import note_failure

log = structlog.get_logger()


class StageFailedError(Exception):
    """A stage failed; the request continues without it. The message says why."""

    def __init__(self, message: str, code: grpc.StatusCode | None = None) -> None:
        """Make the error; `code` is the status that a pod responded with, if one did."""
        super().__init__(message)
        self.code = code

    @property
    def reason(self) -> str:
        """One of the reasons that metrics distinguish."""
        if self.code is not None:
            return self.code.name.lower()
        if isinstance(self.__cause__, BadAnswerError | UnfitRowError):
            return "invalid"
        return "timeout" if isinstance(self.__cause__, TimeoutError) else "error"


class StageSkippedError(StageFailedError):
    """A stage was skipped, or given up soon, because the caller left too little time."""

    @property
    def reason(self) -> str:
        """One of the reasons that metrics distinguish."""
        return "skipped"


class StoreSkippedError(StageSkippedError):
    """The online store was skipped because it fails."""

    @property
    def reason(self) -> str:
        """One of the reasons that metrics distinguish."""
        return "circuit_open"


def log_failure(stage: str, error: StageFailedError, seconds: float) -> None:
    """Log and count that a stage failed after `seconds`, and record it in the call's trace."""
    FAILURES.labels("gateway", stage, error.reason).inc()
    note_failure("stage failed", stage=stage, reason=str(error))
    # Stages are skipped for the caller's deadline, or after a failure that was logged.
    level = logging.DEBUG if isinstance(error, StageSkippedError) else logging.WARNING
    log.log(
        level,
        "stage failed; answering without it",
        stage=stage,
        reason=str(error),
        seconds=round(seconds, 4),
    )
