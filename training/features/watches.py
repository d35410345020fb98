"""The split watches, input of features and models, as stored by `vireo features build`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from vireo.server.arrays import Float32Array
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.signals import OUTCOMES
from vireo.training.data.context import context_names, watch_column
from vireo.training.data.dataset import read_frame
from vireo.training.data.schema import TIME
from vireo.training.data.split import VALIDATION_WATCHES, Holdout

WATCHES = pa.schema(
    [
        pa.field("viewer_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("time", TIME, nullable=False),
        pa.field("liked", pa.float32()),
        pa.field("liked_time", TIME),
        pa.field("finished", pa.float32()),
        pa.field("part", pa.string(), nullable=False),
    ]
)
"""See `vireo.training.data.split.split_watches`; with an int16 column for each feature of the
context that the watches have, named as in `watch_column`."""
HIDDEN = "hidden.parquet"
"""File of the videos that viewers hid; see `vireo.training.data.split.hidden_videos`."""
_TEXTS = ("viewer_id", "video_id", "part")
_ROWS_AT_A_TIME = 1_000_000


FEATURES_FORMAT = 2
"""Goes up if features of an earlier build can't be used any more: then they are built again."""


class FeaturesMissingError(VireoError):
    """The features of a data set haven't been built; the message names the command."""


class Split(BaseModel):
    """How a data set was split, and the fingerprint of its data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    holdout: Holdout
    data_fingerprint: str
    validation_watches: int
    """VALIDATION_WATCHES at the time of the split, 0 if nothing is held out."""
    features_format: int
    """FEATURES_FORMAT at the time of the build."""
    outcomes: tuple[str, ...]
    """Columns with labels of OUTCOMES."""

    @staticmethod
    def of(holdout: Holdout, data_fingerprint: str) -> Split:
        """Return the split that `split_watches` produces for this data."""
        return Split(
            holdout=holdout,
            data_fingerprint=data_fingerprint,
            validation_watches=VALIDATION_WATCHES if holdout == "last" else 0,
            features_format=FEATURES_FORMAT,
            outcomes=tuple(task.outcome for task in OUTCOMES),
        )

    @staticmethod
    def load(home: Home, name: str) -> Split:
        """Load the split of a data set's features; raises FeaturesMissingError."""
        path = home.features(name) / "split.json"
        try:
            return Split.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise FeaturesMissingError(_missing(home, name)) from error
        except (OSError, ValidationError) as error:
            raise VireoError(f"cannot read {path}: {error}; build the features again") from error

    def write(self, folder: Path) -> None:
        """Write the split into a feature folder."""
        (folder / "split.json").write_text(self.model_dump_json(indent=2) + "\n")


def write_watches(watches: pd.DataFrame, path: Path) -> None:
    """Write watches, or what `hidden_videos` returns, to a file, a part at a time."""
    schema = WATCHES
    for name in context_names(watches.columns):
        schema = schema.append(pa.field(watch_column(name), pa.int16(), nullable=False))
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(watches), _ROWS_AT_A_TIME):
            part = watches.iloc[start : start + _ROWS_AT_A_TIME]
            writer.write_table(pa.Table.from_pandas(part, schema, preserve_index=False))


def load_watches(home: Home, name: str) -> pd.DataFrame:
    """Load the watches of a data set, columns as in WATCHES, sorted by viewer, then time.

    A watch takes some 50 bytes, as equal texts share one string.

    Raises:
        FeaturesMissingError: its features haven't been built.
    """
    path = home.features(name) / "watches.parquet"
    if not path.exists():
        raise FeaturesMissingError(_missing(home, name))
    return _read(path)


def load_past(repo: Path) -> pd.DataFrame:
    """Load the watches that aren't for test: viewer, video and times; texts are categories.

    Raises:
        VireoError: the file is missing or damaged.
    """
    columns = [*_TEXTS, "time", "liked_time"]
    watches = read_frame(repo / "watches.parquet", _TEXTS, "build the features again", columns)
    return watches[(watches.pop("part") != "test").to_numpy()]


def load_hidden(repo: Path) -> pd.DataFrame:
    """Load the videos that viewers hid, as in WATCHES, from features that hold watches out.

    Raises:
        VireoError: the file is missing or damaged.
    """
    return _read(repo / HIDDEN)


def _read(path: Path) -> pd.DataFrame:
    return read_frame(path, _TEXTS, "build the features again").astype(
        dict.fromkeys(_TEXTS, object)
    )


def outcome_labels(watches: pd.DataFrame) -> Float32Array:
    """Return whether OUTCOMES followed each watch: 1 or 0, NaN if unknown, float32[m, t]."""
    columns = [task.outcome for task in OUTCOMES]
    # Features of the build before lack some, and the watches of a split don't say what is hidden.
    labels: Float32Array = watches.reindex(columns=columns).astype(np.float32).to_numpy()
    return labels


def _missing(home: Home, name: str) -> str:
    return (
        f"{home.root} has no features of {name}; build them with: vireo features build "
        f"--data {name}, "
        f"or, to measure on held-out watches, with: vireo train --data {name}"
    )
