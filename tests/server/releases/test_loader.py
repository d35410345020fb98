"""What a pod serves, and why, while S3, its cache and releases fail."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from tests.builders.bad_releases import GOLDEN_MISMATCH
from tests.builders.faulty_s3 import faulty_s3
from tests.builders.loading import Followed, running, serves
from tests.builders.s3 import unreachable_s3
from tests.builders.waiting import until
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases import layout
from vireo.server.releases.cache import Stage
from vireo.server.releases.loader import _MAX_LOAD_BACKOFF, ReleaseLoader
from vireo.server.releases.s3 import S3Settings

pytestmark = pytest.mark.integration


def publish_damaged(followed: Followed) -> str:
    """Publish a release whose ranker answers otherwise than its goldens, digests all right."""
    release_id = f"{followed.name}-bad"
    followed.store.publish(GOLDEN_MISMATCH.build(followed.folder / "bad", release_id))
    return release_id


async def test_the_first_release_is_awaited_and_announced_and_calls_keep_the_one_they_have(
    followed: Followed,
) -> None:
    loader = followed.loader()
    async with running(loader) as announced:
        await until(lambda: "names no release yet; publish one" in loader.failures.reason)
        assert not announced
        first, last = followed.publish("a", "b")
        followed.point(first)
        await until(lambda: announced == [first] and not loader.failures.reason)
        held = loader.serving
        assert held is not None
        assert held.origin == "s3"
        followed.point(last)
        await until(lambda: serves(loader, last) and not loader.failures.reason)
        assert held.content.release.manifest.release_id == first, "calls keep the old one"
        assert announced == [first]


def fails_to_load(loader: ReleaseLoader[Any], release_id: str) -> bool:
    latest = loader.failures.latest
    return latest is not None and latest.release_id == release_id


async def test_a_release_that_failed_is_not_loaded_at_every_look_at_its_channel(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vireo.server.releases.loader.backoff", lambda *_: 3600.0)
    loads: list[Path] = []

    def build(folder: Path) -> Any:
        loads.append(folder)
        return RANKING_POD.build(folder)

    [release_id] = followed.publish("a")
    with faulty_s3(followed.store.settings) as proxy:
        async with running(loader := followed.loader(proxy.settings, build=build)):
            await followed.serve(loader, release_id)
            bad = publish_damaged(followed)
            followed.point(bad)
            await until(lambda: fails_to_load(loader, bad))
            proxy.requests.clear()
            await until(lambda: sum(b"/channels/" in line for line in proxy.requests) > 5)
            assert len(loads) == 2
            followed.store.bucket.remove(f"channels/{followed.name}.json")
            await until(lambda: "names no release yet" in loader.failures.reason)
            assert serves(loader, release_id)


async def test_other_failures_dont_put_off_the_next_attempt_at_a_release(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[tuple[int, bool]] = []

    def soon(failures: int, _: float, maximum: float) -> float:
        waits.append((failures, maximum == _MAX_LOAD_BACKOFF))
        return 0.0

    monkeypatch.setattr("vireo.server.releases.loader.backoff", soon)
    [release_id] = followed.publish("a")
    bad = publish_damaged(followed)
    with faulty_s3(followed.store.settings) as proxy:
        async with running(loader := followed.loader(proxy.settings)):
            await followed.serve(loader, release_id)
            proxy.fault = "refuses"
            await until(lambda: len(waits) > 5)
            followed.point(bad)
            proxy.fault = "none"
            await until(lambda: sum(of_load for _, of_load in waits) > 1)
    assert [failures for failures, of_load in waits if of_load][:2] == [1, 2]


async def test_a_load_that_failed_in_mid_download_is_ended_before_the_cache_is_served(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(followed, damaged=False)
    [release_id] = followed.publish("b")
    followed.point(release_id)
    passed_on = threading.Event()
    with faulty_s3(followed.store.settings) as proxy:
        proxy.only = f"{release_id}/{layout.RANKER}".encode()
        proxy.before_answer = lambda: passed_on.wait(60)
        async with running(loader := followed.loader(proxy.settings)):
            await until(lambda: loader.progress.stage is Stage.DOWNLOADING)
            load = loader.progress
            monkeypatch.setattr(loader._fail_fast_store, "read_channel", lambda _: 1 / 0)
            await until(lambda: serves(loader, f"{followed.name}-a"))
            assert load.stopped
            passed_on.set()


def at_another(followed: Followed, **changes: str) -> S3Settings:
    return followed.store.settings.model_copy(update=changes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _: unreachable_s3(), "can't be reached"),
        (lambda it: at_another(it, bucket="mistyped"), "has no bucket 'mistyped'"),
        (None, "ReadTimeoutError"),
        (lambda it: it.point(publish_damaged(it)), "differs from the recorded outputs"),
    ],
    ids=["down", "another bucket", "accepts and never answers", "a bad release"],
)
async def test_a_pod_that_starts_without_its_bucket_or_with_a_bad_release_serves_from_its_cache(
    followed: Followed, change: Callable[[Followed], S3Settings | None] | None, reason: str
) -> None:
    [release_id] = followed.publish("a")
    followed.point(release_id)
    async with running(followed.loader()) as announced:
        await until(lambda: announced == [release_id])
        await until(lambda: followed.cache.last(RANKING_POD.kind, followed.name) == release_id)
    with faulty_s3(followed.store.settings) as proxy:
        proxy.fault = "silent"
        again = followed.loader(change(followed) if change else proxy.settings)
        async with running(again):
            # It takes some 3 s where nothing else slows the machine; S3's own limits are 30.
            await until(lambda: serves(again, release_id), seconds=25)
            assert again.serving is not None
            assert again.serving.origin == "cache"
            assert reason in again.failures.reason


def unreadable_record(followed: Followed) -> None:
    (followed.cache.root / "last" / RANKING_POD.kind / followed.name).mkdir(parents=True)


def cached(followed: Followed, *, damaged: bool) -> None:
    [release_id] = followed.publish("a")
    folder = followed.cache.fetch(followed.store, release_id, RANKING_POD.files)
    followed.cache.remember(RANKING_POD.kind, followed.name, release_id)
    if damaged:
        np.save(folder / layout.VIDEO_VECTORS, -np.load(folder / layout.VIDEO_VECTORS))


@pytest.mark.parametrize(
    ("before", "down", "reasons"),
    [
        (lambda _: None, True, ["can't be reached"]),
        (unreadable_record, True, ["can't be used"]),
        (lambda it: cached(it, damaged=True), True, ["can't be reached", "damaged in the cache"]),
        (lambda it: cached(it, damaged=False), False, ["names no release yet"]),
    ],
    ids=["nothing cached", "unreadable record", "damaged cache", "channel that names nothing"],
)
async def test_a_pod_that_has_nothing_to_serve_says_why(
    followed: Followed, before: Callable[[Followed], None], down: bool, reasons: list[str]
) -> None:
    before(followed)
    loader = followed.loader(unreachable_s3() if down else None)
    async with running(loader) as announced:
        await until(lambda: all(reason in loader.failures.reason for reason in reasons))
        assert loader.serving is None
        assert not announced


async def test_a_release_that_cant_be_recorded_is_served_and_reported_until_it_is_recorded(
    followed: Followed,
) -> None:
    [release_id] = followed.publish("a")
    followed.point(release_id)
    in_the_way = followed.cache.root / "last"
    in_the_way.parent.mkdir()
    in_the_way.write_text("where a folder should be")
    loader = followed.loader()
    async with running(loader) as announced:
        await until(lambda: "can't be used" in loader.failures.reason)
        await until(lambda: announced == [release_id])
        in_the_way.unlink()
        await until(lambda: not loader.failures.reason)
        assert followed.cache.last(RANKING_POD.kind, followed.name) == release_id


async def test_a_bug_in_building_is_logged_once_with_its_stack_and_retried(
    followed: Followed,
) -> None:
    [release_id] = followed.publish("a")
    followed.point(release_id)
    attempts: list[Path] = []

    def fails_twice(folder: Path) -> Any:
        attempts.append(folder)
        if len(attempts) < 3:
            raise ZeroDivisionError("a bug")
        return RANKING_POD.build(folder)

    loader = followed.loader(build=fails_twice)
    with structlog.testing.capture_logs() as logs:
        async with running(loader):
            await until(lambda: serves(loader, release_id))
    failures = [line for line in logs if line["event"] == "release not loaded"]
    assert [(line["reason"], line["exc_info"]) for line in failures] == [
        ("ZeroDivisionError: a bug", True)
    ]
