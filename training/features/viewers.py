"""Viewers' features from the split watches: as they are now, and as they were at past requests.

Rows of the views hold what is known now, as the online store does. What was known at a past time
follows from the watches themselves: a viewer's are sorted by time, so those of then are the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView

from vireo.server.arrays import Int64Array
from vireo.server.features.activity import (
    HIDDEN_LIMIT,
    HISTORY_LIMIT,
    SHOWN_LIMIT,
    SHOWN_SECONDS,
    WATCHED_LIMIT,
)
from vireo.server.features.keys import video_keys
from vireo.server.features.viewer import ViewerFeatures
from vireo.training.data.context import contexts_of
from vireo.training.data.schema import HIDE_EVENTS, TIME
from vireo.training.data.split import micros
from vireo.training.features.definitions import (
    viewer_activity,
    viewer_hidden,
    viewer_profile,
    viewer_shown,
    write_view,
)
from vireo.training.features.watches import load_past

_MICROS = 1_000_000
_NEVER = np.iinfo(np.int64).max


class PastViewers:
    """A feature folder's viewers at any time in the past; test watches are never known."""

    def __init__(self, repo: Path) -> None:
        """Read the watches, some 30 bytes each, and the profiles.

        Raises:
            VireoError: the watches can't be read.
        """
        watches = load_past(repo)
        self._offsets, names = _spans(watches["viewer_id"])
        self._viewers = pd.Index(names)
        self._keys, self._times = _keys(watches["video_id"]), micros(watches["time"])
        liked = micros(watches["liked_time"])
        self._liked = np.where(liked < 0, _NEVER, liked)
        self._seconds = self._times // _MICROS
        profiles = pq.read_table(repo / f"{viewer_profile.name}.parquet").to_pandas()
        self._attributes = dict(zip(profiles["viewer_id"], profiles["attributes"], strict=True))

    def before(self, watches: pd.DataFrame) -> list[ViewerFeatures]:
        """Return viewers as known just before a watch, `asked_at` its time, in row order.

        `watches` has `viewer_id` str and `time` datetime64[us, UTC], and columns of the context if
        it is known. An unknown viewer gets the default.
        """
        names, times = watches["viewer_id"], micros(watches["time"])
        numbers = self._viewers.get_indexer(pd.Index(names))
        each = zip(names, numbers.tolist(), times.tolist(), contexts_of(watches), strict=True)
        return [
            ViewerFeatures(
                **self._activity(number, time - 1),
                attributes=tuple(self._attributes.get(name, ())),
                asked_at=time // _MICROS,
                context=context,
            )
            for name, number, time, context in each
        ]

    def _activity(self, viewer: int, until: int) -> dict[str, Any]:
        """Return what a viewer had watched at a time, Unix microseconds; views of the columns."""
        if viewer < 0:
            return {}
        begin, end = self._offsets[viewer : viewer + 2].tolist()
        end = begin + int(self._times[begin:end].searchsorted(until, "right"))
        history = slice(max(begin, end - HISTORY_LIMIT), end)
        return {
            "history_keys": self._keys[history],
            "history_times": self._seconds[history],
            "watched_keys": self._keys[max(begin, end - WATCHED_LIMIT) : end],
            "watch_count": end - begin,
            "like_count": int((self._liked[begin:end] <= until).sum()),
        }


def write_viewer_profile(viewers: pd.DataFrame, since: datetime, folder: Path) -> None:
    """Write one row per viewer, valid from `since` on; profiles have no time of their own."""
    columns = viewers["viewer_id"], [since] * len(viewers), viewers["attributes"]
    write_view(folder, viewer_profile, *columns)


def write_viewer_activity(watches: pd.DataFrame, folder: Path) -> None:
    """Write one row per viewer, valid from the last watch or like on.

    `watches` is the output of `split_watches`, without the test part.
    """
    offsets, viewers = _spans(watches["viewer_id"])
    times, liked_times = micros(watches["time"]), micros(watches["liked_time"])
    liked = liked_times >= 0
    history, watched = (_last(offsets, limit) for limit in (HISTORY_LIMIT, WATCHED_LIMIT))
    write_view(
        folder,
        viewer_activity,
        pa.array(viewers, pa.string()),
        pa.array(np.maximum.reduceat(np.maximum(times, liked_times), offsets[:-1]), TIME),
        pa.ListArray.from_arrays(history[0], pa.array(times[history[1]] // _MICROS)),
        *(
            pa.ListArray.from_arrays(watched[0], pa.array(column[watched[1]]))
            for column in (_keys(watches["video_id"]), times, liked)
        ),
        pa.array(np.diff(offsets)),
        pa.array(np.add.reduceat(liked.astype(np.int64), offsets[:-1])),
    )


def write_viewer_hidden(interactions: pd.DataFrame, folder: Path) -> None:
    """Write one row for each viewer who has hidden a video, valid from the last hide on.

    A video counts from the first time that it was hidden; the last HIDDEN_LIMIT are kept.
    """
    hides = interactions[interactions["event"].isin(HIDE_EVENTS).to_numpy()]
    _write_pairs(viewer_hidden, hides, ["viewer", "key"], HIDDEN_LIMIT, folder)


def write_viewer_shown(interactions: pd.DataFrame, folder: Path) -> None:
    """Write one row for each viewer who was shown a video, valid from the last impression on.

    A video counts once for each minute; the last SHOWN_LIMIT are kept.
    """
    shown = interactions[(interactions["event"] == "impression").to_numpy()]
    once = ["viewer", "key", "seconds"]
    _write_pairs(viewer_shown, shown, once, SHOWN_LIMIT, folder, step=SHOWN_SECONDS)


def _write_pairs(
    view: FeatureView,
    events: pd.DataFrame,
    once: Sequence[str],
    limit: int,
    folder: Path,
    step: int = 1,
) -> None:
    """Write the last keys and times of each viewer, in the order of (time, key).

    Times are multiples of `step` seconds. Of pairs with the same `once`, some of "viewer", "key"
    and "seconds", the first counts.
    """
    seconds = micros(events["timestamp"]) // _MICROS // step * step
    viewer, viewers = pd.factorize(events["viewer_id"])
    keys = _keys(events["video_id"])
    by_time = np.lexsort((keys, seconds, viewer))
    pairs = pd.DataFrame({"viewer": viewer, "key": keys, "seconds": seconds}).take(by_time)
    first = by_time[~pairs.duplicated(once).to_numpy()]
    offsets = np.searchsorted(viewer[first], np.arange(len(viewers) + 1)).astype(np.int64)
    ends, kept = _last(offsets, limit)
    last = np.zeros(len(viewers), np.int64)
    np.maximum.at(last, viewer, seconds)
    write_view(
        folder,
        view,
        pa.array(list(viewers), pa.string()),
        pa.array((last + 1) * _MICROS, TIME),
        pa.ListArray.from_arrays(ends, pa.array(keys[first[kept]])),
        pa.ListArray.from_arrays(ends, pa.array(seconds[first[kept]])),
    )


def _spans(viewers: pd.Series) -> tuple[Int64Array, npt.NDArray[np.object_]]:
    """Return the offsets of each viewer's rows, int64[v + 1], and the viewers' ids.

    `viewers` are categories in runs of equal ones.
    """
    codes = viewers.cat.codes.to_numpy()
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]][: len(codes)])
    return np.append(starts, len(codes)), np.asarray(viewers.iloc[starts], object)


def _keys(videos: pd.Series) -> Int64Array:
    """Return the key of each video; `videos` are ids, or categories of them."""
    numbers, ids = pd.factorize(videos)
    return video_keys(list(ids)).take(numbers) if len(ids) else np.empty(0, np.int64)


def _last(offsets: Int64Array, limit: int) -> tuple[pa.Array, Int64Array]:
    """Return list offsets, and the indices of each viewer's last `limit` rows."""
    lengths = np.minimum(np.diff(offsets), limit)
    ends = np.cumsum(np.r_[0, lengths])
    places = np.repeat(offsets[1:] - ends[1:], lengths) + np.arange(ends[-1])
    return pa.array(ends.astype(np.int32)), places
