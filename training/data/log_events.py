"""The log's events as interactions, and a data set's interactions as events."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import xxhash
from google.protobuf.message import DecodeError

from vireo.server.arrays import BoolArray, Int64Array
from vireo.server.event_log.log import Entry
from vireo.server.features.activity import Bounce
from vireo.server.features.context import COLUMNS
from vireo.server.features.keys import video_keys
from vireo.training.data import schema
from vireo.training.data.interactions import Interactions, Names
from vireo.training.data.schema import WATCH_EVENTS
from vireo.training.data.split import LIKED_RATING, split_watches
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
_SENT_AS = {
    "play": event_pb2.EVENT_KIND_PLAY,
    "like": event_pb2.EVENT_KIND_LIKE,
    "hide": event_pb2.EVENT_KIND_HIDE,
    "impression": event_pb2.EVENT_KIND_IMPRESSION,
    "bounce": event_pb2.EVENT_KIND_PLAY,
}


@dataclass
class LogEvents:
    """The log's events in columns, each once by its viewer and id."""

    names: Names
    notes: Counter[str] = field(default_factory=Counter)
    ids: array[int] = field(default_factory=lambda: array("Q"))
    """128 bits for each event: two numbers."""
    viewer: array[int] = field(default_factory=lambda: array("i"))
    video: array[int] = field(default_factory=lambda: array("i"))
    kind: array[int] = field(default_factory=lambda: array("b"))
    time: array[int] = field(default_factory=lambda: array("q"))
    fraction: array[float] = field(default_factory=lambda: array("f"))
    seconds: array[float] = field(default_factory=lambda: array("f"))
    context: array[int] = field(default_factory=lambda: array("i"))
    """Numbers of texts, those of each event one after another."""
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
        viewer = self.names.viewers.number(event.viewer_id)
        # Of fixed size first: no two pairs have the same bytes.
        pair = viewer.to_bytes(8, "little") + event.event_id.encode()
        self.ids.frombytes(xxhash.xxh3_128_digest(pair))
        self.viewer.append(viewer)
        self.video.append(self.names.videos.number(event.video_id))
        self.kind.append(schema.EVENTS.index(kind))
        for name, texts in zip(COLUMNS, self.names.context, strict=True):
            text = getattr(event, name)
            self.context.append(texts.number(text) if text else -1)
        self.time.append(event.time.seconds * 1_000_000 + event.time.nanos // 1000)
        if event.kind == event_pb2.EVENT_KIND_FINISH:
            self.fraction.append(1.0)
        else:
            known = event.HasField("watched_fraction")
            self.fraction.append(event.watched_fraction if known else np.nan)
        played = event.kind == event_pb2.EVENT_KIND_PLAY and event.HasField("watched_seconds")
        self.seconds.append(event.watched_seconds if played else np.nan)

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
        viewer, video = np.array(self.viewer, np.int32), np.array(self.video, np.int32)
        begins = np.zeros(len(self.names.viewers.numbers) + 1, np.int64)
        for name, (before, _) in self.erased.items():
            begins[self.names.viewers.numbers.get(name, -1)] = before
        counting = np.flatnonzero(np.arange(len(viewer)) >= begins[viewer])
        self.notes["events of viewers who were erased left out"] += len(viewer) - len(counting)
        ids = pd.DataFrame(np.array(self.ids, np.uint64).reshape(-1, 2)[counting])
        once = counting[~ids.duplicated().to_numpy()]
        self.notes["events sent again dropped"] += len(counting) - len(once)
        keys, times = video_keys(list(self.names.videos.numbers)), np.array(self.time, np.int64)
        order = once[np.lexsort((keys[video[once]], times[once]))] if len(once) else once
        fraction, seconds = np.array(self.fraction, np.float32), np.array(self.seconds, np.float32)
        # NaN where the length or the seconds are unknown.
        videos = self.names.videos.numbers
        lengths = np.array([durations.get(name, np.nan) for name in videos], np.float32)
        fraction = np.where(np.isnan(fraction), np.minimum(seconds / lengths[video], 1), fraction)
        first_row = int(known.row.max()) + 1 if len(known) else 1
        found = Interactions(
            viewer=viewer[order],
            video=video[order],
            event=np.array(self.kind, np.int8)[order],
            time=times[order],
            row=np.arange(first_row, first_row + len(order), dtype=np.int64),
            watched_fraction=fraction[order],
            rating=np.full(len(order), np.nan, np.float32),
            context=np.array(self.context, np.int32).reshape(-1, len(COLUMNS))[order],
        )
        found = found.with_bounces(bounce, lengths, seconds[order])
        new = ~_among(found, known)
        self.notes["events that the base has dropped"] += len(found) - int(new.sum())
        return found.take(new)


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


def interaction_events(name: str, interactions: pd.DataFrame) -> Iterator[event_pb2.Event]:
    """Yield an event for each interaction of a data set, in the order of the table.

    A rating that counts as a like becomes a like; of another one, the watched fraction is left out,
    which would say otherwise. Watches of one viewer at one moment are
    microseconds apart, as in the features that are built from the data set: else their order in the
    file would be lost.

    Args:
        name: the data set's name: event ids are `<name>:<row>`.
        interactions: rows as in `vireo.training.data.schema.INTERACTIONS`.
    """
    names = [name for name in COLUMNS if name in interactions]
    texts = interactions[names].astype(object)
    # A field that is None isn't set.
    contexts = texts.where(texts.notna(), None).to_dict("records") if names else [{}] * len(texts)
    rows = zip(
        interactions["viewer_id"],
        interactions["video_id"],
        interactions["event"],
        _times(interactions).tolist(),
        interactions["watched_fraction"].tolist(),
        interactions["rating"].tolist(),
        interactions["row"].tolist(),
        contexts,
        strict=True,
    )
    for viewer_id, video_id, kind, micros, fraction, rating, row, context in rows:
        event = event_pb2.Event(
            event_id=f"{name}:{row}",
            viewer_id=viewer_id,
            video_id=video_id,
            kind=_SENT_AS["like" if rating >= LIKED_RATING and kind == "play" else kind],
            **context,
        )
        event.time.FromMicroseconds(micros)
        unrated = rating != rating
        if unrated and fraction == fraction and event.kind == event_pb2.EVENT_KIND_PLAY:
            event.watched_fraction = fraction
        yield event


def _times(interactions: pd.DataFrame) -> Int64Array:
    """Return each interaction's time, Unix microseconds, those of watches as in `split_watches`."""
    pair = ["viewer_id", "video_id"]
    raw = interactions["timestamp"]
    watches = split_watches(interactions, "none")[[*pair, "time"]]
    firsts = (
        interactions[pair]
        .merge(watches, how="left", on=pair)["time"]
        .where(interactions["event"].isin(WATCH_EVENTS).to_numpy())
    )
    micros = (each.to_numpy("datetime64[us]").view(np.int64) for each in (raw, firsts))
    return np.maximum(*micros)  # a missing time is the minimum
