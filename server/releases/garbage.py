"""Which releases of the store are no longer needed, and how they are removed.

A release is kept if a channel needs it or if it was written recently; age keeps removals and
uploads apart. A promotion of an old release may meet its removal: each first writes (the one
removes the manifest, the other names the release), then reads what the other writes. So at least
one finds out: the removal puts the manifest back, or the promotion sets the channel back. Files
are removed after that.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from vireo.server.releases.bucket import StoredObject, StoreError
from vireo.server.releases.channels import HISTORY
from vireo.server.releases.fields import CHANNEL_NAME, RELEASE_ID
from vireo.server.releases.store import ReleaseStore, manifest_place, release_object


@dataclass(frozen=True)
class Garbage:
    """A release, or what is left of one, that is no longer needed."""

    release_id: str
    manifest: tuple[bytes, str] | None
    """Content and ETag of its manifest; the release is removed only if it is unchanged."""
    size: int
    """Bytes."""
    newest: datetime
    """When its latest file was written."""

    @property
    def kind(self) -> Literal["release", "leftover"]:
        """A leftover has no manifest: it was never completed, or its removal was interrupted."""
        return "release" if self.manifest else "leftover"


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
        recent = "written recently" if now - newest < grace else ""
        if why := needed.get(release_id, recent):
            kept[release_id] = why
            continue
        size = sum(entry.size for entry in objects)
        manifest = store.bucket.get(manifest_place(release_id))
        garbage.append(Garbage(release_id, manifest, size, newest))
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
    place, manifest = manifest_place(garbage.release_id), garbage.manifest
    if manifest is not None and not store.bucket.remove_if(place, manifest[1]):
        return False
    try:
        needed = garbage.release_id in needed_releases(store, history_kept)
        objects = store.bucket.objects(release_object(garbage.release_id, ""), recursive=True)
    except StoreError:
        with suppress(StoreError):  # the next collection, or publishing it again, heals that
            _put_back(store, place, manifest)
        raise
    # Published again since: files are newer, or the manifest is there again.
    if needed or any(each.name == place or each.modified > garbage.newest for each in objects):
        _put_back(store, place, manifest)
        return False
    for entry in objects:
        store.bucket.remove(entry.name)
    return True


def _put_back(store: ReleaseStore, place: str, manifest: tuple[bytes, str] | None) -> None:
    if manifest is not None:
        store.bucket.swap(place, manifest[0], None)


def needed_releases(store: ReleaseStore, history_kept: int = 0) -> dict[str, str]:
    """Return why a channel needs each release that one needs; the strongest reason counts."""
    reasons: dict[str, str] = {}
    channels = store.channels.all()
    for name, channel in channels.items():
        reasons.setdefault(channel.release_id, f"{name} names it")
    for name, channel in channels.items():
        if channel.pointer.returns_to is not None:
            earlier = store.channels.recorded(name, channel.pointer.returns_to)
            if earlier is not None:
                reasons.setdefault(earlier.release_id, f"{name} would roll back to it")
    # A channel whose object was removed still has its history.
    folders = store.bucket.folders(HISTORY) if history_kept else []
    named = {*channels, *(each for each in folders if re.fullmatch(CHANNEL_NAME, each))}
    for name in named if history_kept else ():
        for record in store.channels.history(name, history_kept):
            reasons.setdefault(record.release_id, f"{name} named it recently")
    return reasons
