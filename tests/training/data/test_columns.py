from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from vireo.server.errors import VireoError
from vireo.training.data.columns import MAX_CLOCK_SKEW, event_times, published_times
from vireo.training.data.files import FilePart, Problems
from vireo.training.data.interactions import check_years, far_from_others

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVENING = datetime(2024, 5, 1, 18, tzinfo=UTC)
DAY = 86_400_000_000


def column(values: Any) -> FilePart:
    chunked = pa.chunked_array([values if isinstance(values, pa.Array) else pa.array(values)])
    rows = np.arange(1, len(chunked) + 1)
    return FilePart("i.csv", {"timestamp": chunked}, rows, Problems())


def read(values: Any) -> list[datetime | None]:
    """Return the times of events, None for those that are refused."""
    checked = column(values)
    found: list[datetime | None] = event_times(checked, "timestamp", NOW).to_pylist()
    assert [time is None for time in found] == checked.bad.tolist()
    return found


def refusal(value: Any) -> str:
    """Return what is said of a single value."""
    checked = column(value if isinstance(value, pa.Array) else [value])
    event_times(checked, "timestamp", NOW)
    return str(checked.problems.error()).splitlines()[1]


def test_each_time_is_read_on_its_own() -> None:
    written = {
        "2024-05-01T20:00:00+02:00": EVENING,
        "2024-05-01T18:00:00": EVENING,
        "2024-05-01 18:00": EVENING,
        "2024-05-01T12:30:00-05:30": EVENING,
        "2024-05-01 18:00:00 UTC": EVENING,
        "2024-05-01t18:00:00.000z": EVENING,
        "20240501T180000Z": EVENING,
        "20240501T20+02": EVENING,
        "1714586400": EVENING,
        " 1714586400.0 ": EVENING,
        "1714586400.25": EVENING + timedelta(milliseconds=250),
        "2024/05/01 18:00:00,25": EVENING + timedelta(milliseconds=250),
        "2024-05-01T18:00:00.123456789Z": EVENING + timedelta(microseconds=123456),
        "2024-05-01": EVENING.replace(hour=0),
        "2024-05": EVENING.replace(hour=0),
        "2024-02-29": datetime(2024, 2, 29, tzinfo=UTC),
        "-0": datetime(1970, 1, 1, tzinfo=UTC),
        (NOW + MAX_CLOCK_SKEW).isoformat(): NOW + MAX_CLOCK_SKEW,
    }
    assert read(list(written)) == list(written.values())
    assert read(list(written)[::-1]) == list(written.values())[::-1]


NO_TIME = "is not a time; write Unix seconds or ISO 8601"
AHEAD = "is in the future (it is 2026-01-01T00:00Z now); write the"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        *((text, f"'{text}' {NO_TIME}") for text in (
            "2024-02-30", "2023-02-29", "2024-13-01", "2024-00-01", "2024-05-01T24:00:00Z",
            "2016-12-31T23:59:60Z", "2024-05-01T18:60", "2024-W18-3", "2024-122",
            "2024-05-01T18:00:00+25:00", "2024-05-01T18:00:00 CET", "01/05/2024", "12:00", "now",
            "NaT", "\uff12024-05-01",
        )),
        (True, "True is not a time"),
        (pa.array([5], pa.time64("us")), "is not a time"),
        (pa.array([5], pa.duration("s")), "is not a time"),
        ("20240501", "'20240501' is a day, not Unix seconds; write it with dashes, for example"),
        (20240501, "20240501 is a day, not Unix seconds"),
        (20240501.0, "20240501.0 is a day, not Unix seconds"),
        ("20240501180000", "'20240501180000' is not a Unix time in seconds; divide milliseconds"),
        (float("inf"), "inf is not a Unix time in seconds"),
        (10**18, "1000000000000000000 is not a Unix time in seconds"),
        ("1970-01-01T00:00:00+02:00", "is before 1970"),
        ("-0.4", "'-0.4' is before 1970"),
        ("0000-01-01", "is before 1970"),
        ("9999999999", f"'9999999999' {AHEAD}"),
        ("9999-12-31", AHEAD),
        ((NOW + MAX_CLOCK_SKEW + timedelta(seconds=1)).isoformat(), AHEAD),
        # Far ahead, and not wrapped.
        (pa.array([10**15], pa.timestamp("s")), AHEAD),
        (pa.array([10**15], pa.timestamp("s", "UTC")), AHEAD),
        (pa.array([2**63 - 1], pa.timestamp("ms")), AHEAD),
        (pa.array([2**63 - 1], pa.timestamp("ns", "UTC")), AHEAD),
        (pa.array([2**31 - 1], pa.int32()).cast(pa.date32()), AHEAD),
        (pa.array([253_402_300_799_000_000], pa.timestamp("us", "UTC")), AHEAD),
    ],
)  # fmt: skip
def test_a_time_that_cannot_be_is_refused_with_its_reason(value: Any, said: str) -> None:
    assert said in refusal(value)
    assert read(value if isinstance(value, pa.Array) else [value]) == [None]
    if isinstance(value, str):
        assert read(["2024-05-01T18:00:00+02:00", value, "2024-05-01"])[1] is None


def test_timestamps_and_dates_of_parquet_are_read_in_any_unit() -> None:
    seconds = int(EVENING.timestamp())
    for unit, factor in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        for zone in (None, "UTC", "Asia/Kathmandu"):
            stored = pa.array([seconds * factor, None], pa.timestamp(unit, zone))
            assert read(stored) == [EVENING, None]
    for kind in (pa.date32(), pa.date64()):
        assert read(pa.array([date(2024, 5, 1)], kind)) == [EVENING.replace(hour=0)]


def in_seconds(values: Any) -> Any:
    return np.rint(np.asarray(values, np.float64) * 1e6).astype(np.int64)


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (np.linspace(45_292.5, 45_600, 20), "days since 1900, as in Excel"),
        ([202_401, 202_402, 202_312, 199_001], "months, as in 202405"),
        (np.linspace(28.4e6, 29e6, 20), "minutes since 1970"),
        (np.linspace(473_000, 480_000, 20), "hours since 1970"),
        (np.linspace(19_700, 20_000, 20), "days since 1970"),
        ([2023, 2024, 2024, 2025], "years"),
    ],
)
def test_times_of_another_unit_are_refused_with_its_name(values: Any, unit: str) -> None:
    with pytest.raises(VireoError, match=f"before 1990 .*they look like {unit};.* ISO 8601"):
        check_years("i.csv", in_seconds(values), NOW)


def test_early_times_are_refused_in_any_unit_if_they_are_most() -> None:
    early, usual = np.arange(1_000.0), np.full(1_000, 1.7e9)
    for fine in ([*early[:999], *usual], early[:100], []):  # the second is a trial
        check_years("i.csv", in_seconds(fine), NOW)
    with pytest.raises(VireoError, match=r"the middle one is 499\.5; write Unix seconds"):
        check_years("i.csv", in_seconds(early), NOW)


def test_a_publication_may_be_old_or_ahead_but_must_be_held_by_what_reads_it() -> None:
    checked = column(
        ["1895-12-28", "2030-01-01", "", "0001-01-01", "2100-01-01", "1995", "202405", "19950101"]
    )
    found = published_times(checked, "timestamp", NOW).to_pylist()
    assert found[:3] == [datetime(1895, 12, 28, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC), None]
    assert found[3:] == [None] * 5
    assert checked.bad.tolist() == [False] * 3 + [True] * 5
    said = str(checked.problems.error())
    assert "'0001-01-01' is not from 1700 to 2035; write the day that it was published" in said
    assert "'202405' is a year or month, not Unix seconds" in said
    assert "'19950101' is a day, not Unix seconds" in said


BULK = np.arange(20_000) // 100


@pytest.mark.parametrize(
    ("days", "far"),
    [
        ([0, *(20_000 + BULK)], [0]),
        ([*BULK, 5_000], [20_000]),
        ([*(np.arange(10) * 700), *(7_000 + BULK)], []),  # ever more often
        ([*range(30), *(4_000 + BULK)], []),  # a pause
        ([0, 5_000, 20_000], []),  # few
        ([], []),
    ],
)
def test_a_few_events_years_from_all_others_are_far(days: list[int], far: list[int]) -> None:
    found = far_from_others(np.array(days, np.int64) * DAY)
    assert np.flatnonzero(found).tolist() == far
