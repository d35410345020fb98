from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import timedelta
from urllib.parse import quote

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from vireo.server.rpc.errors import RpcError, invalid_argument, unavailable

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
