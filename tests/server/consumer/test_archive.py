"""Archivers with a real log and a real S3 server: each row once, whatever happens."""

from __future__ import annotations

import asyncio
import io
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.builders.archive_site import DAY, PARTITIONS, Site, bucket, own, proxy, quick, site
from tests.builders.archiving import files, logged, put, slate
from tests.builders.event_batches import empty_repository, event, message
from tests.builders.faulty_s3 import FaultyS3
from tests.builders.reading import take
from tests.builders.waiting import until
from vireo.server.consumer import archive as module
from vireo.server.consumer import archive_files, archived_rows
from vireo.server.consumer.archive import FAILURES, LAG, SKIPPED
from vireo.server.consumer.archived_rows import EVENT_ROWS, KINDS
from vireo.server.consumer.follow import Follower
from vireo.server.consumer.live_state import LiveState
from vireo.server.event_log.jetstream import MISSED, JetStreamLog
from vireo.server.event_log.log import (
    ARCHIVED,
    EVENTS,
    SLATES,
    Entry,
)
from vireo.server.features.online_store import open_rows
from vireo.server.releases.bucket import Bucket
from vireo.server.releases.s3 import S3Settings
from vireo.v1.ranking_pb2 import RankingRecord

__all__ = ["bucket", "own", "proxy", "quick", "site"]


async def test_each_row_is_archived_once_however_often_consumers_are_restarted(site: Site) -> None:
    for pause in (0.0, 0.01, 0.03, 0.06, 0.09, 0.12, 0.15, 0.2):
        async with site.archiving():
            await site.record(4)
            await asyncio.sleep(pause)
    await site.archive()
    site.check()
    assert not await take(site.log, SLATES, site.key), "what is archived is deleted"
    assert len(await take(site.log, EVENTS, site.key)) == site.sent


async def test_two_consumers_at_once_archive_each_row_once(site: Site) -> None:
    await site.record(3)
    archivers = [*site.archivers(seconds=0.03), *site.archivers(seconds=0.05)]
    async with site.archiving(*archivers):
        for _ in range(20):
            await site.record(2)
            await asyncio.sleep(0.01)
        await site.done(archivers)
    site.check()


async def test_who_was_slower_archives_what_the_other_one_has_not(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.record(5)
    _, events = site.archivers()
    events._collected = entries = await take(site.log, EVENTS, site.key)
    real, names = Bucket.swap, list[str]()

    def swap(bucket: Bucket, name: str, body: bytes, etag: str | None) -> str | None:
        if not names:
            table, _ = archived_rows.table_of(EVENT_ROWS, entries[:3])
            first = archived_rows.parquet_of(EVENT_ROWS, table, entries[2].position)
            assert real(bucket, name, first, None)
        names.append(name)
        return real(bucket, name, body, etag)

    firsts = [entries[0].sequence, entries[3].sequence]
    monkeypatch.setattr(Bucket, "swap", swap)
    await events._archive()
    assert site.videos() == Counter(f"{number}" for number in range(5))
    assert [each.first for each in files(site.bucket, "events", site.partition)] == firsts


async def stopped_in(
    site: Site, method: str, monkeypatch: pytest.MonkeyPatch, when: Callable[..., bool]
) -> None:
    """Archive until the log's method is called when something holds, and stop there."""
    reached, real = asyncio.Event(), getattr(site.log, method)

    async def held(*arguments: Any, **more: Any) -> Any:
        if when(*arguments):
            reached.set()
            await asyncio.Event().wait()
        return await real(*arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(site.log, method, held)
        async with site.archiving(), asyncio.timeout(30):
            await reached.wait()


@pytest.mark.parametrize("kind", [*KINDS])
async def test_a_crash_between_a_file_and_its_position_stores_nothing_twice(
    site: Site, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.record(5)
    where = f"{ARCHIVED}{kind}.{site.partition}"
    await stopped_in(site, "append", monkeypatch, lambda _, key, *__: key == where)
    assert sum((site.requests() if kind == "slates" else site.videos()).values()) == 5
    await site.record(2)
    await site.archive()
    site.check()


async def test_a_crash_before_slates_are_deleted_stores_nothing_twice(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.record(5)
    await stopped_in(site, "purge", monkeypatch, lambda *_: True)
    assert sum(site.requests().values()) == len(await take(site.log, SLATES, site.key)) == 5
    await site.record(2)
    await site.archive()
    site.check()
    assert not await take(site.log, SLATES, site.key)


async def test_a_position_that_was_lost_is_found_again_by_the_files(
    own: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(JetStreamLog, "purge", lambda *_: asyncio.sleep(0))
        for _ in range(3):
            await own.record(4)
            await own.archive()
    there = [file.stored.name for file in files(own.bucket, "events", own.partition)]
    assert len(there) == 3
    await own.forget()
    # Also from amidst a file, as the log keeps messages no longer.
    await own.log._connection.ask("$JS.API.STREAM.PURGE.vireo_events", b'{"seq": 3}')  # type: ignore[union-attr]
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 100)
    await own.archive()
    own.check()
    assert [file.stored.name for file in files(own.bucket, "events", own.partition)] == there
    await own.record(1)
    await own.archive()
    own.check()


@pytest.mark.parametrize("while_it_runs", [False, True])
async def test_a_log_that_was_replaced_is_archived_from_its_begin(
    own: Site, while_it_runs: bool
) -> None:
    await own.record(6)
    async with own.archiving() as archivers:
        await own.done(archivers)
        if while_it_runs:
            for stream in (EVENTS, SLATES):
                await own.ask("DELETE", stream)
            await own.record(9)
            await until(lambda: sum(own.videos().values()) == 15)
            await own.done(archivers)
    if not while_it_runs:
        for stream in (EVENTS, SLATES):
            await own.ask("DELETE", stream)
        await own.record(9)
        await own.archive()
    own.check()


@pytest.mark.parametrize("forgets", [False, True])
async def test_a_log_that_lost_its_end_and_went_on_is_archived_once(
    own: Site, forgets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same sequences are used again, for other messages, also of the same file."""
    monkeypatch.setattr(JetStreamLog, "purge", lambda *_: asyncio.sleep(0))
    await own.record(4)
    saved = {stream: io.BytesIO() for stream in (EVENTS, SLATES)}
    for stream, file in saved.items():
        await own.log.save(stream, file)
    for more in (2, 3):
        await own.record(more)
        await own.archive()
    for more in (2, 7, 1):
        for stream, file in saved.items():
            file.seek(0)
            await own.log.restore(stream, file)
        if forgets:
            await own.forget()
        await own.record(more)
        await own.archive()
        own.check()
    names = [file.stored.name for file in files(own.bucket, "slates", own.partition)]
    assert sum(name.endswith(".1.parquet") for name in names) == 1
    assert sum(name.endswith(".3.parquet") for name in names) == 1
    await own.forget()
    await own.archive()
    own.check()
    assert [file.stored.name for file in files(own.bucket, "slates", own.partition)] == names


async def test_what_was_read_of_a_log_that_lost_its_end_since_is_archived_apart(own: Site) -> None:
    await own.record(3)
    saved = {stream: io.BytesIO() for stream in (EVENTS, SLATES)}
    for stream, file in saved.items():
        await own.log.save(stream, file)
    await own.record(2)
    archivers = dict(zip((SLATES, EVENTS), own.archivers(), strict=True))
    for stream, file in saved.items():
        archivers[stream]._collected = await take(own.log, stream, own.key)
        file.seek(0)
        await own.log.restore(stream, file)
    await own.record(3)
    for stream, archiver in archivers.items():
        archiver._collected += await take(own.log, stream, own.key)
        await archiver._archive()
    own.check()


def test_messages_of_two_logs_are_in_two_files() -> None:
    entries = [Entry(1, "0", b""), Entry(2, "0", b"", log="a"), Entry(3, "0", b"", log="a")]
    assert [*module._runs(entries)] == [entries[:1], entries[1:]]


async def test_slates_that_were_not_archived_are_not_deleted_if_the_log_lost_its_end(
    own: Site,
) -> None:
    await own.record(2)
    saved = io.BytesIO()
    await own.log.save(SLATES, saved)
    await own.record(2)
    lost = (await take(own.log, SLATES, own.key))[-1].position
    saved.seek(0)
    await own.log.restore(SLATES, saved)
    await own.record(2)
    await own.log.purge(SLATES, own.key, lost)
    assert len(await take(own.log, SLATES, own.key)) == 4


async def test_slates_of_reused_sequences_are_archived_beside_other_partitions(own: Site) -> None:
    """What the position was after is deleted by the other partition, which reused its sequence."""
    other = Site(own.log, own.bucket, next(PARTITIONS))
    await own.append(SLATES, logged(slate("a-1")))
    await other.append(SLATES, logged(slate("b-1")))
    saved = io.BytesIO()
    await own.log.save(SLATES, saved)
    for name in ("a-2", "a-3"):
        await own.append(SLATES, logged(slate(name)))
    await own.archive()
    saved.seek(0)
    await own.log.restore(SLATES, saved)
    await own.append(SLATES, logged(slate("a-4")))
    await other.append(SLATES, logged(slate("b-2")))
    await other.archive()
    await own.archive()
    assert own.requests() == Counter(["a-1", "a-2", "a-3", "a-4"])
    assert other.requests() == Counter(["b-1", "b-2"])
    assert not await own.log.end(SLATES, own.key)


async def test_what_cannot_be_a_row_is_left_out_alone_and_counted(site: Site) -> None:
    def skipped() -> list[float]:
        return [SKIPPED.labels(reason)._value.get() for reason in ("unreadable", "unfit")]

    before = skipped()
    await site.record(2)
    bad = event("v", "bad")
    bad.time.seconds = 1 << 60
    broken = slate("broken")
    broken.ranking += RankingRecord(places=[99]).SerializeToString()
    for stream, data in (
        (EVENTS, b"\xff"),
        (EVENTS, message([event("v", "2"), bad])),
        (SLATES, b"\xff"),
        (SLATES, logged(broken)),
        (SLATES, logged(slate("r-2"))),
    ):
        await site.log.append(stream, site.key, data)
    site.sent = 3
    with structlog.testing.capture_logs() as logs:
        await site.archive()
    site.check()
    assert [after - one for after, one in zip(skipped(), before, strict=True)] == [2, 2]
    assert {(each["kind"], each["reason"]) for each in logs if "left out" in each["event"]} == {
        (kind, reason) for kind in KINDS for reason in ("unreadable", "unfit")
    }


async def test_while_s3_is_away_features_go_on_and_nothing_is_lost(
    site: Site, proxy: FaultyS3, folder: Path
) -> None:
    repo = empty_repository(folder / "a")
    rows = open_rows(repo, 5)
    state = LiveState(site.log, site.partition, 3600.0)
    follower = Follower(site.log, repo, site.partition, state, timeout=5)
    following = asyncio.create_task(follower.run())
    failures = FAILURES.labels("events")
    proxy.fault = "fails"
    with structlog.testing.capture_logs() as logs:
        async with site.archiving(*site.archivers(Bucket(proxy.settings))) as archivers:
            await site.record(3)
            before = failures._value.get()
            await until(lambda: failures._value.get() > before + 2)
            held = [len(each._collected) for each in archivers]
            last = await site.record(3)
            await until(lambda: rows.position(site.partition).sequence == last)
            assert [len(each._collected) for each in archivers] == held, "it reads no more"
            assert LAG.labels("events")._value is not None
            assert archivers[1]._lag() > 0
            proxy.fault = "none"
            await site.done(archivers)
            assert archivers[1]._lag() == 0
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    rows.close()
    site.check()
    said = [each["reason"] for each in logs if "archiving has failed" in each["event"]]
    assert len(said) <= 4, "the same reason is said once by each"


async def test_a_lost_answer_of_s3_stores_nothing_twice(site: Site, proxy: FaultyS3) -> None:
    await site.record(3)
    proxy.fault, proxy.only = "stops", b"PUT"
    async with site.archiving(*site.archivers(Bucket(proxy.settings))) as archivers:
        await until(lambda: len(site.requests()) == len(site.videos()) == 3)
        proxy.fault = "none"
        await site.done(archivers)
    site.check()


def moved(entries: list[Entry], *hours: float) -> list[Entry]:
    """Messages as stored some hours after the first one's hour began."""
    begin = entries[0].stored_at // 3600 * 3600
    return [
        replace(entry, stored_at=begin + hour * 3600)
        for entry, hour in zip(entries, hours, strict=True)
    ]


async def test_a_file_is_of_one_hour_also_if_the_logs_clock_goes_back(site: Site) -> None:
    await site.record(6)
    entries = await take(site.log, EVENTS, site.key)
    for _ in range(2):
        _, events = site.archivers()
        events._collected = moved(entries, -0.5, -0.1, 0.0, 0.5, -0.4, 0.7)
        await events._archive()
    found = [(each.hour, each.first) for each in files(site.bucket, "events", site.partition)]
    hours = sorted({hour for hour, _ in found})
    assert found == [
        (hours[0], entries[0].sequence),
        (hours[0], entries[4].sequence),
        (hours[1], entries[2].sequence),
        (hours[1], entries[5].sequence),
    ]
    assert site.videos() == Counter(f"{number}" for number in range(6))


async def test_a_file_is_written_when_the_hour_changes_or_enough_was_read(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = archive_files.hour_of
    await site.record(1)
    async with site.archiving(*site.archivers(seconds=60)) as archivers:
        await until(lambda: len(archivers[1]._collected) == 1)
        await site.record(1)
        await until(lambda: len(archivers[1]._collected) == 2)
        assert not site.videos(), "it waits for others"
        first = archivers[1]._collected[-1].sequence
        monkeypatch.setattr(
            module, "hour_of", lambda entry: real(entry) - (entry.sequence <= first)
        )
        await site.record(1)
        await until(lambda: len(site.videos()) == 3)
        monkeypatch.setattr(module, "MAX_FILE_BYTES", 1000)
        await site.record(30)
        await until(lambda: len(files(site.bucket, "events", site.partition)) > 2)
        await site.archive()
    site.check()


async def test_messages_that_are_older_than_files_are_kept_are_not_archived(site: Site) -> None:
    await site.record(2)
    entries = await take(site.log, EVENTS, site.key)
    _, events = site.archivers()
    events._collected = moved(entries, -26, 0)
    await events._archive()
    assert site.videos() == Counter(["1"])


async def test_files_are_removed_by_their_hour_once_they_are_too_old(
    site: Site, s3: S3Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.05)
    site.bucket = Bucket(s3.model_copy(update={"bucket": f"old-{secrets.token_hex(4)}"}))
    mine = "archive/slates/date=2020-01-01/hour=00/mine"
    async with site.archiving():
        await asyncio.sleep(0.1)  # there is no bucket yet
        site.bucket.make()
        site.bucket.swap(mine, b"no file of the archive", None)
    now = time.time()
    kept = {
        put(site.bucket, kind, b"", at=now - days * DAY) for kind in KINDS for days in (0, 0.5, 0.9)
    }
    for kind in KINDS:
        for days in (1.1, 3, 40):
            put(site.bucket, kind, b"", at=now - days * DAY)

    def there() -> set[str]:
        return {each.name for each in site.bucket.objects("archive/", recursive=True)}

    async with site.archiving():
        await until(lambda: there() == kept | {mine}, 20)


async def test_positions_of_an_idle_partition_move_on(
    own: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else messages of others that the log keeps no longer would seem to be missed."""
    await own.record(1)
    await own.archive()
    last = await own.log.append(EVENTS, "77", message([event("v", "x")]))
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.2)
    async with own.archiving() as archivers:
        await until(lambda: archivers[1]._published.sequence >= last)
    missed = MISSED._value.get()
    await own.log._connection.ask("$JS.API.STREAM.PURGE.vireo_events")  # type: ignore[union-attr]
    await own.archive()
    assert MISSED._value.get() == missed
