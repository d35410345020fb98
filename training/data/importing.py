"""Import of a user's own interactions, videos and viewers as a data set."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from vireo.server.arrays import Float32Array, Int32Array, Int64Array
from vireo.server.errors import VireoError
from vireo.server.features.activity import USUAL_BOUNCE, Bounce
from vireo.server.features.context import COLUMNS as CONTEXT_COLUMNS
from vireo.server.features.model_inputs import ATTRIBUTE_LIMIT
from vireo.server.home import Home
from vireo.training.data.columns import (
    ATTRIBUTE_BYTES,
    ID_BYTES,
    Column,
    IdColumn,
    event_times,
    labels,
    longer,
    numbers,
    published_times,
    read_columns,
    tags,
    texts,
)
from vireo.training.data.context import is_time_zone
from vireo.training.data.dataset import (
    DatasetInfo,
    LogPositions,
    check_name_is_free,
    write_dataset,
)
from vireo.training.data.files import FilePart, Problems, present, read_parts
from vireo.training.data.interactions import (
    MAX_GAP,
    Interactions,
    Names,
    Texts,
    check_size,
    check_years,
    far_from_others,
    in_order,
    rescaled,
)
from vireo.training.data.schema import (
    EVENTS,
    MAX_RATING,
    VIDEOS,
    VIEWERS,
    AttributeColumn,
    attribute_column,
    attribute_fields,
    check_attributes,
)


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
    files = _Files(Problems(), Counter(), datetime.now(UTC))
    videos, every_id = files.videos(request.videos, request.attributes)
    profiles = files.viewers(request.viewers)
    names = Names()
    # A bad video row is reported once, not again for each of its interactions.
    names.videos.add(videos["video_id"] if request.skip_bad_rows else every_id)
    found = files.interactions(request.interactions, names)
    if files.problems.total and not request.skip_bad_rows:
        raise files.problems.error()
    ratings = rescaled(found.rating, request.rating_scale)
    notes = files.notes
    if ratings is not found.rating:
        notes[f"ratings converted to a scale up to {MAX_RATING:g}"] = int((ratings > 0).sum())
    found = replace(found, rating=ratings).with_bounces(request.bounce, _durations(videos, names))
    order = in_order(found, notes)
    check_size(found, videos.num_rows)
    last = min(int(found.time.max()) / 1e6, files.now.timestamp())
    return write_dataset(
        home,
        request.name,
        f"imported from {', '.join(path.name for path in request.files)}",
        videos=[videos],
        viewers=_all_viewers(profiles, found.viewer[order], names),
        interactions=found.tables(order, names),
        problems=notes,
        log_positions=positions(last) if positions else None,
        attributes={each.name: each.kind for each in request.attributes},
        context=names.known_context,
        bounce=request.bounce,
    )


def _durations(videos: pa.Table, names: Names) -> Float32Array:
    """Return the seconds of each video by its number, NaN if unknown, float32[n]."""
    seconds = videos["duration"].fill_null(math.nan).to_numpy()
    durations = np.full(len(names.videos.numbers), np.nan, np.float32)
    durations[names.videos.find(videos["video_id"])] = np.where(seconds > 0, seconds, np.nan)
    return durations


def _all_viewers(profiles: pa.Table, seen: Int32Array, names: Names) -> pa.Table:
    """Return the viewers of the viewers file, then those that only interactions name."""
    active = names.viewers.array().take(pa.array(pd.unique(seen)))
    others = active.filter(pc.invert(pc.is_in(active, value_set=profiles["viewer_id"])))
    rest = pa.table({"viewer_id": others, "attributes": [[]] * len(others)}, schema=VIEWERS)
    return pa.concat_tables([profiles, rest])


@dataclass(frozen=True)
class _Files:
    """Reads a user's files.

    Its methods raise VireoError if a file can't be read, or a column is missing or unusable.
    """

    problems: Problems
    """Collects bad rows."""
    notes: Counter[str]
    """Counts what is repaired or dropped."""
    now: datetime

    def videos(
        self, path: Path, attributes: Sequence[AttributeColumn]
    ) -> tuple[pa.Table, pa.ChunkedArray]:
        """Return the good rows of a videos file, with its attributes, and the id of every row."""
        ids = IdColumn()
        columns = {
            "video_id": Column(ids.read, required=True),
            "title": Column(texts, required=True),
            "tags": Column(tags),
            "published": Column(partial(published_times, now=self.now)),
            "duration": Column(partial(numbers, low=0)),
            "creator": Column(partial(texts, max_bytes=ID_BYTES)),
            **{
                attribute_column(each.name): Column(partial(_values, attribute=each), each.column)
                for each in attributes
            },
        }
        fields = attribute_fields({each.name: each.kind for each in attributes})
        rows = _Rows("video_id", pa.schema([*VIDEOS, *fields]))
        every: list[Any] = []
        for part, values in read_columns(path, columns, self.problems, self.notes, "videos"):
            every += values["video_id"].chunks
            self.notes["videos without a title, named by their id"] += values["title"].null_count
            rows.add(part, values | {"title": pc.coalesce(values["title"], values["video_id"])})
        ids.close()
        good = rows.distinct(path.name, self.problems, self.notes)
        return good, pa.chunked_array(every, pa.string())

    def viewers(self, path: Path | None) -> pa.Table:
        """Return the good rows of a viewers file; an empty table without a file."""
        if path is None:
            return VIEWERS.empty_table()
        ids, rows = IdColumn(), _Rows("viewer_id", VIEWERS)
        for part in read_parts(path, self.problems):
            part.require("viewer_id")
            names = [name for name in part.columns if name != "viewer_id"]
            if len(names) > ATTRIBUTE_LIMIT:
                raise VireoError(
                    f"{part.name} has {len(names)} attributes and at most {ATTRIBUTE_LIMIT} are "
                    "read; remove the columns that predict least what someone watches"
                )
            columns = [_attribute(part, name).to_pylist() for name in names]
            attributes = [
                [value for value in values if value is not None]
                for values in (zip(*columns, strict=True) if columns else [()] * len(part.rows))
            ]
            rows.add(part, {"viewer_id": ids.read(part, "viewer_id"), "attributes": attributes})
        ids.close()
        return rows.distinct(path.name, self.problems, self.notes)

    def interactions(self, path: Path, names: Names) -> Interactions:
        """Return the good rows of an interactions file in file order, of the videos of `names`."""
        viewers, videos = IdColumn(), IdColumn()
        columns = {
            "viewer_id": Column(viewers.read, required=True),
            "video_id": Column(partial(_videos, ids=videos, known=names.videos), required=True),
            "timestamp": Column(partial(event_times, now=self.now), required=True),
            "event": Column(_events),
            "watched_fraction": Column(partial(numbers, low=0, high=1)),
            "rating": Column(numbers),
            **dict.fromkeys(CONTEXT_COLUMNS, Column(_context)),
        }
        parts: list[Interactions] = []
        for part, values in read_columns(path, columns, self.problems, self.notes, "interactions"):
            good = ~part.bad
            kept = {name: each.filter(pa.array(good)) for name, each in values.items()}
            context = [
                own.add(kept[name])
                for name, own in zip(CONTEXT_COLUMNS, names.context, strict=True)
            ]
            parts.append(
                Interactions(
                    viewer=names.viewers.add(kept["viewer_id"]),
                    video=np.asarray(kept["video_id"], np.int32),
                    event=np.asarray(kept["event"], np.int8),
                    time=np.asarray(kept["timestamp"].cast(pa.int64()), np.int64),
                    row=part.rows[good],
                    watched_fraction=kept["watched_fraction"].fill_null(math.nan).to_numpy(),
                    rating=kept["rating"].fill_null(math.nan).to_numpy(),
                    context=np.stack(context, 1),
                )
            )
            self.notes["bad interactions left out"] += part.bad_count
        viewers.close()
        videos.close()
        found = Interactions.joined(parts)
        parts.clear()
        check_years(path.name, found.time, self.now)
        far = far_from_others(found.time)
        self.problems.add(
            path.name,
            "timestamp",
            found.row,
            far,
            lambda position: (
                f"{datetime.fromtimestamp(found.time[position] // 10**6, UTC):%Y-%m-%dT%H:%M:%SZ} "
                f"is over {MAX_GAP.days // 365} years away from all but a few other events"
            ),
            "write the time of the event, or leave the row out",
        )
        self.notes["bad interactions left out"] += int(far.sum())
        return found.take(~far) if far.any() else found


def _values(part: FilePart, column: str, attribute: AttributeColumn) -> Any:
    """Return a declared attribute of each video; raise VireoError if its column is missing."""
    if column not in part.columns:
        raise VireoError(
            f"{part.name} has no column {column} for the attribute {attribute.name}; it "
            f"has {', '.join(part.columns)}: declare it as {attribute.name}=COLUMN"
        )
    if attribute.kind == "labels":
        return labels(part, column)
    return numbers(part, column, kind=np.float64)


def _attribute(part: FilePart, name: str) -> Any:
    """Return a column of attributes as "name=value", null if there is none."""
    values = pc.binary_join_element_wise(pa.scalar(name), texts(part, name), "=")
    what = f"{name}=value is over {ATTRIBUTE_BYTES} bytes long"
    part.mark(name, longer(values, ATTRIBUTE_BYTES), what, "shorten the value")
    return values


def _videos(part: FilePart, column: str, ids: IdColumn, known: Texts) -> Any:
    """Return the number of each video's id among the known ones, -1 if unknown."""
    places = known.find(ids.read(part, column))
    part.mark(
        column,
        (places < 0) & present(part.columns[column]),
        "video {} is not in the videos file",
        "add the video there or leave the row out",
    )
    return pa.array(places)


def _events(part: FilePart, column: str) -> Any:
    """Return the index in EVENTS of each interaction's kind; a missing kind is a play."""
    events = texts(part, column).fill_null("play")
    places = pc.index_in(events, value_set=pa.array(EVENTS))
    part.mark(
        column,
        np.asarray(places.is_null().to_numpy(zero_copy_only=False), np.bool_),
        "{} is not a kind of event",
        f"write one of {', '.join(EVENTS)}, or leave it empty for play",
    )
    return places


def _context(part: FilePart, column: str) -> Any:
    """Return a column of the context as text, null if missing; mark rows with a bad time zone."""
    found = texts(part, column)
    if column == "time_zone":
        zones = pc.unique(found.drop_null()).to_pylist()
        wrong = pa.array([zone for zone in zones if not is_time_zone(zone)], pa.string())
        bad = pc.is_in(found, value_set=wrong)
        remedy = "write an IANA name or an offset like +02:00, or leave it empty"
        bad = np.asarray(bad.to_numpy(zero_copy_only=False), np.bool_)
        part.mark(column, bad, "{} is not a time zone", remedy)
    return found


class _Rows:
    """Collects the good rows of a file part by part, and counts the bad ones."""

    def __init__(self, key: str, schema: pa.Schema) -> None:
        self._key = key
        self._schema = schema
        self._parts: list[pa.Table] = []
        self._numbers: list[Int64Array] = []
        self._bad = 0

    def add(self, part: FilePart, columns: dict[str, Any]) -> None:
        """Add the good rows of a part."""
        self._parts.append(pa.table(columns, schema=self._schema).filter(pa.array(~part.bad)))
        self._numbers.append(part.rows[~part.bad])
        self._bad += part.bad_count

    def distinct(self, file: str, problems: Problems, notes: Counter[str]) -> pa.Table:
        """Return each id once: duplicate rows are dropped, conflicting rows are bad."""
        table, rows = pa.concat_tables(self._parts), np.concatenate(self._numbers)
        kind = self._key.removesuffix("_id") + "s"
        ids = table[self._key].to_pandas()
        shared = np.flatnonzero(ids.duplicated(keep=False))
        contents = pd.DataFrame({"id": ids.iloc[shared], "row": _hashes(table.take(shared))})
        again, differs = np.zeros(len(ids), np.bool_), np.zeros(len(ids), np.bool_)
        again[shared] = contents.duplicated()
        differs[shared] = contents["id"].duplicated()
        differs &= ~again
        problems.add(
            file,
            self._key,
            rows,
            differs,
            lambda position: f"{ids[position]!r} was described before, otherwise",
            f"keep one row for each of the {kind}",
        )
        notes[f"{kind} given twice, dropped"] = int(again.sum())
        notes[f"bad {kind} left out"] = self._bad + int(differs.sum())
        return table.filter(pa.array(~(differs | again)))


def _hashes(table: pa.Table) -> list[int]:
    """Return a hash of each row; equal rows have equal hashes."""
    rows = (row for batch in table.to_batches(10_000) for row in batch.to_pylist())
    return [hash(str(row)) for row in rows]
