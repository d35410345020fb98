"""Errors as callers see them, and which methods a token for one viewer may call."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from datetime import timedelta
from urllib.parse import quote

import grpc
import pytest
from google.protobuf.descriptor import Descriptor
from google.rpc import error_details_pb2, status_pb2

from vireo.server.rpc.caller import VIEWER, VIEWERS, check_viewer
from vireo.server.rpc.errors import RpcError, invalid_argument, unavailable
from vireo.v1 import catalog_pb2, event_pb2, recommendation_pb2, release_pb2

TYPOS = [
    (f"filter.conditions[{place}].attribute", f"the release declares no {'é' * 60!r} but tag")
    for place in range(30)
]
LISTS = {
    "typos": TYPOS,
    "long texts": [(f"inputs[{place}]", "x" * 10_000) for place in range(1_000)],
    "long fields": [("é" * 10_000, "is unknown"), *TYPOS],
    "one that is long": [("", "日本" * 100_000)],
    "percent signs": [("%" * 1_000, "%" * 1_000)] * 7,
}


def sent_bytes(error: RpcError) -> int:
    """How many bytes of trailers an error needs."""
    return len(quote(error.message, safe=" ")) + len(base64.b64encode(error.status()))


def violations_of(error: RpcError) -> list[tuple[str, str]]:
    bad = error_details_pb2.BadRequest()
    assert status_pb2.Status.FromString(error.status()).details[0].Unpack(bad)
    return [(each.field, each.description) for each in bad.field_violations]


@pytest.mark.parametrize("violations", LISTS.values(), ids=LISTS.keys())
def test_an_error_fits_into_trailers_whatever_is_wrong(
    violations: Sequence[tuple[str, str]],
) -> None:
    error = invalid_argument(violations)
    assert sent_bytes(error) <= 4 << 10
    assert violations_of(error), "one at least is kept"
    more = len(violations) - 5
    assert more <= 0 or error.message.endswith(f"and {more} more")


def test_violations_are_whole_if_they_fit() -> None:
    violations = [(f"field_{place}", "must be “more” than 5 %") for place in range(12)]
    error = invalid_argument(violations)
    assert violations_of(error) == violations
    assert error.message.startswith("field_0: must be “more” than 5 %; field_1: must be")


def test_a_long_message_ends_with_whole_characters() -> None:
    for shift in range(9):
        error = RpcError(grpc.StatusCode.NOT_FOUND, "x" * shift + "日" * 1_000)
        text = error.message.removesuffix("...")
        assert text.lstrip("x").strip("日") == ""
        assert len(text) > 80
        assert sent_bytes(error) <= 4 << 10


def test_only_violations_are_left_out_of_many_details() -> None:
    info = error_details_pb2.ErrorInfo(reason="STREAM_ENDED", metadata={"recorded": "7"})
    first = invalid_argument(TYPOS)
    error = RpcError(first.code, first.message, [*first.details, info])
    assert sent_bytes(error) <= 4 << 10
    found = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(error.status()).details[1].Unpack(found)
    assert found == info
    assert violations_of(error)


def test_a_time_to_retry_is_kept_beside_a_long_message() -> None:
    error = unavailable("x" * 10_000, timedelta(seconds=3))
    retry = error_details_pb2.RetryInfo()
    assert status_pb2.Status.FromString(error.status()).details[0].Unpack(retry)
    assert retry.retry_delay.seconds == 3


PUBLIC = (recommendation_pb2, event_pb2, catalog_pb2, release_pb2)
METHODS = {
    f"/{service.full_name}/{method.name}": method.input_type
    for file in PUBLIC
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def named(message: Descriptor) -> Iterator[str]:
    """The fields within a message that have viewers."""
    for field in message.fields:
        if field.name in ("viewer_id", "viewer_ids"):
            yield field.full_name
        elif field.message_type is not None and not field.message_type.name.startswith("Filter"):
            yield from named(field.message_type)  # filters may hold filters


def test_every_public_method_with_a_viewer_declares_it() -> None:
    with_viewer = {path for path, request in METHODS.items() if any(named(request))}
    without = {"/vireo.v1.RecommendationService/SimilarVideos"}
    assert VIEWERS.keys() == with_viewer | without
    for path in with_viewer:
        assert len(list(named(METHODS[path]))) == 1, f"{path} may need more than one of them"


@pytest.mark.parametrize("path", [*sorted(METHODS.keys() - VIEWERS.keys()), "/vireo.v1.New/Method"])
def test_a_method_that_declares_no_viewer_is_denied(path: str) -> None:
    request = recommendation_pb2.RecommendRequest(viewer_id="1")
    check_viewer(path, (), request)
    with pytest.raises(RpcError, match="one viewer") as raised:
        check_viewer(path, ((VIEWER, "1"),), request)
    assert raised.value.code is grpc.StatusCode.PERMISSION_DENIED


def test_each_viewer_of_a_request_counts_and_each_that_is_named() -> None:
    path = "/vireo.v1.EventService/RecordEvents"
    events = [event_pb2.Event(viewer_id="é"), event_pb2.Event(viewer_id="é")]
    check_viewer(path, ((VIEWER, "%c3%a9"),), event_pb2.RecordEventsRequest(events=events))
    events.append(event_pb2.Event(viewer_id="e"))
    for metadata in (((VIEWER, "%c3%a9"),), ((VIEWER, "%c3%a9"), (VIEWER, "e"))):
        with pytest.raises(RpcError, match="one viewer"):
            check_viewer(path, metadata, event_pb2.RecordEventsRequest(events=events))
