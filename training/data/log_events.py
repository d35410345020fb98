"""The log's events in columns, as a data set's interactions."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import xxhash
from google.protobuf.message import DecodeError

from vireo.server.arrays import BoolArray, Int64Array
from vireo.server.event_log.log import Entry
from vireo.server.features.activity import Bounce
from vireo.server.features.context import COLUMNS
from vireo.server.features.keys import video_keys
from vireo.training.data import schema
from vireo.training.data.context import ContextTexts
from vireo.training.data.interactions import Interactions
from vireo.v1 import event_pb2, log_pb2

UNREADABLE = "messages of the log that can't be read left out"
_MAX_AHEAD_SECONDS = 600
"""Seconds by which an event's time may be ahead of when it is recorded, as gateways allow."""
_EVER = int(np.iinfo(np.int64).max)
_KINDS = {
    event_pb2.EVENT_KIND_PLAY: "play",
    event_pb2.EVENT_KIND_FINISH: "play",
    event_pb2.EVENT_KIND_LIKE: "like",
    event_pb2.EVENT_KIND_HIDE: "hide",
    event_pb2.EVENT_KIND_NOT_INTERESTED: "hide",
    event_pb2.EVENT_KIND_IMPRESSION: "impression",
}


@dataclass
class Ids:
    """Numbers ids by first appearance."""

    places: dict[str, int] = field(default_factory=dict)

    def place(self, name: str) -> int:
        """Return the number of an id."""
        return self.places.setdefault(name, len(self.places))

    def array(self) -> pa.Array:
        """Return the ids by their numbers."""
        return pa.array(list(self.places), pa.string())


@dataclass
class LogEvents:
    """Events in columns, each once by its viewer and id."""

    viewers: Ids
    videos: Ids
    contexts: ContextTexts = field(default_factory=ContextTexts)
    notes: Counter[str] = field(default_factory=Counter)
    ids: array[int] = field(default_factory=lambda: array("Q"))
    """128 bits for each event: two numbers."""
    viewer: array[int] = field(default_factory=lambda: array("i"))
    video: array[int] = field(default_factory=lambda: array("i"))
    kind: array[int] = field(default_factory=lambda: array("b"))
    time: array[int] = field(default_factory=lambda: array("q"))
    fraction: array[float] = field(default_factory=lambda: array("f"))
    seconds: array[float] = field(default_factory=lambda: array("f"))
    context: array[int] = field(default_factory=lambda: array("h"))
    """Places in `contexts`, those of each event one after another."""
    erased: dict[str, tuple[int, int]] = field(default_factory=dict)
    """For each viewer who was erased the number of events that were added before, and the time up
    to which the base's interactions are erased, Unix microseconds."""

    def add(self, entry: Entry, *, after_base: bool = False) -> None:
        """Add the events of a message of stream EVENTS.

        `after_base` says that whatever the base has came before it.
        """
        try:
            recorded = log_pb2.RecordedEvents.FromString(entry.data)
        except DecodeError:
            self.notes[UNREADABLE] += 1
            return
        for viewer in recorded.erased:
            until = (recorded.received_at.seconds + _MAX_AHEAD_SECONDS) * 1_000_000
            self.erased[viewer] = (len(self.viewer), _EVER if after_base else until)
        for event in recorded.events:
            self._add(event)

    def _add(self, event: event_pb2.Event) -> None:
        kind = _KINDS.get(event.kind)
        if kind is None:
            self.notes["follows and events of unknown kinds left out"] += 1
            return
        if not (event.viewer_id and event.video_id and event.HasField("time")):
            self.notes["events without a viewer, video or time left out"] += 1
            return
        viewer = self.viewers.place(event.viewer_id)
        # Of fixed size first: no two pairs have the same bytes.
        pair = viewer.to_bytes(8, "little") + event.event_id.encode()
        self.ids.frombytes(xxhash.xxh3_128_digest(pair))
        self.viewer.append(viewer)
        self.video.append(self.videos.place(event.video_id))
        self.kind.append(schema.EVENTS.index(kind))
        for number, name in enumerate(COLUMNS):
            self.context.append(self.contexts.place(number, getattr(event, name)))
        self.time.append(event.time.seconds * 1_000_000 + event.time.nanos // 1000)
        if event.kind == event_pb2.EVENT_KIND_FINISH:
            self.fraction.append(1.0)
        else:
            known = event.HasField("watched_fraction")
            self.fraction.append(event.watched_fraction if known else np.nan)
        played = event.kind == event_pb2.EVENT_KIND_PLAY and event.HasField("watched_seconds")
        self.seconds.append(event.watched_seconds if played else np.nan)

    def counting(self) -> BoolArray:
        """Return which events count: those of no viewer who was erased later, bool[n]."""
        begins = np.zeros(len(self.viewers.places) + 1, np.int64)
        for name, (before, _) in self.erased.items():
            begins[self.viewers.places.get(name, -1)] = before
        return np.arange(len(self.viewer)) >= begins[np.array(self.viewer, np.int32)]

    def interactions(
        self, durations: Mapping[str, float], known: Interactions, bounce: Bounce
    ) -> Interactions:
        """Return the events as interactions, sorted by time, then by video key.

        The consumer of events has watches of one moment in the same order.

        Args:
            durations: lengths of videos in seconds, by id: what a play of some seconds is a
                fraction of.
            known: those of the base. Events that are in it alike are dropped: it has no event ids.
            bounce: which plays are bounces.
        """
        counting = np.flatnonzero(self.counting())
        self.notes["events of viewers who were erased left out"] += len(self.viewer) - len(counting)
        once = counting[self._first_of_each(counting)]
        self.notes["events sent again dropped"] += len(counting) - len(once)
        video, time = np.array(self.video, np.int32)[once], np.array(self.time, np.int64)[once]
        keys = video_keys(list(self.videos.places))
        order = once[np.lexsort((keys[video], time))] if len(once) else once
        fraction = np.array(self.fraction, np.float32)
        # NaN where the length or the seconds are unknown.
        lengths = np.array([durations.get(name, np.nan) for name in self.videos.places], np.float32)
        seconds = np.array(self.seconds, np.float32)
        played = seconds / lengths[np.array(self.video, np.int32)]
        fraction = np.where(np.isnan(fraction), np.minimum(played, 1), fraction)
        first_row = int(known.row.max()) + 1 if len(known) else 1
        found = Interactions(
            viewer=np.array(self.viewer, np.int32)[order],
            video=np.array(self.video, np.int32)[order],
            event=np.array(self.kind, np.int8)[order],
            time=np.array(self.time, np.int64)[order],
            row=np.arange(first_row, first_row + len(order), dtype=np.int64),
            watched_fraction=fraction[order],
            rating=np.full(len(order), np.nan, np.float32),
            context=np.array(self.context, np.int16).reshape(-1, len(COLUMNS))[order],
        )
        found = found.with_bounces(bounce, lengths, seconds[order])
        new = ~_among(found, known)
        self.notes["events that the base has dropped"] += len(found) - int(new.sum())
        return found.take(new)

    def _first_of_each(self, among: Int64Array) -> Int64Array:
        """Return where each event appears first among some, int64[n], as places there, int64[m]."""
        ids = np.array(self.ids, np.uint64).reshape(-1, 2)[among]
        order = np.lexsort(ids.T)  # stable
        differ = np.ones(len(order), np.bool_)
        differ[1:] = (ids[order[1:]] != ids[order[:-1]]).any(axis=1)
        return np.asarray(order[differ], np.int64)


def _among(found: Interactions, known: Interactions) -> BoolArray:
    """Return of which interactions the same is known, bool[n]."""
    # A fraction may have changed with the video's duration, but not to that of a finish.
    names = ["viewer", "video", "event", "time", "finished"]
    recent = known.take(known.time >= found.time.min(initial=np.iinfo(np.int64).max))
    one, other = (
        pd.DataFrame({name: getattr(each, name) for name in names[:-1]}).assign(
            finished=each.watched_fraction == 1
        )
        for each in (found, recent)
    )
    merged = one.merge(other.drop_duplicates(), how="left", on=names, indicator=True)
    return np.asarray(merged["_merge"] == "both", np.bool_)
