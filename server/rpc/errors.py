"""The errors that services respond with, each with its status code and details."""

from __future__ import annotations

import enum
import re
import string
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from urllib.parse import quote, unquote

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

_MAX_MESSAGE_BYTES = 800
"""Maximum bytes of a message as gRPC sends it, percent-encoded. Trailers have it twice, and with it
the details in Base64: 4 KB in all, as gRPC clients refuse a call with more than 8 KB of headers."""
_MAX_VIOLATIONS_BYTES = 1_400
"""Maximum bytes of the violations in the details, which have few bytes otherwise."""
_MAX_TEXT_BYTES = 300
"""Maximum bytes of a field or description in a violation."""
MAX_VIOLATIONS, _MAX_IN_MESSAGE = 20, 5
"""Maximum violations in the details and in the message, which says how many more there are."""
_SENT_AS_IS = (string.punctuation + " ").replace("%", "")
"""Characters of a message, beside letters and digits, that gRPC doesn't percent-encode."""

_RETRY_AFTER = timedelta(milliseconds=100)


class RpcError(Exception):
    """A call's failure as the caller sees it. Raise it from a handler; the guard sends it."""

    def __init__(
        self, code: grpc.StatusCode, message: str, details: Sequence[Message] = ()
    ) -> None:
        """Make the error.

        Args:
            code: the status code.
            message: a sentence for the caller; the end of a long one is cut off.
            details: google.rpc error details, of 1,500 bytes at most.
        """
        super().__init__(message)
        self.code = code
        self.message = _cut(message, _MAX_MESSAGE_BYTES)
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
    bad = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field=_cut(field, _MAX_TEXT_BYTES), description=_cut(description, _MAX_TEXT_BYTES)
            )
            for field, description in violations[:MAX_VIOLATIONS]
        ]
    )
    while bad.ByteSize() > _MAX_VIOLATIONS_BYTES:
        del bad.field_violations[-1]
    texts = [f"{field}: {text}" if field else text for field, text in violations[:_MAX_IN_MESSAGE]]
    room = (_MAX_MESSAGE_BYTES - len("; and 1000000 more")) // max(1, len(texts)) - len("; ")
    message = "; ".join(_cut(text, room) for text in texts)
    if len(violations) > _MAX_IN_MESSAGE:
        message += f"; and {len(violations) - _MAX_IN_MESSAGE} more"
    return RpcError(grpc.StatusCode.INVALID_ARGUMENT, message, [bad] if violations else [])


def _cut(text: str, max_bytes: int) -> str:
    """Return a text, or the beginning of one that has more bytes once it is percent-encoded."""
    sent = quote(text[: max_bytes + 1], safe=_SENT_AS_IS, errors="replace")
    if len(sent) <= max_bytes:
        return text
    begin = re.sub("%.?$", "", sent[: max_bytes - len("...")])
    return unquote(begin, errors="ignore") + "..."


def not_found(message: str) -> RpcError:
    """Return NOT_FOUND."""
    return RpcError(grpc.StatusCode.NOT_FOUND, message)


def unavailable(message: str, retry_after: timedelta) -> RpcError:
    """Return UNAVAILABLE with RetryInfo: the caller may send the same again."""
    return RpcError(
        grpc.StatusCode.UNAVAILABLE, message, [error_details_pb2.RetryInfo(retry_delay=retry_after)]
    )


class ShedReason(enum.Enum):
    """Why a call was shed; values are in status messages, names in metrics."""

    QUEUE = "queueing delay exceeded its target"
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
