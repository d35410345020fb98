"""Imported data sets on disk: tables, description, loading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vireo.server.errors import VireoError
from vireo.server.event_log.log import BEGIN, StoredPosition
from vireo.server.features.activity import Bounce
from vireo.server.home import Home
from vireo.training.data.schema import VIDEOS, WATCH_EVENTS, AttributeKind

DESCRIPTION = "dataset.json"
_REMEDY = "fetch or import the data set again with --force"


class DatasetMissingError(VireoError):
    """There is no such data set; the message names the command that creates it."""


class LogPositions(BaseModel):
    """Positions in the log of events and of the catalogue, up to which a data set has them all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partitions: dict[int, StoredPosition] = Field(default={}, exclude_if=lambda each: not each)
    """Position up to which the data set has each partition's events."""
    catalogue: StoredPosition = Field(default=BEGIN, exclude_if=lambda each: each == BEGIN)
    """Position up to which it has the catalogue's changes."""
    events: dict[int, int] = Field(default={}, exclude_if=lambda _: True)
    catalog: int = Field(default=0, exclude_if=lambda _: True)
    """Sequences in an unknown log, as the build before wrote them: read, and not used."""


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
    """Which plays became bounces; None if the data says so itself, or an earlier build wrote it."""

    @property
    def watches(self) -> int:
        """Number of interactions that are watches."""
        return sum(self.events.get(event, 0) for event in WATCH_EVENTS)


@dataclass(frozen=True)
class Dataset:
    """A data set on disk; its tables have the schemas of `vireo.training.data.schema`.

    A table is read on each access, as large ones would fill the memory; VireoError if it can't be.
    """

    name: str
    folder: Path
    fingerprint: str
    attributes: Mapping[str, AttributeKind] = field(default_factory=dict)
    """Kind of each declared attribute of its videos."""

    @property
    def videos(self) -> pd.DataFrame:
        """The catalogue, without its declared attributes: see `video_columns`."""
        frame: pd.DataFrame = self.video_columns(*VIDEOS.names).to_pandas()
        return frame

    def video_columns(self, *names: str) -> pa.Table:
        """Read columns of the catalogue; those that it lacks are left out."""
        path = self.folder / "videos.parquet"
        try:
            return pq.ParquetFile(path).read(list(names))
        except (OSError, pa.ArrowInvalid) as error:
            raise VireoError(f"cannot read {path}: {error}; {_REMEDY}") from error

    @property
    def viewers(self) -> pd.DataFrame:
        """The known viewers."""
        return self._table("viewers")

    @property
    def interactions(self) -> pd.DataFrame:
        """The interactions, with ids and events as categories."""
        return self._table("interactions", "viewer_id", "video_id", "event")

    def _table(self, name: str, *categories: str) -> pd.DataFrame:
        return read_frame(self.folder / f"{name}.parquet", categories, _REMEDY)


def describe_dataset(home: Home, name: str) -> DatasetInfo:
    """Return a data set's description, without reading its tables.

    Raises:
        VireoError: it can't be read; DatasetMissingError if there is none of that name.
    """
    path = home.data(name) / DESCRIPTION
    try:
        return DatasetInfo.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DatasetMissingError(_missing(home, name)) from error
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
    info = describe_dataset(home, name)
    return Dataset(name, home.data(name), info.fingerprint, info.attributes)


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


def _missing(home: Home, name: str) -> str:
    fetched = {"ml-100k", "ml-1m"}
    command = (
        f"vireo data fetch {name}"
        if name in fetched
        else f"vireo data import --name {name} --interactions FILE --videos FILE"
    )
    return f"there is no data set {name} in {home.root}; make it with: {command}"
