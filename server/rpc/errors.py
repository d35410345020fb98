"""The errors that services respond with, each with its status code and details."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from datetime import timedelta
from functools import cache

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

MAX_VIOLATIONS = 20
"""Maximum violations listed for a request: trailers carry them, and gRPC clients accept 8 KB."""


class RpcError(Exception):
    """A call's failure as the caller sees it. Raise it from a handler; the guard sends it."""

    def __init__(
        self, code: grpc.StatusCode, message: str, details: Sequence[Message] = ()
    ) -> None:
        """Make the error.

        Args:
            code: the status code.
            message: a sentence for the caller.
            details: google.rpc error details.
        """
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = tuple(details)

    def status(self) -> bytes:
        """Return the serialized google.rpc.Status for `grpc-status-details-bin`."""
        number: int = self.code.value[0]
        status = status_pb2.Status(code=number, message=self.message)
        for detail in self.details:
            status.details.add().Pack(detail)
        return status.SerializeToString()


def invalid_argument(violations: Sequence[tuple[str, str]]) -> RpcError:
    """Return INVALID_ARGUMENT with a BadRequest that lists (field, what is wrong with it).

    A list may have thousands of bad items: whole fields come first, and the rest is counted.
    """
    violations = sorted(violations, key=lambda violation: violation[0].endswith("]"))
    listed = [
        error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
        for field, description in violations[:MAX_VIOLATIONS]
    ]
    message = "; ".join(f"{field}: {text}" if field else text for field, text in violations[:5])
    if len(violations) > 5:
        message += f"; and {len(violations) - 5} more"
    details = [error_details_pb2.BadRequest(field_violations=listed)] if listed else []
    return RpcError(grpc.StatusCode.INVALID_ARGUMENT, message, details)


def not_found(message: str) -> RpcError:
    """Return NOT_FOUND."""
    return RpcError(grpc.StatusCode.NOT_FOUND, message)


def unavailable(message: str, retry_after: timedelta) -> RpcError:
    """Return UNAVAILABLE with RetryInfo: the caller may send the same again."""
    return RpcError(
        grpc.StatusCode.UNAVAILABLE, message, [error_details_pb2.RetryInfo(retry_delay=retry_after)]
    )


_RETRY_AFTER = timedelta(milliseconds=100)


class ShedReason(enum.Enum):
    """Why a call was shed; values are in status messages, names in metrics."""

    QUEUE = "queueing delay exceeded its target"
    DEADLINE = "the calls ahead take longer than the deadline leaves"
    LIMIT = "too many calls are in flight"
    STREAMS = "too many streams are open"
    BUDGET = "this caller has used more than its share, and too many of its calls wait"
    PRIORITY = "more urgent calls are under way"


class ShedError(RpcError):
    """RESOURCE_EXHAUSTED with RetryInfo: refused before it began. Cheap: there may be many."""

    def __init__(self, reason: ShedReason, retry_after: timedelta = _RETRY_AFTER) -> None:
        message = f"shed: {reason.value}; try again or elsewhere"
        super().__init__(grpc.StatusCode.RESOURCE_EXHAUSTED, message, (_retry_info(retry_after),))
        self.reason, self.retry_after = reason, retry_after

    def status(self) -> bytes:
        """Return the serialized google.rpc.Status."""
        return _shed_status(self.code, self.message, self.retry_after)


@cache
def _shed_status(code: grpc.StatusCode, message: str, retry_after: timedelta) -> bytes:
    return RpcError(code, message, [_retry_info(retry_after)]).status()


@cache
def _retry_info(retry_after: timedelta) -> error_details_pb2.RetryInfo:
    return error_details_pb2.RetryInfo(retry_delay=retry_after)
