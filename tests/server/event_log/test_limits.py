"""Limits of streams that are there, against a real log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders.nats import RunningNats, running_cluster, running_nats, settings_of
from tests.builders.reading import append
from vireo.server.errors import VireoError
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import BEGIN, CATALOG, DEAD, EVENTS
from vireo.server.event_log.streams import check_nothing_lost

DAY = 86_400.0
MIB = 1 << 20


@pytest.fixture
async def log(nats: RunningNats) -> AsyncIterator[JetStreamLog]:
    """A log of 30 days and 8 MiB, with 4 MB of events, a third of which came over a second ago."""
    given = settings_of(nats, event_retention=30 * DAY, event_max_bytes=8 * MIB)
    made = JetStreamLog(given, limits="force")
    if not await made.end(EVENTS):
        for pause in (1.1, 0, 0):
            for _ in range(13):
                await made.append(EVENTS, "0", b"x" * 100_000)
            await asyncio.sleep(pause)
    yield made
    await made.close()


async def started(nats: RunningNats, **settings: Any) -> dict[str, Any]:
    """Start a consumer's log with other settings; return the limits of EVENTS then."""
    given = {"event_retention": 30 * DAY, "event_max_bytes": 8 * MIB} | settings
    made = JetStreamLog(settings_of(nats, **given), limits="set")
    try:
        await made.end(CATALOG)
        found: dict[str, Any] = (await made.describe(EVENTS))["config"]
        dead = (await made.describe(DEAD))["config"]
        assert (dead["max_age"], dead["max_bytes"]) == (found["max_age"], 1 << 30)
        return found
    finally:
        await made.close()


async def test_a_consumer_gives_streams_that_are_there_the_limits_of_its_settings(
    nats: RunningNats, log: JetStreamLog
) -> None:
    before = await log.describe(EVENTS)
    more = await started(nats, event_retention=60 * DAY, event_max_bytes=16 * MIB)
    assert (more["max_age"], more["max_bytes"]) == (60 * DAY * 1e9, 16 * MIB)
    less = await started(nats, event_retention=0.5 * 3600, event_max_bytes=5 * MIB)
    assert (less["max_age"], less["max_bytes"]) == (1800 * 1e9, 5 * MIB)
    assert less["duplicate_window"] == 1800 * 1e9
    assert less["metadata"] == before["config"]["metadata"]
    assert (await log.describe(EVENTS))["state"] == before["state"], "nothing is lost"


async def test_other_processes_leave_the_limits_of_streams_that_are_there(
    nats: RunningNats, log: JetStreamLog
) -> None:
    other = JetStreamLog(settings_of(nats, event_retention=60 * DAY, event_max_bytes=16 * MIB))
    await other.append(CATALOG, "0", b"x")
    assert (await other.describe(EVENTS))["config"]["max_bytes"] == 8 * MIB
    await other.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"event_max_bytes": MIB}, r"^VIREO_EVENT_MAX_BYTES=1048576, .* has 8388608, .* refused"),
        ({"event_retention": 1.0}, r"^VIREO_EVENT_RETENTION=1, .* has 2592000, .* deleted"),
    ],
)
async def test_limits_that_would_lose_events_are_refused_with_the_remedy(
    nats: RunningNats, log: JetStreamLog, settings: dict[str, Any], said: str
) -> None:
    before = await log.describe(EVENTS)
    with pytest.raises(VireoError, match=rf"{said}.*: VIREO_\w+=\d+ vireo events limits --apply"):
        await started(nats, **settings)
    after = await log.describe(EVENTS)
    assert (after["config"], after["state"]) == (before["config"], before["state"])


@pytest.mark.parametrize(
    ("wanted", "setting"),
    [
        ({"max_bytes": MIB, "max_age": 0}, f"VIREO_EVENT_MAX_BYTES={MIB}"),
        ({"max_bytes": 8 * MIB, "max_age": 10**9}, "VIREO_EVENT_RETENTION=1"),
    ],
)
def test_streams_without_a_limit_are_no_value_to_set(wanted: dict[str, int], setting: str) -> None:
    config = {"name": "vireo_events", "num_replicas": 1, "max_bytes": -1, "max_age": 0}
    state = {"messages": 3, "bytes": 2 * MIB, "first_ts": "2026-01-01T00:00:00Z"}
    said = rf"^{setting}, but stream vireo_events has no limit, .*; set it to more, or accept"
    with pytest.raises(VireoError, match=said):
        check_nothing_lost({"num_replicas": 1, **wanted}, {"config": config, "state": state})


async def test_the_loss_of_messages_is_accepted_by_hand(
    nats: RunningNats, log: JetStreamLog
) -> None:
    kept = (await log.describe(EVENTS))["state"]["messages"]
    given = settings_of(nats, event_retention=1.0, event_max_bytes=8 * MIB)
    short = JetStreamLog(given, limits="force")
    async with asyncio.timeout(60):
        while (await short.describe(EVENTS))["state"]["messages"] >= kept:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    await short.close()


async def test_what_the_servers_have_no_room_for_is_refused(
    nats: RunningNats, log: JetStreamLog
) -> None:
    with pytest.raises(VireoError, match=r"insufficient storage.*VIREO_EVENT_MAX_BYTES"):
        await started(nats, event_max_bytes=1 << 40)
    with pytest.raises(VireoError, match=r"non-clustered.*VIREO_EVENT_REPLICAS"):
        await started(nats, event_replicas=3)


async def test_streams_get_more_replicas_and_never_fewer_by_themselves(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as servers:
        first = JetStreamLog(settings_of(*servers, event_replicas=1))
        await append(first, "0", b"x", "first")
        more = JetStreamLog(settings_of(*servers, event_replicas=3), limits="set")
        await append(more, "0", b"x", "more")
        fewer = JetStreamLog(settings_of(*servers, event_replicas=1), limits="set")
        with pytest.raises(VireoError, match=r"^VIREO_EVENT_REPLICAS=1, .* has 3"):
            await append(fewer, "0", b"x", "fewer")
        for stream in (EVENTS, CATALOG):
            assert (await first.describe(stream))["config"]["num_replicas"] == 3
        for each in (first, more, fewer):
            await each.close()


async def test_a_time_is_a_position_of_this_log(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        log = JetStreamLog(settings_of(server))
        looking = JetStreamLog(settings_of(server))
        assert (await looking.position_at(EVENTS, time.time())).sequence == 0
        for data in (b"a", b"b"):
            await log.append(EVENTS, "0", data)
        await asyncio.sleep(0.01)
        between = time.time()
        await asyncio.sleep(0.01)
        for data in (b"c", b"d"):
            await log.append(EVENTS, "1", data)
        info = await log.describe(EVENTS)
        found = await looking.position_at(EVENTS, between)
        assert (found.sequence, found.log) == (2, info["created"])
        assert (await log.resume(EVENTS, found)).after == 2
        assert (await looking.position_at(EVENTS, time.time())).sequence == 4
        assert await looking.position_at(EVENTS, between - DAY) == BEGIN
        await log._connection.ask("$JS.API.STREAM.PURGE.vireo_events", b'{"seq": 3}')  # type: ignore[union-attr]
        assert (await looking.position_at(EVENTS, time.time())).sequence == 4
        gap = await looking.position_at(EVENTS, between)
        assert gap == BEGIN, "what came since may be gone"
        assert (await log.resume(EVENTS, gap)).missing == range(1, 3)
        for each in (log, looking):
            await each.close()
