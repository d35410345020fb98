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
    """A stage gave nothing; the request goes on without it. The message says why."""

    def __init__(self, message: str, code: grpc.StatusCode | None = None) -> None:
        """Takes why, and the status that a pod answered with, if that was it."""
        super().__init__(message)
        self.code = code


class StageSkippedError(StageFailedError):
    """A stage was not tried, since it could not have succeeded."""


@dataclass(frozen=True)
class Attempt(Generic[T]):
    """What a stage gave."""

    value: T | None
    """None where it failed."""
    seconds: float


async def attempt(stage: str, work: Awaitable[T]) -> Attempt[T]:
    """Awaits a stage. Only StageFailedError is a failure to answer without; it is logged."""
    start = time.perf_counter()
    try:
        value = await work
    except StageFailedError as error:
        seconds = time.perf_counter() - start
        # What is skipped is so for the caller's deadline, or for a failure that was logged.
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
