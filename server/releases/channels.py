"""Channels in S3: which release each names, changed by compare-and-swap, with a history.

A channel is one small object that holds the whole record of its latest change. Every record is
also kept, under its revision, in an append-only history. The history is written after the
channel; if a process ends in between, the next change writes what is missing first.

A change first notes in the channel, beside what it names, which release it is about to name: so a
removal of that release finds out in time, see `vireo.server.releases.markers`. The note of a
process that died stays until the next change.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog
from pydantic import ValidationError

from vireo.server.errors import VireoError
from vireo.server.releases.bucket import PARALLEL, Bucket
from vireo.server.releases.channel_document import (
    MAX_DOCUMENT_BYTES,
    MAX_FINDING,
    MAX_FINDINGS,
    Action,
    BestFigures,
    ChannelDocument,
    ChannelPointer,
    parse_record,
    with_note,
    without_note,
)
from vireo.server.releases.fields import CHANNEL_NAME, first_problem
from vireo.server.releases.store_errors import ChannelChangedError, StoreError

log = structlog.get_logger()

__all__ = ["CANARY", "BestFigures", "Change", "Channel", "ChannelPointer", "Channels", "this_user"]

CANARY = "canary"
"""The channel that gets a share of the viewers."""


@dataclass(frozen=True)
class Channel:
    """A channel as it was read; pass it to `Channels.set` to change it."""

    name: str
    pointer: ChannelPointer
    etag: str

    @property
    def release_id(self) -> str:
        """The release that the channel names."""
        return self.pointer.release_id


@dataclass(frozen=True)
class Change:
    """What to write into a channel."""

    release_id: str
    action: Action = "promote"
    share: float | None = None
    """New share of the viewers; None to keep it."""
    reason: str = ""
    updated_by: str | None = None
    """Who makes the change; by default VIREO_USER, or this user on this machine."""
    forced: bool = False
    findings: tuple[str, ...] = ()
    returns_to: int | None = None
    """For a rollback: the revision that the next one returns to."""
    best_figures: tuple[BestFigures, ...] = ()
    """The best figures that the channel keeps from now on."""


class Channels:
    """The channels of one bucket. Safe to use from several threads."""

    def __init__(self, bucket: Bucket) -> None:
        """Start with `bucket`; no request is made yet."""
        self._bucket = bucket

    def read(self, name: str) -> Channel | None:
        """Return the channel; None if it was never set.

        Raises:
            NotInStoreError: the bucket isn't there.
        """
        found = self._document(name)
        if found is None or found.pointer is None:
            return None
        return Channel(name, found.pointer, found.etag)

    def all(self) -> dict[str, Channel]:
        """Return every channel by name."""
        return {
            name: Channel(name, found.pointer, found.etag)
            for name, found in self.documents().items()
            if found.pointer is not None
        }

    def documents(self) -> dict[str, ChannelDocument]:
        """Return what is stored of each channel, including channels that were never set."""
        found = {name: self._document(name) for name in self._names()}
        return {name: document for name, document in found.items() if document is not None}

    def set(
        self, name: str, change: Change, expected: Channel | None, confirm: Callable[[], None]
    ) -> ChannelPointer:
        """Change a channel unless it has changed since it was read; return what it holds now.

        Args:
            name: the channel.
            change: what it is to hold.
            expected: the channel as `read` returned it; None if it was never set.
            confirm: called once the note of what the channel will name is written; if it raises,
                the channel stays as it was.

        Raises:
            StoreError: a share is given for a channel other than the canary, or a text is too long.
            ChannelChangedError: the channel isn't as expected; read it and decide again.
            StoreUnavailableError: S3 fails, and the channel isn't known to have changed.
        """
        if change.share and name != CANARY:
            raise StoreError(f"only the {CANARY} channel has a share of the viewers, not {name}")
        pointer = self._next(name, change, expected)
        if expected is not None:
            self._record(name, expected.pointer)
        before = self._document(name)
        never_set = before is None or before.pointer is None
        if not (never_set if expected is None else before and before.etag == expected.etag):
            raise _changed(name)
        body = before.body if before else b"{}"
        note = with_note(body, change.release_id)
        noted = self._bucket.swap(_object(name), note, before.etag if before else None)
        if noted is None:
            raise _changed(name)
        try:
            confirm()
        except VireoError:
            self._take_note_back(name, body, noted)
            raise
        if self._bucket.swap(_object(name), _body(pointer), noted) is None:
            raise _changed(name)
        try:
            self._record(name, pointer)
        except StoreError as error:
            # Declared policy: the change is made, and must not look failed, or it would be made
            # twice. The next change records it; until then the channel itself holds it.
            log.warning("change not recorded in the history yet", channel=name, cause=str(error))
        return pointer

    def history(self, name: str, last: int | None = None) -> tuple[ChannelPointer, ...]:
        """Return the changes of a channel, oldest first; only the `last` ones if given."""
        if not self._bucket.exists():
            return ()
        places = self._recorded(name)
        current = self.read(name)
        with ThreadPoolExecutor(PARALLEL) as threads:
            found = threads.map(self._record_at, places if last is None else places[-last:])
            records = [record for record in found if record is not None]
        if current is not None and current.pointer.revision not in [r.revision for r in records]:
            records.append(current.pointer)
        return tuple(records if last is None else records[-last:])

    def recorded(self, name: str, revision: int) -> ChannelPointer | None:
        """Return one change of a channel; None if it isn't in the history."""
        return self._record_at(_history_object(name, revision))

    def _next(self, name: str, change: Change, expected: Channel | None) -> ChannelPointer:
        """Return the record of a change that follows what was read."""
        now = expected.pointer if expected else None
        returns_to = change.returns_to
        if change.action != "rollback" and now is not None:
            # Naming the same release again, with another share for example, isn't a step that a
            # rollback could undo.
            same = now.release_id == change.release_id
            returns_to = now.returns_to if same else now.revision
        try:
            return ChannelPointer(
                release_id=change.release_id,
                updated_at=datetime.now(UTC),
                updated_by=change.updated_by or this_user(),
                reason=change.reason,
                revision=(now.revision if now else self._last_revision(name)) + 1,
                share=(now.share if now else 0.0) if change.share is None else change.share,
                action=change.action,
                previous=now.release_id if now else None,
                returns_to=returns_to,
                forced=change.forced,
                findings=tuple(each[:MAX_FINDING] for each in change.findings[:MAX_FINDINGS]),
                best_figures=change.best_figures,
            )
        except ValidationError as error:
            raise StoreError(f"channel {name} can't hold that: {first_problem(error)}") from error

    def _take_note_back(self, name: str, before: bytes, noted: str) -> None:
        """Restore what a channel names, after a change that wasn't made.

        Another process's note goes too: if the stored object matched that note again, its change
        would be made, though a removal may have missed the note meanwhile.
        """
        try:
            self._bucket.swap(_object(name), without_note(before), noted)
        except StoreError as error:
            # Declared policy: a surplus note only keeps a release from being removed.
            log.warning("a change that wasn't made is still noted", channel=name, cause=str(error))

    def _record(self, name: str, pointer: ChannelPointer) -> None:
        """Add a change to the history; keep the record if there is one."""
        self._bucket.swap(_history_object(name, pointer.revision), _body(pointer), None)

    def _record_at(self, place: str) -> ChannelPointer | None:
        found = self._bucket.get(place, MAX_DOCUMENT_BYTES)
        return None if found is None else parse_record(found[0], self._source(place))

    def _recorded(self, name: str) -> list[str]:
        """Return the objects of a channel's history, oldest first."""
        if not self._bucket.exists():
            return []
        prefix = f"channels/history/{_checked(name)}/"
        names = (entry.name for entry in self._bucket.objects(prefix))
        return sorted(name for name in names if re.fullmatch(r"\d{8}\.json", Path(name).name))

    def _last_revision(self, name: str) -> int:
        """Return the last revision in the history of a channel whose object was removed."""
        records = self._recorded(name)
        return int(Path(records[-1]).stem) if records else 0

    def _names(self) -> list[str]:
        """Return the channels that have an object; other objects beside them are ignored."""
        if not self._bucket.exists():
            return []
        paths = [Path(entry.name) for entry in self._bucket.objects("channels/")]
        return [
            path.stem
            for path in paths
            if path.suffix == ".json" and re.fullmatch(CHANNEL_NAME, path.stem)
        ]

    def _document(self, name: str) -> ChannelDocument | None:
        """Return a channel's object; None if there is none."""
        found = self._bucket.get(_object(name), MAX_DOCUMENT_BYTES)
        return found and ChannelDocument.parse(*found, self._source(_object(name)))

    def _source(self, place: str) -> str:
        return f"{place} in bucket {self._bucket.name}"


def this_user() -> str:
    """Return who changes a channel: VIREO_USER, or this user on this machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A container's user may have no name.
        user = str(os.getuid())
    return os.environ.get("VIREO_USER") or f"{user}@{socket.gethostname()}"


def _changed(name: str) -> ChannelChangedError:
    return ChannelChangedError(
        f"channel {name} was changed by somebody else in the meantime; "
        f"look at it with `vireo release history --channel {name}`, and decide again"
    )


def _body(pointer: ChannelPointer) -> bytes:
    return pointer.model_dump_json(indent=2).encode()


def _object(name: str) -> str:
    return f"channels/{_checked(name)}.json"


def _history_object(name: str, revision: int) -> str:
    return f"channels/history/{_checked(name)}/{revision:08d}.json"


def _checked(name: str) -> str:
    if not re.fullmatch(CHANNEL_NAME, name):
        raise StoreError(
            f"{name!r} can't be a channel; use lower-case letters, digits, dashes and underscores"
        )
    return name
