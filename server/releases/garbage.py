"""Which releases of the store are no longer needed, and how they are removed.

`vireo.server.releases.markers` says how removals, uploads and promotions keep out of each other's
way.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from vireo.server.releases.bucket import StoredObject
from vireo.server.releases.fields import CHANNEL_NAME, RELEASE_ID
from vireo.server.releases.markers import (
    ABANDONED,
    LEASE_SECONDS,
    ManifestObject,
    Marker,
    manifest_place,
    read_manifest_object,
)
from vireo.server.releases.store import ReleaseStore, release_object
from vireo.server.releases.store_errors import StoreError, StoreUnavailableError


@dataclass(frozen=True)
class Garbage:
    """A release, or what is left of one, that is no longer needed."""

    release_id: str
    kind: Literal["release", "leftover", "to restore"]
    """A leftover has no manifest: it was never finished, or half removed. A release to restore
    is needed, but has the tombstone of a removal that never ended."""
    found: ManifestObject | None
    """The object in the manifest's place; the release is removed only if it is unchanged."""
    size: int
    """Bytes."""
    newest: datetime
    """When its latest file was written."""


@dataclass(frozen=True)
class Plan:
    """What a collection would do."""

    kept: Mapping[str, str]
    """Why each release is kept."""
    garbage: tuple[Garbage, ...]


def plan_collection(store: ReleaseStore, history_kept: int, grace: timedelta) -> Plan:
    """Find what is no longer needed.

    Args:
        store: where the releases are.
        history_kept: number of a channel's latest changes whose releases are kept.
        grace: minimum age of what is collected: younger uploads may yet be finished or promoted.
    """
    if not store.bucket.exists():
        return Plan({}, ())
    needed = needed_releases(store, history_kept)
    by_release: dict[str, list[StoredObject]] = defaultdict(list)
    for entry in store.bucket.objects("releases/", recursive=True):
        parts = entry.name.split("/")
        if len(parts) > 2 and re.fullmatch(RELEASE_ID, parts[1]):
            by_release[parts[1]].append(entry)
    kept, garbage = {}, []
    now = datetime.now(UTC)
    for release_id, objects in sorted(by_release.items()):
        newest = max(entry.modified for entry in objects)
        age = now - newest
        found = read_manifest_object(store.bucket, release_id)
        if found is not None and found.removal is not None:
            # A needed release gets its manifest back by being collected.
            why = f"is being removed by {found.removal.by}" if age < ABANDONED else ""
        else:
            why = needed.get(release_id) or ("written recently" if age < grace else "")
        if why:
            kept[release_id] = why
            continue
        kind: Literal["release", "leftover", "to restore"] = "leftover"
        if release_id in needed:
            kind = "to restore"
        elif found is not None and found.marker is None:
            kind = "release"
        size = sum(entry.size for entry in objects)
        garbage.append(Garbage(release_id, kind, found, size, newest))
    return Plan(kept, tuple(garbage))


def collect(store: ReleaseStore, garbage: Garbage, history_kept: int = 0) -> bool:
    """Remove a release unless it has changed or become needed since; return whether it was removed.

    Args:
        store: the store to remove it from.
        garbage: the release as it was planned.
        history_kept: number of a channel's latest changes whose releases are kept.

    Raises:
        StoreError: S3 fails. What is left isn't a release; a later collection removes it.
    """
    since = time.time()
    release_id, place = garbage.release_id, manifest_place(garbage.release_id)
    found = garbage.found
    before = found.before_removal if found else None
    tombstone = Marker.removing(before)
    etag = store.bucket.swap(place, tombstone.body(), found.etag if found else None)
    if etag is None:
        return False
    try:
        needed = release_id in needed_releases(store, history_kept)
        objects = store.bucket.objects(release_object(release_id, ""), recursive=True)
    except StoreError:
        # If an earlier removal never ended, files may be missing: its tombstone stays.
        if found is None or found.removal is None:
            with suppress(StoreError):  # the next collection tries again
                _put_back(store, place, before, etag)
        raise
    # A manifest that was published again since has the same ETag, but newer files.
    newer = any(each.modified > garbage.newest for each in objects if each.name != place)
    if needed or newer:
        _put_back(store, place, before, etag)
        return False
    for entry in objects:
        if time.time() - since > LEASE_SECONDS:
            raise StoreUnavailableError(
                f"removing {release_id} takes too long, another process may have taken over; run "
                "`vireo release gc --yes` again in an hour"
            )
        if entry.name != place:
            store.bucket.remove(entry.name)
    store.bucket.remove_if(place, etag)
    return True


def _put_back(store: ReleaseStore, place: str, before: bytes | None, etag: str) -> None:
    if before is None:
        store.bucket.remove_if(place, etag)
    else:
        store.bucket.swap(place, before, etag)


def needed_releases(store: ReleaseStore, history_kept: int = 0) -> dict[str, str]:
    """Return why a channel needs each release that one needs; the strongest reason counts."""
    reasons: dict[str, str] = {}
    # One read of each channel: it holds either the note of what it is about to name, or the name.
    channels = store.channels.documents()
    pointers = {name: each.pointer for name, each in channels.items() if each.pointer is not None}
    for name, pointer in pointers.items():
        reasons.setdefault(pointer.release_id, f"{name} names it")
    for name, channel in channels.items():
        if channel.pending is not None:
            reasons.setdefault(channel.pending.release_id, f"{name} is about to name it")
    for name, pointer in pointers.items():
        if pointer.returns_to is not None:
            earlier = store.channels.recorded(name, pointer.returns_to)
            if earlier is not None:
                reasons.setdefault(earlier.release_id, f"{name} would roll back to it")
    # A channel whose object was removed still has its history.
    folders = store.bucket.folders("channels/history/") if history_kept else []
    named = {*channels, *(each for each in folders if re.fullmatch(CHANNEL_NAME, each))}
    for name in named if history_kept else ():
        for record in store.channels.history(name, history_kept):
            reasons.setdefault(record.release_id, f"{name} named it recently")
    return reasons
