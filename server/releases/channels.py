"""Channels in S3: which release each names, changed by compare-and-swap, with a history.

A channel is one small object that holds the whole record of its latest change. Every record is
also kept, under its revision, in an append-only history. The history is written after the
channel; where a process ends in between, the next change writes what is missing first.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.releases.bucket import PARALLEL, Bucket
from server.releases.names import CHANNEL_NAME, RELEASE_ID
from server.releases.store_errors import ChannelChangedError, StoreError, StoreUnavailableError

log = structlog.get_logger()

CANARY = "canary"
"""The channel that gets a share of the viewers."""

Action = Literal["promote", "rollback", "share"]


class ChannelPointer(BaseModel):
    """One change of a channel, and so what it names from then on.

    What an older build wrote lacks all from `reason` on; what a newer one adds is ignored.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    release_id: str = Field(pattern=RELEASE_ID)
    updated_at: datetime
    updated_by: str
    reason: str = ""
    """Why, in the words of whoever did it."""
    revision: int = Field(default=0, ge=0)
    """Grows by one with each change."""
    share: float = Field(default=0.0, ge=0, le=1)
    """Share of the viewers who get this release; of the canary channel only."""
    action: Action = "promote"
    previous: str | None = None
    """The release that was named before; None by the first change."""
    returns_to: int | None = None
    """Revision that a rollback from here goes back to; None where there is nothing good."""
    forced: bool = False
    """Whether the gate's refusal was overridden."""
    findings: tuple[str, ...] = ()
    """What the gate objected to, where it was overridden."""


@dataclass(frozen=True)
class Channel:
    """A channel as it was read; hand it to `Channels.set` to change what was read."""

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
    """New share of the viewers; as it was if None."""
    reason: str = ""
    updated_by: str | None = None
    """Who does it; by default VIREO_USER, or this user on this machine."""
    forced: bool = False
    findings: tuple[str, ...] = ()
    returns_to: int | None = None
    """Of a rollback: the revision that the next one goes back to."""


class Channels:
    """The channels of one bucket. Safe to use from several threads."""

    def __init__(self, bucket: Bucket) -> None:
        """Takes the bucket; nothing is asked of the server yet."""
        self._bucket = bucket

    def read(self, name: str) -> Channel | None:
        """The channel, or None where it was never set.

        Raises:
            NotInStoreError: the bucket isn't there.
        """
        found = self._bucket.get(_object(name))
        if found is None:
            return None
        body, etag = found
        return Channel(name, self._parsed(_object(name), body), etag)

    def all(self) -> dict[str, Channel]:
        """Every channel by name."""
        if not self._bucket.exists():
            return {}
        names = [Path(entry.name).stem for entry in self._bucket.objects("channels/")]
        return {name: found for name in names if (found := self.read(name)) is not None}

    def set(self, name: str, change: Change, expected: Channel | None) -> ChannelPointer:
        """Changes a channel if nobody has since it was read; gives what it holds now.

        Args:
            name: the channel.
            change: what it shall hold.
            expected: the channel as `read` gave it; None where it was never set.

        Raises:
            StoreError: a share is meant for another channel than the canary.
            ChannelChangedError: the channel isn't as expected; read it and decide again.
            StoreUnavailableError: S3 fails, and the channel isn't known to have changed.
        """
        if change.share and name != CANARY:
            raise StoreError(f"only the {CANARY} channel has a share of the viewers, not {name}")
        pointer = self._next(name, change, expected)
        if expected is not None:
            self._record(name, expected.pointer)
        condition = {"If-Match": expected.etag} if expected else {"If-None-Match": "*"}
        if not self._put(name, _body(pointer), condition):
            raise ChannelChangedError(
                f"channel {name} was changed by somebody else in the meantime; "
                f"look at it with `vireo release history --channel {name}`, and decide again"
            )
        try:
            self._record(name, pointer)
        except StoreError as error:
            # Declared policy: the change is made, and must not be taken for a failed one that
            # is then made twice. The next change records it; until then the channel tells.
            log.warning("change not recorded in the history yet", channel=name, cause=str(error))
        return pointer

    def history(self, name: str, last: int | None = None) -> tuple[ChannelPointer, ...]:
        """The changes of a channel, oldest first; the last few only where so many are named."""
        if not self._bucket.exists():
            return ()
        names = self._recorded(name)
        current = self.read(name)
        with ThreadPoolExecutor(PARALLEL) as threads:
            wanted = names if last is None else names[-last:]
            records = [
                record for record in threads.map(self._record_at, wanted) if record is not None
            ]
        if current is not None and current.pointer.revision not in [r.revision for r in records]:
            records.append(current.pointer)
        return tuple(records if last is None else records[-last:])

    def recorded(self, name: str, revision: int) -> ChannelPointer | None:
        """One change of a channel; None where it isn't in the history."""
        return self._record_at(_history_object(name, revision))

    def _next(self, name: str, change: Change, expected: Channel | None) -> ChannelPointer:
        """The record of a change that follows what was read."""
        now = expected.pointer if expected else None
        returns_to = change.returns_to
        if change.action != "rollback" and now is not None:
            # Naming the same release again, with another share for example, is no step that
            # could be gone back.
            same = now.release_id == change.release_id
            returns_to = now.returns_to if same else now.revision
        share = change.share
        if share is None:
            share = now.share if now else 0.0
        return ChannelPointer(
            release_id=change.release_id,
            updated_at=datetime.now(UTC),
            updated_by=change.updated_by or this_user(),
            reason=change.reason,
            revision=(now.revision if now else self._last_revision(name)) + 1,
            share=share,
            action=change.action,
            previous=now.release_id if now else None,
            returns_to=returns_to,
            forced=change.forced,
            findings=change.findings,
        )

    def _put(self, name: str, body: bytes, condition: Mapping[str, str]) -> bool:
        """Writes a channel if `condition` holds, and tells whether it did.

        Where the answer is lost, the channel itself says whether the change was made.
        """
        try:
            return self._bucket.put_if(_object(name), body, condition)
        except StoreUnavailableError:
            found = self._bucket.get(_object(name))
            if found is None or found[0] != body:
                raise
            return True

    def _record(self, name: str, pointer: ChannelPointer) -> None:
        """Makes sure that a change is in the history; one that is there stays as it is."""
        place = _history_object(name, pointer.revision)
        self._bucket.put_if(place, _body(pointer), {"If-None-Match": "*"})

    def _record_at(self, place: str) -> ChannelPointer | None:
        found = self._bucket.get(place)
        return None if found is None else self._parsed(place, found[0])

    def _recorded(self, name: str) -> list[str]:
        """The objects of a channel's history, oldest first."""
        if not self._bucket.exists():
            return []
        prefix = f"channels/history/{_checked(name)}/"
        return sorted(entry.name for entry in self._bucket.objects(prefix))

    def _last_revision(self, name: str) -> int:
        """The last one in the history of a channel that isn't there: its object was removed."""
        records = self._recorded(name)
        return int(Path(records[-1]).stem) if records else 0

    def _parsed(self, place: str, body: bytes) -> ChannelPointer:
        try:
            return ChannelPointer.model_validate_json(body)
        except ValidationError as error:
            raise StoreError(
                f"{place} in bucket {self._bucket.name} isn't a channel; remove it, and "
                "set it again with `vireo release promote`"
            ) from error


def this_user() -> str:
    """Who changes a channel: VIREO_USER, or this user on this machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A container's user may have no name.
        user = str(os.getuid())
    return os.environ.get("VIREO_USER") or f"{user}@{socket.gethostname()}"


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
