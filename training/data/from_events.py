"""A data set from the log: what viewers did and the catalogue's changes, on top of a data set."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Mapping
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
from vireo.server.features.context import COLUMNS
from vireo.server.home import Home
from vireo.server.recommend.catalogue.overlay import Takedowns
from vireo.server.recommend.filters.declared import ATTRIBUTE_NAME, MAX_ATTRIBUTES
from vireo.server.releases.layout import TAKEDOWNS
from vireo.training.data import schema
from vireo.training.data.dataset import (
    Dataset,
    DatasetInfo,
    LogPositions,
    check_name_is_free,
    load_dataset,
    write_dataset,
)
from vireo.training.data.interactions import Interactions, Names, Texts, check_size
from vireo.training.data.log_events import UNREADABLE, LogEvents
from vireo.training.data.schema import AttributeKind, attribute_column, attribute_fields
from vireo.v1 import catalog_pb2, log_pb2

Progress = Callable[[int, int], None]
"""Called with the messages of the log that were read, and about how many there are."""
LEFT_OUT = "attributes of videos left out: of another kind, or too many"


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
    info = dataset.info if dataset else None
    before = info.log_positions if info else LogPositions()
    bounce = bounce or (info.bounce if info else None) or USUAL_BOUNCE
    names = Names()
    known = _base_interactions(dataset, names) if dataset else Interactions.none()
    accept_gap = accept_gap or base is None
    log = asyncio.run(_read_log(event_log, partitions, before, names, progress, accept_gap))
    events, notes = log.events, log.events.notes
    until = np.full(len(names.viewers.numbers) + 1, np.iinfo(np.int64).min)
    for viewer, (_, at) in events.erased.items():
        until[names.viewers.numbers.get(viewer, -1)] = at
    known = known.take(known.time > until[known.viewer])
    if dataset and (removed := dataset.folder / TAKEDOWNS).exists():
        log.takedowns.merge_copy(Takedowns.read(removed))
    upserted = [change.video for change in log.changes.values() if not change.removed]
    kinds = attribute_kinds(dataset.info.attributes if dataset else {}, upserted)
    catalogue = _catalogue(dataset, log.changes, names.videos, kinds, notes)
    lengths = catalogue.filter(pc.greater(catalogue["duration"], 0))
    durations = dict(
        zip(lengths["video_id"].to_pylist(), lengths["duration"].to_pylist(), strict=True)
    )
    found = Interactions.joined([known, events.interactions(durations, known, bounce)])
    listed = pc.is_in(names.videos.array(), value_set=catalogue["video_id"].combine_chunks())
    kept = np.asarray(listed.to_numpy(zero_copy_only=False), np.bool_)[found.video]
    notes["events of unknown videos left out"] += int((~kept).sum())
    found = found.take(kept)
    check_size(found, catalogue.num_rows)
    active = set(np.unique(found.viewer).tolist())
    return write_dataset(
        home,
        name,
        f"the log of events, on top of {base}" if base else "the log of events",
        videos=[catalogue],
        viewers=_profiles(dataset, names.viewers, events.erased, active),
        interactions=found.tables(np.lexsort((found.row, found.time)), names),
        terms=info.terms if info else "",
        problems=notes,
        log_positions=log.positions,
        attributes=kinds,
        context=names.known_context,
        bounce=bounce,
        takedowns=log.takedowns,
    )


@dataclass(frozen=True)
class _Log:
    """What was read of the log."""

    events: LogEvents
    changes: dict[str, log_pb2.CatalogChange]
    takedowns: Takedowns
    positions: LogPositions


async def _read_log(
    event_log: JetStreamLog,
    partitions: int,
    before: LogPositions,
    names: Names,
    progress: Progress,
    accept_gap: bool,
) -> _Log:
    """Read what the log has after some positions; raise LogAwayError or VireoError."""
    began, events = time.time(), LogEvents(names)
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


def _base_interactions(dataset: Dataset, names: Names) -> Interactions:
    """Return the base's interactions; number its texts first."""
    table = dataset.interactions
    unknown = np.full(len(table), -1, np.int32)
    context = [
        texts.add(table[name]) if name in table else unknown
        for name, texts in zip(COLUMNS, names.context, strict=True)
    ]
    kinds = pd.Index(schema.EVENTS).get_indexer(pd.Index(table["event"].astype(object)))
    times: Int64Array = table["timestamp"].to_numpy("datetime64[us]").view(np.int64)
    return Interactions(
        viewer=names.viewers.add(table["viewer_id"]),
        video=names.videos.add(table["video_id"]),
        event=kinds.astype(np.int8),
        time=times,
        row=table["row"].to_numpy(np.int64),
        watched_fraction=table["watched_fraction"].to_numpy(np.float32),
        rating=table["rating"].to_numpy(np.float32),
        context=np.stack(context, 1),
    )


def _catalogue(
    dataset: Dataset | None,
    changes: Mapping[str, log_pb2.CatalogChange],
    acted_on: Texts,
    kinds: Mapping[str, AttributeKind],
    notes: Counter[str],
) -> pa.Table:
    """Return the videos: the base's with the catalogue's changes.

    A video of the base that was removed stays if somebody did something with it. `kinds` are those
    of the attributes; `notes` counts what is left out.
    """
    columns = pa.schema([*schema.VIDEOS, *attribute_fields(kinds)])
    base = columns.empty_table()
    if dataset:
        own = attribute_fields(dataset.info.attributes)
        base = dataset.video_columns(*schema.VIDEOS.names, *(field.name for field in own))
    gone = [
        video_id
        for video_id, change in changes.items()
        if not change.removed or video_id not in acted_on.numbers
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


def attribute_kinds(
    base: Mapping[str, AttributeKind], videos: Iterable[catalog_pb2.Video]
) -> dict[str, AttributeKind]:
    """Return the attributes to declare: the base's, then those that most videos of the log have.

    Each has the kind that it has in the base, or in most of the videos.
    """
    counts = Counter((each.name, _kind(each)) for video in videos for each in video.attributes)
    kinds = dict(base)
    for (name, kind), _ in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        if len(kinds) == MAX_ATTRIBUTES:
            break
        if re.fullmatch(ATTRIBUTE_NAME, name):
            kinds.setdefault(name, kind)
    return kinds


def attribute_values(
    video: catalog_pb2.Video, kinds: Mapping[str, AttributeKind], notes: Counter[str]
) -> dict[str, list[str] | float]:
    """Return a video's attributes by column; `notes` counts those that aren't declared so."""
    values: dict[str, list[str] | float] = {}
    for each in video.attributes:
        if kinds.get(each.name) != _kind(each):
            notes[LEFT_OUT] += 1
        elif each.HasField("number"):
            if math.isfinite(each.number):
                values[attribute_column(each.name)] = each.number
        else:
            values[attribute_column(each.name)] = list(dict.fromkeys(each.labels))
    return values


def _kind(attribute: catalog_pb2.VideoAttribute) -> AttributeKind:
    return "number" if attribute.HasField("number") else "labels"


def _profiles(
    dataset: Dataset | None, viewers: Texts, erased: Collection[str], active: Container[int]
) -> pa.Table:
    """Return the base's viewers, except those who were erased, then whoever else is active.

    Viewers with interactions are `active`, by their numbers.
    """
    known = dataset.viewers if dataset else pd.DataFrame({"viewer_id": [], "attributes": []})
    known = known[~known["viewer_id"].isin(list(erased))]
    ids = known["viewer_id"].tolist()
    profiled = set(ids)
    new = [each for each, n in viewers.numbers.items() if each not in profiled and n in active]
    attributes = [list(each) for each in known["attributes"]] + [[] for _ in new]
    return pa.table({"viewer_id": ids + new, "attributes": attributes}, schema=schema.VIEWERS)
