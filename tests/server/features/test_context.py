"""The context of a request or a watch, as ids."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vireo.server.features import context
from vireo.server.features.context import (
    NAMES,
    UNKNOWN,
    BadTimeZoneError,
    as_texts,
    context_ids,
    context_input,
    device_id,
    hour_and_weekday,
    language_id,
    language_match,
    received,
    sent,
    time_zone,
    time_zones,
)
from vireo.v1 import viewer_pb2

SUMMER = int(datetime(2024, 7, 7, 22, 30, tzinfo=UTC).timestamp())
"""A Sunday in UTC."""
WINTER = int(datetime(2024, 1, 7, 22, 30, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("seconds", "zone", "hour", "weekday"),
    [
        (SUMMER, "Europe/Zurich", 0, 1),
        (WINTER, "Europe/Zurich", 23, 7),
        (SUMMER, "Asia/Kolkata", 4, 1),
        (SUMMER, "+05:30", 4, 1),
        (SUMMER, "-0330", 19, 7),
        (SUMMER, "UTC", 22, 7),
        (SUMMER, "Z", 22, 7),
    ],
)
def test_hour_and_weekday_are_those_of_the_viewers_zone(
    seconds: int, zone: str, hour: int, weekday: int
) -> None:
    assert hour_and_weekday(seconds, zone) == (1 + hour, weekday)


def test_the_hour_is_unknown_without_a_zone_and_beyond_the_calendar() -> None:
    assert hour_and_weekday(SUMMER, "") == (0, 0)
    assert hour_and_weekday(2**62, "Europe/Zurich") == (0, 0)


@pytest.mark.parametrize(
    "zone",
    [
        "Mars",
        "America",
        "+25:00",
        "+02:99",
        "../../etc/passwd",
        "/etc/localtime",
        "a\0b",
        "é",
    ],
)
def test_what_is_no_zone_is_refused(zone: str) -> None:
    with pytest.raises(BadTimeZoneError):
        time_zone(zone)


def test_a_text_of_a_caller_opens_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert time_zones()["Asia/Kolkata"] == time_zone("Asia/Kolkata")
    monkeypatch.setattr(context, "ZoneInfo", None)
    time_zone.cache_clear()
    time_zone("Asia/Kolkata")
    with pytest.raises(BadTimeZoneError):
        time_zone("Mars")


@given(st.text(max_size=64))
def test_any_text_is_a_zone_or_refused(text: str) -> None:
    try:
        hour, weekday = hour_and_weekday(SUMMER, text)
    except BadTimeZoneError:
        return
    assert 0 <= hour <= 24
    assert 0 <= weekday <= 7


def test_devices_are_known_kinds_in_any_case() -> None:
    assert [device_id(text) for text in ("phone", "Tablet", " TV ", "DESKTOP")] == [1, 2, 3, 4]
    assert [device_id(text) for text in ("", "fridge")] == [0, 0]


def test_a_locale_counts_by_its_language() -> None:
    assert language_id("de-CH") == language_id("DE") == language_id("de_AT")
    assert [language_id(text) for text in ("aa", "zz")] == [1, 676]
    assert [language_id(text) for text in ("", "d", "gsw-CH", "12", "éa")] == [0] * 5


def test_ids_pass_the_inner_hops_unchanged() -> None:
    ids = context_ids(SUMMER, "Asia/Tokyo", "tv", "ja-JP")
    message = viewer_pb2.ViewerFeatures()
    sent(ids, message.context)

    again = viewer_pb2.ViewerFeatures.FromString(message.SerializeToString())

    assert received(again.context) == ids
    assert received(viewer_pb2.ViewerFeatures().context) == UNKNOWN


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "Pacific/Kiritimati", "Pacific/Niue", ""])
@pytest.mark.parametrize("seconds", [SUMMER, WINTER, SUMMER + 45_000])
def test_ids_can_be_asked_for_by_texts(zone: str, seconds: int) -> None:
    ids = context_ids(seconds, zone, "tablet", "pt-BR")
    texts = as_texts(ids, seconds)
    again = context_ids(seconds, texts.get("time_zone", ""), texts["device"], texts["locale"])
    assert again == ids
    assert as_texts(UNKNOWN, seconds) == {}


def test_ids_of_a_newer_build_count_as_unknown() -> None:
    assert received(viewer_pb2.ContextIds(device=200, hour=3)) == (3, 0, 0, 0)


def test_the_message_of_the_hops_has_a_field_for_every_feature() -> None:
    assert [field.name for field in viewer_pb2.ContextIds.DESCRIPTOR.fields] == list(NAMES)


def test_models_get_the_features_that_their_release_reads() -> None:
    assert context_input((3, 4, 2, 9), ("device", "hour")).tolist() == [2, 3]
    assert len(context_input((3, 4, 2, 9), ())) == 0


def test_a_language_matches_or_not_only_if_both_are_known() -> None:
    videos = np.array([0, 5, 7], np.int16)
    assert language_match(7, videos).tolist() == [0, -1, 1]
    assert language_match(0, videos).tolist() == [0, 0, 0]
