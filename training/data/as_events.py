"""A data set's interactions as the events that a site would have sent."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from vireo.server.arrays import Int64Array
from vireo.server.features.context import COLUMNS
from vireo.training.data.schema import WATCH_EVENTS
from vireo.training.data.split import LIKED_RATING, split_watches
from vireo.v1 import event_pb2

_KINDS = {
    "play": event_pb2.EVENT_KIND_PLAY,
    "like": event_pb2.EVENT_KIND_LIKE,
    "hide": event_pb2.EVENT_KIND_HIDE,
    "impression": event_pb2.EVENT_KIND_IMPRESSION,
    "bounce": event_pb2.EVENT_KIND_PLAY,
}


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
    rows = zip(
        interactions["viewer_id"],
        interactions["video_id"],
        interactions["event"],
        _times(interactions).tolist(),
        interactions["watched_fraction"].tolist(),
        interactions["rating"].tolist(),
        interactions["row"].tolist(),
        _contexts(interactions),
        strict=True,
    )
    for viewer_id, video_id, kind, micros, fraction, rating, row, context in rows:
        event = event_pb2.Event(
            event_id=f"{name}:{row}",
            viewer_id=viewer_id,
            video_id=video_id,
            kind=_KINDS["like" if rating >= LIKED_RATING and kind == "play" else kind],
            **context,
        )
        event.time.FromMicroseconds(micros)
        unrated = rating != rating
        if unrated and fraction == fraction and event.kind == event_pb2.EVENT_KIND_PLAY:
            event.watched_fraction = fraction
        yield event


def _contexts(interactions: pd.DataFrame) -> list[dict[str, str]]:
    """Return the context of each interaction that is known, by field of the event."""
    names = [name for name in COLUMNS if name in interactions]
    rows = interactions[names].astype(object).itertuples(index=False, name=None)
    return (
        [
            {name: text for name, text in zip(names, row, strict=True) if isinstance(text, str)}
            for row in rows
        ]
        if names
        else [{}] * len(interactions)
    )


def _times(interactions: pd.DataFrame) -> Int64Array:
    """Return each interaction's time, Unix microseconds, those of watches as in `split_watches`."""
    raw = interactions["timestamp"].to_numpy("datetime64[us]").astype(np.int64)
    watches = split_watches(interactions, "none")
    pairs = pd.MultiIndex.from_arrays(
        [watches["viewer_id"].astype(object), watches["video_id"].astype(object)]
    )
    firsts = pd.Series(watches["time"].to_numpy("datetime64[us]").astype(np.int64), pairs)
    asked = pd.MultiIndex.from_arrays(
        [interactions["viewer_id"].astype(object), interactions["video_id"].astype(object)]
    )
    moved = np.maximum(firsts.reindex(asked).fillna(0).to_numpy(np.int64), raw)
    watched = interactions["event"].isin(WATCH_EVENTS).to_numpy()
    return np.where(watched, moved, raw)
