"""The store of viewers' rows: the only door to Feast's online store.

Rows are stored as Feast's own SQLite and Redis stores have them, so that its tools read them, too.
Here a viewer's views are read at once, and written together with the consumer's position: Feast's
stores do one view at a time, and know no transaction.

A partition's rows change only together with its position, from the one that was read before to the
next. So of two consumers of a partition one alone can write, and rows never have events that the
position doesn't.
"""

from __future__ import annotations

import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from vireo.server.errors import NoAnswerError
from vireo.server.event_log.log import Position
from vireo.server.features.viewer_rows import (
    POSITION,
    SERVED,
    STATE,
    Change,
    Stored,
    UnfitRowError,
    ViewerRow,
    Views,
    features_of,
    position_of,
    position_values,
    row_of,
    values_of,
)
from vireo.v1.viewer_pb2 import ViewerFeatures

BUILD_MARK = "_B"
"""In a project, after its series; nothing else in a project is upper-case."""
_STRING = 2
"""Feast's number of the type of a text."""
VIEWERS_AT_A_TIME = 500
"""Viewers whose rows are read at a time; bounds the memory."""


class StoreAwayError(NoAnswerError):
    """The online store can't be read or written now; the same may be tried again."""


class PositionMovedError(Exception):
    """The store has another position: of another consumer, or from before it lost something."""


class RebuiltError(Exception):
    """The features were built again: these rows aren't read any more."""


class Put(NamedTuple):
    """Features of one entity and view to store."""

    key: bytes
    view: str
    values: Mapping[str, bytes]
    at: float
    """When they changed, Unix seconds."""


class Guard(NamedTuple):
    """What must be so for a transaction: the position that a partition has."""

    key: bytes
    position: Position

    def check(self, stored: Stored) -> None:
        """Raise PositionMovedError if another one is stored."""
        if (found := position_of(stored.values)) != self.position:
            raise PositionMovedError(f"the online store is at {found}, not at {self.position}")


class ViewerStore(ABC):
    """The rows of one build of a data set's features. Use it from one thread.

    All methods raise StoreAwayError if the store can't be read or written now.
    """

    def __init__(self, repo: Path, project: str) -> None:
        """Name the feature folder, and the build in the store."""
        self.repo, self.project = repo, project

    @abstractmethod
    def fetch(self, keys: Sequence[bytes], views: Views) -> list[Stored]:
        """Return what is stored of entities, of some features at least."""

    @abstractmethod
    def apply(
        self, puts: Iterable[Put], deletes: Collection[bytes] = (), guard: Guard | None = None
    ) -> bool:
        """Delete viewers, then store features, all of it or nothing.

        Return whether anything was deleted; raise PositionMovedError, and with a guard
        RebuiltError if another build's rows are announced.
        """

    @abstractmethod
    async def fetch_served(self, viewer: str, seconds: float) -> Stored:
        """Return what is stored of a viewer's SERVED features, in an event loop.

        Raises:
            TimeoutError: it takes more than `seconds`.
            Exception: what the store raises if it can't be read.
        """

    @abstractmethod
    def viewers(self) -> Iterator[str]:
        """Yield viewers who have rows: all who have hidden a video or follow someone at least."""

    @abstractmethod
    def prepare(self) -> None:
        """Prepare to write; the store answers then."""

    def superseded(self) -> bool:
        """Return whether another build's rows are announced now; a file is replaced as a whole."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Close the connection to the store."""

    def read(
        self, viewers: Sequence[str], views: Iterable[str] = tuple(STATE)
    ) -> list[ViewerRow | UnfitRowError]:
        """Return some views of the viewers' rows, each as it is stored or why it can't be used."""
        rows: list[ViewerRow | UnfitRowError] = []
        wanted = {view: STATE[view] for view in views}
        for stored in self.fetch([*map(viewer_key, viewers)], wanted):
            try:
                rows.append(row_of(stored.values))
            except UnfitRowError as error:
                rows.append(error)
        return rows

    def features(self, viewer: str) -> ViewerFeatures:
        """Return the features of a viewer as a request reads them; raise UnfitRowError."""
        [stored] = self.fetch([viewer_key(viewer)], SERVED)
        return features_of(*stored)

    def kept(self) -> Iterator[tuple[str, ViewerRow]]:
        """Yield each viewer who has hidden a video or follows someone, with the row."""
        viewers = self.viewers()
        while some := [*islice(viewers, VIEWERS_AT_A_TIME)]:
            for viewer, row in zip(some, self.read(some), strict=True):
                if isinstance(row, ViewerRow) and (row.hides or row.followed):
                    yield viewer, row

    def position(self, partition: int) -> Position:
        """Return up to where the log's events are in the rows."""
        [stored] = self.fetch([entity_key("partition", str(partition))], POSITION)
        return position_of(stored.values)

    def write(self, changes: Mapping[str, Change]) -> None:
        """Store rows by viewer, whatever the log says."""
        self.apply(_puts(changes))

    def commit(
        self,
        partition: int,
        before: Position,
        after: Position,
        changes: Mapping[str, Change],
        erased: Iterable[str] = (),
    ) -> None:
        """Erase viewers, store rows, and move a partition's position, all of it or nothing.

        Raises:
            PositionMovedError: the position isn't `before`.
            RebuiltError: the rows of another build are announced.
        """
        key, [view] = entity_key("partition", str(partition)), POSITION
        puts = [*_puts(changes), Put(key, view, position_values(after), time.time())]
        self.apply(puts, [*map(viewer_key, erased)], Guard(key, before))

    def erase(self, viewers: Iterable[str]) -> bool:
        """Delete all that is stored of some viewers; return whether anything was."""
        return self.apply([], [*map(viewer_key, viewers)])


@contextmanager
def errors_as_away(kind: type[Exception]) -> Iterator[None]:
    """Raise StoreAwayError instead of a kind of errors, or of OSError."""
    try:
        yield
    except (kind, OSError) as error:
        raise StoreAwayError(f"{type(error).__name__}: {error}") from error


def _puts(changes: Mapping[str, Change]) -> Iterator[Put]:
    now = time.time()
    for viewer, change in changes.items():
        key = viewer_key(viewer)
        yield from (Put(key, view, values_of(change.row, view), now) for view in change.views)


def entity_key(name: str, value: str) -> bytes:
    """Return Feast's key of an entity, in its version 3; it ends with the value and its length."""
    key, text = name.encode(), value.encode()
    sizes = struct.pack("<III", 1, _STRING, len(key)), struct.pack("<II", _STRING, len(text))
    return b"".join([sizes[0], key, sizes[1], text])


def viewer_key(viewer: str) -> bytes:
    """Return the key of a viewer."""
    return entity_key("viewer_id", viewer)


VIEWER_PREFIX = viewer_key("")[:-4]
"""What the keys of all viewers begin with."""


def viewer_of(key: bytes) -> str:
    """Return whose key it is."""
    return key[len(VIEWER_PREFIX) + 4 :].decode()


def series_of(project: str) -> str:
    """Return what the builds of a feature folder have in common."""
    return project.partition(BUILD_MARK)[0]


def active_key(series: str) -> str:
    """Return the key in Redis that has the project of the build that is read."""
    return f"vireo:features:{series}:active"
