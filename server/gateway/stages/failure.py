"""How a stage fails: the request continues without it."""

from __future__ import annotations

import logging

import grpc
import structlog

from server.rpc.trace import note_failure

log = structlog.get_logger()


class StageFailedError(Exception):
    """A stage failed; the request continues without it. The message says why."""

    def __init__(self, message: str, code: grpc.StatusCode | None = None) -> None:
        """Make the error; `code` is the status that a pod responded with, if one did."""
        super().__init__(message)
        self.code = code


class StageSkippedError(StageFailedError):
    """A stage was skipped because it couldn't have succeeded."""


def log_failure(stage: str, error: StageFailedError, seconds: float) -> None:
    """Log that a stage failed after `seconds`, and record it in the call's trace."""
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
