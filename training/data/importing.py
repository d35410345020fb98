"""A user's own interactions, videos and viewers, checked and written as a data set."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from server.errors import VireoError
from server.features.tower_inputs import ATTRIBUTE_LIMIT
from server.home import Home
from training.data.columns import ATTRIBUTE_BYTES, Checked, ids, numbers, tags, texts, times
from training.data.dataset import DatasetInfo
from training.data.files import present, read_user_file
from training.data.problems import Int64Array, Problems
from training.data.schema import EVENTS, INTERACTIONS, VIDEOS, VIEWERS, WATCH_EVENTS
from training.data.split import FEWEST_WATCHES
from training.data.writing import Tables, write_dataset

FEWEST_VIDEOS = 2
"""With fewer there is nothing to choose from."""
_VIDEO_COLUMNS = ("video_id", "title", "tags", "published", "duration")
_INTERACTION_COLUMNS = (
    "viewer_id",
    "video_id",
    "timestamp",
    "event",
    "watched_fraction",
    "rating",
)


@dataclass(frozen=True)
class ImportRequest:
    """What to import, and how."""

    name: str
    interactions: Path
    videos: Path
    viewers: Path | None = None
    skip_bad_rows: bool = False
    """Leave bad rows out and count them, instead of refusing the files."""
    force: bool = False
    """Replace a data set of that name."""


def import_dataset(home: Home, request: ImportRequest) -> DatasetInfo:
    """Checks and imports a user's files.

    Raises:
        BadRowsError: there are bad rows, and they aren't to be skipped.
        VireoError: a file can't be read, a column is missing or wrong as a whole, there is too
            little data to train on, or the disk refuses.
    """
    if home.data(request.name).exists() and not request.force:
        raise VireoError(
            f"there is a data set {request.name} already; pass --force to replace it, "
            "or --name to choose another name"
        )
    problems, notes = Problems(), Counter[str]()
    videos, all_videos = _read_videos(request.videos, problems, notes)
    profiles = _read_viewers(request.viewers, problems, notes)
    known = videos["video_id"] if request.skip_bad_rows else all_videos
    interactions = _read_interactions(request.interactions, known, problems, notes)
    if problems.total and not request.skip_bad_rows:
        raise problems.error()
    interactions = _ordered(interactions, notes)
    _check_size(interactions, videos)
    tables = Tables(interactions, videos, _all_viewers(profiles, interactions))
    files = [request.interactions, request.videos, *([request.viewers] if request.viewers else [])]
    source = f"imported from {', '.join(path.name for path in files)}"
    return write_dataset(home, request.name, tables, source, "", notes)


def _read_videos(path: Path, problems: Problems, notes: Counter[str]) -> tuple[pa.Table, Any]:
    """The good videos, and the ids of all."""
    file = read_user_file(path, problems)
    file.require("video_id", "title")
    _note_ignored(file.columns, _VIDEO_COLUMNS, "videos", notes)
    checked = Checked.of(file, problems)
    video_ids = ids(checked, "video_id")
    titles = texts(checked, "title")
    published = (
        times(checked, "published", required=False)
        if "published" in file.columns
        else pa.nulls(len(file.rows), VIDEOS.field("published").type)
    )
    table = pa.table(
        {
            "video_id": video_ids,
            "title": [
                video_id if title is None else title
                for title, video_id in zip(titles, video_ids.to_pylist(), strict=True)
            ],
            "tags": tags(checked, "tags"),
            "published": published,
            "duration": numbers(checked, "duration", 0, math.inf),
        },
        schema=VIDEOS,
    )
    table = _distinct(table, checked, "video_id", notes)
    notes["videos without a title, named by their id"] = titles.count(None)
    return table, video_ids


def _read_viewers(path: Path | None, problems: Problems, notes: Counter[str]) -> pa.Table:
    """The good viewers of the viewers file, where there is one."""
    if path is None:
        return VIEWERS.empty_table()
    file = read_user_file(path, problems)
    file.require("viewer_id")
    names = [name for name in file.columns if name != "viewer_id"]
    if len(names) > ATTRIBUTE_LIMIT:
        raise VireoError(
            f"{file.name} has {len(names)} attributes and at most {ATTRIBUTE_LIMIT} are read; "
            "leave out the columns that say least about what someone watches"
        )
    checked = Checked.of(file, problems)
    viewer_ids = ids(checked, "viewer_id")
    attributes: list[list[str]] = [[] for _ in file.rows]
    for name in names:
        values = [None if value is None else f"{name}={value}" for value in texts(checked, name)]
        sizes = np.array([len(value.encode()) if value else 0 for value in values], np.int64)
        checked.mark(
            name,
            sizes > ATTRIBUTE_BYTES,
            lambda _, name=name: f"{name}=value is over {ATTRIBUTE_BYTES} bytes long",
            "shorten the value",
        )
        for mine, value in zip(attributes, values, strict=True):
            if value is not None:
                mine.append(value)
    table = pa.table({"viewer_id": viewer_ids, "attributes": attributes}, schema=VIEWERS)
    return _distinct(table, checked, "viewer_id", notes)


def _read_interactions(
    path: Path, known_videos: Any, problems: Problems, notes: Counter[str]
) -> pa.Table:
    """The good interactions, in the order of the file."""
    file = read_user_file(path, problems)
    file.require("viewer_id", "video_id", "timestamp")
    _note_ignored(file.columns, _INTERACTION_COLUMNS, "interactions", notes)
    checked = Checked.of(file, problems)
    viewer_ids, video_ids = ids(checked, "viewer_id"), ids(checked, "video_id")
    unknown = ~pc.is_in(video_ids, value_set=pc.unique(known_videos)).to_numpy()
    checked.mark(
        "video_id",
        unknown & present(video_ids),
        lambda position: f"video {checked.shown('video_id', position)} is not in the videos file",
        "add the video there or leave the row out",
    )
    table = pa.table(
        {
            "viewer_id": viewer_ids,
            "video_id": video_ids,
            "timestamp": times(checked, "timestamp", required=True),
            "row": file.rows,
            "event": _events(checked),
            "watched_fraction": numbers(checked, "watched_fraction", 0, 1),
            "rating": numbers(checked, "rating", -math.inf, math.inf),
            "held_out": np.zeros(len(file.rows), np.bool_),
        }
    )
    notes["bad interactions left out"] = int(checked.bad.sum()) + file.uneven
    return table.filter(pa.array(~checked.bad)).cast(INTERACTIONS)


def _events(checked: Checked) -> Any:
    """The kind of each interaction; one that isn't given is a play."""
    if "event" not in checked.file.columns:
        return pa.array(np.full(len(checked.file.rows), "play"))
    events = ["play" if event is None else event for event in texts(checked, "event")]
    checked.mark(
        "event",
        ~np.isin(np.array(events, object), EVENTS),
        lambda position: f"{checked.shown('event', position)} is no kind of event",
        f"write one of {', '.join(EVENTS)}, or leave it empty for play",
    )
    return pa.array(events, pa.string())


def _note_ignored(
    columns: dict[str, Any], read: tuple[str, ...], file: str, notes: Counter[str]
) -> None:
    ignored = [name for name in columns if name not in read]
    if ignored:
        notes[f"columns of {file} ignored: {', '.join(ignored)}"] = len(ignored)


def _distinct(table: pa.Table, checked: Checked, key: str, notes: Counter[str]) -> pa.Table:
    """The good rows, each id once: a row that repeats another is dropped and counted."""
    kind = key.removesuffix("_id") + "s"
    good = np.flatnonzero(~checked.bad)
    contents = pd.Series([str(row) for row in table.take(pa.array(good)).to_pylist()])
    again = np.zeros(table.num_rows, np.bool_)
    again[good] = contents.duplicated()
    differs = np.zeros(table.num_rows, np.bool_)
    differs[good] = table[key].take(pa.array(good)).to_pandas().duplicated()
    checked.mark(
        key,
        differs & ~again,
        lambda position: f"{checked.shown(key, position)} was described before, otherwise",
        f"keep one row for each of the {kind}",
    )
    notes[f"{kind} given twice, dropped"] = int(again.sum())
    notes[f"bad {kind} left out"] = int(checked.bad.sum()) + checked.file.uneven
    return table.filter(pa.array(~(checked.bad | again)))


def _ordered(interactions: pa.Table, notes: Counter[str]) -> pa.Table:
    """Interactions by (timestamp, row), without those that repeat another exactly."""
    columns = ("viewer_id", "video_id", "event")
    codes: dict[str, Int64Array] = {name: _codes(interactions[name]) for name in columns}
    codes["timestamp"] = interactions["timestamp"].cast(pa.int64()).to_numpy()
    frame = pd.DataFrame(codes)
    fresh = ~frame.duplicated().to_numpy()
    notes["repeated interactions dropped"] = int((~fresh).sum())
    stamps = codes["timestamp"][fresh]
    notes["interactions earlier than the row before, sorted"] = int((np.diff(stamps) < 0).sum())
    order = np.flatnonzero(fresh)[np.argsort(stamps, kind="stable")]
    return interactions.take(pa.array(order))


def _codes(column: Any) -> Int64Array:
    """A number for each value of a text column, equal where the values are, int64[n]."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices.to_numpy(), np.int64)


def _check_size(interactions: pa.Table, videos: pa.Table) -> None:
    """Raises VireoError where there is too little to train on."""
    if videos.num_rows < FEWEST_VIDEOS:
        raise VireoError(
            f"there are {videos.num_rows} videos, too few to recommend from; "
            f"import at least {FEWEST_VIDEOS}"
        )
    watched = interactions.filter(pc.is_in(interactions["event"], pa.array(WATCH_EVENTS)))
    pairs = watched.select(["viewer_id", "video_id"]).to_pandas().drop_duplicates()
    most = int(pairs["viewer_id"].value_counts().max()) if len(pairs) else 0
    if most < FEWEST_WATCHES:
        raise VireoError(
            f"no viewer watched more than {most} videos, too few to train on; at least one needs "
            f"{FEWEST_WATCHES} (events play or like)"
        )


def _all_viewers(profiles: pa.Table, interactions: pa.Table) -> pa.Table:
    """The viewers of the viewers file, then those that only interactions name."""
    seen = pc.unique(interactions["viewer_id"])
    others = seen.filter(pc.invert(pc.is_in(seen, value_set=profiles["viewer_id"])))
    rest = pa.table({"viewer_id": others, "attributes": [[]] * len(others)}, schema=VIEWERS)
    return pa.concat_tables([profiles, rest])
