"""An imported data set on disk: its tables, its description, and how to load it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from server.errors import VireoError
from server.features.keys import KeyCollisionError, unique_video_keys
from server.home import Home
from training.data.folder import replaced_folder
from training.data.schema import INTERACTIONS, VIDEOS, VIEWERS

DESCRIPTION = "dataset.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class DatasetMissingError(VireoError):
    """There is no such data set; the message names the command that makes it."""


class DatasetInfo(BaseModel):
    """What `dataset.json` says of a data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str
    """Where it came from, in words."""
    terms: str = ""
    """The licence or terms that its use is bound to; empty for a user's own data."""
    interactions: int
    videos: int
    viewers: int
    events: dict[str, int]
    """How many interactions of each kind."""
    first: datetime
    last: datetime
    """Time of the first and the last interaction."""
    problems: dict[str, int]
    """What was mended or left out while importing, and how often."""
    fingerprint: str
    """SHA-256 over the three tables' files."""


@dataclass(frozen=True)
class Dataset:
    """A data set in memory; columns as in `training.data.schema`."""

    name: str
    interactions: pd.DataFrame
    videos: pd.DataFrame
    viewers: pd.DataFrame
    fingerprint: str


@dataclass(frozen=True)
class Tables:
    """A data set's three tables, not yet on disk; schemas as in `training.data.schema`."""

    interactions: pa.Table
    videos: pa.Table
    viewers: pa.Table


def check_name(name: str) -> str:
    """Returns `name` where it can name a data set; raises VireoError where it can't."""
    if not _NAME.fullmatch(name):
        raise VireoError(
            f"{name!r} can't name a data set: use up to 64 lower-case letters, digits, "
            "'-' and '_', beginning with a letter or digit"
        )
    return name


def write_dataset(
    home: Home, name: str, tables: Tables, source: str, terms: str, problems: Mapping[str, int]
) -> DatasetInfo:
    """Writes a data set in place of any earlier one of that name, whole or not at all.

    Raises:
        VireoError: the disk refuses, or two video ids have the same key.
    """
    try:
        unique_video_keys(tables.videos["video_id"].to_pylist())
    except KeyCollisionError as error:
        raise VireoError(str(error)) from error
    times = tables.interactions["timestamp"]
    with replaced_folder(home.data(check_name(name))) as folder:
        digest = hashlib.sha256()
        for table, schema, stem in (
            (tables.interactions, INTERACTIONS, "interactions"),
            (tables.videos, VIDEOS, "videos"),
            (tables.viewers, VIEWERS, "viewers"),
        ):
            path = folder / f"{stem}.parquet"
            pq.write_table(table.cast(schema), path, compression="zstd")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        events = tables.interactions["event"].value_counts().to_pylist()
        info = DatasetInfo(
            name=name,
            source=source,
            terms=terms,
            interactions=tables.interactions.num_rows,
            videos=tables.videos.num_rows,
            viewers=tables.viewers.num_rows,
            events={entry["values"]: entry["counts"] for entry in events},
            first=min(times[0].as_py(), times[-1].as_py()),
            last=max(times[0].as_py(), times[-1].as_py()),
            problems={what: count for what, count in problems.items() if count},
            fingerprint=digest.hexdigest(),
        )
        (folder / DESCRIPTION).write_text(info.model_dump_json(indent=2) + "\n")
    return info


def describe_dataset(home: Home, name: str) -> DatasetInfo:
    """What is known of a data set without reading its tables.

    Raises:
        DatasetMissingError: there is none of that name.
        VireoError: its description can't be read.
    """
    path = home.data(check_name(name)) / DESCRIPTION
    try:
        return DatasetInfo.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DatasetMissingError(_missing(home, name)) from error
    except (OSError, ValidationError) as error:
        raise VireoError(
            f"cannot read {path}: {error}; fetch or import the data set again with --force"
        ) from error


def list_datasets(home: Home) -> list[DatasetInfo]:
    """Every data set of this home, by name."""
    paths = sorted(home.data("_").parent.glob(f"[!.]*/{DESCRIPTION}"))
    return [describe_dataset(home, path.parent.name) for path in paths]


def load_dataset(home: Home, name: str) -> Dataset:
    """Loads a data set.

    Raises:
        DatasetMissingError: there is none of that name.
        VireoError: its files can't be read.
    """
    info = describe_dataset(home, name)
    folder = home.data(name)
    return Dataset(
        name=name,
        interactions=_read(folder / "interactions.parquet"),
        videos=_read(folder / "videos.parquet"),
        viewers=_read(folder / "viewers.parquet"),
        fingerprint=info.fingerprint,
    )


def _read(path: Path) -> pd.DataFrame:
    try:
        frame: pd.DataFrame = pq.read_table(path).to_pandas()
    except (OSError, pa.ArrowInvalid) as error:
        raise VireoError(
            f"cannot read {path}: {error}; fetch or import the data set again with --force"
        ) from error
    return frame


def _missing(home: Home, name: str) -> str:
    fetched = {"ml-100k", "ml-1m"}
    command = (
        f"vireo data fetch {name}"
        if name in fetched
        else f"vireo data import --name {name} --interactions FILE --videos FILE"
    )
    return f"there is no data set {name} in {home.root}; make it with: {command}"
