"""Removals against promotions and uploads: however they meet, a release is whole or refused.

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
from tests.builders.releases import build_release, write_manifest
from vireo.server.errors import VireoError
from vireo.server.releases import garbage, layout
from vireo.server.releases.cache import CacheError, ReleaseCache
from vireo.server.releases.channels import Change
from vireo.server.releases.garbage import Garbage, collect, plan_collection
from vireo.server.releases.manifest import MANIFEST_NAME, Manifest
from vireo.server.releases.markers import Marker
from vireo.server.releases.rollback import roll_back
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.server.releases.store_errors import NotInStoreError, StoreError, StoreUnavailableError
from vireo.server.releases.verify import dangling_channels

pytestmark = pytest.mark.integration

FILES = (layout.POPULAR_IDS, layout.VOCABULARY)
Party = Callable[[ReleaseStore], object]


@pytest.fixture
def store(s3: S3Settings) -> ReleaseStore:
    """A bucket of its own: a collection looks at all of it."""
    store = ReleaseStore(s3.model_copy(update={"bucket": "removals"}))
    store.bucket.make()
    return store


@pytest.fixture
def proxy(store: ReleaseStore) -> Iterator[FaultyS3]:
    with faulty_s3(store.settings, retries=0) as proxy:
        yield proxy


@pytest.fixture
def staged(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that makes a release of two files with a given id."""
    folder = build_release(tmp_path / "staged")
    for file in folder.rglob("*"):
        if file.is_file() and file.relative_to(folder).as_posix() not in FILES:
            file.unlink()

    def stage(release_id: str) -> Path:
        write_manifest(folder, release_id=release_id)
        return folder

    return stage


def planned(store: ReleaseStore, release_id: str) -> list[Garbage]:
    plan = plan_collection(store, 0, timedelta(0))
    return [each for each in plan.garbage if each.release_id == release_id]


def gc(store: ReleaseStore, release_id: str) -> None:
    """One collection; of one release alone, since the others are other tests'."""
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


def assert_nothing_dangles(store: ReleaseStore, channel: str) -> None:
    named = store.read_channel(channel)
    if named is not None:
        assert_whole(store, named.release_id)


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


def promotion(channel: str, release_id: str) -> Party:
    def promote(store: ReleaseStore) -> None:
        store.change_channel(channel, Change(release_id), store.read_channel(channel))

    return promote


def upload(folder: Path) -> Party:
    def publish(store: ReleaseStore) -> None:
        store.publish(folder)

    return publish


def every_place(store: ReleaseStore) -> Iterator[int]:
    """0, 1, …, each with an empty bucket; a test ends at the first that isn't reached."""
    for place in range(100):
        for entry in store.bucket.objects("", recursive=True):
            store.bucket.remove(entry.name)
        yield place
    raise AssertionError("no end of it")


@pytest.mark.parametrize("first", [True, False], ids=["first promotion", "later promotion"])
def test_a_promotion_ends_in_a_refusal_or_a_whole_release_wherever_gc_comes_between(
    store: ReleaseStore, proxy: FaultyS3, name: str, staged: Callable[[str], Path], first: bool
) -> None:
    outcomes = set()
    for place in every_place(store):
        channel, release_id, other = f"{name}-{place}", f"{name}-{place}", f"{name}-{place}-other"
        store.publish(staged(release_id))
        if not first:
            store.publish(staged(other))
            promotion(channel, other)(store)
        before = store.read_channel(channel)
        old_plan = planned(store, release_id)

        def removes(old_plan: list[Garbage] = old_plan) -> None:
            for each in old_plan:
                collect(store, each)

        party = promotion(channel, release_id)
        reached, succeeded = interrupted(proxy, party, place, removes, dies=False)
        assert_nothing_dangles(store, channel)
        after = store.read_channel(channel)
        assert (after is not None and after.release_id == release_id) == succeeded
        if not succeeded:
            assert (after and after.pointer) == (before and before.pointer)
        outcomes.add(succeeded)
        if not reached:
            break
    assert outcomes == {True, False}, "either is met on the way"


def test_a_removal_ends_in_a_refusal_or_a_whole_release_wherever_a_promotion_comes_between(
    store: ReleaseStore, proxy: FaultyS3, name: str, staged: Callable[[str], Path]
) -> None:
    outcomes = set()
    for place in every_place(store):
        release_id = channel = f"{name}-{place}"
        store.publish(staged(release_id))
        promoted: list[bool] = []

        def promotes(
            release_id: str = release_id, channel: str = channel, promoted: list[bool] = promoted
        ) -> None:
            promoted.append(tried(promotion(channel, release_id), store))

        def party(through: ReleaseStore, release_id: str = release_id) -> None:
            gc(through, release_id)

        reached, _ = interrupted(proxy, party, place, promotes, dies=False)
        assert_nothing_dangles(store, channel)
        if not reached:
            break
        assert (store.read_channel(channel) is not None) == promoted[0]
        outcomes.add(promoted[0])
    assert outcomes == {True, False}


@pytest.mark.parametrize(
    ("broke_off", "second_gc"),
    [(True, False), (False, True)],
    ids=["after one that broke off", "anew, beside a second gc"],
)
def test_a_removal_never_deletes_a_file_of_a_successful_upload(
    store: ReleaseStore,
    proxy: FaultyS3,
    name: str,
    staged: Callable[[str], Path],
    broke_off: bool,
    second_gc: bool,
) -> None:
    for place in every_place(store):
        release_id = f"{name}-{place}"
        store.publish(staged(release_id))
        if broke_off:
            store.bucket.remove(f"releases/{release_id}/{MANIFEST_NAME}")

        def publishes(release_id: str = release_id) -> None:
            if second_gc:
                gc(store, release_id)
            tried(upload(staged(release_id)), store)

        def party(through: ReleaseStore, release_id: str = release_id) -> None:
            gc(through, release_id)

        reached, _ = interrupted(proxy, party, place, publishes, dies=False)
        if not reached:
            break
        if store.list() and release_id in {each.release_id for each in store.list()}:
            assert_whole(store, release_id)
        # It is no dead end: what was refused can be published when the removal is over.
        store.publish(staged(release_id))
        assert_whole(store, release_id)


@pytest.mark.parametrize("old", [True, False], ids=["by an old plan", "by a new plan"])
def test_an_upload_ends_in_a_refusal_or_a_whole_release_wherever_gc_comes_between(
    store: ReleaseStore, proxy: FaultyS3, name: str, staged: Callable[[str], Path], old: bool
) -> None:
    outcomes = set()
    for place in every_place(store):
        release_id = f"{name}-{place}"
        folder = staged(release_id)
        store.publish(folder)
        store.bucket.remove(f"releases/{release_id}/{MANIFEST_NAME}")
        old_plan = planned(store, release_id)

        def removes(release_id: str = release_id, old_plan: list[Garbage] = old_plan) -> None:
            for each in old_plan if old else planned(store, release_id):
                collect(store, each)

        reached, succeeded = interrupted(proxy, upload(folder), place, removes, dies=False)
        outcomes.add(succeeded)
        if succeeded:
            # Unless it was removed right after it had ended.
            if release_id in {each.release_id for each in store.list()}:
                assert_whole(store, release_id)
        else:
            with pytest.raises(NotInStoreError):
                store.manifest(release_id)
            store.publish(folder)
            assert_whole(store, release_id)
        if not reached:
            break
    assert outcomes == ({True} if old else {True, False}), "an old plan doesn't disturb it"


@pytest.mark.parametrize("promoted_meanwhile", [True, False], ids=["promoted", "not promoted"])
def test_wherever_a_removal_dies_nothing_dangles_and_the_next_one_ends_it(
    store: ReleaseStore,
    proxy: FaultyS3,
    name: str,
    staged: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    promoted_meanwhile: bool,
) -> None:
    for place in every_place(store):
        release_id = channel = f"{name}-{place}"
        store.publish(staged(release_id))

        def promotes(release_id: str = release_id, channel: str = channel) -> None:
            tried(promotion(channel, release_id), store)

        def party(through: ReleaseStore, release_id: str = release_id) -> None:
            gc(through, release_id)

        meanwhile: Callable[[], object] = promotes if promoted_meanwhile else list
        reached, _ = interrupted(proxy, party, place, meanwhile, dies=True)
        assert_nothing_dangles(store, channel)
        promoted = tried(promotion(channel, release_id), store)
        assert_nothing_dangles(store, channel)
        with monkeypatch.context() as patch:
            patch.setattr(garbage, "ABANDONED", timedelta(0), raising=False)
            gc(store, release_id)
        assert_nothing_dangles(store, channel)
        if promoted:
            store.publish(staged(release_id))  # it is there, which changes nothing
        elif store.read_channel(channel) is None:
            assert not store.bucket.objects(f"releases/{release_id}/", recursive=True)
        store.publish(staged(release_id))
        promotion(channel, release_id)(store)
        assert_nothing_dangles(store, channel)
        if not reached:
            break


def test_wherever_an_upload_dies_the_same_can_be_published_again(
    store: ReleaseStore, proxy: FaultyS3, name: str, staged: Callable[[str], Path]
) -> None:
    for place in every_place(store):
        release_id = f"{name}-{place}"
        folder = staged(release_id)
        reached, succeeded = interrupted(proxy, upload(folder), place, lambda: None, dies=True)
        assert succeeded != reached
        if not succeeded:
            with pytest.raises(NotInStoreError):
                store.manifest(release_id)
            assert release_id not in {each.release_id for each in store.list()}
        if place % 2:
            gc(store, release_id)
            assert not store.bucket.objects(f"releases/{release_id}/", recursive=True)
        store.publish(folder)
        assert_whole(store, release_id)
        if not reached:
            break


def test_wherever_a_promotion_dies_the_channel_is_as_before_or_names_a_whole_release(
    store: ReleaseStore, proxy: FaultyS3, name: str, staged: Callable[[str], Path]
) -> None:
    for place in every_place(store):
        channel = f"{name}-{place}"
        old, new = f"{channel}-old", f"{channel}-new"
        for release_id in (old, new):
            store.publish(staged(release_id))
        promotion(channel, old)(store)
        reached, succeeded = interrupted(
            proxy, promotion(channel, new), place, lambda: None, dies=True
        )
        named = store.read_channel(channel)
        assert named is not None
        assert named.release_id in ((new,) if succeeded else (old, new))
        gc(store, new)
        assert_nothing_dangles(store, channel)
        # Whoever comes next isn't held up by what it left.
        store.publish(staged(new))
        promotion(channel, new)(store)
        assert_nothing_dangles(store, channel)
        gc(store, old)
        assert_whole(store, old)  # a rollback needs it
        if not reached:
            break


def test_a_rollback_ends_in_a_refusal_or_a_whole_release_wherever_gc_comes_between(
    store: ReleaseStore, proxy: FaultyS3, name: str, staged: Callable[[str], Path]
) -> None:
    for place in every_place(store):
        channel = f"{name}-{place}"
        old, new = f"{channel}-old", f"{channel}-new"
        store.publish(staged(old))
        old_plan = planned(store, old)  # before any channel needs it
        store.publish(staged(new))
        for release_id in (old, new):
            promotion(channel, release_id)(store)

        def removes(old_plan: list[Garbage] = old_plan) -> None:
            for each in old_plan:
                collect(store, each)

        def party(through: ReleaseStore, channel: str = channel) -> None:
            roll_back(through, channel)

        reached, succeeded = interrupted(proxy, party, place, removes, dies=False)
        assert_nothing_dangles(store, channel)
        assert succeeded, "what a rollback goes back to is kept by what channels say now"
        if not reached:
            break


def test_only_the_planned_version_is_removed(
    store: ReleaseStore, name: str, staged: Callable[[str], Path]
) -> None:
    folder = staged(name)
    store.publish(folder)
    store.bucket.remove(f"releases/{name}/{MANIFEST_NAME}")
    [leftover] = planned(store, name)
    store.publish(folder)
    assert not collect(store, leftover)
    assert_whole(store, name)


def test_a_removal_that_was_held_up_deletes_nothing_any_more(
    store: ReleaseStore, name: str, staged: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(staged(name))
    [release] = planned(store, name)
    monkeypatch.setattr(garbage, "LEASE_SECONDS", -1.0)
    with pytest.raises(StoreUnavailableError, match="again in an hour"):
        collect(store, release)
    assert_whole(store, name)
    assert planned(store, name) == [], "another one leaves it alone until it is abandoned"
    with pytest.raises(StoreUnavailableError, match="is being removed by"):
        store.publish(staged(name))
    [listed] = [each for each in store.list() if each.release_id == name]
    assert listed.problem == "it is being removed by `vireo release gc`"


def test_another_release_under_an_id_that_is_being_uploaded_is_refused(
    store: ReleaseStore, proxy: FaultyS3, name: str, staged: Callable[[str], Path], tmp_path: Path
) -> None:
    proxy.only, proxy.fault = f"PUT /removals/releases/{name}/vocabulary".encode(), "fails"
    with pytest.raises(StoreUnavailableError):
        ReleaseStore(proxy.settings).publish(staged(name))
    with pytest.raises(
        VireoError, match=r"another release is being uploaded as .* from 24 hours later"
    ):
        store.publish(build_release(tmp_path / "other", release_id=name, seed=1))


def test_a_download_that_gc_overtakes_fails_and_leaves_no_release_in_the_cache(
    store: ReleaseStore, proxy: FaultyS3, name: str, staged: Callable[[str], Path], tmp_path: Path
) -> None:
    store.publish(staged(name))
    cache = ReleaseCache(tmp_path / "cache")
    removed: list[bool] = []

    def removes() -> None:
        if not removed:
            removed.append(True)
            gc(store, name)

    proxy.only, proxy.before_answer = layout.VOCABULARY.encode(), removes
    with pytest.raises(NotInStoreError):
        cache.fetch(ReleaseStore(proxy.settings), name, FILES)
    with pytest.raises(CacheError, match="isn't in the cache"):
        cache.open(name, FILES)
    folder = staged(name)
    store.publish(folder)
    assert Manifest.read(cache.fetch(store, name, FILES)) == Manifest.read(folder)


def test_a_release_republished_after_planning_is_kept(
    store: ReleaseStore, name: str, staged: Callable[[str], Path]
) -> None:
    folder = staged(name)
    store.publish(folder)
    [old] = planned(store, name)
    gc(store, name)
    time.sleep(1.1)  # S3 has times in whole seconds
    store.publish(folder)
    assert not collect(store, old)
    assert_whole(store, name)
    gc(store, name)
    assert name not in {each.release_id for each in store.list()}, "by a plan of now it goes"


@pytest.mark.parametrize("size", [1_600_000, 3 << 20])
def test_a_manifest_of_any_size_is_removed(store: ReleaseStore, name: str, size: int) -> None:
    store.bucket.swap(f"releases/{name}/{MANIFEST_NAME}", b" " * size, None)
    gc(store, name)
    assert not store.bucket.objects(f"releases/{name}/", recursive=True)


def test_a_removal_that_never_ended_is_planned_to_be_undone_if_a_channel_needs_the_release(
    store: ReleaseStore,
    name: str,
    staged: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.publish(staged(name))
    promotion(name, name)(store)
    place = f"releases/{name}/{MANIFEST_NAME}"
    body, etag = store.bucket.get(place) or (b"", "")
    assert store.bucket.swap(place, Marker.removing(body).body(), etag)
    [problem] = dangling_channels(store, [name])
    assert "restore it with: vireo release gc --yes" in problem
    monkeypatch.setattr(garbage, "ABANDONED", timedelta(0))
    [found] = planned(store, name)
    assert found.kind == "to restore"
    assert not collect(store, found)
    assert_whole(store, name)
    assert dangling_channels(store, [name]) == ()


def test_a_failed_removal_doesnt_restore_files_of_an_interrupted_one(
    store: ReleaseStore,
    proxy: FaultyS3,
    name: str,
    staged: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.publish(staged(name))
    place = f"releases/{name}/{MANIFEST_NAME}"
    body, etag = store.bucket.get(place) or (b"", "")
    assert store.bucket.swap(place, Marker.removing(body).body(), etag)
    store.bucket.remove(f"releases/{name}/{layout.VOCABULARY}")
    monkeypatch.setattr(garbage, "ABANDONED", timedelta(0))
    [leftover] = planned(store, name)
    proxy.only, proxy.fault = b"GET /removals?", "fails"
    with pytest.raises(StoreUnavailableError):
        collect(ReleaseStore(proxy.settings), leftover)
    with pytest.raises(NotInStoreError):
        store.check_published(name)
    gc(store, name)
    assert not store.bucket.objects(f"releases/{name}/", recursive=True)


def test_an_upload_that_was_overtaken_writes_no_further_file(
    store: ReleaseStore,
    proxy: FaultyS3,
    name: str,
    staged: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vireo.server.releases.store.PARALLEL", 1)
    folder = staged(name)
    overtaken: list[bool] = []

    def overtakes() -> None:
        if not overtaken:
            overtaken.append(True)
            store.bucket.remove(f"releases/{name}/{MANIFEST_NAME}")
            store.publish(folder)

    proxy.only = f"PUT /removals/releases/{name}/{FILES[0].partition('/')[0]}".encode()
    proxy.before_answer = overtakes
    with pytest.raises(StoreUnavailableError, match="publish it again"):
        ReleaseStore(proxy.settings).publish(folder)
    prefix = f"PUT /removals/releases/{name}/".encode()
    files = [each for each in proxy.requests if each.startswith(prefix)]
    assert len([each for each in files if MANIFEST_NAME.encode() not in each]) == 1
    assert_whole(store, name)


def test_a_folder_of_the_history_that_is_no_channels_stops_no_gc(
    store: ReleaseStore, name: str, staged: Callable[[str], Path]
) -> None:
    odd = "channels/history/No Channel/00000001.json"
    store.bucket.swap(odd, b"?", None)
    store.publish(staged(name))
    try:
        plan = plan_collection(store, 5, timedelta(0))
    finally:
        store.bucket.remove(odd)
    assert name in {each.release_id for each in plan.garbage}


def test_an_unfit_record_of_the_history_comes_with_advice_that_can_be_followed(
    store: ReleaseStore, name: str, staged: Callable[[str], Path]
) -> None:
    store.publish(staged(name))
    promotion(name, name)(store)
    place = f"channels/history/{name}/00000001.json"
    store.bucket.remove(place)
    store.bucket.swap(place, b"{}", None)
    with pytest.raises(StoreError, match="isn't a record of a channel's change; remove it"):
        store.channels.history(name)
    store.bucket.remove(place)
    assert [each.revision for each in store.channels.history(name)] == [1]
