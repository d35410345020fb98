"""Each viewer's watches in order, in a Parquet file that is written and read by row group.

A row of the file is a viewer. Row groups hold some GROUP_WATCHES watches each; writing and reading
hold one row group in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vireo.server.arrays import Int64Array
from vireo.server.features.tower_inputs import ATTRIBUTE_LIMIT
from vireo.training.data.context import context_names, watch_column

GROUP_WATCHES = 131_072
"""Watches in a row group; more if a single viewer has more."""
SEQUENCES = pa.schema(
    [
        pa.field("viewer_id", pa.string(), nullable=False),
        pa.field("rows", pa.list_(pa.int32()), nullable=False),
        pa.field("times", pa.list_(pa.int64()), nullable=False),
        pa.field("held_out_rows", pa.list_(pa.int32()), nullable=False),
        pa.field("held_out_times", pa.list_(pa.int64()), nullable=False),
        pa.field("attributes", pa.list_(pa.int32()), nullable=False),
    ]
)
"""Columns of the file: rows of watched videos and times (Unix seconds) of the train and validation
parts, oldest first; attribute ids, ATTRIBUTE_LIMIT each, 0-padded. If the watches have context,
there are two more for each of its features: ids of both parts, named as in `watch_column`."""
_HELD_OUT = "held_out_"
_READ = ("viewer_id", "video_id", "time", "part")


@dataclass(frozen=True)
class Watches:
    """The watches of some viewers: those of viewer i are `offsets[i]` to `offsets[i + 1]`."""

    rows: Int64Array
    """Rows of the watched videos, int64[w]."""
    times: Int64Array
    """Times of the watches, Unix seconds, int64[w]."""
    offsets: Int64Array
    """int64[viewers + 1]."""
    context: Int64Array
    """Ids of the context of each, int64[w, c]."""

    def of(self, viewer: int) -> slice:
        """Return the slice of the viewer's watches."""
        return slice(int(self.offsets[viewer]), int(self.offsets[viewer + 1]))

    @staticmethod
    def joined(parts: Sequence[Watches]) -> Watches:
        """Concatenate the viewers of all parts."""
        counts = [np.diff(part.offsets) for part in parts]
        none = np.empty(0, np.int64)
        return Watches(
            rows=np.concatenate([none, *(part.rows for part in parts)]),
            times=np.concatenate([none, *(part.times for part in parts)]),
            offsets=np.concatenate([[0], np.cumsum(np.concatenate([none, *counts]))]),
            context=(
                np.concatenate([part.context for part in parts])
                if parts
                else np.empty((0, 0), np.int64)
            ),
        )


@dataclass(frozen=True)
class Group:
    """A row group: its viewers' train and validation watches, and attribute ids."""

    train: Watches
    held_out: Watches
    """Watches of the validation part."""
    attributes: Int64Array
    """int64[viewers, ATTRIBUTE_LIMIT]."""


@dataclass(frozen=True)
class SequenceFile:
    """A file with the schema SEQUENCES, on disk or in memory."""

    source: Path | pa.Buffer

    def groups(self, order: Iterable[int] | None = None) -> Iterator[Group]:
        """Yield all row groups, or those numbered in `order`, in that order."""
        with self._open() as file:
            for number in range(file.num_row_groups) if order is None else order:
                columns = [name for name in file.schema_arrow.names if name != "viewer_id"]
                yield _decoded(file.read_row_group(number, columns=columns))

    def group_count(self) -> int:
        """Return the number of row groups."""
        with self._open() as file:
            return int(file.num_row_groups)

    def context(self) -> tuple[str, ...]:
        """Return the names of the context features that the watches have."""
        with self._open() as file:
            return context_names(file.schema_arrow.names)

    def viewer_ids(self) -> tuple[str, ...]:
        """Load the id of each viewer, in order."""
        with self._open() as file:
            return tuple(file.read(columns=["viewer_id"])["viewer_id"].to_pylist())

    def _open(self) -> pq.ParquetFile:
        return pq.ParquetFile(
            pa.BufferReader(self.source) if isinstance(self.source, pa.Buffer) else self.source
        )


class SequenceWriter:
    """Writes watches to a file with the schema SEQUENCES, group by group."""

    def __init__(
        self,
        video_ids: Sequence[str],
        viewers: pd.DataFrame,
        ids: Int64Array,
        context: Sequence[str] = (),
    ) -> None:
        """Index the catalogue by row, and viewers with their attribute ids, int64[v, a].

        `context` are the features of the watches' context to write.
        """
        self._videos = pd.Index(video_ids)
        self._viewers = pd.Index(viewers["viewer_id"])
        nobody = np.zeros((1, ATTRIBUTE_LIMIT), np.int64)
        self._attributes = np.concatenate([ids.astype(np.int32), nobody.astype(np.int32)])
        self._context = [watch_column(name) for name in context]
        ids_of = pa.list_(pa.int16())
        self._schema = SEQUENCES
        for prefix in ("", _HELD_OUT):
            for name in self._context:
                self._schema = self._schema.append(pa.field(prefix + name, ids_of, nullable=False))

    def write(self, watches: Iterable[pa.Table], target: Path | pa.NativeFile) -> None:
        """Write batches of `watches.parquet`, by viewer, then time, without the test part."""
        with pq.ParquetWriter(target, self._schema, compression="zstd") as writer:
            for batch in _whole_viewers(watches):
                encoded = self._encoded(batch)
                if len(encoded):
                    writer.write_table(encoded, row_group_size=len(encoded))

    def _encoded(self, batch: pa.Table) -> pa.Table:
        batch = batch.filter(pc.not_equal(batch["part"], "test"))
        viewer = batch["viewer_id"].combine_chunks()
        starts = _starts(viewer)
        rows = self._videos.get_indexer(pd.Index(batch["video_id"].to_pandas()))
        times = batch["time"].to_numpy().astype("datetime64[s]").astype(np.int64)
        train = pc.equal(batch["part"], "train").to_numpy()
        ids = viewer.take(pa.array(starts))
        columns, contexts = [ids], []
        for part in (train, ~train):
            counted = np.concatenate([[0], np.cumsum(part)])
            offsets = pa.array(counted[np.append(starts, len(batch))].astype(np.int32))
            for values, kind in ((rows, pa.int32()), (times, pa.int64())):
                flat = pa.array(values[part], kind)
                columns.append(pa.ListArray.from_arrays(offsets, flat))
            for name in self._context:
                flat = pa.array(batch[name].to_numpy()[part], pa.int16())
                contexts.append(pa.ListArray.from_arrays(offsets, flat))
        # A viewer without profile has index -1, the last row, which has no attributes.
        found = self._attributes[self._viewers.get_indexer(pd.Index(ids.to_pandas()))]
        offsets = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * ATTRIBUTE_LIMIT)
        columns.append(pa.ListArray.from_arrays(offsets, pa.array(found.ravel())))
        return pa.table([*columns, *contexts], schema=self._schema)


def watch_batches(path: Path, context: Sequence[str] = ()) -> Iterator[pa.Table]:
    """Read `watches.parquet` with these features of the context, GROUP_WATCHES at a time."""
    columns = [*_READ, *map(watch_column, context)]
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(GROUP_WATCHES, columns=columns):
            yield pa.Table.from_batches([batch])


def frame_batches(watches: pd.DataFrame, context: Sequence[str] = ()) -> Iterator[pa.Table]:
    """Yield a frame's watches with these features of the context, GROUP_WATCHES at a time."""
    columns = [*_READ, *map(watch_column, context)]
    for start in range(0, len(watches), GROUP_WATCHES):
        part = watches.iloc[start : start + GROUP_WATCHES]
        yield pa.Table.from_pandas(part[columns], preserve_index=False)


def _whole_viewers(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows in batches that end with a viewer's last watch."""
    rest: pa.Table | None = None
    for batch in batches:
        whole = pa.concat_tables([rest, batch]) if rest is not None else batch
        last = int(_starts(whole["viewer_id"].combine_chunks())[-1])
        if last:
            yield whole.slice(0, last)
        rest = whole.slice(last)
    if rest is not None:
        yield rest


def _starts(viewer: pa.Array) -> Int64Array:
    """Return the index of each viewer's first row, int64[viewers]."""
    if not len(viewer):
        return np.empty(0, np.int64)
    other = pc.not_equal(viewer.slice(1), viewer.slice(0, len(viewer) - 1))
    return np.concatenate([[0], np.flatnonzero(other.to_numpy(zero_copy_only=False)) + 1])


def _decoded(table: pa.Table) -> Group:
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    context = [watch_column(name) for name in context_names(table.column_names)]

    def watches(prefix: str) -> Watches:
        rows, times = columns[f"{prefix}rows"], columns[f"{prefix}times"]
        count = len(rows.flatten())
        ids = [columns[prefix + name].flatten().to_numpy().astype(np.int64) for name in context]
        return Watches(
            rows.flatten().to_numpy().astype(np.int64),
            times.flatten().to_numpy().astype(np.int64),
            rows.offsets.to_numpy().astype(np.int64),
            np.stack(ids, 1) if ids else np.empty((count, 0), np.int64),
        )

    attributes = columns["attributes"].flatten().to_numpy().astype(np.int64)
    return Group(watches(""), watches(_HELD_OUT), attributes.reshape(-1, ATTRIBUTE_LIMIT))
