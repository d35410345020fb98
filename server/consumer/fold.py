"""A viewer's row is a fold over the log: a row and some events give the next row.

A watch is the first play or like of a viewer and video that the viewer doesn't hide, before or
after; bounces are no plays. So a row follows from each video's first watch time and whether it was
liked, and from each hidden video's first hide time. Those are minimums: events in any order,
repeated, and split over any number of calls give the same row, which is the one that
`vireo.training.features` builds from all of them.

That holds for the last WATCHED_LIMIT watched and HIDDEN_LIMIT hidden videos of a viewer. Of those
before, only the number of watches and likes is known: an event of such a video counts as a new
watch if it is newer than all that are remembered, else it changes nothing.

Watches at the same microsecond are in the order of their videos' keys; imported data keeps the
order of its file, by moving such watches apart (`vireo.training.data.split`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from vireo.server.arrays import BoolArray, Int64Array
from vireo.server.features.activity import HIDDEN_LIMIT, WATCHED_LIMIT, EventRules
from vireo.server.features.keys import video_key
from vireo.server.features.viewer_rows import Change, ViewerRow
from vireo.v1 import event_pb2

_PLAY, _FINISH = event_pb2.EVENT_KIND_PLAY, event_pb2.EVENT_KIND_FINISH
_LIKE = event_pb2.EVENT_KIND_LIKE
_HIDES = (event_pb2.EVENT_KIND_HIDE, event_pb2.EVENT_KIND_NOT_INTERESTED)
_WITHOUT_ROWS = (event_pb2.EVENT_KIND_IMPRESSION, event_pb2.EVENT_KIND_FOLLOW)
_MICROS = 1_000_000
_MAX_SECONDS = 253_402_300_800
"""Unix seconds of the year 10000, where timestamps end; their microseconds fit into a row."""


class UnfitEventError(ValueError):
    """An event can't be applied; the message says why."""


@dataclass(slots=True)
class ViewerEvents:
    """What some events of one viewer come to."""

    watches: dict[int, int] = field(default_factory=dict)
    """First time of a play or like by video key, Unix microseconds."""
    likes: dict[int, int] = field(default_factory=dict)
    """First time of a like by video key, Unix microseconds."""
    hides: dict[int, int] = field(default_factory=dict)
    """First time of a hide by video key, Unix seconds."""
    locale: str = ""
    """The viewer's locale, by the last event that has one."""

    def add(self, event: event_pb2.Event, rules: EventRules) -> None:
        """Add an event; raise UnfitEventError if it is none that a gateway records."""
        kind = event.kind
        if kind in _WITHOUT_ROWS:
            return
        if not event.video_id or not event.HasField("time"):
            raise UnfitEventError("an event without a video or without a time")
        if not (0 <= event.time.seconds < _MAX_SECONDS and 0 <= event.time.nanos < 10**9):
            raise UnfitEventError("an event whose time isn't between the years 1970 and 9999")
        key, micros = video_key(event.video_id), micros_of(event)
        if kind in _HIDES:
            seconds = micros // _MICROS
            self.hides[key] = min(seconds, self.hides.get(key, seconds))
            return
        if kind == _PLAY:
            if is_bounce(event, rules):
                return
            liked = event.HasField("watched_fraction") and enough(event.watched_fraction, rules)
        elif kind == _FINISH:
            liked = enough(1.0, rules)
        elif kind == _LIKE:
            liked = True
        else:
            raise UnfitEventError(f"an event of the unknown kind {kind}")
        self.watches[key] = min(micros, self.watches.get(key, micros))
        if liked:
            self.likes[key] = min(micros, self.likes.get(key, micros))
        self.locale = event.locale or self.locale


def micros_of(event: event_pb2.Event) -> int:
    """Return an event's time, Unix microseconds."""
    return event.time.seconds * _MICROS + event.time.nanos // 1000


def enough(fraction: float, rules: EventRules) -> bool:
    """Return whether a play of this fraction is a like."""
    return rules.liked_fraction is not None and bool(np.float32(fraction) >= rules.liked_fraction)


def is_bounce(event: event_pb2.Event, rules: EventRules) -> bool:
    """Return whether a play ended so early that it is no watch."""
    fraction = event.watched_fraction if event.HasField("watched_fraction") else np.nan
    seconds = event.watched_seconds if event.HasField("watched_seconds") else np.nan
    known = np.array([[fraction], [seconds]], np.float32)
    return bool(rules.bounce.among(*known)[0])


def fold(row: ViewerRow, events: ViewerEvents) -> Change:
    """Return the row after some events; the given one isn't changed."""
    before, hidden = row, _with_hides(row, events.hides)
    row = _without(row, events.hides)
    watches = {
        key: time
        for key, time in events.watches.items()
        if key not in events.hides and not (row.hidden_keys == key).any()
    }
    keys, times, liked, watched, newly_liked = _with_watches(row, watches, events.likes)
    activity_changed = (
        keys is not before.keys or times is not before.times or liked is not before.liked
    )
    return Change(
        ViewerRow(
            keys[-WATCHED_LIMIT:],
            times[-WATCHED_LIMIT:],
            liked[-WATCHED_LIMIT:],
            row.watches + len(watched),
            row.likes + len(newly_liked),
            *hidden,
        ),
        tuple(watched),
        tuple(newly_liked),
        activity_changed,
        hidden[0] is not row.hidden_keys or hidden[1] is not row.hidden_times,
    )


def _without(row: ViewerRow, hides: Mapping[int, int]) -> ViewerRow:
    """Return the row without the watches of hidden videos."""
    if not hides or not (gone := np.isin(row.keys, list(hides))).any():
        return row
    return replace(
        row,
        keys=row.keys[~gone],
        times=row.times[~gone],
        liked=row.liked[~gone],
        watches=row.watches - int(gone.sum()),
        likes=row.likes - int(row.liked[gone].sum()),
    )


def _with_watches(
    row: ViewerRow, watches: Mapping[int, int], likes: Mapping[int, int]
) -> tuple[Int64Array, Int64Array, BoolArray, list[int], list[int]]:
    """Return keys, times and likes of the row with some watches, and the keys that are new."""
    keys, times, liked = row.keys, row.times, row.liked
    found, new = _found(keys, watches)
    earlier = [place for place, time in found if time < times[place]]
    if earlier:
        times = times.copy()
        for place, time in found:
            times[place] = min(time, int(times[place]))
    if row.watches > len(keys) and len(keys):  # some aren't remembered: they may be among the new
        oldest = (int(row.times[0]), int(row.keys[0]))
        new = [each for each in new if each > oldest]
    places = {int(keys[place]): place for place, _ in found}
    newly_liked = [key for key in likes if key in places and not liked[places[key]]]
    if newly_liked:
        liked = liked.copy()
        liked[[places[key] for key in newly_liked]] = True
    if new:
        added = [key for _, key in new]
        keys = np.concatenate([keys, np.array(added, np.int64)])
        times = np.concatenate([times, np.array([time for time, _ in new], np.int64)])
        liked_now = [key in likes for key in added]
        liked = np.concatenate([liked, np.array(liked_now, np.bool_)])
        newly_liked += [key for key, known in zip(added, liked_now, strict=True) if known]
    if earlier or (new and len(row.keys) and new[0] < (int(row.times[-1]), int(row.keys[-1]))):
        order = np.lexsort((keys, times))
        keys, times, liked = keys[order], times[order], liked[order]
    return keys, times, liked, [key for _, key in new], newly_liked


def _with_hides(row: ViewerRow, hides: Mapping[int, int]) -> tuple[Int64Array, Int64Array]:
    """Return keys and times of the row's hidden videos with some hides."""
    keys, times = row.hidden_keys, row.hidden_times
    found, new = _found(keys, hides)
    if len(keys) >= HIDDEN_LIMIT:
        new = [each for each in new if each > (int(times[0]), int(keys[0]))]
    if not new and all(time >= times[place] for place, time in found):
        return keys, times
    times = times.copy()
    for place, time in found:
        times[place] = min(time, int(times[place]))
    keys = np.concatenate([keys, np.array([key for _, key in new], np.int64)])
    times = np.concatenate([times, np.array([time for time, _ in new], np.int64)])
    order = np.lexsort((keys, times))[-HIDDEN_LIMIT:]
    return keys[order], times[order]


def _found(
    keys: Int64Array, events: Mapping[int, int]
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return (place, time) of the events whose key is among the keys, and (time, key) of others."""
    found, new = list[tuple[int, int]](), list[tuple[int, int]]()
    for key, time in events.items():
        places = (keys == key).nonzero()[0]
        if len(places):
            found.append((int(places[0]), time))
        else:
            new.append((time, key))
    new.sort()
    return found, new
