"""Runs one stage: measures it, and turns its declared failure into a value."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Generic, TypeVar

import grpc
import structlog

log = structlog.get_logger()

T = TypeVar("T")


class StageFailedError(Exception):
    """A stage failed; the request continues without it. The message says why."""

    def __init__(self, message: str, code: grpc.StatusCode | None = None) -> None:
        """Make the error; `code` is the status that a pod responded with, if one did."""
        super().__init__(message)
        self.code = code


class StageSkippedError(StageFailedError):
    """A stage was skipped because it couldn't have succeeded."""


@dataclass(frozen=True)
class Attempt(Generic[T]):
    """Result of a stage."""

    value: T | None
    """None if it failed."""
    seconds: float


async def attempt(stage: str, work: Awaitable[T]) -> Attempt[T]:
    """Return the result of a stage; a StageFailedError is logged, other errors are raised."""
    start = time.perf_counter()
    try:
        value = await work
    except StageFailedError as error:
        seconds = time.perf_counter() - start
        # Stages are skipped for the caller's deadline, or after a failure that was logged.
        level = logging.DEBUG if isinstance(error, StageSkippedError) else logging.WARNING
        log.log(
            level,
            "stage failed; answering without it",
            stage=stage,
            reason=str(error),
            seconds=round(seconds, 4),
        )
        return Attempt(None, seconds)
    return Attempt(value, time.perf_counter() - start)
