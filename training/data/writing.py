"""Writer of data sets: part by part, so that all interactions are never in memory at once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from server.errors import VireoError
from server.features.keys import KeyCollisionError, unique_video_keys
from server.home import Home
from training.data.attributes import attribute_fields
from training.data.context import context_fields
from training.data.dataset import DESCRIPTION, DatasetInfo, LogPositions, describe_dataset
from training.data.folder import replaced_folder
from training.data.schema import INTERACTIONS, VIDEOS, VIEWERS, AttributeKind

_TABLES = ("interactions", "videos", "viewers")


@dataclass(frozen=True)
class Tables:
    """A data set's three tables in memory; schemas as in `training.data.schema`."""

    interactions: pa.Table
    videos: pa.Table
    viewers: pa.Table
    attributes: Mapping[str, AttributeKind] = field(default_factory=dict)
    """Kind of each declared attribute of the videos."""


class DatasetWriter:
    """Writes a data set's tables in parts; each part becomes a row group of its file."""

    def __init__(
        self,
        folder: Path,
        files: ExitStack,
        attributes: Mapping[str, AttributeKind],
        context: Sequence[str],
    ) -> None:
        """Open the three files in `folder`; `files` closes them.

        `attributes` are the kinds of the videos' declared attributes, `context` the columns of the
        interactions' context.
        """
        self.folder = folder
        self._attributes = dict(attributes)
        columns = [*VIDEOS, *attribute_fields(attributes)]
        self._schemas = {
            "interactions": pa.schema([*INTERACTIONS, *context_fields(context)]),
            "videos": pa.schema(columns),
            "viewers": VIEWERS,
        }
        self._files = {
            name: files.enter_context(
                pq.ParquetWriter(folder / f"{name}.parquet", schema, compression="zstd")
            )
            for name, schema in self._schemas.items()
        }
        self._rows: Counter[str] = Counter()
        self._events: Counter[str] = Counter()
        self._first: datetime | None = None
        self._last: datetime | None = None
        self._video_ids: list[str] = []

    def add_videos(self, part: pa.Table) -> None:
        """Append videos, in catalogue order; what a part lacks is unknown."""
        schema = self._schemas["videos"]
        for column in schema:
            if column.name not in part.column_names:
                part = part.append_column(column, pa.nulls(part.num_rows, column.type))
        self._video_ids += part["video_id"].to_pylist()
        self._add("videos", part.select(schema.names))

    def add_viewers(self, part: pa.Table) -> None:
        """Append viewers."""
        self._add("viewers", part)

    def add_interactions(self, part: pa.Table) -> None:
        """Append interactions, no earlier than the previous ones."""
        for entry in part["event"].value_counts().to_pylist():
            self._events[entry["values"]] += entry["counts"]
        if part.num_rows:
            span = pc.min_max(part["timestamp"]).as_py()
            self._first = min(span["min"], self._first or span["min"])
            self._last = max(span["max"], self._last or span["max"])
        self._add("interactions", part)

    def _add(self, name: str, part: pa.Table) -> None:
        self._files[name].write_table(part.cast(self._schemas[name]))
        self._rows[name] += part.num_rows

    def check(self) -> None:
        """Raise VireoError if two video ids share a key or there are no interactions."""
        try:
            unique_video_keys(self._video_ids)
        except KeyCollisionError as error:
            raise VireoError(str(error)) from error
        if self._first is None:
            raise VireoError("a data set needs at least one interaction")

    def described(self, **known: Any) -> DatasetInfo:
        """Return the description of what was written; call it after the files are closed."""
        assert self._first is not None
        assert self._last is not None
        return DatasetInfo(
            **known,
            interactions=self._rows["interactions"],
            videos=self._rows["videos"],
            viewers=self._rows["viewers"],
            events=dict(self._events),
            first=self._first,
            last=self._last,
            fingerprint=tables_fingerprint(self.folder),
            attributes=self._attributes,
        )


def tables_fingerprint(folder: Path) -> str:
    """Return the SHA-256 of a data set's tables: see `DatasetInfo.fingerprint`."""
    digest = hashlib.sha256()
    for name in _TABLES:
        with (folder / f"{name}.parquet").open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@contextmanager
def dataset_writer(
    home: Home,
    name: str,
    source: str,
    terms: str = "",
    problems: Mapping[str, int] | None = None,
    log_positions: LogPositions | None = None,
    attributes: Mapping[str, AttributeKind] | None = None,
    context: Sequence[str] = (),
) -> Iterator[DatasetWriter]:
    """Yield a writer whose data set atomically replaces any earlier one of that name.

    Args:
        home: where to write the data set.
        name: the data set's name.
        source: where the data comes from, in words.
        terms: licence or terms of use.
        problems: what was repaired or dropped, and how often.
        log_positions: up to where it has what is in the log.
        attributes: kind of each declared attribute of the videos.
        context: columns of the interactions' context.

    Raises:
        VireoError: the name is invalid, writing fails, or see `DatasetWriter.check`.
    """
    with replaced_folder(home.data(name), private=True) as folder:
        with ExitStack() as files:
            writer = DatasetWriter(folder, files, attributes or {}, context)
            yield writer
            writer.check()
        mended = {what: count for what, count in (problems or {}).items() if count}
        info = writer.described(
            name=name,
            source=source,
            terms=terms,
            problems=mended,
            log_positions=log_positions or LogPositions(),
        )
        (folder / DESCRIPTION).write_text(info.model_dump_json(indent=2) + "\n")


def write_dataset(
    home: Home, name: str, tables: Tables, source: str, terms: str, problems: Mapping[str, int]
) -> DatasetInfo:
    """Write a data set from memory; arguments and errors are as for `dataset_writer`."""
    attributes = tables.attributes
    with dataset_writer(home, name, source, terms, problems, attributes=attributes) as writer:
        writer.add_videos(tables.videos)
        writer.add_viewers(tables.viewers)
        writer.add_interactions(tables.interactions)
    return describe_dataset(home, name)
