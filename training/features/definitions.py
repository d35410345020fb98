"""The Feast repository: entities, feature views and feature services, and its folder's state.

Values come from `viewers.py` and `statistics.py` in this folder, which share their definitions
with the online path (`server/features/`). A view's offline file has the view's columns.
"""

from __future__ import annotations

import contextlib
import io
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import prometheus_client  # noqa: F401 - before Feast, which would have it keep metrics in files
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    ValueType,
)
from feast.types import Array, Bool, FeastType, Float32, Int64, String, from_feast_to_pyarrow_type

from vireo.server.features.online_store import CONFIGURATION
from vireo.server.features.viewer_rows import FEATURE_SERVICE, SERVED, encode
from vireo.server.features.viewer_store import Put, ViewerStore, entity_key
from vireo.training.data.schema import TIME
from vireo.training.features.online_store import OnlineStoreSettings

# Feast sets them for the servers of its own. Pods that this process starts would keep their metrics
# in files, which costs time and exemplars.
for _name in ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR"):
    os.environ.pop(_name, None)

TIMESTAMP = "event_timestamp"
"""Column of the time from which a row of an offline file is valid."""
_ROWS_AT_A_TIME = 2000
_GROUP_ROWS = 5_000
"""Rows in a group of a view's file, which is read at once: one may have 5,000 videos."""
_KINDS = {pa.int64(): "int64", pa.string(): "string", pa.bool_(): "bool"}
"""Begins of the fields of Feast's `Value` that features are stored in, by their types."""
_FOREVER = timedelta(0)  # In Feast, a TTL of 0 means that values never expire.

viewer, partition, video = (
    Entity(name=name, join_keys=[key], value_type=ValueType.STRING, description=meaning)
    for name, key, meaning in (
        ("viewer", "viewer_id", "Someone who watches videos"),
        ("partition", "partition", "A partition of the log of events"),
        ("video", "video_id", "A video of the catalogue"),
    )
)


def _view(
    name: str,
    entity: Entity,
    description: str,
    *,
    online: bool = True,
    **features: tuple[FeastType, str],
) -> FeatureView:
    """Return a view of features, each with its type and meaning, over `<name>.parquet`."""
    fields = [
        Field(name=each, dtype=kind, description=text) for each, (kind, text) in features.items()
    ]
    return FeatureView(
        name=name,
        entities=[entity],
        ttl=_FOREVER,
        online=online,
        schema=[Field(name=entity.join_key, dtype=String), *fields],
        source=FileSource(name=f"{name}_source", path=f"{name}.parquet", timestamp_field=TIMESTAMP),
        description=description,
    )


viewer_profile = _view(
    "viewer_profile",
    viewer,
    "Attributes of a viewer",
    attributes=(Array(String), '"name=value" each'),
)
viewer_activity = _view(
    "viewer_activity",
    viewer,
    "What a viewer watched",
    history_times=(Array(Int64), "When each of the last watched_keys was watched, Unix seconds"),
    watched_keys=(Array(Int64), "Keys of the videos watched, oldest first"),
    watched_times=(Array(Int64), "When each of watched_keys was watched, Unix microseconds"),
    watched_liked=(Array(Bool), "Whether each of watched_keys was liked"),
    viewer_watch_count=(Int64, "Videos watched"),
    viewer_like_count=(Int64, "Watched videos that were liked"),
)
viewer_hidden = _view(
    "viewer_hidden",
    viewer,
    "What a viewer has hidden",
    hidden_keys=(Array(Int64), "Keys of the videos hidden, oldest first"),
    hidden_times=(Array(Int64), "When each of hidden_keys was hidden, Unix seconds"),
)
viewer_shown = _view(
    "viewer_shown",
    viewer,
    "What a viewer was shown",
    shown_keys=(Array(Int64), "Keys of the videos shown, oldest first, once for each minute"),
    shown_times=(Array(Int64), "The minute in which each of shown_keys was, Unix seconds"),
)
viewer_followed = _view(
    "viewer_followed",
    viewer,
    "Whom a viewer follows",
    followed_keys=(Array(Int64), "Keys of the creators followed, oldest first"),
    followed_times=(Array(Int64), "When each of followed_keys was followed, Unix seconds"),
)
consumer_position = _view(
    "consumer_position",
    partition,
    "Up to where the log's events are in the viewers' rows",
    position=(String, "Position in the log"),
)
video_statistics = _view(
    "video_statistics",
    video,
    "Watch and like statistics of a video",
    online=False,
    video_watch_count=(Int64, "Viewers who watched it"),
    video_recent_watch_count=(Float32, "Watches, each halved every 30 days"),
    video_like_rate=(Float32, "Share of watches that were liked, shrunk towards the prior"),
    video_age_days=(Float32, "Days since publication or first watch"),
)
viewer_serving = FeatureService(
    name=FEATURE_SERVICE,
    features=[
        viewer_profile,
        viewer_activity[list(SERVED[viewer_activity.name])],
        viewer_hidden,
        viewer_shown,
        viewer_followed[list(SERVED[viewer_followed.name])],
    ],
    description="A viewer's row, as a request reads it",
)
VIEWS = (
    viewer_profile,
    viewer_activity,
    viewer_hidden,
    viewer_shown,
    viewer_followed,
    consumer_position,
    video_statistics,
)
ONLINE_VIEWS = tuple(view for view in VIEWS if view.online)
"""Feature views of the online store; the videos' statistics are in the release."""


def file_schema(view: FeatureView) -> pa.Schema:
    """Return the schema of a view's offline file: the entity's id, TIMESTAMP, then the features."""
    values = [(field.name, from_feast_to_pyarrow_type(field.dtype)) for field in view.features]
    return pa.schema([(view.entity_columns[0].name, pa.string()), (TIMESTAMP, TIME), *values])


def write_view(folder: Path, view: FeatureView, *columns: Any) -> None:
    """Write a view's offline file, whose columns are those of `file_schema`; no row without any."""
    schema = file_schema(view)
    table = pa.table([*columns], schema=schema) if columns else schema.empty_table()
    path = folder / f"{view.name}.parquet"
    pq.write_table(table, path, compression="zstd", row_group_size=_GROUP_ROWS)


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


def apply_definitions(folder: Path) -> None:
    """Register the entities, views and services in a repository's folder."""
    objects: Any = [viewer, video, partition, *VIEWS, viewer_serving]  # Feast declares no type
    with contextlib.redirect_stdout(io.StringIO()):  # Feast prints; the CLI reports.
        FeatureStore(repo_path=str(folder.absolute())).apply(objects)


def fill_online(store: ViewerStore, folder: Path, view: FeatureView, left_out: pa.Array) -> None:
    """Write the row of each entity to the online store, in batches.

    Args:
        store: the rows; whatever is there is written over.
        folder: where the view's offline file is.
        view: one of ONLINE_VIEWS.
        left_out: viewers who get no row.
    """
    file = pq.ParquetFile(folder / f"{view.name}.parquet")
    entity, _, *features = file.schema_arrow.names
    kinds = [_kind(file.schema_arrow.field(name).type) for name in features]
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        if entity == viewer.join_key:
            table = table.filter(pc.invert(pc.is_in(table[viewer.join_key], left_out)))
        for part in table.to_batches(_ROWS_AT_A_TIME):
            keys = [entity_key(entity, each) for each in part.column(0).to_pylist()]
            times = part.column(1).cast(pa.int64()).to_numpy() / 1e6
            columns = [each.to_pylist() for each in part.columns[2:]]
            store.apply(
                Put(
                    key,
                    view.name,
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
