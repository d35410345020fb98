"""A data set from the log: what viewers did and the catalogue's changes, on top of a data set."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Container, Mapping, Set
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.message import DecodeError

from vireo.server.arrays import Int64Array
from vireo.server.errors import VireoError
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import BEGIN, CATALOG, EVENTS, REMOVED, Start
from vireo.server.features.activity import USUAL_BOUNCE, Bounce
from vireo.server.home import Home
from vireo.server.recommend.catalogue.takedowns import Takedowns
from vireo.server.releases.layout import TAKEDOWNS
from vireo.training.data import schema
from vireo.training.data.attributes import attribute_fields, attribute_kinds, attribute_values
from vireo.training.data.context import ContextTexts
from vireo.training.data.dataset import (
    Dataset,
    DatasetInfo,
    LogPositions,
    describe_dataset,
    load_dataset,
)
from vireo.training.data.importing import check_name_is_free, check_size
from vireo.training.data.interactions import Interactions, interaction_tables
from vireo.training.data.log_events import UNREADABLE, Ids, LogEvents
from vireo.training.data.writing import dataset_writer
from vireo.v1 import catalog_pb2, log_pb2

Progress = Callable[[int, int], None]
"""Called with the messages of the log that were read, and about how many there are."""


@dataclass
class _Log:
    """What was read of the log."""

    events: LogEvents
    changes: dict[str, log_pb2.CatalogChange]
    takedowns: Takedowns
    positions: LogPositions


def data_from_events(
    home: Home,
    name: str,
    base: str | None,
    event_log: JetStreamLog,
    partitions: int,
    *,
    force: bool = False,
    accept_gap: bool = False,
    bounce: Bounce | None = None,
    progress: Progress = lambda _done, _total: None,
) -> DatasetInfo:
    """Make a data set from the log, up to its end as it is now.

    Args:
        home: where data sets are.
        name: the data set to make.
        base: the data set that it begins with, if any; of the log only what that doesn't have is
            read. It may be the one that is replaced.
        event_log: the log; it is closed.
        partitions: number of partitions of the events.
        force: whether to replace a data set of that name.
        accept_gap: whether to go on without messages that the log kept until after the base was
            made, and doesn't keep any more.
        bounce: which plays of the log are bounces; None for the base's rule, or the usual one.
        progress: called as the log is read.

    Raises:
        VireoError: there is a data set of that name already, or none of the base's; there is too
            little to train on; the log doesn't keep all that came since the base was made; or the
            log is away.
    """
    check_name_is_free(home, name, force=force)
    dataset = load_dataset(home, base) if base else None
    info = describe_dataset(home, base) if base else None
    before = info.log_positions if info else LogPositions()
    bounce = bounce or (info.bounce if info else None) or USUAL_BOUNCE
    videos, viewers = Ids(), Ids()
    contexts = ContextTexts()
    known = Interactions.none()
    if dataset:
        known = _base_interactions(dataset, viewers, videos, contexts)
    read = asyncio.run(
        _read_log(
            event_log,
            partitions,
            before,
            LogEvents(viewers, videos, contexts),
            progress,
            accept_gap=accept_gap or base is None,
        )
    )
    until = np.full(len(viewers.places) + 1, np.iinfo(np.int64).min)
    for viewer, (_, at) in read.events.erased.items():
        until[viewers.places.get(viewer, -1)] = at
    known = known.take(known.time > until[known.viewer])
    if dataset and (removed := dataset.folder / TAKEDOWNS).exists():
        read.takedowns.merge_copy(Takedowns.read(removed))
    upserted = [change.video for change in read.changes.values() if not change.removed]
    kinds = attribute_kinds(dataset.attributes if dataset else {}, upserted)
    notes = read.events.notes
    catalogue = _catalogue(dataset, read.changes, set(videos.places), kinds, notes)
    lengths = catalogue.filter(pc.greater(catalogue["duration"], 0))
    durations = dict(
        zip(lengths["video_id"].to_pylist(), lengths["duration"].to_pylist(), strict=True)
    )
    found = Interactions.joined([known, read.events.interactions(durations, known, bounce)])
    listed = set(catalogue["video_id"].to_pylist())
    kept = np.array([video_id in listed for video_id in videos.places], np.bool_)[found.video]
    notes["events of unknown videos left out"] += int((~kept).sum())
    found = found.take(kept)
    order = np.lexsort((found.row, found.time))
    check_size(found, catalogue.num_rows)
    source = f"the log of events, on top of {base}" if base else "the log of events"
    active = set(np.unique(found.viewer).tolist())
    profiles = _profiles(dataset, viewers, read.events.erased, active)
    terms = info.terms if info else ""
    with dataset_writer(
        home, name, source, terms, notes, read.positions, kinds, contexts.known, bounce
    ) as writer:
        read.takedowns.write(writer.folder / TAKEDOWNS)
        writer.add_videos(catalogue)
        writer.add_viewers(profiles)
        for part in interaction_tables(found, order, viewers.array(), videos.array(), contexts):
            writer.add_interactions(part)
    return describe_dataset(home, name)


async def _read_log(
    event_log: JetStreamLog,
    partitions: int,
    before: LogPositions,
    events: LogEvents,
    progress: Progress,
    *,
    accept_gap: bool,
) -> _Log:
    """Read what the log has after some positions; raise LogAwayError or VireoError."""
    began = time.time()
    try:
        positions = {each: before.partitions.get(each, BEGIN) for each in range(partitions)}
        done, total, after = 0, 0, dict[int, int]()
        for partition, position in positions.items():
            start = await event_log.resume(EVENTS, position)
            if start.missing and not accept_gap:
                raise _gap(partition, start)
            after[partition] = start.after
            total += max(0, await event_log.end(EVENTS, str(partition)) - start.after)
        for partition, position in list(positions.items()):
            async for entries in event_log.up_to_end(EVENTS, str(partition), position):
                for entry in entries:
                    events.add(entry, after_base=after[partition] > 0)
                positions[partition] = entries.position
                done += len(entries)
                progress(done, max(done, total))
        changes: dict[str, log_pb2.CatalogChange] = {}
        catalogue = before.catalogue
        # The last change of each video is there: also those that the base has already.
        async for entries in event_log.up_to_end(CATALOG):
            if entries:
                catalogue = entries.position
            for entry in entries:
                try:
                    change = log_pb2.CatalogChange.FromString(entry.data)
                except DecodeError:
                    events.notes[UNREADABLE] += 1
                    continue
                changes[change.video.video_id] = change
        takedowns = Takedowns()
        async for entries in event_log.up_to_end(REMOVED):
            takedowns.take(entries)
        takedowns.as_of = began
        for change in changes.values():
            if change.removed:  # a gateway of the build before recorded it here alone
                takedowns.take_removal(change)
        progress(done, done)
        positions_read = LogPositions(partitions=positions, catalogue=catalogue)
        return _Log(events, changes, takedowns, positions_read)
    finally:
        await event_log.close()


def _gap(partition: int, start: Start) -> VireoError:
    return VireoError(
        f"the log doesn't keep messages {start.missing[0]} to {start.missing[-1]} any more, which "
        f"the base lacks (partition {partition}); it has what came since {start.kept_since}. To go "
        "on without them: --accept-gap. VIREO_EVENT_RETENTION must be longer than the time between "
        "two data sets"
    )


def _base_interactions(
    dataset: Dataset, viewers: Ids, videos: Ids, contexts: ContextTexts
) -> Interactions:
    """Return the base's interactions; number its ids first."""
    table = dataset.interactions
    numbers = {}
    for column, ids in (("viewer_id", viewers), ("video_id", videos)):
        categories = table[column].cat
        places = np.array([ids.place(name) for name in categories.categories], np.int32)
        numbers[column] = places[categories.codes.to_numpy()]
    kinds = pd.Index(schema.EVENTS).get_indexer(pd.Index(table["event"].astype(object)))
    return Interactions(
        viewer=numbers["viewer_id"],
        video=numbers["video_id"],
        event=kinds.astype(np.int8),
        time=_micros(table["timestamp"]),
        row=table["row"].to_numpy(np.int64),
        watched_fraction=table["watched_fraction"].to_numpy(np.float32),
        rating=table["rating"].to_numpy(np.float32),
        context=contexts.of_frame(table),
    )


def _micros(times: pd.Series) -> Int64Array:
    return np.asarray(times.to_numpy("datetime64[us]").view(np.int64), np.int64)


def _catalogue(
    dataset: Dataset | None,
    changes: Mapping[str, log_pb2.CatalogChange],
    acted_on: Set[str],
    kinds: Mapping[str, schema.AttributeKind],
    notes: Counter[str],
) -> pa.Table:
    """Return the videos: the base's with the catalogue's changes.

    A video of the base that was removed stays if somebody did something with it. `kinds` are those
    of the attributes; `notes` counts what is left out.
    """
    columns = pa.schema([*schema.VIDEOS, *attribute_fields(kinds)])
    base = dataset.video_columns(*columns.names) if dataset else columns.empty_table()
    gone = [
        video_id
        for video_id, change in changes.items()
        if not change.removed or video_id not in acted_on
    ]
    base = base.filter(pc.invert(pc.is_in(base["video_id"], pa.array(gone, pa.string()))))
    new = [
        _row(change.video) | attribute_values(change.video, kinds, notes)
        for change in changes.values()
        if not change.removed
    ]
    # Attributes that the base lacks are null.
    return pa.concat_tables(
        [columns.empty_table(), base, pa.Table.from_pylist(new, columns)], promote_options="default"
    )


def _row(video: catalog_pb2.Video) -> dict[str, Any]:
    published = video.published.ToDatetime(UTC) if video.HasField("published") else None
    return {
        "video_id": video.video_id,
        "title": video.title or video.video_id,
        "tags": list(dict.fromkeys(video.tags)),
        "published": published,
        "duration": video.duration if video.HasField("duration") else None,
        "creator": video.creator or None,
    }


def _profiles(
    dataset: Dataset | None, viewers: Ids, erased: Collection[str], active: Container[int]
) -> pa.Table:
    """Return the base's viewers, except those who were erased, then whoever else is active.

    Viewers with interactions are `active`, by their places.
    """
    known = dataset.viewers if dataset else pd.DataFrame({"viewer_id": [], "attributes": []})
    known = known[~known["viewer_id"].isin(list(erased))]
    ids = known["viewer_id"].tolist()
    profiled = set(ids)
    new = [n for n, place in viewers.places.items() if n not in profiled and place in active]
    attributes = [list(each) for each in known["attributes"]] + [[] for _ in new]
    return pa.table({"viewer_id": ids + new, "attributes": attributes}, schema=schema.VIEWERS)
