"""What the consumer of events goes on from: viewers' hides, its position, and the rule of likes.

`server.consumer.fold` brings viewers' rows up to date with events as they come; the rows that a
build writes are those that all of the data set's interactions, sent as events, would lead to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from server.arrays import Int64Array
from server.event_log.position import Position
from server.features.activity import HIDDEN_LIMIT, EventRules
from server.features.keys import video_keys
from training.data.schema import HIDE_EVENTS, TIME
from training.data.split import liked_fraction
from training.features.definitions import consumer_position, file_schema, viewer_hidden

_MICROS = 1_000_000
_EPOCH = 0


def write_event_rules(interactions: pd.DataFrame, folder: Path) -> None:
    """Write by which rule events count in these features, for the consumer."""
    EventRules(liked_fraction=liked_fraction(interactions)).write(folder)


def write_viewer_hidden(interactions: pd.DataFrame, path: Path) -> None:
    """Write one row for each viewer who has hidden a video, valid from the last hide on.

    A video counts from the first time that it was hidden; the last HIDDEN_LIMIT are kept.
    """
    hides = interactions[interactions["event"].isin(HIDE_EVENTS).to_numpy()]
    viewer, viewers = pd.factorize(hides["viewer_id"])
    video, videos = pd.factorize(hides["video_id"])
    seconds = hides["timestamp"].to_numpy("datetime64[s]").astype(np.int64)
    keys = video_keys(list(videos))[video] if len(videos) else np.zeros(0, np.int64)
    by_time = np.lexsort((keys, seconds, viewer))
    pairs = pd.DataFrame({"viewer": viewer[by_time], "key": keys[by_time]})
    first = by_time[~pairs.duplicated().to_numpy()]
    # Of each viewer's, the last HIDDEN_LIMIT.
    later = _counted_from_the_end(viewer[first], len(viewers))
    kept = first[later < HIDDEN_LIMIT]
    counts = np.bincount(viewer[kept], minlength=len(viewers))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    last = np.zeros(len(viewers), np.int64)
    np.maximum.at(last, viewer, seconds)
    columns = [
        pa.array(list(viewers), pa.string()),
        pa.array((last + 1) * _MICROS, TIME),
        pa.ListArray.from_arrays(offsets, pa.array(keys[kept])),
        pa.ListArray.from_arrays(offsets, pa.array(seconds[kept])),
    ]
    table = pa.Table.from_arrays(columns, schema=file_schema(viewer_hidden))
    pq.write_table(table, path, compression="zstd")


def _counted_from_the_end(groups: Int64Array, count: int) -> Int64Array:
    """Return how many later places each place's group has, int64[n]; `groups` is sorted."""
    ends = np.cumsum(np.bincount(groups, minlength=count))
    return np.asarray(ends[groups] - 1 - np.arange(len(groups)), np.int64)


def write_consumer_position(positions: Mapping[int, Position], path: Path) -> None:
    """Write up to where in the log each partition's events are in the data set."""
    columns = [
        pa.array([str(partition) for partition in positions], pa.string()),
        pa.array([_EPOCH] * len(positions), TIME),
        pa.array([str(each) for each in positions.values()], pa.string()),
    ]
    schema = file_schema(consumer_position)
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), path, compression="zstd")
