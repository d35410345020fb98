"""A viewer's row is a fold over the log: a row and some events give the next row.

A watch is the first play or like of a viewer and video that the viewer doesn't hide, before or
after; bounces are no plays. So a row follows from each video's first watch time and whether it was
liked, from the first time of each hide and follow, and from the minutes in which each video was
shown. Those are minimums and a set: events in any order, repeated, and split over any number of
calls give the same row, which is the one that `vireo.training.features` builds from all of them.

That holds for the last WATCHED_LIMIT watched and HIDDEN_LIMIT hidden videos of a viewer, and for
the last impressions and follows within their limits. Of watched videos before, only the number of
watches and likes is known: an event of such a video counts as a new watch if it is newer than all
that are remembered, else it changes nothing.

Watches at the same microsecond are in the order of their videos' keys; imported data keeps the
order of its file, by moving such watches apart (`vireo.training.data.split`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter

import numpy as np

from vireo.server.features.activity import (
    FOLLOWED_LIMIT,
    HIDDEN_LIMIT,
    SHOWN_LIMIT,
    SHOWN_SECONDS,
    WATCHED_LIMIT,
    EventRules,
)
from vireo.server.features.keys import video_key
from vireo.server.features.viewer_rows import (
    ACTIVITY,
    FOLLOWED,
    HIDDEN,
    SHOWN,
    Change,
    ViewerRow,
)
from vireo.v1 import event_pb2

_PLAY, _FINISH = event_pb2.EVENT_KIND_PLAY, event_pb2.EVENT_KIND_FINISH
_LIKE = event_pb2.EVENT_KIND_LIKE
_HIDES = (event_pb2.EVENT_KIND_HIDE, event_pb2.EVENT_KIND_NOT_INTERESTED)
_IMPRESSION, _FOLLOW = event_pb2.EVENT_KIND_IMPRESSION, event_pb2.EVENT_KIND_FOLLOW
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
    shown: set[tuple[int, int]] = field(default_factory=set)
    """Impressions: Unix seconds at which a minute began, and video key."""
    followed: dict[int, int] = field(default_factory=dict)
    """First time of a follow by the creator's key, Unix seconds."""
    locale: str = ""
    """The viewer's locale, by the last event that has one."""

    def add(self, event: event_pb2.Event, rules: EventRules) -> None:
        """Add an event; raise UnfitEventError if it is none that a gateway records."""
        kind = event.kind
        subject = event.creator if kind == _FOLLOW else event.video_id
        if not (event.viewer_id and subject and event.HasField("time")):
            named = "creator" if kind == _FOLLOW else "video"
            raise UnfitEventError(f"an event without a viewer, a {named} or a time")
        if not (0 <= event.time.seconds < _MAX_SECONDS and 0 <= event.time.nanos < 10**9):
            raise UnfitEventError("an event whose time isn't between the years 1970 and 9999")
        key, seconds = video_key(subject), event.time.seconds
        if kind == _IMPRESSION:
            self.shown.add((seconds - seconds % SHOWN_SECONDS, key))
            return
        if kind in _HIDES or kind == _FOLLOW:
            times = self.followed if kind == _FOLLOW else self.hides
            times[key] = min(seconds, times.get(key, seconds))
            return
        if kind not in (_PLAY, _FINISH, _LIKE):
            raise UnfitEventError(f"an event of the unknown kind {kind}")
        # Fraction and seconds that were watched, NaN if unknown.
        known = np.array([1.0 if kind == _FINISH else np.nan, np.nan], np.float32)
        if kind == _PLAY:
            if event.HasField("watched_fraction"):
                known[0] = event.watched_fraction
            if event.HasField("watched_seconds"):
                known[1] = event.watched_seconds
            if rules.bounce.among(known[:1], known[1:])[0]:
                return
        micros = seconds * _MICROS + event.time.nanos // 1000
        liked = kind == _LIKE or known[0] >= rules.liked_fraction
        self.watches[key] = min(micros, self.watches.get(key, micros))
        if liked:
            self.likes[key] = min(micros, self.likes.get(key, micros))
        self.locale = event.locale or self.locale

    @property
    def views(self) -> tuple[str, ...]:
        """The views of a row on which they depend: all that they may change."""
        both = bool(self.watches or self.hides)
        changed = {ACTIVITY: both, HIDDEN: both, SHOWN: self.shown, FOLLOWED: self.followed}
        return tuple(view for view, some in changed.items() if some)


def fold(row: ViewerRow, events: ViewerEvents) -> Change:
    """Return the row after some events; the given one, with their views at least, isn't changed."""
    gone = row.watched.keys() & events.hides.keys()
    known = {key: at for key, at in row.watched.items() if key not in gone} if gone else row.watched
    wanted = {
        key: at
        for key, at in events.watches.items()
        if key not in events.hides and key not in row.hides
    }
    forgotten = row.watches > len(row.watched)  # they may be among the events
    watched = _first_times(known, wanted, complete=not forgotten)
    liked = row.liked - gone
    newly_liked = [key for key in events.likes if key in watched and key not in liked]
    new = [key for key in wanted if key in watched and key not in known]
    hides = _first_times(row.hides, events.hides, complete=len(row.hides) < HIDDEN_LIMIT)
    complete = len(row.followed) < FOLLOWED_LIMIT
    followed = _first_times(row.followed, events.followed, complete=complete)
    return Change(
        ViewerRow(
            _last(watched, WATCHED_LIMIT),
            liked.union(newly_liked),
            row.watches - len(gone) + len(new),
            row.likes - len(gone & row.liked) + len(newly_liked),
            _last(hides, HIDDEN_LIMIT),
            _shown(row.shown, events.shown),
            _last(followed, FOLLOWED_LIMIT),
        ),
        new,
        newly_liked,
        [view for view in events.views if view != HIDDEN or events.hides],
    )


def _first_times(
    known: dict[int, int], events: dict[int, int], *, complete: bool
) -> dict[int, int]:
    """Return the first time of each video by its key, in the order of (time, key).

    Unless all are known, an event of another video counts only if it is newer than the oldest.
    """
    if not events:
        return known
    oldest = next(((at, key) for key, at in known.items()), None) if not complete else None
    newest = next(((at, key) for key, at in reversed(known.items())), (0, 0))
    first, ordered = dict(known), True
    for at, key in sorted((at, key) for key, at in events.items()):
        if key in first:
            ordered &= at >= first[key]
            first[key] = min(at, first[key])
        elif oldest is None or (at, key) > oldest:
            ordered &= not known or (at, key) > newest
            first[key] = at
    return first if ordered else dict(sorted(first.items(), key=itemgetter(1, 0)))


def _shown(
    known: tuple[Sequence[int], Sequence[int]], events: set[tuple[int, int]]
) -> tuple[Sequence[int], Sequence[int]]:
    """Return the last of known impressions and others."""
    if not events:
        return known
    (keys, times), new = known, sorted(events)
    if times and new[0] <= (times[-1], keys[-1]):
        keys, times, new = (), (), sorted(events.union(zip(times, keys, strict=True)))
    return (
        (*keys, *[key for _, key in new])[-SHOWN_LIMIT:],
        (*times, *[at for at, _ in new])[-SHOWN_LIMIT:],
    )


def _last(times: dict[int, int], limit: int) -> dict[int, int]:
    return times if len(times) <= limit else dict(islice(times.items(), len(times) - limit, None))
