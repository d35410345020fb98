"""Channels in S3: which release each names, changed by compare-and-swap, with a history.

A channel is one small object that holds the whole record of its latest change. Every record is
also kept, under its revision, in an append-only history. The history is written after the
channel; if a process ends in between, the next change writes what is missing first.
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
from typing import Annotated, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vireo.server.releases.bucket import (
    PARALLEL,
    Bucket,
    ChannelChangedError,
    NotInStoreError,
    StoreError,
)
from vireo.server.releases.manifest import (
    CHANNEL_NAME,
    Label,
    ReleaseId,
    Revision,
    Sha256,
    Time,
    first_problem,
    parse_json,
    shown,
)

log = structlog.get_logger()

CANARY = "canary"
"""The channel that gets a share of the viewers."""
HISTORY = "channels/history/"
MAX_FINDINGS = 16
MAX_FINDING = 4000
"""Characters."""
MAX_BEST_FIGURES = 8
"""Sets of held-out watches whose best figures a channel keeps."""

Action = Literal["promote", "rollback", "share"]


class BestFigures(BaseModel):
    """The best figures that a channel's releases have reached on the same held-out watches."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    held_out: Sha256
    """Fingerprint of these watches."""
    figures: dict[Label, float] = Field(max_length=64)
    """Figure by measure of the gate."""


class ChannelPointer(BaseModel):
    """One change of a channel, and therefore what it names from then on.

    Fields that this build doesn't know are ignored: it may be an older one, in a rollback.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    release_id: ReleaseId
    updated_at: Time
    updated_by: str = Field(max_length=256)
    reason: str = Field(default="", max_length=16_000)
    """The reason, as given by whoever made the change."""
    revision: Revision = 0
    """Grows by one with each change."""
    share: float = Field(default=0.0, ge=0, le=1)
    """Share of the viewers who get this release; for the canary channel only."""
    action: Action = "promote"
    previous: ReleaseId | None = None
    """The release named before; None for the first change."""
    returns_to: Revision | None = None
    """Revision that a rollback from here returns to; None if there is no good one."""
    forced: bool = False
    """Whether the gate's refusal was overridden."""
    findings: tuple[Annotated[str, Field(max_length=MAX_FINDING)], ...] = Field(
        default=(), max_length=MAX_FINDINGS
    )
    """The gate's objections, if they were overridden."""
    best_figures: tuple[BestFigures, ...] = Field(default=(), max_length=MAX_BEST_FIGURES)
    """Figures that the next release is compared with besides this one's, latest measured first."""

    @staticmethod
    def parse(body: bytes, source: str) -> ChannelPointer:
        """Return what a channel's object, or a record of the history, holds.

        Raises:
            StoreError: it is neither; the message names `source` and the fix.
        """
        fix = "isn't a channel; remove it, and set it again with `vireo release promote`"
        if source.startswith(HISTORY):
            fix = (
                "isn't a record of a channel's change; remove it: the channel keeps what it names, "
                "but no rollback goes back to that change or beyond it"
            )
        try:
            return ChannelPointer.model_validate(parse_json(body))
        except ValidationError as error:
            raise StoreError(f"{source} {fix} ({first_problem(error)})") from error
        except ValueError as error:
            raise StoreError(f"{source} {fix} ({shown(str(error))})") from error

    def body(self) -> bytes:
        """Return it as it is stored."""
        return self.model_dump_json(indent=2).encode()


@dataclass(frozen=True)
class Channel:
    """A channel as it was read; pass it to `ReleaseStore.change_channel` to change it."""

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
        place = _object(name)
        found = self._bucket.get(place)
        if found is None:
            return None
        body, etag = found
        return Channel(name, self._parsed(body, place), etag)

    def all(self) -> dict[str, Channel]:
        """Return every channel by name; other objects beside them are ignored."""
        if not self._bucket.exists():
            return {}
        paths = [Path(entry.name) for entry in self._bucket.objects("channels/")]
        names = [path.stem for path in paths if path.suffix == ".json"]
        found = {name: self.read(name) for name in names if re.fullmatch(CHANNEL_NAME, name)}
        return {name: channel for name, channel in found.items() if channel is not None}

    def set(
        self, name: str, change: Change, expected: Channel | None, confirm: Callable[[], None]
    ) -> ChannelPointer:
        """Change a channel unless it has changed since it was read; return what it holds now.

        Args:
            name: the channel.
            change: what it is to hold.
            expected: the channel as `read` returned it; None if it was never set.
            confirm: called once the channel is written, see `ReleaseStore.change_channel`; if it
                raises NotInStoreError, the channel is set back.

        Raises:
            StoreError: a text is too long.
            ChannelChangedError: the channel isn't as expected; read it and decide again.
            StoreUnavailableError: S3 fails, and the channel isn't known to have changed.
        """
        pointer = self._next(name, change, expected)
        if expected is not None:
            self._record(name, expected.pointer)
        etag = self._bucket.swap(_object(name), pointer.body(), expected.etag if expected else None)
        if etag is None:
            raise ChannelChangedError(
                f"channel {name} was changed by somebody else in the meantime; "
                f"look at it with `vireo release history --channel {name}`, and decide again"
            )
        try:
            confirm()
            self._record(name, pointer)
        except NotInStoreError:
            if expected is None:
                self._bucket.remove_if(_object(name), etag)
            else:
                self._bucket.swap(_object(name), expected.pointer.body(), etag)
            raise
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

    def _record(self, name: str, pointer: ChannelPointer) -> None:
        """Add a change to the history; keep the record if there is one."""
        self._bucket.swap(_history_object(name, pointer.revision), pointer.body(), None)

    def _record_at(self, place: str) -> ChannelPointer | None:
        found = self._bucket.get(place)
        return None if found is None else self._parsed(found[0], place)

    def _recorded(self, name: str) -> list[str]:
        """Return the objects of a channel's history, oldest first."""
        names = (entry.name for entry in self._bucket.objects(f"{HISTORY}{_checked(name)}/"))
        return sorted(name for name in names if re.fullmatch(r"\d{8}\.json", Path(name).name))

    def _last_revision(self, name: str) -> int:
        """Return the last revision in the history of a channel whose object was removed."""
        records = self._recorded(name)
        return int(Path(records[-1]).stem) if records else 0

    def _parsed(self, body: bytes, place: str) -> ChannelPointer:
        return ChannelPointer.parse(body, f"{place} in bucket {self._bucket.name}")


def this_user() -> str:
    """Return who changes a channel: VIREO_USER, or this user on this machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A container's user may have no name.
        user = str(os.getuid())
    return os.environ.get("VIREO_USER") or f"{user}@{socket.gethostname()}"


def _object(name: str) -> str:
    return f"channels/{_checked(name)}.json"


def _history_object(name: str, revision: int) -> str:
    return f"{HISTORY}{_checked(name)}/{revision:08d}.json"


def _checked(name: str) -> str:
    if not re.fullmatch(CHANNEL_NAME, name):
        raise StoreError(
            f"{name!r} can't be a channel; use lower-case letters, digits, dashes and underscores"
        )
    return name
