"""Which releases of the store nothing needs any more, and how they are removed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from server.releases.bucket import StoredObject
from server.releases.manifest import MANIFEST_NAME
from server.releases.store import ReleaseStore, release_object


@dataclass(frozen=True)
class Garbage:
    """A release, or what is left of one, that nothing needs."""

    release_id: str
    kind: Literal["release", "leftover"]
    """A leftover has no manifest: it was never finished, or half removed."""
    objects: tuple[str, ...]
    """What to remove, in this order: the manifest first."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Plan:
    """What a collection would do."""

    kept: Mapping[str, str]
    """Release to why it is kept."""
    garbage: tuple[Garbage, ...]


def plan_collection(store: ReleaseStore, history_kept: int, grace: timedelta) -> Plan:
    """Finds what nothing needs.

    Args:
        store: where the releases are.
        history_kept: what so many last changes of a channel name is kept.
        grace: what was written within so long is kept: somebody may be about to finish or
            promote it.
    """
    if not store.bucket.exists():
        return Plan({}, ())
    needed = _needed(store, history_kept)
    by_release: dict[str, list[StoredObject]] = defaultdict(list)
    for entry in store.bucket.objects("releases/", recursive=True):
        by_release[entry.name.split("/")[1]].append(entry)
    kept, garbage = {}, []
    old = datetime.now(UTC) - grace
    for release_id, objects in sorted(by_release.items()):
        if release_id in needed:
            kept[release_id] = needed[release_id]
        elif max(entry.modified for entry in objects) > old:
            kept[release_id] = "written recently"
        else:
            garbage.append(_garbage(release_id, objects))
    return Plan(kept, tuple(garbage))


def collect(store: ReleaseStore, garbage: Garbage) -> bool:
    """Removes a release, unless it has come to be needed; tells whether it did.

    The manifest goes first, so that what is half removed is no release. Only then nobody can
    begin to promote it any more; whoever had is found by looking at the channels once again,
    and gets the manifest back.
    """
    if _is_named(store, garbage.release_id):
        return False
    place = release_object(garbage.release_id, MANIFEST_NAME)
    manifest = store.bucket.get(place)
    if manifest is not None:
        if garbage.kind == "leftover":
            return False  # its upload has ended after all
        store.bucket.remove(place)
        if _is_named(store, garbage.release_id):
            store.bucket.put_if(place, manifest[0], {"If-None-Match": "*"})
            return False
    for name in garbage.objects:
        store.bucket.remove(name)
    return True


def _is_named(store: ReleaseStore, release_id: str) -> bool:
    """Whether a channel names a release now."""
    return release_id in {channel.release_id for channel in store.channels().values()}


def _needed(store: ReleaseStore, history_kept: int) -> dict[str, str]:
    """Release to why a channel needs it; the strongest reason counts."""
    reasons: dict[str, str] = {}
    channels = store.channels()
    for name, channel in channels.items():
        reasons.setdefault(channel.release_id, f"{name} names it")
    for name, channel in channels.items():
        if channel.pointer.returns_to is not None:
            earlier = store.recorded(name, channel.pointer.returns_to)
            if earlier is not None:
                reasons.setdefault(earlier.release_id, f"{name} would roll back to it")
    # A channel whose object was removed still has its history.
    for name in {*channels, *store.bucket.folders("channels/history/")}:
        for record in store.history(name, history_kept) if history_kept else ():
            reasons.setdefault(record.release_id, f"{name} named it recently")
    return reasons


def _garbage(release_id: str, objects: list[StoredObject]) -> Garbage:
    manifest = release_object(release_id, MANIFEST_NAME)
    names = sorted((entry.name for entry in objects), key=lambda name: (name != manifest, name))
    return Garbage(
        release_id=release_id,
        kind="release" if manifest in names else "leftover",
        objects=tuple(names),
        size=sum(entry.size for entry in objects),
    )
