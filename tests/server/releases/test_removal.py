"""Removals against promotions: however they meet, a channel names a whole release.

Each test lets one party run through a proxy and, before each of its requests in turn, runs the
other party from beginning to end. So every order of two parties' steps that one interruption can
make is tried on a real S3 server, and every place where a process can die.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from threading import Lock

import pytest

from tests.builders.faulty_s3 import FaultyS3, faulty_s3
from tests.builders.releases import build_release, described_again
from vireo.server.errors import VireoError
from vireo.server.releases import layout
from vireo.server.releases.bucket import NotInStoreError, StoreError
from vireo.server.releases.cache import CacheError, ReleaseCache
from vireo.server.releases.channels import Change
from vireo.server.releases.manifest import MANIFEST_NAME, Manifest
from vireo.server.releases.promotion import roll_back
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import (
    Garbage,
    ReleaseStore,
    collect,
    manifest_place,
    plan_collection,
    release_object,
)

pytestmark = pytest.mark.integration

CHANNEL = "production"
FILES = (layout.POPULAR_IDS, layout.VOCABULARY)
Party = Callable[[ReleaseStore], object]


@pytest.fixture
def store(s3: S3Settings) -> ReleaseStore:
    """An empty bucket of its own: a collection looks at all of it."""
    store = ReleaseStore(s3.model_copy(update={"bucket": "removals"}))
    store.bucket.make()
    empty(store)
    return store


def empty(store: ReleaseStore) -> None:
    for entry in store.bucket.objects("", recursive=True):
        store.bucket.remove(entry.name)


@pytest.fixture
def proxy(store: ReleaseStore) -> Iterator[FaultyS3]:
    with faulty_s3(store.settings, retries=0) as proxy:
        yield proxy


@pytest.fixture
def staged(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that makes a release of two files with a given id."""
    folder = build_release(tmp_path / "staged")
    for file in folder.rglob("*"):
        if file.is_file() and file.relative_to(folder).as_posix() not in (*FILES, MANIFEST_NAME):
            file.unlink()

    def stage(release_id: str) -> Path:
        return described_again(folder, release_id=release_id)

    return stage


def planned(store: ReleaseStore, release_id: str) -> list[Garbage]:
    plan = plan_collection(store, 0, timedelta(0))
    return [each for each in plan.garbage if each.release_id == release_id]


def gc(store: ReleaseStore, release_id: str) -> None:
    """One collection, of one release alone."""
    for each in planned(store, release_id):
        collect(store, each)


def tried(party: Party, store: ReleaseStore) -> bool:
    """Whether it succeeded; a refusal is no failure of a test."""
    try:
        party(store)
    except VireoError:
        return False
    return True


def assert_whole(store: ReleaseStore, release_id: str) -> None:
    manifest = store.manifest(release_id)
    prefix = f"releases/{release_id}/"
    there = {each.name: each.size for each in store.bucket.objects(prefix, recursive=True)}
    for path, entry in manifest.files.items():
        assert there.get(prefix + path) == entry.size, f"{path} is missing"


def named_by(store: ReleaseStore) -> str | None:
    """The release that the channel names, which must be whole."""
    channel = store.read_channel(CHANNEL)
    if channel is None:
        return None
    assert_whole(store, channel.release_id)
    return channel.release_id


def interrupted(
    proxy: FaultyS3, party: Party, place: int, meanwhile: Callable[[], object], *, dies: bool
) -> tuple[bool, bool]:
    """Run `party`, and `meanwhile` before its request number `place`, where it may die.

    Returns:
        Whether it came so far, and whether the party succeeded.
    """
    numbers, lock = itertools.count(), Lock()
    reached: list[int] = []

    def before_answer() -> None:
        with lock:  # it may send several at a time
            number = next(numbers)
            if number == place:
                reached.append(number)
                meanwhile()
            if dies and number >= place:
                raise ConnectionAbortedError

    proxy.before_answer = before_answer
    succeeded = tried(party, ReleaseStore(proxy.settings))
    proxy.before_answer = None
    return bool(reached), succeeded


def promotion(release_id: str) -> Party:
    def promote(store: ReleaseStore) -> None:
        store.change_channel(CHANNEL, Change(release_id), store.read_channel(CHANNEL))

    return promote


def every_place(store: ReleaseStore) -> Iterator[int]:
    """0, 1, …, each with an empty bucket; a test ends at the first that isn't reached."""
    for place in range(100):
        empty(store)
        yield place
    raise AssertionError("no end of it")


@pytest.mark.parametrize("first", [True, False], ids=["first promotion", "later promotion"])
def test_a_promotion_ends_in_a_refusal_or_a_whole_release_wherever_gc_comes_between(
    store: ReleaseStore, proxy: FaultyS3, staged: Callable[[str], Path], first: bool
) -> None:
    outcomes = set()
    for place in every_place(store):
        store.publish(staged("new"))
        if not first:
            store.publish(staged("old"))
            promotion("old")(store)
        before = named_by(store)
        plan = planned(store, "new")

        def removes(plan: list[Garbage] = plan) -> None:
            for each in plan:
                collect(store, each)

        reached, succeeded = interrupted(proxy, promotion("new"), place, removes, dies=False)
        assert named_by(store) == ("new" if succeeded else before)
        outcomes.add(succeeded)
        if not reached:
            break
    assert outcomes == {True, False}, "either is met on the way"


@pytest.mark.parametrize("dies", [True, False], ids=["gc dies there", "gc goes on"])
def test_a_removal_leaves_what_a_promotion_that_comes_between_names(
    store: ReleaseStore, proxy: FaultyS3, staged: Callable[[str], Path], dies: bool
) -> None:
    outcomes = set()
    for place in every_place(store):
        store.publish(staged("r"))
        promoted: list[bool] = []

        def promotes(promoted: list[bool] = promoted) -> None:
            promoted.append(tried(promotion("r"), store))

        reached, _ = interrupted(proxy, lambda to: gc(to, "r"), place, promotes, dies=dies)
        assert named_by(store) == ("r" if promoted == [True] else None)
        outcomes.update(promoted)
        if promoted != [True]:
            gc(store, "r")
            assert not store.bucket.objects("releases/r/", recursive=True)
        store.publish(staged("r"))
        promotion("r")(store)
        assert named_by(store) == "r"
        if not reached:
            break
    assert outcomes == {True, False}


def test_wherever_an_upload_dies_the_same_can_be_published_again(
    store: ReleaseStore, proxy: FaultyS3, staged: Callable[[str], Path]
) -> None:
    folder = staged("r")
    for place in every_place(store):
        publish: Party = lambda to: to.publish(folder)  # noqa: E731
        reached, succeeded = interrupted(proxy, publish, place, lambda: None, dies=True)
        assert succeeded != reached
        if not succeeded:
            with pytest.raises(NotInStoreError):
                store.manifest("r")
            assert store.list() == ()
        if place % 2:
            gc(store, "r")
            assert not store.bucket.objects("releases/r/", recursive=True)
        store.publish(folder)
        assert_whole(store, "r")
        if not reached:
            break


def test_wherever_a_promotion_dies_the_channel_is_as_before_or_names_a_whole_release(
    store: ReleaseStore, proxy: FaultyS3, staged: Callable[[str], Path]
) -> None:
    for place in every_place(store):
        for release_id in ("old", "new"):
            store.publish(staged(release_id))
        promotion("old")(store)
        reached, succeeded = interrupted(proxy, promotion("new"), place, lambda: None, dies=True)
        assert named_by(store) in (("new",) if succeeded else ("old", "new"))
        gc(store, "new")
        # Whoever comes next isn't held up by what it left.
        store.publish(staged("new"))
        promotion("new")(store)
        assert named_by(store) == "new"
        gc(store, "old")
        assert roll_back(store, CHANNEL).pointer.release_id == "old"
        assert named_by(store) == "old"
        if not reached:
            break


def test_only_the_planned_version_is_removed(
    store: ReleaseStore, staged: Callable[[str], Path]
) -> None:
    folder = staged("r")
    store.publish(folder)
    [release] = planned(store, "r")
    store.bucket.remove(manifest_place("r"))
    [leftover] = planned(store, "r")
    store.publish(folder)
    assert not collect(store, leftover)
    assert_whole(store, "r")
    time.sleep(1.1)  # S3 has times in whole seconds
    store.bucket.put_file(release_object("r", layout.POPULAR_IDS), folder / layout.POPULAR_IDS)
    assert not collect(store, release), "it was published again since"
    assert_whole(store, "r")
    gc(store, "r")
    assert store.list() == (), "by a plan of now it goes"


def test_a_removal_that_s3_interrupts_leaves_the_release_or_a_leftover(
    store: ReleaseStore, proxy: FaultyS3, staged: Callable[[str], Path]
) -> None:
    store.publish(staged("r"))
    [release] = planned(store, "r")
    proxy.only, proxy.fault = b"GET /removals?", "fails"
    with pytest.raises(StoreError):
        collect(ReleaseStore(proxy.settings), release)
    assert_whole(store, "r")
    proxy.only, proxy.fault = b"DELETE /removals/releases/r/vocabulary", "fails"
    with pytest.raises(StoreError):
        collect(ReleaseStore(proxy.settings), release)
    [leftover] = planned(store, "r")
    assert leftover.kind == "leftover"
    assert collect(store, leftover)
    assert not store.bucket.objects("releases/r/", recursive=True)


def test_a_download_that_gc_overtakes_fails_and_leaves_no_release_in_the_cache(
    store: ReleaseStore, proxy: FaultyS3, staged: Callable[[str], Path], tmp_path: Path
) -> None:
    store.publish(staged("r"))
    cache = ReleaseCache(tmp_path / "cache")
    proxy.only, proxy.before_answer = layout.VOCABULARY.encode(), lambda: gc(store, "r")
    with pytest.raises(NotInStoreError):
        cache.fetch(ReleaseStore(proxy.settings), "r", FILES)
    with pytest.raises(CacheError, match="isn't in the cache"):
        cache.fetch(None, "r", FILES)
    folder = staged("r")
    store.publish(folder)
    assert Manifest.read(cache.fetch(store, "r", FILES)) == Manifest.read(folder)


@pytest.mark.parametrize("size", [1_600_000, 3 << 20])
def test_a_manifest_of_any_size_is_removed(store: ReleaseStore, size: int) -> None:
    store.bucket.swap(manifest_place("r"), b" " * size, None)
    gc(store, "r")
    assert not store.bucket.objects("releases/r/", recursive=True)


def test_a_folder_of_the_history_that_is_no_channels_stops_no_gc(
    store: ReleaseStore, staged: Callable[[str], Path]
) -> None:
    store.bucket.swap("channels/history/No Channel/00000001.json", b"?", None)
    store.publish(staged("r"))
    assert [each.release_id for each in plan_collection(store, 5, timedelta(0)).garbage] == ["r"]
