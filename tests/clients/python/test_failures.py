"""What a client raises, for everything that a call can end in."""

from __future__ import annotations

import pickle
from datetime import timedelta
from typing import Any

import grpc
import pytest

from tests.builders.hostile import Hostile, serving
from tests.clients.python.conftest import Connect, Recommend
from vireo.ops.stack.ports import free_port_base
from vireo_client import (
    DeadlineExceeded,
    FieldViolation,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    VireoError,
)
from vireo_client.errors import error_of
from vireo_client.testing import FakeStack


async def failure(
    recommend: Recommend, kind: type[VireoError], viewer_id: str = "1", **asked: Any
) -> Any:
    """Return the error of a call, which has the request's id."""
    with pytest.raises(VireoError) as caught:
        await recommend(viewer_id, request_id="mine", **asked)
    assert type(caught.value) is kind
    assert caught.value.request_id == "mine"
    return caught.value


async def test_a_request_that_breaks_rules_names_all_of_them(
    stack: FakeStack, recommend: Recommend
) -> None:
    violations = (
        FieldViolation("viewer_id", "must be at least 1 byte"),
        FieldViolation("excluded_video_ids[1]", "must be at least 1 byte"),
    )
    stack.fail(grpc.StatusCode.INVALID_ARGUMENT, "viewer_id: too short", violations=violations)
    error = await failure(recommend, InvalidRequest, "", excluded_video_ids=["ok", ""])
    assert error.violations == violations
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "viewer_id" in str(error)
    assert "mine" in str(error)


@pytest.mark.parametrize(
    ("code", "retry_after", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, None, NotFound),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, timedelta(hours=1), Overloaded),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, None, Overloaded),
        (grpc.StatusCode.UNAVAILABLE, timedelta(milliseconds=20), Unavailable),
        (grpc.StatusCode.UNAUTHENTICATED, None, Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, None, PermissionDenied),
        (grpc.StatusCode.INTERNAL, None, VireoError),
    ],
)
async def test_each_failure_has_a_class_with_what_the_server_said(
    stack: FakeStack,
    recommend: Recommend,
    code: grpc.StatusCode,
    retry_after: timedelta | None,
    kind: type[VireoError],
) -> None:
    stack.fail(code, "'s' is why", times=9, retry_after=retry_after)
    error = await failure(recommend, kind)
    assert (error.code, error.message) == (code, "'s' is why")
    assert getattr(error, "retry_after", None) == retry_after


async def test_an_address_without_a_listener_is_unavailable(connect: Connect) -> None:
    async with connect(f"127.0.0.1:{free_port_base()}") as recommend:
        error = await failure(recommend, Unavailable)
    assert error.retry_after is None


async def test_no_answer_in_time_is_deadline_exceeded(
    stack: FakeStack, recommend: Recommend
) -> None:
    stack.hang()
    await failure(recommend, DeadlineExceeded, timeout=0.5)
    # Not exactly half a second: gRPC rounds what travels, and clocks differ a little.
    assert all(context.time_remaining() < 1 for context in stack.contexts)


async def test_a_request_id_that_the_server_replaced_is_the_servers(connect: Connect) -> None:
    hostile = Hostile(["NOT_FOUND"])  # type: ignore[abstract]
    async with serving(hostile) as address, connect(address) as recommend:
        with pytest.raises(NotFound) as caught:
            await recommend("1", request_id="x" * 200)  # too long for the server's log
    assert len(caught.value.request_id) == 32


def test_details_that_are_spoiled_leave_the_error_itself() -> None:
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", b"\xff"))
    code = grpc.StatusCode.INVALID_ARGUMENT
    error = error_of(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, "why"), "id")
    assert isinstance(error, InvalidRequest)
    assert (error.message, error.violations) == ("why", ())


def test_an_error_survives_the_way_to_another_process() -> None:
    error = InvalidRequest(grpc.StatusCode.INVALID_ARGUMENT, "why", "id")
    error.violations = (FieldViolation("viewer_id", "must be"),)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is InvalidRequest
    assert (str(again), again.violations) == (str(error), error.violations)
