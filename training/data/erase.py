"""Removes viewers from what is on disk: data sets, and the tables of features."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.training.data.dataset import DESCRIPTION, describe_dataset
from vireo.training.data.folder import replaced_folder
from vireo.training.data.writing import describe_tables

_VIEWER = "viewer_id"


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
                f"least; delete it with: rm -r {source}"
            )
        left = info.model_copy(update=describe_tables(folder))
        description = left.model_dump_json(indent=2)
        (folder / DESCRIPTION).write_text(description + "\n")
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
