"""Exceptions of failed calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from vireo_client import messages as pb

REQUEST_ID = "x-request-id"
"""Metadata key of a request's id in the server's logs."""
_STATUS = "grpc-status-details-bin"


class VireoError(Exception):
    """A failed call; raised itself for codes without a class of their own."""

    recorded: int | None = None
    """Number of events that a failed `stream_events` recorded; None if the server didn't say."""
    retry_after: timedelta | None = None
    """Delay before a retry; None if the server sent none."""

    def __init__(self, code: grpc.StatusCode, message: str, request_id: str) -> None:
        """Hold gRPC's status code, its message, and the request's id."""
        super().__init__(code, message, request_id)
        self.code = code
        self.message = message
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message} (request {self.request_id})"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One invalid field of a request."""

    field: str
    """Path of the field, for example `excluded_video_ids[3]`; empty if it isn't one field."""
    description: str
    """Why it is invalid."""


class InvalidRequest(VireoError):
    """The request is invalid; a retry won't help."""

    violations: tuple[FieldViolation, ...] = ()
    """The invalid fields, at most 20."""


class NotFound(VireoError):
    """The seed video is not in the served release."""


class AccessDenied(VireoError):
    """The call isn't allowed."""


class Unauthenticated(AccessDenied):
    """The token or certificate is missing or invalid: get another one."""


class PermissionDenied(AccessDenied):
    """The token lacks the scope, or is for another viewer: ask for one that has it."""


class Overloaded(VireoError):
    """The server is overloaded, and shed the request before any work was done."""


class Unavailable(VireoError):
    """The server is unreachable or not serving yet, or can't store events; try the same again."""


class DeadlineExceeded(VireoError):
    """There was no response within the timeout."""


_CLASSES: dict[grpc.StatusCode, type[VireoError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


def error_of(failed: Any, request_id: str) -> VireoError:
    """Return the exception for a failed call.

    Args:
        failed: what gRPC raised, which has the status and the trailing metadata.
        request_id: the id that was sent; the server's id takes precedence if it returned one.
    """
    # Before grpcio 1.80 asyncio's metadata has keys() that aren't keys, which dict() would use.
    code, metadata = failed.code(), dict([*(failed.trailing_metadata() or ())])
    error = _CLASSES.get(code, VireoError)(
        code, failed.details() or "", _text(metadata.get(REQUEST_ID, request_id))
    )
    details = _details(metadata.get(_STATUS, b""))
    infos = _unpacked(details, pb.ErrorInfo)
    ended = (info.metadata["recorded"] for info in infos if info.reason == "STREAM_ENDED")
    error.recorded = next(map(int, ended), None)
    delays = (info.retry_delay.ToTimedelta() for info in _unpacked(details, pb.RetryInfo))
    error.retry_after = next(delays, None)
    if isinstance(error, InvalidRequest):
        error.violations = tuple(
            FieldViolation(each.field, each.description)
            for bad in _unpacked(details, pb.BadRequest)
            for each in bad.field_violations
        )
    return error


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def _details(status: str | bytes) -> Sequence[Any]:
    """Return the details of a serialized google.rpc.Status; none if it is invalid."""
    try:
        return pb.Status.FromString(status if isinstance(status, bytes) else b"").details
    except DecodeError:
        return ()  # corrupted on the way; the code is still valid


def _unpacked(details: Sequence[Any], kind: type[Any]) -> Iterator[Any]:
    """Yield the details of a kind."""
    found = kind()
    return (found for detail in details if detail.Unpack(found))
