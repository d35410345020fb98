"""The folder of a Feast repository's state."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from feast import FeatureStore

from vireo.server.features.online_store import CONFIGURATION
from vireo.server.features.viewer_rows import encode
from vireo.server.features.viewer_store import Put, ViewerStore, entity_key
from vireo.training.features.definitions import DEFINITIONS, ONLINE_VIEWS, viewer
from vireo.training.features.online_store import OnlineStoreSettings

_ROWS_AT_A_TIME = 2000
_KINDS = {pa.int64(): "int64", pa.string(): "string", pa.bool_(): "bool"}
"""Begins of the fields of Feast's `Value` that features are stored in, by their types."""
_VIEWER = viewer.join_key


def write_configuration(folder: Path, project: str, settings: OnlineStoreSettings) -> None:
    """Write feature_store.yaml with relative paths, so that the folder can move."""
    online: dict[str, str | int] = {"type": "sqlite", "path": "online.db"}
    if settings.online_store == "redis":
        online = {"type": "redis", "key_ttl_seconds": settings.viewer_expiry}
    configuration = {
        "project": project,
        "provider": "local",
        "registry": "registry.db",
        "online_store": online,
        "offline_store": {"type": "file"},
        "entity_key_serialization_version": 3,
    }
    (folder / CONFIGURATION).write_text(yaml.safe_dump(configuration, sort_keys=False))


def apply_definitions(store: FeatureStore) -> None:
    """Register the entities, views and services."""
    with contextlib.redirect_stdout(io.StringIO()):  # Feast prints; the CLI reports.
        store.apply(DEFINITIONS)


def fill_online(store: ViewerStore, view: str, path: Path, left_out: pa.Array) -> None:
    """Write the newest row of each entity to the online store, in batches.

    Args:
        store: the rows; whatever is there is written over.
        view: one of ONLINE_VIEWS.
        path: its offline table, sorted by entity, then time; no entity spans row groups. The first
            columns are the entity's id, and the time from which the row is valid.
        left_out: viewers who get no row.
    """
    assert view in ONLINE_VIEWS
    file = pq.ParquetFile(path)
    entity, _, *features = file.schema_arrow.names
    kinds = [_kind(file.schema_arrow.field(name).type) for name in features]
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        if not table.num_rows:
            continue
        ids = table.column(0).combine_chunks()
        newest = np.ones(len(ids), np.bool_)
        newest[:-1] = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1))
        rows = table.filter(pa.array(newest))
        if entity == _VIEWER:
            rows = rows.filter(pc.invert(pc.is_in(rows[_VIEWER], left_out)))
        for part in rows.to_batches(_ROWS_AT_A_TIME):
            keys = [entity_key(entity, each) for each in part.column(0).to_pylist()]
            times = part.column(1).cast(pa.int64()).to_numpy() / 1e6
            columns = [each.to_pylist() for each in part.columns[2:]]
            store.apply(
                Put(
                    key,
                    view,
                    {
                        name: encode(kind, value)
                        for name, kind, value in zip(features, kinds, values, strict=True)
                        if value is not None
                    },
                    at,
                )
                for key, at, *values in zip(keys, times.tolist(), *columns, strict=True)
            )


def _kind(of: pa.DataType) -> str:
    """Return the field of Feast's `Value` for a type of an offline table."""
    return f"{_KINDS[of.value_type]}_list_val" if pa.types.is_list(of) else f"{_KINDS[of]}_val"
