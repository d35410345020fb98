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

from vireo.server.errors import VireoError
from vireo.server.features.activity import Bounce
from vireo.server.features.keys import KeyCollisionError, unique_video_keys
from vireo.server.home import Home, keep_private
from vireo.training.data.attributes import attribute_fields
from vireo.training.data.context import context_fields
from vireo.training.data.dataset import DESCRIPTION, DatasetInfo, LogPositions, describe_dataset
from vireo.training.data.folder import replaced_folder
from vireo.training.data.schema import INTERACTIONS, VIDEOS, VIEWERS, AttributeKind

_TABLES = ("interactions", "videos", "viewers")


@dataclass(frozen=True)
class Tables:
    """A data set's three tables in memory; schemas as in `vireo.training.data.schema`."""

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
        self._interactions = 0
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
        self._interactions += part.num_rows
        self._add("interactions", part)

    def _add(self, name: str, part: pa.Table) -> None:
        self._files[name].write_table(part.cast(self._schemas[name]))

    def check(self) -> None:
        """Raise VireoError if two video ids share a key or there are no interactions."""
        try:
            unique_video_keys(self._video_ids)
        except KeyCollisionError as error:
            raise VireoError(str(error)) from error
        if not self._interactions:
            raise VireoError("a data set needs at least one interaction")


def describe_tables(folder: Path) -> dict[str, Any]:
    """Return the fields of `DatasetInfo` that follow from a data set's tables, by name.

    There must be an interaction.
    """
    digest = hashlib.sha256()
    for name in _TABLES:
        with (folder / f"{name}.parquet").open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    tables = {name: pq.ParquetFile(folder / f"{name}.parquet") for name in _TABLES}
    events, times = Counter[str](), list[datetime]()
    for part in tables["interactions"].iter_batches(1 << 20, columns=["event", "timestamp"]):
        for entry in part["event"].value_counts().to_pylist():
            events[entry["values"]] += entry["counts"]
        times += pc.min_max(part["timestamp"]).as_py().values()
    return {
        **{name: table.metadata.num_rows for name, table in tables.items()},
        "events": dict(events),
        "first": min(times),
        "last": max(times),
        "fingerprint": digest.hexdigest(),
    }


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
    bounce: Bounce | None = None,
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
        bounce: which plays were made bounces.

    Raises:
        VireoError: the name is invalid, writing fails, or see `DatasetWriter.check`.
    """
    with replaced_folder(home.data(name)) as folder:
        keep_private(home.root)
        with ExitStack() as files:
            writer = DatasetWriter(folder, files, attributes or {}, context)
            yield writer
            writer.check()
        mended = {what: count for what, count in (problems or {}).items() if count}
        info = DatasetInfo(
            name=name,
            source=source,
            terms=terms,
            problems=mended,
            log_positions=log_positions or LogPositions(),
            attributes=dict(attributes or {}),
            bounce=bounce,
            **describe_tables(folder),
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
