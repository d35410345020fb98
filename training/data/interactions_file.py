"""Reader of a user's interactions: part by part, so that all of the text is never in memory."""

from __future__ import annotations

import math
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from server.arrays import Int32Array
from training.data.columns import Checked, IdColumn, numbers, texts
from training.data.entities import note_ignored
from training.data.files import present, read_parts
from training.data.interactions import MAX_GAP, Interactions, far_from_others
from training.data.problems import Problems
from training.data.schema import EVENTS
from training.data.times import event_times

_COLUMNS = ("viewer_id", "video_id", "timestamp", "event", "watched_fraction", "rating")


def read_interactions(
    path: Path, video_ids: pa.Array, problems: Problems, notes: Counter[str], now: datetime
) -> tuple[Interactions, pa.Array]:
    """Read the good rows of an interactions file in file order, and the viewers' ids by index.

    Arguments and errors are as for `read_videos`; `video_ids` are the ids that a row may name.
    """
    viewers, videos, seen = IdColumn("viewer_id"), IdColumn("video_id"), _Vocabulary()
    parts: list[Interactions] = []
    for file in read_parts(path, problems):
        file.require("viewer_id", "video_id", "timestamp")
        note_ignored(file, _COLUMNS, "interactions", notes)
        checked = Checked.of(file, problems)
        table = pa.table(
            {
                "viewer_id": viewers.read(checked),
                "video": _videos(checked, videos.read(checked), video_ids),
                "event": _events(checked),
                "time": event_times(checked, "timestamp", now).cast(pa.int64()),
                "row": file.rows,
                "watched_fraction": numbers(checked, "watched_fraction", 0, 1),
                "rating": numbers(checked, "rating"),
            }
        ).filter(pa.array(~checked.bad))
        parts.append(
            Interactions(
                viewer=seen.places(table["viewer_id"]),
                video=table["video"].to_numpy(),
                event=table["event"].cast(pa.int8()).to_numpy(),
                time=table["time"].to_numpy(),
                row=table["row"].to_numpy(),
                watched_fraction=table["watched_fraction"].fill_null(math.nan).to_numpy(),
                rating=table["rating"].fill_null(math.nan).to_numpy(),
            )
        )
        notes["bad interactions left out"] += int(checked.bad.sum()) + file.uneven
    viewers.close()
    videos.close()
    found = Interactions.joined(parts)
    parts.clear()
    far = far_from_others(found.time)
    problems.add(
        path.name,
        "timestamp",
        found.row,
        far,
        lambda position: (
            f"{_iso(int(found.time[position]))} is over {MAX_GAP.days // 365} years away from all "
            "but a few other events"
        ),
        "write the time of the event, or leave the row out",
    )
    notes["bad interactions left out"] += int(far.sum())
    return (found.take(~far) if far.any() else found), seen.ids


class _Vocabulary:
    """Numbers ids in order of first appearance."""

    def __init__(self) -> None:
        self.ids = pa.array([], pa.string())

    def places(self, column: Any) -> Int32Array:
        """Return each id's index in `ids`; append new ids to it."""
        new = pc.unique(column)
        new = new.filter(pc.invert(pc.is_in(new, value_set=self.ids)))
        self.ids = pa.concat_arrays([self.ids, new])
        return np.asarray(pc.index_in(column, value_set=self.ids).to_numpy(), np.int32)


def _videos(checked: Checked, column: Any, video_ids: pa.Array) -> Any:
    """Return the index of each video's id among the known ones, null if unknown."""
    places = pc.index_in(column, value_set=video_ids)
    checked.mark(
        "video_id",
        np.asarray(places.is_null().to_numpy(), np.bool_) & present(column),
        "video {} is not in the videos file",
        "add the video there or leave the row out",
    )
    return places


def _events(checked: Checked) -> Any:
    """Return the index in EVENTS of each interaction's kind; a missing kind is a play."""
    if "event" not in checked.file.columns:
        return pa.array(np.full(len(checked.file.rows), EVENTS.index("play"), np.int32))
    events = texts(checked, "event").fill_null("play")
    places = pc.index_in(events, value_set=pa.array(EVENTS))
    checked.mark(
        "event",
        np.asarray(places.is_null().to_numpy(zero_copy_only=False), np.bool_),
        "{} is not a kind of event",
        f"write one of {', '.join(EVENTS)}, or leave it empty for play",
    )
    return places


def _iso(micros: int) -> str:
    return f"{np.datetime64(micros, 'us').astype('datetime64[s]')}Z"
