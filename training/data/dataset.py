"""Data sets on disk: their tables and description, written, read, and erased of viewers."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vireo.server.errors import VireoError
from vireo.server.event_log.log import BEGIN, StoredPosition
from vireo.server.features.activity import Bounce
from vireo.server.features.keys import KeyCollisionError, unique_video_keys
from vireo.server.home import Home, keep_private
from vireo.server.recommend.catalogue.overlay import Takedowns
from vireo.server.releases.layout import TAKEDOWNS
from vireo.training.data.folder import replaced_folder
from vireo.training.data.schema import (
    INTERACTIONS,
    VIDEOS,
    VIEWERS,
    WATCH_EVENTS,
    AttributeKind,
    attribute_fields,
)

DESCRIPTION = "dataset.json"
_TABLES = ("interactions", "videos", "viewers")
_VIEWER = "viewer_id"
_REMEDY = "fetch or import the data set again with --replace"


class DatasetMissingError(VireoError):
    """There is no such data set; the message names the command that creates it."""


class LogPositions(BaseModel):
    """Positions in the log of events and of the catalogue, up to which a data set has them all."""

    model_config = ConfigDict(frozen=True)

    partitions: dict[int, StoredPosition] = Field(default={}, exclude_if=lambda each: not each)
    """Position up to which the data set has each partition's events."""
    catalogue: StoredPosition = Field(default=BEGIN, exclude_if=lambda each: each == BEGIN)
    """Position up to which it has the catalogue's changes."""


class DatasetInfo(BaseModel):
    """Contents of `dataset.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str
    """Where the data came from, in words."""
    terms: str = ""
    """Licence or terms of use of fetched or synthetic data; empty for a user's own."""
    interactions: int
    videos: int
    viewers: int
    events: dict[str, int]
    """Number of interactions of each kind."""
    first: datetime
    last: datetime
    """Time of the first and the last interaction."""
    problems: dict[str, int]
    """What the import repaired or dropped, and how often."""
    fingerprint: str
    """SHA-256 of the three tables' files."""
    log_positions: LogPositions = LogPositions()
    """What it has of the log; nothing if it was imported."""
    attributes: dict[str, AttributeKind] = Field(
        default={}, exclude_if=lambda attributes: not attributes
    )
    """Kind of each declared attribute of its videos."""

    bounce: Bounce | None = Field(default=None, exclude_if=lambda bounce: bounce is None)
    """Which plays became bounces; None if the data says so itself."""

    @property
    def watches(self) -> int:
        """Number of interactions that are watches."""
        return sum(self.events.get(event, 0) for event in WATCH_EVENTS)


@dataclass(frozen=True)
class Dataset:
    """A data set on disk; its tables have the schemas of `vireo.training.data.schema`.

    A table is read on each access, as large ones would fill the memory; VireoError if it can't be.
    """

    folder: Path
    info: DatasetInfo

    @property
    def videos(self) -> pd.DataFrame:
        """The catalogue, without its declared attributes: see `video_columns`."""
        frame: pd.DataFrame = self.video_columns(*VIDEOS.names).to_pandas()
        return frame

    def video_columns(self, *names: str) -> pa.Table:
        """Read columns of the catalogue; raise VireoError if it lacks one, as an old one may."""
        path = self.folder / "videos.parquet"
        try:
            table = pq.ParquetFile(path).read(list(names))
        except (OSError, pa.ArrowInvalid) as error:
            raise VireoError(f"cannot read {path}: {error}; {_REMEDY}") from error
        if missing := [name for name in names if name not in table.column_names]:
            raise VireoError(f"{path} lacks {', '.join(missing)}; {_REMEDY}")
        return table

    @property
    def viewers(self) -> pd.DataFrame:
        """The known viewers."""
        return read_frame(self.folder / "viewers.parquet", (), _REMEDY)

    @property
    def interactions(self) -> pd.DataFrame:
        """The interactions, with ids and events as categories."""
        categories = ("viewer_id", "video_id", "event")
        return read_frame(self.folder / "interactions.parquet", categories, _REMEDY)


def describe_dataset(home: Home, name: str) -> DatasetInfo:
    """Return a data set's description, without reading its tables.

    Raises:
        VireoError: it can't be read; DatasetMissingError if there is none of that name.
    """
    path = home.data(name) / DESCRIPTION
    try:
        return DatasetInfo.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        command = f"vireo data import --data {name} --interactions FILE --videos FILE"
        if name in ("ml-100k", "ml-1m"):
            command = f"vireo data fetch {name}"
        raise DatasetMissingError(
            f"there is no data set {name} in {home.root}; make it with: {command}"
        ) from error
    except (OSError, ValidationError) as error:
        raise VireoError(f"cannot read {path}: {error}; {_REMEDY}") from error


def is_example(home: Home, name: str) -> bool:
    """Return whether this home has an example data set of that name, fetched or synthetic.

    False if there is none here: elsewhere the name may be a user's own data.
    """
    try:
        info = describe_dataset(home, name)
    except VireoError:
        return False
    return bool(info.terms)


def list_datasets(home: Home) -> list[DatasetInfo]:
    """Return every data set of this home, sorted by name."""
    paths = sorted((home.root / "data").glob(f"[!.]*/{DESCRIPTION}"))
    return [describe_dataset(home, path.parent.name) for path in paths]


def load_dataset(home: Home, name: str) -> Dataset:
    """Return a data set; raises the same errors as `describe_dataset`."""
    return Dataset(home.data(name), describe_dataset(home, name))


def read_frame(
    path: Path, categories: Sequence[str], remedy: str, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Read a Parquet file, all of its columns or some, texts of them as categories.

    Raises:
        VireoError: it can't be read; the message ends with `remedy`.
    """
    try:
        table = pq.read_table(path, columns=columns, read_dictionary=list(categories))
        # Otherwise table and frame are both in memory.
        frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
        pa.default_memory_pool().release_unused()
    except (OSError, pa.ArrowInvalid) as error:
        raise VireoError(f"cannot read {path}: {error}; {remedy}") from error
    return frame


def check_name_is_free(home: Home, name: str, *, force: bool) -> None:
    """Raise VireoError if there is a data set of that name, unless it may be replaced."""
    if home.data(name).exists() and not force:
        raise VireoError(
            f"there is a data set {name} already; pass --replace to replace "
            "it, or --data to choose another name"
        )


def write_dataset(
    home: Home,
    name: str,
    source: str,
    *,
    videos: Iterable[pa.Table],
    viewers: pa.Table,
    interactions: Iterable[pa.Table],
    terms: str = "",
    problems: Mapping[str, int] | None = None,
    log_positions: LogPositions | None = None,
    attributes: Mapping[str, AttributeKind] | None = None,
    context: Sequence[str] = (),
    bounce: Bounce | None = None,
    takedowns: Takedowns | None = None,
) -> DatasetInfo:
    """Write a data set part by part; it atomically replaces any earlier one of that name.

    Args:
        home: where to write the data set.
        name: the data set's name.
        source: where the data comes from, in words.
        videos: parts of the catalogue, in its order; columns that a part lacks are unknown.
        viewers: the viewers.
        interactions: parts of the interactions, each of which becomes a row group, in order.
        terms: licence or terms of use.
        problems: what was repaired or dropped, and how often.
        log_positions: up to where it has what is in the log.
        attributes: kind of each declared attribute of the videos.
        context: columns of the interactions' context, in the order of COLUMNS.
        bounce: which plays were made bounces.
        takedowns: the videos that were taken down, if that is known.

    Raises:
        VireoError: the name is invalid, writing fails, two video ids share a key, or there are no
            interactions.
    """
    columns = pa.schema([*VIDEOS, *attribute_fields(attributes or {})])
    schemas = {
        "interactions": pa.schema(
            [*INTERACTIONS, *(pa.field(name, pa.string()) for name in context)]
        ),
        "videos": columns,
        "viewers": VIEWERS,
    }
    completed = (
        pa.concat_tables([columns.empty_table(), part], promote_options="default").select(
            columns.names
        )
        for part in videos
    )
    parts = {"videos": completed, "viewers": [viewers], "interactions": interactions}
    with replaced_folder(home.data(name)) as folder:
        keep_private(home.root)
        video_ids: list[str] = []
        for table, some in parts.items():
            path, schema = folder / f"{table}.parquet", schemas[table]
            with pq.ParquetWriter(path, schema, compression="zstd") as file:
                for part in some:
                    file.write_table(part.cast(schema))
                    if table == "videos":
                        video_ids += part["video_id"].to_pylist()
        try:
            unique_video_keys(video_ids)
        except KeyCollisionError as error:
            raise VireoError(str(error)) from error
        if takedowns is not None:
            takedowns.write(folder / TAKEDOWNS)
        info = DatasetInfo(
            name=name,
            source=source,
            terms=terms,
            problems={what: count for what, count in (problems or {}).items() if count},
            log_positions=log_positions or LogPositions(),
            attributes=dict(attributes or {}),
            bounce=bounce,
            **_describe_tables(folder),
        )
        (folder / DESCRIPTION).write_text(info.model_dump_json(indent=2) + "\n")
    return describe_dataset(home, name)


def _describe_tables(folder: Path) -> dict[str, Any]:
    """Return the fields of `DatasetInfo` that follow from a data set's tables, by name.

    Raises:
        VireoError: there are no interactions.
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
    if not times:
        raise VireoError("a data set needs at least one interaction")
    return {
        **{name: table.metadata.num_rows for name, table in tables.items()},
        "events": dict(events),
        "first": min(times),
        "last": max(times),
        "fingerprint": digest.hexdigest(),
    }


def erase_from_dataset(home: Home, name: str, viewers: Collection[str]) -> int:
    """Remove viewers from a data set, atomically; return the number of rows removed.

    Raises:
        VireoError: nothing would be left of the data set, or it can't be read or written.
    """
    info, source = describe_dataset(home, name), home.data(name)
    with replaced_folder(source) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        folder.chmod(0o700)  # it has the mode of the source
        removed = erase_from_tables(folder, viewers)
        if not pq.ParquetFile(folder / "interactions.parquet").metadata.num_rows:
            raise VireoError(
                f"all interactions of data set {name} are of who is erased, and it needs one at "
                f"least; delete it with: vireo data rm --data {name}"
            )
        left = info.model_copy(update=_describe_tables(folder))
        description = folder / DESCRIPTION
        made = description.stat()
        description.write_text(left.model_dump_json(indent=2) + "\n")
        os.utime(description, ns=(made.st_atime_ns, made.st_mtime_ns))  # it isn't newer for it
    return removed


def erase_from_tables(folder: Path, viewers: Collection[str]) -> int:
    """Remove viewers from a folder's Parquet files, each atomically; return the number of rows.

    Row groups stay as they are: features have all rows of a viewer in one.

    Raises:
        VireoError: one can't be read or written.
    """
    removed, erased = 0, pa.array([*viewers], pa.string())
    for path in sorted(folder.glob("*.parquet")):
        try:
            file = pq.ParquetFile(path)
            if _VIEWER not in file.schema_arrow.names:
                continue
            fresh, before = path.with_suffix(".new"), removed
            with pq.ParquetWriter(fresh, file.schema_arrow, compression="zstd") as writer:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group)
                    left = table.filter(pc.invert(pc.is_in(table[_VIEWER], value_set=erased)))
                    removed += table.num_rows - left.num_rows
                    writer.write_table(left)
            if removed > before:
                fresh.replace(path)
            else:
                fresh.unlink()  # so that a file without them stays as it is, byte for byte
        except (OSError, pa.ArrowInvalid) as error:
            raise VireoError(f"cannot erase from {path}: {error}") from error
    return removed
