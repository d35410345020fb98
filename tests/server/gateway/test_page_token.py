"""Page tokens continue the request that they were issued for, and nothing else."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders.clock import Clock
from vireo.server.features.keys import video_key
from vireo.server.gateway.page_token import (
    MAX_AGE_SECONDS,
    MAX_SHOWN,
    next_page_token,
    shown_keys,
)
from vireo.server.rpc.errors import RpcError
from vireo.v1 import recommendation_pb2 as pb


def request(token: str = "", **fields: Any) -> pb.RecommendRequest:
    whole: dict[str, Any] = {
        "viewer_id": "viewer",
        "page_size": 2,
        "context": {"locale": "de-CH"},
        "filter": {"conditions": [{"attribute": "language", "any_of": ["de"]}]},
        "session": [{"video_id": "s", "action": pb.SESSION_ACTION_HOVERED}],
        "page_token": token,
        **fields,
    }
    return pb.RecommendRequest(**whole)


def issued(**fields: Any) -> str:
    return next_page_token(request(**fields), (), ["a", "b"])


def reason(asked: pb.RecommendRequest) -> str:
    with pytest.raises(RpcError, match=r"^page_token: ") as raised:
        shown_keys(asked)
    return str(raised.value)


def bytes_of(token: str) -> bytes:
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))


def token_of(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def test_a_token_has_the_keys_of_all_pages_before() -> None:
    shown = shown_keys(request(issued()))
    assert [*shown] == [video_key("a"), video_key("b")]
    second = next_page_token(request(issued()), shown, ["c"])
    assert [*shown_keys(request(second))] == [*map(video_key, "abc")]


@pytest.mark.parametrize(
    "changes",
    [
        {"page_size": 500},
        {"page_size": None},
        {"explain": True},
        {"context": {"locale": "de-CH", "time": {"seconds": 5}}},
    ],
)
def test_size_explain_and_time_may_differ_between_pages(changes: dict[str, Any]) -> None:
    assert shown_keys(request(issued(), **changes))
    assert shown_keys(request(issued(**changes)))
    timed: dict[str, Any] = {"context": {"time": {"seconds": 5}}}
    assert shown_keys(request(issued(**timed), context=None))


@pytest.mark.parametrize(
    "changes",
    [
        {"viewer_id": "another"},
        {"surface": pb.SURFACE_UP_NEXT, "seed_video_id": "v"},
        {"seed_video_id": "v"},
        {"context": {"locale": "de"}},
        {"context": None},
        {"excluded_video_ids": ["x"]},
        {"profile": {"attributes": ["a=b"]}},
        {"filter": None},
        {"filter": {"conditions": [{"attribute": "language", "any_of": ["fr"]}]}},
        {"session": []},
    ],
)
def test_a_token_of_another_request_is_refused(changes: dict[str, Any]) -> None:
    assert "is of another request" in reason(request(issued(), **changes))
    assert "is of another request" in reason(request(issued(**changes)))


@given(st.one_of(st.text(min_size=1), st.binary(min_size=1).map(token_of)))
def test_garbage_is_refused(garbage: str) -> None:
    assert reason(request(garbage))


def test_a_token_that_is_cut_lengthened_or_of_another_build_is_refused() -> None:
    token, whole = issued(), bytes_of(issued())
    for length in range(1, len(whole)):
        assert "whole" in reason(request(token_of(whole[:length])))
    for byte in range(len(whole)):
        spoilt = bytearray(whole)
        spoilt[byte] ^= 1
        if not 1 <= byte < 5:  # the time
            assert reason(request(token_of(bytes(spoilt))))
    for more in ("A", "AAAA", "\n", token):
        assert "isn't a whole" in reason(request(token + more))
    assert "another version" in reason(request(token_of(b"\1" + whole[1:])))


@pytest.mark.parametrize("count", [0, MAX_SHOWN + 1])
def test_a_token_that_names_no_video_or_more_than_pods_take_is_refused(count: int) -> None:
    head = bytes_of(issued())[:-16]
    assert "isn't a whole" in reason(request(token_of(head + bytes(8 * count))))


def test_a_token_is_valid_for_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(1_800_000_000)
    monkeypatch.setattr("vireo.server.gateway.page_token.time.time", clock)
    token = issued()
    clock.now += MAX_AGE_SECONDS
    assert shown_keys(request(token))
    clock.now += 1
    assert "has expired" in reason(request(token))
    clock.now -= MAX_AGE_SECONDS + 31
    assert shown_keys(request(token)), "the clock of another gateway may be behind"


def test_after_the_most_videos_there_is_no_token() -> None:
    longest = next_page_token(request(), (), map(str, range(MAX_SHOWN)))
    assert len(longest) < 65_536
    shown = shown_keys(request(longest))
    assert len(shown) == MAX_SHOWN
    assert not next_page_token(request(longest), shown, ["one more"])
