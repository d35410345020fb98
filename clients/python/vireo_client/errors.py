"""What a call that fails raises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from vireo_client.messages import BadRequest, RetryInfo, Status

REQUEST_ID = "x-request-id"
"""Metadata key of the id by which the server's logs know a request."""
_STATUS = "grpc-status-details-bin"


class VireoError(Exception):
    """A call has failed. Raised itself for codes that have no class of their own."""

    def __init__(self, code: grpc.StatusCode, message: str, request_id: str) -> None:
        """Takes gRPC's status code, what the server or gRPC says of it, and the request's id."""
        super().__init__(code, message, request_id)
        self.code = code
        self.message = message
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message} (request {self.request_id})"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One thing that is wrong with a request."""

    field: str
    """Path of the field, for example `excluded_video_ids[3]`; empty if it isn't one field."""
    description: str
    """What is wrong with it."""


class InvalidRequest(VireoError):
    """The request can't be right; sending it again won't help."""

    violations: tuple[FieldViolation, ...] = ()
    """What is wrong, 20 at most."""


class NotFound(VireoError):
    """The video that the slate should follow is not in the release that is served."""


class AccessDenied(VireoError):
    """The token or certificate is missing, wrong, or doesn't allow this."""


class Overloaded(VireoError):
    """The server takes no more for now; nothing was done."""

    retry_after: timedelta | None = None
    """When to ask again; None where the server didn't say."""


class Unavailable(VireoError):
    """Nothing answers there, or what does can't serve yet; nothing was done."""

    retry_after: timedelta | None = None
    """When to ask again; None where the server didn't say."""


class DeadlineExceeded(VireoError):
    """No answer came within the timeout."""


_CLASSES: dict[grpc.StatusCode, type[VireoError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNAUTHENTICATED: AccessDenied,
    grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


Metadata = Iterable[tuple[str, str | bytes]]


def error_of(
    code: grpc.StatusCode, message: str, trailing: Metadata, request_id: str
) -> VireoError:
    """The exception for a call that has failed.

    Args:
        code: the status code.
        message: what the server, or gRPC, says of it.
        trailing: the trailing metadata, with the details of the status.
        request_id: as it was sent; the server's counts where it made another one.
    """
    told = dict(trailing)
    error = _CLASSES.get(code, VireoError)(code, message, _text(told.get(REQUEST_ID, request_id)))
    details = _details(told.get(_STATUS, b""))
    if isinstance(error, InvalidRequest):
        error.violations = _violations(details)
    elif isinstance(error, Overloaded | Unavailable):
        error.retry_after = _retry_after(details)
    return error


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def _details(status: str | bytes) -> Sequence[Any]:
    """The details of a serialized google.rpc.Status; none where it isn't one."""
    try:
        return Status.FromString(status if isinstance(status, bytes) else b"").details
    except DecodeError:
        return ()  # something between here and the server spoils them; the code still counts


def _violations(details: Sequence[Any]) -> tuple[FieldViolation, ...]:
    bad = BadRequest()
    return tuple(
        FieldViolation(each.field, each.description)
        for detail in details
        if detail.Unpack(bad)
        for each in bad.field_violations
    )


def _retry_after(details: Sequence[Any]) -> timedelta | None:
    info = RetryInfo()
    for detail in details:
        if detail.Unpack(info):
            return info.retry_delay.ToTimedelta()
    return None
