"""Viewers who are erased leave every file of the archive, with a real log and S3 server."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from tests.builders.archive_site import PARTITIONS, Site, bucket, own, proxy, quick, site
from tests.builders.archiving import files, logged, put, slate
from tests.builders.event_batches import event, message
from tests.builders.faulty_s3 import FaultyS3
from tests.builders.waiting import until
from vireo.server.consumer import archive as module
from vireo.server.consumer import archive_files, archived_rows
from vireo.server.consumer.archive import FAILURES
from vireo.server.consumer.archived_rows import EVENT_ROWS, KINDS
from vireo.server.event_log.log import (
    EVENTS,
    Entry,
)
from vireo.server.releases.bucket import Bucket
from vireo.v1.log_pb2 import RecordedEvents

__all__ = ["bucket", "own", "proxy", "quick", "site"]


async def test_an_erasure_reaches_files_of_former_partitions_and_hours_of_any_clock(
    site: Site,
) -> None:
    before = Site(site.log, site.bucket, next(PARTITIONS))
    await before.record(1, "erased")
    await before.archive()
    put(
        site.bucket,
        "slates",
        logged(slate("ahead", "erased", at=time.time() + 60)),
        at=time.time() - 2 * 3600,
        partition=site.partition,
    )
    await site.erase("erased")
    await site.archive()
    for each in (before, site):
        assert each.viewers() == {"slates": Counter(), "events": Counter()}


async def test_an_erasure_takes_a_viewer_out_of_files_of_both_kinds_and_of_what_waits(
    site: Site,
) -> None:
    await site.record(3, "w")
    await site.record(2, "v")
    await site.archive()
    names = {kind: files(site.bucket, kind, site.partition) for kind in KINDS}
    lasts = [archive_files.last_of(site.bucket, file) for file in names["events"]]
    async with site.archiving(*site.archivers(seconds=60)) as archivers:
        await site.record(2, "v")  # in what was collected, and in the stream of slates
        erasure = await site.erase("v")
        await site.record(1, "w")
        await until(lambda: archivers[1]._published.sequence >= erasure)
        await site.archive()
    counted = Counter({"w": 4})
    assert site.viewers() == {"slates": counted, "events": counted}
    after = files(site.bucket, "events", site.partition)
    there = [file.stored.name for file in names["events"]]
    assert [file.stored.name for file in after][: len(there)] == there
    assert [archive_files.last_of(site.bucket, file) for file in after][: len(there)] == lasts
    await site.forget()
    await site.archive()
    assert site.viewers() == {"slates": counted, "events": counted}, "nothing is archived again"


async def test_a_file_that_has_no_rows_left_stays_for_its_position(own: Site) -> None:
    await own.record(2, "v")
    await own.archive()
    await own.erase("v")
    await own.archive()
    assert len(files(own.bucket, "events", own.partition)) == 2  # the erasure's has none either
    await own.forget()
    await own.archive()
    assert own.viewers() == {"slates": Counter(), "events": Counter()}


async def test_what_a_viewer_does_after_the_erasure_counts_also_if_the_erasure_is_read_again(
    own: Site,
) -> None:
    await own.record(1, "v")
    await own.erase("v")
    await own.record(1, "w")
    await own.erase("w", "nobody")
    last = await own.log.append(EVENTS, own.key, message([event("v", "again")]))
    await own.archive()
    assert own.videos() == Counter(["again"])
    for _ in range(2):
        await own.forget()
        async with own.archiving() as archivers:
            await until(lambda: archivers[1]._published.sequence >= last)
    assert own.videos() == Counter(["again"])


async def test_an_erasure_concerns_all_events_before_it_whatever_a_gateways_clock_says(
    site: Site,
) -> None:
    ahead = RecordedEvents(events=[event("v", "a")])
    ahead.received_at.FromSeconds(int(time.time()) + 60)
    await site.log.append(EVENTS, site.key, ahead.SerializeToString())
    await site.archive()
    assert site.viewers()["events"] == Counter(["v"])
    await site.erase("v")
    await site.archive()
    assert site.viewers()["events"] == Counter()


async def test_several_erasures_in_a_row_read_the_files_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, real = list[int](), archive_files.files_to_search
    viewers = [f"v-{number}" for number in range(5)]
    for viewer in viewers:
        await site.record(1, viewer)
    await site.archive()

    def counted(bucket: Bucket, kind: Any, erased: Any) -> Any:
        passes.append(len(erased))
        return real(bucket, kind, erased)

    monkeypatch.setattr(module, "files_to_search", counted)
    monkeypatch.setattr(module, "SETTLE_SECONDS", 1.0)
    async with site.archiving(*site.archivers(seconds=60)) as archivers:
        for viewer in viewers:
            last = await site.erase(viewer)
            await asyncio.sleep(0.02)
        await until(lambda: archivers[1]._published.sequence >= last)
    assert passes == [5, 5]
    assert site.viewers() == {"slates": Counter(), "events": Counter()}


async def test_an_erasure_goes_on_after_s3_failed_and_after_a_restart(
    site: Site, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for viewer in ("v", "w", "v"):
        await site.record(2, viewer)
        await site.archive()
    erasure = await site.erase("v")
    failures, kept = FAILURES.labels("events"), Counter({"w": 2})
    before = failures._value.get()
    proxy.fault, proxy.only = "fails", b"PUT /"
    async with site.archiving(*site.archivers(Bucket(proxy.settings))) as archivers:
        await until(lambda: failures._value.get() > before + 1)
        assert archivers[1]._published.sequence < erasure
    rewritten, real = list[str](), archived_rows.parquet_of

    def dies(*arguments: Any) -> bytes:
        if len(rewritten) == 2:
            raise asyncio.CancelledError
        rewritten.append("one")
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(archive_files, "parquet_of", dies)
        async with site.archiving(*site.archivers()) as archivers:
            await until(lambda: len(rewritten) == 2)
            await asyncio.sleep(0.1)
            assert archivers[1]._published.sequence < erasure
    assert site.viewers() != {"slates": kept, "events": kept}
    async with site.archiving() as archivers:
        await until(lambda: archivers[1]._published.sequence >= erasure)
    assert site.viewers() == {"slates": kept, "events": kept}


async def test_an_erasure_waits_for_the_slates_that_the_log_has(
    site: Site, proxy: FaultyS3
) -> None:
    await site.record(2, "v")
    slates, events = site.archivers()
    for each in (slates, events._slates):
        assert each is not None
        each._bucket = Bucket(proxy.settings)
    proxy.fault = "fails"
    erasure = await site.erase("v")
    async with site.archiving(slates, events):
        await until(lambda: len(slates._collected) == 2)
        await asyncio.sleep(0.3)
        assert events._published.sequence < erasure
        proxy.fault = "none"
        await until(lambda: events._published.sequence >= erasure)
    assert site.viewers() == {"slates": Counter(), "events": Counter()}


async def test_a_file_that_changes_while_it_is_rewritten_is_rewritten_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.record(2, "v")
    await site.record(2, "w")
    await site.archive()
    erasures = [
        Entry(1 << 40, site.key, b"", stored_at=time.time() + 1),
        Entry(1 << 40, site.key, b"", stored_at=time.time() + 1),
    ]
    real, met = Bucket.swap, list[str]()
    [file] = files(site.bucket, "events", site.partition)

    def swap(bucket: Bucket, name: str, body: bytes, etag: str | None) -> str | None:
        if not met:
            met.append(name)
            archive_files.erase(bucket, EVENT_ROWS, {"w": erasures[1]}, file)
        return real(bucket, name, body, etag)

    monkeypatch.setattr(Bucket, "swap", swap)
    archive_files.erase(site.bucket, EVENT_ROWS, {"v": erasures[0]}, file)
    assert site.viewers()["events"] == Counter()
