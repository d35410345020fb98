from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import SecretStr

from bench import capacity
from bench.capacity import DAY_SECONDS, MEASURED, PAGE, Site, capacity_page, carried, limits, needed
from tests.builders.event_batches import empty_repository
from tests.builders.nats import running_nats, with_log
from tests.builders.redis import running_redis
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import EVENTS
from vireo.server.features.online_store import RedisSettings, open_rows
from vireo.server.features.redis_store import RedisStore
from vireo.server.features.viewer_rows import ACTIVITY, Change, ViewerRow
from vireo.training.features.online_store import OnlineStoreSettings
from vireo.v1 import event_pb2, log_pb2

COSTS = {
    "slate_ms": {"envoy": 0.6, "gateway": 1.0, "candidate": 2.0, "ranking": 1.5},
    "event_call_ms": 0.4,
    "event_ms": 0.01,
    "consumer_rate": 10_000,
    "store_ms": 0.05,
    "row_bytes": {"100": 3_000, "1200": 25_000},
    "event_bytes": 200,
    "appends": {"default": 10_000, "durable": 1_000},
    "process_mb": dict.fromkeys(
        ("envoy", "gateway", "candidate", "ranking", "consumer", "control"), 500.0
    ),
    "features_gb": (0.8, 0.12),
    "machine": {"cores": 2, "layouts": {"together": {"slates": 400, "ms": 4.0, "mb": 700}}},
}
SITE = Site(864_000, slates=10, peak=2)
"""200 slates a second at the busiest time."""


def test_processes_follow_from_the_load_with_one_to_spare() -> None:
    found = needed(replace(SITE, utilisation=0.5), COSTS)
    assert found["peak_slates"] == pytest.approx(200)
    assert found["peak_events"] == pytest.approx(2_400)
    # A gateway spends 1.0 on a slate, 0.4 on each of 3 calls and 0.01 on each of 12 events;
    # an Envoy 0.6, and a third of that on each call.
    assert found["cores_used"]["gateway"] == pytest.approx(0.2 * 2.32)
    assert found["cores_used"]["envoy"] == pytest.approx(0.2 * 1.2)
    assert found["processes"] == {
        "envoy": 2,
        "gateway": 2,
        "candidate": 2,
        "ranking": 2,
        "consumer": 1,
        "control": 1,
    }
    grown = needed(replace(SITE, viewers=10 * 864_000, utilisation=0.5), COSTS)
    assert grown["processes"]["candidate"] == 9  # 4 cores in use, 8 to be half busy, and one
    assert grown["processes"]["consumer"] == 5


def test_memory_log_and_money_follow_from_viewers_and_prices() -> None:
    found = needed(replace(SITE, core_hour=1, gb_hour=0, disk_gb_month=0), COSTS)
    assert found["redis_gb"] == pytest.approx(864_000 * 3 * 3_000 * 2 / 1e9)
    many = needed(replace(SITE, watches=650), COSTS)
    assert many["redis_gb"] == pytest.approx(864_000 * 3 * 14_000 * 2 / 1e9)
    assert found["log_gb"] == pytest.approx(864_000 * 10 * 12 * 200 * 30 * 3 / 1e9)
    assert found["log_max_bytes"] == pytest.approx(864_000 * 10 * 12 * 200 * 30 / 0.7)
    assert found["day_hours"] == pytest.approx(864_000 * 10 * 12 / 10_000 / 3600)
    assert found["dollars"] == pytest.approx(730 * found["cores"])
    memory = needed(replace(SITE, core_hour=0, gb_hour=1, disk_gb_month=0), COSTS)
    assert memory["dollars"] == pytest.approx(730 * memory["memory_gb"])
    disk = needed(replace(SITE, core_hour=0, gb_hour=0, disk_gb_month=1), COSTS)
    assert disk["dollars"] == pytest.approx(disk["log_gb"])


def test_what_breaks_is_in_the_order_of_viewers_and_does_not_depend_on_their_number() -> None:
    found = limits(SITE, COSTS)
    assert [*found.values()] == sorted(found.values())
    assert found == limits(replace(SITE, viewers=1e9), COSTS)
    # 60% of a core, at 2.32 ms for each of a viewer's 10 slates a day, twice as many at the peak.
    assert found["gateway"] == pytest.approx(600 / 2.32 / (10 / 86_400 * 2))
    assert found["redis memory"] == pytest.approx(64e9 / 18_000)
    # 2 slates in 86,400 s, ten times a day, have 3 calls each.
    assert found["durable"] == pytest.approx(1_000 / (20 / 86_400 * 3))


@pytest.mark.integration
@pytest.mark.parametrize(("watches", "viewers"), [(100, 2_000), (1_200, 200), (5_000, 200)])
def test_the_bytes_of_rows_are_those_that_redis_has_now(
    watches: int, viewers: int, tmp_path: Path
) -> None:
    with running_redis(tmp_path / "redis") as server:
        redis = RedisSettings(url=SecretStr(server.url))
        stored = OnlineStoreSettings(online_store="redis", redis=redis)
        rows = open_rows(empty_repository(tmp_path / "features", stored), 10.0, redis)
        assert isinstance(rows, RedisStore)
        before = rows.redis.info()["used_memory"]
        for start in range(0, viewers, 100):
            some = range(start, start + 100)
            rows.write({f"viewer-{each:012}": watched(each, watches) for each in some})
        size = (rows.redis.info()["used_memory"] - before) / viewers
        rows.close()
    assert size == pytest.approx(MEASURED["row_bytes"][str(watches)], rel=0.05)


def watched(viewer: int, watches: int) -> Change:
    """A row of a viewer who watched videos, and liked a third of them."""
    random = np.random.default_rng(viewer)
    keys = random.integers(-(2**63), 2**63 - 1, watches).tolist()
    times = np.sort(random.integers(1_600_000_000, 1_700_000_000, watches)) * 1_000_000
    history = dict(zip(keys, times.tolist(), strict=True))
    row = ViewerRow(history, frozenset(keys[::3]), watches, watches // 3)
    return Change(row, views=(ACTIVITY,))


@pytest.mark.integration
def test_the_bytes_of_an_event_are_those_that_the_log_stores_now(tmp_path: Path) -> None:
    site, slates = Site(), 500

    async def stored(log: JetStreamLog) -> float:
        for slate in range(slates):
            event = event_pb2.Event(
                event_id=f"6f1f3b9c-9a55-4b7e-8f0e-{slate:012}",
                viewer_id=f"viewer-{slate:012}",
                kind=event_pb2.EVENT_KIND_IMPRESSION,
                video_id="dQw4w9WgXcQ",
                request_id="9f2e5b1c4d3a49d0b5d8f5a7c6e1f203",
                position=3,
                locale="de-CH",
                device="phone",
                time_zone="Europe/Zurich",
            )
            event.time.FromMilliseconds(1_700_000_000_123 + slate * 1000)
            shown, plays = [event] * int(site.shown), [[event]] * int(site.plays)
            for number, events in enumerate([shown, *plays]):
                message = log_pb2.RecordedEvents(events=events, received_at=event.time)
                once = f"0.{slate:032}.{number}"
                await log.append(EVENTS, "0", message.SerializeToString(), once)
        used, _ = await log.usage(EVENTS)
        return used / (slates * site.events)

    with running_nats(tmp_path / "nats") as server:
        assert with_log(server, stored) == pytest.approx(MEASURED["event_bytes"], rel=0.05)


def test_a_machine_carries_the_viewers_whose_slates_and_events_fill_its_share_of_its_cores() -> (
    None
):
    # 4 ms, and each of 3 calls .4 in a gateway and .2 in an Envoy, each of 12 events .01 and .1.
    found = carried(replace(SITE, utilisation=0.5), COSTS)["together"]
    slates = 0.5 * 2 / 0.00712
    assert found == pytest.approx(slates * DAY_SECONDS / 10 / 2)


def test_the_charts_example_of_production_has_the_limits_of_the_viewers_that_it_names() -> None:
    text = (PAGE.parents[1] / "deploy/helm/values/production.yaml").read_text()
    [viewers] = re.findall(r"# For ([\d,]+) daily viewers", text)
    events = yaml.safe_load(text)["events"]
    days = events["retentionSeconds"] / DAY_SECONDS
    site = Site(float(viewers.replace(",", "")), retention_days=days)
    found = needed(site, MEASURED)
    assert found["log_max_bytes"] <= events["maxBytes"] <= 1.1 * found["log_max_bytes"]
    assert f"is for {viewers} viewers" in PAGE.read_text()
    assert found["processes"]["consumer"] <= events["partitions"]
    assert limits(site, MEASURED)["nightly"] > site.viewers


def test_the_page_is_as_new_as_the_last_measurements() -> None:
    made = capacity_page(Site(), MEASURED)
    assert PAGE.read_text() == made, "make it again: python -m bench.capacity"


def test_other_assumptions_are_flags_and_print_what_they_come_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--viewers", "100000", "--retention-days", "7"]
    monkeypatch.setattr(sys, "argv", ["capacity", *flags])
    capacity.main()
    printed = capsys.readouterr().out
    assert printed.startswith("## What sites need\n\n| daily viewers | 100,000 |\n")
    assert "| `VIREO_EVENT_RETENTION` | 604800 |" in printed
    assert "| one gateway |" in printed
    # What is said of the page's three sites isn't said of one.
    assert "smallest site" not in printed
    assert "largest one" not in printed


def test_limits_that_a_site_is_beyond_are_marked() -> None:
    found = limits(SITE, COSTS)
    between = sorted(found.values())[1] + 1
    page = capacity_page(replace(SITE, viewers=between), COSTS, [between])
    rows = page[page.index("| part | daily viewers |") :].splitlines()[2:][: len(found)]
    assert [row.split(" | ")[1].startswith("**") for row in rows] == [
        viewers < between for viewers in found.values()
    ]


@pytest.mark.parametrize("flags", [["--slates", "0"], ["--plays", "-1"], ["--core-hour", "nan"]])
def test_assumptions_without_which_nothing_can_be_planned_are_refused(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["capacity", "--viewers", "1000", *flags])
    with pytest.raises(SystemExit):
        capacity.main()
    assert f"argument {flags[0]}: " in capsys.readouterr().err
