"""Page tokens continue the request that they were issued for, and nothing else."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from vireo.server.features.keys import video_key
from vireo.server.gateway.page_token import (
    MAX_AGE_SECONDS,
    MAX_SHOWN,
    BadPageTokenError,
    PageTokens,
    shown_keys,
    signing_keys,
)
from vireo.v1 import recommendation_pb2 as pb

NOW = 1_800_000_000
NEW, OLD = b"n" * 32, b"o" * 16


def tokens(seconds_later: float = 0, **keys: bytes) -> PageTokens:
    return PageTokens(keys or {"new": NEW}, lambda: NOW + seconds_later)


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


def issued(by: PageTokens | None = None, **fields: Any) -> str:
    return (by or tokens()).issue(request(**fields), b"", ["a", "b"])


def reason(asked: pb.RecommendRequest, by: PageTokens | None = None) -> str:
    with pytest.raises(BadPageTokenError) as raised:
        (by or tokens()).read(asked)
    return str(raised.value)


def test_a_token_has_the_keys_of_all_pages_before() -> None:
    first = issued()
    shown = tokens().read(request(first))
    assert [*shown_keys(shown)] == [video_key("a"), video_key("b")]
    second = tokens().issue(request(first), shown, ["c"])
    assert [*shown_keys(tokens().read(request(second)))] == [*map(video_key, "abc")]


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
    assert tokens().read(request(issued(), **changes))
    assert tokens().read(request(issued(**changes)))
    timed: dict[str, Any] = {"context": {"time": {"seconds": 5}}}
    assert tokens().read(request(issued(**timed), context=None))


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


def test_a_token_that_is_changed_truncated_or_lengthened_is_refused() -> None:
    token = issued()
    whole = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        assert reason(request(base64.urlsafe_b64encode(changed).decode().rstrip("=")))
    for length in range(1, len(token)):
        assert reason(request(token[:length]))
    for more in ("A", "AAAA", "=", "\n", token):
        assert reason(request(token + more))


def test_a_token_is_valid_for_a_day() -> None:
    token = issued()
    assert tokens(MAX_AGE_SECONDS).read(request(token))
    assert tokens(-30).read(request(token)), "the clock of another gateway may be behind"
    assert "has expired" in reason(request(token), tokens(MAX_AGE_SECONDS + 1))


def test_keys_are_rotated_with_overlap() -> None:
    by_old = issued(tokens(old=OLD))
    both = tokens(new=NEW, old=OLD)
    assert both.read(request(by_old))
    by_both = issued(both)
    assert tokens(new=NEW).read(request(by_both)), "the first key signs"
    assert "isn't in use" in reason(request(by_old), tokens(new=NEW))
    assert "isn't in use" in reason(request(by_both), tokens(old=OLD))
    assert "its signature" in reason(request(issued(tokens(new=OLD)))), "another key of this id"


def test_after_the_most_videos_there_is_no_token() -> None:
    many = [f"video-{number}" for number in range(MAX_SHOWN)]
    longest = tokens().issue(request(), b"", many)
    assert len(longest) < 65_536
    shown = tokens().read(request(longest))
    assert len(shown_keys(shown)) == MAX_SHOWN
    assert not tokens().issue(request(longest), shown, ["one more"])


def test_keys_are_read_from_the_setting() -> None:
    assert signing_keys(SecretStr("")) == {}
    setting = f"a:{base64.b64encode(NEW).decode()}, b-2:{base64.b64encode(OLD).decode()}"
    assert signing_keys(SecretStr(setting)) == {"a": NEW, "b-2": OLD}


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda key: key, "key 1 must begin with an id"),
        (lambda key: f":{key}", "key 1 must begin with an id"),
        (lambda key: f"a b:{key}", "key 1 must begin with an id"),
        (lambda key: f"a:{key},a:{key}", "key 2 must begin with an id"),
        (lambda key: f"{'a' * 17}:{key}", "key 1 must begin with an id"),
        (lambda key: f"a:{key}%", "key 1 must be base64"),
        (lambda key: f"a:{key},b:{key[:16]}", "key 2 must have 16 to 64 bytes"),
        (lambda key: f"a:{key[:40] * 3}", "key 1 must have 16 to 64 bytes"),
    ],
)
def test_unfit_keys_are_refused_without_being_quoted(
    spoil: Callable[[str], str], complaint: str
) -> None:
    key = base64.b64encode(NEW).decode()
    with pytest.raises(ValueError, match=complaint) as raised:
        signing_keys(SecretStr(spoil(key)))
    assert key[:16] not in str(raised.value)
