"""Import of a user's own interactions, videos and viewers as a data set."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from vireo.server.arrays import Float32Array, Int32Array
from vireo.server.errors import VireoError
from vireo.server.features.activity import USUAL_BOUNCE, Bounce
from vireo.server.features.context import COLUMNS as CONTEXT_COLUMNS
from vireo.server.home import Home
from vireo.training.data.attributes import AttributeColumn, check_attributes
from vireo.training.data.columns import Checked, Column, IdColumn, numbers, read_columns, texts
from vireo.training.data.context import ContextTexts, is_time_zone
from vireo.training.data.dataset import DatasetInfo, LogPositions, describe_dataset
from vireo.training.data.entities import read_videos, read_viewers
from vireo.training.data.files import present
from vireo.training.data.interactions import (
    MAX_GAP,
    Interactions,
    far_from_others,
    in_order,
    interaction_tables,
    most_watched,
    rescaled,
    viewers_in,
)
from vireo.training.data.problems import Problems
from vireo.training.data.schema import EVENTS, MAX_RATING, VIEWERS
from vireo.training.data.split import MIN_WATCHES
from vireo.training.data.times import check_years, event_times
from vireo.training.data.writing import dataset_writer

MIN_VIDEOS = 2
"""Minimum catalogue size; fewer videos leave nothing to choose from."""


def read_interactions(
    path: Path, video_ids: pa.Array, problems: Problems, notes: Counter[str], now: datetime
) -> tuple[Interactions, pa.Array, ContextTexts]:
    """Read the good rows of an interactions file in file order.

    Arguments and errors are as for `read_videos`; `video_ids` are the ids that a row may name.

    Returns:
        The interactions, the viewers' ids by index, and the texts of their context.
    """
    contexts, viewers, videos, seen = ContextTexts(), IdColumn(), IdColumn(), _Vocabulary()
    columns = {
        "viewer_id": Column(viewers.read, required=True),
        "video_id": Column(partial(_videos, ids=videos, known=video_ids), required=True),
        "timestamp": Column(partial(event_times, now=now), required=True),
        "event": Column(_events),
        "watched_fraction": Column(partial(numbers, low=0, high=1)),
        "rating": Column(numbers),
        **{
            name: Column(partial(_context, contexts=contexts, number=number))
            for number, name in enumerate(CONTEXT_COLUMNS)
        },
    }
    parts: list[Interactions] = []
    for checked, values in read_columns(path, columns, problems, notes, "interactions"):
        good = ~checked.bad
        kept = {name: each.filter(pa.array(good)) for name, each in values.items()}
        context = [np.asarray(kept[name], np.int16) for name in CONTEXT_COLUMNS]
        parts.append(
            Interactions(
                viewer=seen.places(kept["viewer_id"]),
                video=np.asarray(kept["video_id"], np.int32),
                event=np.asarray(kept["event"], np.int8),
                time=np.asarray(kept["timestamp"].cast(pa.int64()), np.int64),
                row=checked.file.rows[good],
                watched_fraction=kept["watched_fraction"].fill_null(math.nan).to_numpy(),
                rating=kept["rating"].fill_null(math.nan).to_numpy(),
                context=np.stack(context, 1),
            )
        )
        notes["bad interactions left out"] += int(checked.bad.sum()) + checked.file.uneven
    viewers.close()
    videos.close()
    found = Interactions.joined(parts)
    parts.clear()
    check_years(path.name, "timestamp", found.time, now)
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
    return (found.take(~far) if far.any() else found), seen.ids, contexts


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


def _videos(checked: Checked, column: str, ids: IdColumn, known: pa.Array) -> Any:
    """Return the index of each video's id among the known ones, null if unknown."""
    places = pc.index_in(ids.read(checked, column), value_set=known)
    checked.mark(
        column,
        np.asarray(places.is_null().to_numpy(), np.bool_) & present(checked.file.columns[column]),
        "video {} is not in the videos file",
        "add the video there or leave the row out",
    )
    return places


def _events(checked: Checked, column: str) -> Any:
    """Return the index in EVENTS of each interaction's kind; a missing kind is a play."""
    events = texts(checked, column).fill_null("play")
    places = pc.index_in(events, value_set=pa.array(EVENTS))
    checked.mark(
        column,
        np.asarray(places.is_null().to_numpy(zero_copy_only=False), np.bool_),
        "{} is not a kind of event",
        f"write one of {', '.join(EVENTS)}, or leave it empty for play",
    )
    return places


def _context(checked: Checked, column: str, contexts: ContextTexts, number: int) -> Any:
    """Return the places of a column of the context, int16[n]; mark rows with a bad time zone."""
    codes, values = pd.factorize(texts(checked, column).to_pandas())
    if column == "time_zone":
        bad = np.array([not is_time_zone(value) for value in values] + [False], np.bool_)[codes]
        remedy = "write an IANA name or an offset like +02:00, or leave it empty"
        checked.mark(column, bad, "{} is not a time zone", remedy)
    return pa.array(contexts.places(number, [*values, ""])[codes])


def _iso(micros: int) -> str:
    return f"{np.datetime64(micros, 'us').astype('datetime64[s]')}Z"


@dataclass(frozen=True)
class ImportRequest:
    """Files and options of an import."""

    name: str
    interactions: Path
    videos: Path
    viewers: Path | None = None
    skip_bad_rows: bool = False
    """Drop and count bad rows instead of refusing the files."""
    force: bool = False
    """Replace an existing data set of that name."""
    attributes: tuple[AttributeColumn, ...] = ()
    """Attributes of videos to declare."""
    bounce: Bounce = USUAL_BOUNCE
    """Which plays become bounces."""
    rating_scale: float | None = None
    """Best rating; None finds it."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files to read."""
        return (self.interactions, self.videos, *([self.viewers] if self.viewers else []))


def import_dataset(
    home: Home,
    request: ImportRequest,
    positions: Callable[[float], LogPositions] | None = None,
) -> DatasetInfo:
    """Validate and import a user's files part by part; `estimate_import` gives the memory needed.

    `positions` returns up to where in the log the files have all, of the time of their last
    interaction, Unix seconds, or of now if that is earlier.

    Raises:
        BadRowsError: there are bad rows, and `skip_bad_rows` is off.
        VireoError: attributes can't be declared, a file can't be read, a column is missing or
            unusable, there is too little data to train on, or writing fails.
    """
    check_attributes(request.attributes)
    check_name_is_free(home, request.name, force=request.force)
    problems, notes, now = Problems(), Counter[str](), datetime.now(UTC)
    videos = read_videos(request.videos, problems, notes, now, request.attributes)
    profiles = read_viewers(request.viewers, problems, notes)
    # A bad video row is reported once, not again for each of its interactions.
    known = videos.good["video_id"] if request.skip_bad_rows else videos.ids
    video_ids = pc.unique(known)
    found, viewer_ids, contexts = read_interactions(
        request.interactions, video_ids, problems, notes, now
    )
    if problems.total and not request.skip_bad_rows:
        raise problems.error()
    ratings = rescaled(found.rating, request.rating_scale)
    if ratings is not found.rating:
        notes[f"ratings converted to a scale up to {MAX_RATING:g}"] = int((ratings > 0).sum())
    lengths = _durations(videos.good, video_ids)
    found = replace(found, rating=ratings).with_bounces(request.bounce, lengths)
    order = in_order(found, notes)
    check_size(found, videos.good.num_rows)
    last = min(int(found.time.max()) / 1e6, now.timestamp())
    source = f"imported from {', '.join(path.name for path in request.files)}"
    kinds = {each.name: each.kind for each in request.attributes}
    with dataset_writer(
        home,
        request.name,
        source,
        problems=notes,
        log_positions=positions(last) if positions else None,
        attributes=kinds,
        context=contexts.known,
        bounce=request.bounce,
    ) as writer:
        writer.add_videos(videos.good)
        writer.add_viewers(_all_viewers(profiles, viewers_in(found, order, viewer_ids)))
        for part in interaction_tables(found, order, viewer_ids, video_ids, contexts):
            writer.add_interactions(part)
    return describe_dataset(home, request.name)


def _durations(videos: pa.Table, video_ids: pa.Array) -> Float32Array:
    """Return the seconds of each video, NaN if unknown, float32[n]."""
    places = pc.index_in(video_ids, value_set=videos["video_id"])
    seconds = videos["duration"].take(places).fill_null(math.nan).to_numpy()
    return np.where(seconds > 0, seconds, np.float32(np.nan))


def check_name_is_free(home: Home, name: str, *, force: bool) -> None:
    """Raise VireoError if there is a data set of that name, unless it may be replaced."""
    if home.data(name).exists() and not force:
        raise VireoError(
            f"there is a data set {name} already; pass --force to replace it, "
            "or --name to choose another name"
        )


def check_size(found: Interactions, videos: int) -> None:
    """Raise VireoError if there is too little data to train on."""
    if videos < MIN_VIDEOS:
        raise VireoError(
            f"there are {videos} videos, too few to recommend from; import at least {MIN_VIDEOS}"
        )
    most = most_watched(found)
    if most < MIN_WATCHES:
        raise VireoError(
            f"no viewer watched more than {most} videos, too few to train on; at least one needs "
            f"{MIN_WATCHES} (events play or like)"
        )


def _all_viewers(profiles: pa.Table, seen: pa.Array) -> pa.Table:
    """Return the viewers of the viewers file, then those that only interactions name."""
    others = seen.filter(pc.invert(pc.is_in(seen, value_set=profiles["viewer_id"])))
    rest = pa.table({"viewer_id": others, "attributes": [[]] * len(others)}, schema=VIEWERS)
    return pa.concat_tables([profiles, rest])
