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
from vireo.training.features.definitions import DEFINITIONS, ONLINE_VIEWS, viewer
from vireo.training.features.online_store import OnlineStoreSettings

_ROWS_AT_A_TIME = 4096
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


def fill_online(store: FeatureStore, view: str, path: Path, left_out: pa.Array) -> None:
    """Write the newest row of each entity to the online store, in batches.

    The online store must hold nothing newer: SQLite would overwrite it. Feast's `materialize`
    holds all rows of all viewers in memory.

    Args:
        store: the repository.
        view: one of ONLINE_VIEWS.
        path: its offline table, sorted by entity, then time; no entity spans row groups. The first
            column is the entity's id.
        left_out: viewers who get no row.
    """
    assert view in ONLINE_VIEWS
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        if not table.num_rows:
            continue
        ids = table.column(0).combine_chunks()
        newest = np.ones(len(ids), np.bool_)
        newest[:-1] = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1))
        rows = table.filter(pa.array(newest))
        if _VIEWER in rows.column_names:
            rows = rows.filter(pc.invert(pc.is_in(rows[_VIEWER], left_out)))
        for start in range(0, rows.num_rows, _ROWS_AT_A_TIME):
            frame = rows.slice(start, _ROWS_AT_A_TIME).to_pandas()
            store.write_to_online_store(view, df=frame)
