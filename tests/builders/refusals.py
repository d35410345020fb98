"""How calls by gRPC fail, with the details of their status."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2


async def failure_of(call: Any) -> grpc.aio.AioRpcError:
    """The error of a call that fails, of one response or of a stream of them."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call succeeded")


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    """The code and message of a call that fails."""
    error = await failure_of(call)
    return error.code(), error.details() or ""


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """Its status with all details, empty without any."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    assert isinstance(details, bytes)
    return status_pb2.Status.FromString(details)


def violations_of(error: grpc.aio.AioRpcError) -> dict[str, str]:
    """What is wrong with each field of a request."""
    bad = error_details_pb2.BadRequest()
    [detail] = status_of(error).details
    assert detail.Unpack(bad)
    return {violation.field: violation.description for violation in bad.field_violations}


def retry_seconds(error: grpc.aio.AioRpcError) -> float:
    """After how long the caller may try again."""
    info = error_details_pb2.RetryInfo()
    assert status_of(error).details[0].Unpack(info)
    return info.retry_delay.ToTimedelta().total_seconds()
