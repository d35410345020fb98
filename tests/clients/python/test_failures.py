"""What a client raises, for everything that a call can end in."""

from __future__ import annotations

import pickle
from datetime import timedelta
from typing import Any

import grpc
import pytest

from tests.builders.gateway import FakeGateway, overloaded
from tests.clients.python.conftest import Connect, Recommend
from vireo.ops.stack.ports import free_port_base
from vireo.server.rpc.errors import RpcError, not_found, unavailable
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

SOON = timedelta(milliseconds=20)


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
    gateway: FakeGateway, recommend: Recommend
) -> None:
    error = await failure(
        recommend, InvalidRequest, "", page_size=501, excluded_video_ids=["ok", ""]
    )
    assert {each.field for each in error.violations} == {
        "viewer_id",
        "page_size",
        "excluded_video_ids[1]",
    }
    assert all("must be" in each.description for each in error.violations)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "viewer_id" in str(error)
    assert "mine" in str(error)
    assert not gateway.requests


@pytest.mark.parametrize(
    ("answer", "kind", "more"),
    [
        (not_found("'s' is not in the release"), NotFound, {}),
        (overloaded(timedelta(hours=1)), Overloaded, {"retry_after": timedelta(hours=1)}),
        (
            RpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many"),
            Overloaded,
            {"retry_after": None},
        ),
        (unavailable("no release is loaded yet", SOON), Unavailable, {"retry_after": SOON}),
        (RpcError(grpc.StatusCode.UNAUTHENTICATED, "no"), Unauthenticated, {}),
        (RpcError(grpc.StatusCode.PERMISSION_DENIED, "no"), PermissionDenied, {}),
    ],
)
async def test_each_failure_has_a_class_with_what_the_server_said(
    gateway: FakeGateway,
    recommend: Recommend,
    answer: RpcError,
    kind: type[VireoError],
    more: dict[str, Any],
) -> None:
    gateway.answers = [answer]
    error = await failure(recommend, kind)
    assert (error.code, error.message) == (answer.code, answer.message)
    for name, value in more.items():
        assert getattr(error, name) == value


async def test_an_address_without_a_listener_is_unavailable(connect: Connect) -> None:
    async with connect(f"127.0.0.1:{free_port_base()}") as recommend:
        error = await failure(recommend, Unavailable)
    assert error.retry_after is None


async def test_no_answer_in_time_is_deadline_exceeded(
    gateway: FakeGateway, recommend: Recommend
) -> None:
    gateway.answers = [None]
    await failure(recommend, DeadlineExceeded, timeout=0.5)
    # Not exactly half a second: gRPC rounds what travels, and clocks differ a little.
    assert all(seconds < 1 for seconds in gateway.seconds)


async def test_an_error_of_the_server_is_one_with_its_code(
    gateway: FakeGateway, recommend: Recommend
) -> None:
    gateway.answers = [ZeroDivisionError("a bug")]
    error = await failure(recommend, VireoError)
    assert error.code is grpc.StatusCode.INTERNAL
    assert "mine" in error.message


async def test_a_request_id_that_the_server_replaced_is_the_servers(
    gateway: FakeGateway, recommend: Recommend
) -> None:
    gateway.answers = [not_found("no")]
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
