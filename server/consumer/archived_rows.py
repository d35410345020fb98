"""The rows of archived slates and events, and the Parquet files that hold them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf.message import DecodeError

from vireo.server.arrays import Int64Array
from vireo.server.event_log.jetstream import EVENT_KINDS
from vireo.server.event_log.log import EVENTS, SLATES, Entry, Position, Stream
from vireo.server.features.keys import video_key
from vireo.server.signals import SCORES, TASKS
from vireo.v1 import candidate_pb2, ranking_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.log_pb2 import RecordedEvents
from vireo.v1.slate_pb2 import RecordedSlates, SlateRecord

Row: TypeAlias = dict[str, Any]
"""A row by its columns, as `pyarrow.Table.to_pylist` returns it."""

SCHEMA_VERSION = "1"
VERSION, LAST = b"vireo.schema", b"vireo.last"
"""Keys of a file's metadata: SCHEMA_VERSION, and the position of its last message."""
_DEFAULT_PAGE_SIZE = 10
"""That of requests that name none."""
_ROWS_AT_A_TIME = 128
"""Rows to convert at a time: the event loop waits while Arrow reads Python's objects."""
_DICTIONARY_BYTES = 64 << 20
"""Maximum bytes of a column's dictionary: those of a file's features should all fit in."""

_TEXT, _TEXTS, _TIME = pa.string(), pa.list_(pa.string()), pa.timestamp("us", "UTC")
_FLOATS, _MASKS = pa.list_(pa.float32()), pa.list_(pa.uint32())
_FLOAT = np.dtype("<f4")
_CONTEXT = ("surface", "seed_video_id", "device", "locale", "time_zone", "region", "arm")
_RELEASES = ("release_id", "retrieval_release_id", "gateway_release_id")
_SCORES = (
    "score",
    *(f"retrieval_{each.name}" for each in SCORES),
    *(f"task_{each.name}" for each in TASKS),
)
_SLATES_SCHEMA = pa.schema(
    {"request_id": _TEXT, "viewer_id": _TEXT, "sequence": pa.int64(), "answered_at": _TIME}
    | {"asked_at": pa.int64(), "shown_before": pa.int32(), "page_size": pa.int32()}
    | dict.fromkeys((*_CONTEXT, *_RELEASES), _TEXT)
    | dict.fromkeys(("degradations", "rules", "failed_sources"), _TEXTS)
    | {"viewer_features": pa.binary(), "context": pa.list_(pa.int16())}
    | dict.fromkeys(("request", "retrieval", "rule_columns"), pa.binary())
    | {"candidate_keys": pa.list_(pa.int64()), "candidate_sources": _MASKS}
    | {"recorded": pa.list_(pa.int32())}
    | dict.fromkeys(_SCORES, _FLOATS)
    | {"video_ids": _TEXTS, "item_scores": _FLOATS, "item_sources": _MASKS}
    | {"placements": _TEXTS, "propensities": _FLOATS, "video_features": _FLOATS}
    | {"blocked_keys": pa.list_(pa.int64()), "lacks_changes": pa.bool_()}
    | {"left_out_keys": pa.list_(pa.int64()), "left_out_sources": _MASKS}
    | dict.fromkeys(("retrieved_videos", "ranked_videos"), pa.list_(pa.binary()))
)
_NO_SCORES: Row = dict.fromkeys(_SCORES, ())
_EVENT_FIELDS = (
    *("event_id", "viewer_id", "video_id", "request_id", "position"),
    *("creator", "locale", "device", "time_zone"),
)
_EVENTS_SCHEMA = pa.schema(
    dict.fromkeys(("event_id", "viewer_id", "kind", "video_id"), _TEXT)
    | {"at": _TIME, "received_at": _TIME}
    | {"watched_seconds": pa.float64(), "watched_fraction": pa.float32()}
    | {"request_id": _TEXT, "position": pa.int32()}
    | dict.fromkeys(("creator", "locale", "device", "time_zone"), _TEXT)
    | {"sequence": pa.int64()}
)


def _names(enum: Any) -> dict[int, str]:
    """Return the names of an enum's values, for example "two_tower" of SOURCE_TWO_TOWER."""
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    return {number: name.removeprefix(prefix).lower() for name, number in enum.items()}


_SOURCES, _DEGRADATIONS = _names(viewer_pb2.Source), _names(viewer_pb2.Degradation)
_PLACEMENTS = _names(ranking_pb2.Placement)
_BITS = [1 << number for number in range(32)]


def _slate_rows(entry: Entry) -> list[Callable[[], Row]]:
    slates = RecordedSlates.FromString(entry.data).slates
    return [partial(_slate_row, data, entry.sequence) for data in slates]


def _slate_row(data: bytes, sequence: int) -> Row:
    record = SlateRecord.FromString(data)
    if not record.slate.request_id:
        raise ValueError("it is no record of a slate")
    request, retrieval, slate = record.request, record.retrieval, record.slate
    candidates = candidate_pb2.RetrieveCandidatesResponse.FromString(record.candidates)
    ranking = ranking_pb2.RankingRecord.FromString(record.ranking)
    viewer, context, ids = retrieval.viewer, request.context, retrieval.viewer.context
    page_size = request.page_size if request.HasField("page_size") else _DEFAULT_PAGE_SIZE
    row: Row = {
        "request_id": slate.request_id,
        "viewer_id": request.viewer_id,
        "sequence": sequence,
        "answered_at": record.answered_at.ToMicroseconds(),
        "asked_at": viewer.asked_at,
        "surface": "up_next" if request.surface == pb.SURFACE_UP_NEXT else "home",
        "shown_before": record.shown_before,
        "page_size": page_size,
        "seed_video_id": request.seed_video_id,
        "device": context.device,
        "locale": context.locale,
        "time_zone": context.time_zone,
        "region": context.region,
        "arm": _arm(record, candidates.release_id),
        "release_id": slate.release_id,
        "retrieval_release_id": candidates.release_id,
        "gateway_release_id": record.gateway_release_id,
        "degradations": [_DEGRADATIONS.get(each, str(each)) for each in slate.degradations],
        "rules": [each.name for each in record.rules],
        "failed_sources": [
            _SOURCES.get(each.source, str(each.source))
            for each in candidates.sources
            if each.failure
        ],
        "viewer_features": record.viewer_features,
        "context": [ids.hour, ids.weekday, ids.device, ids.language],
        "rule_columns": candidates.rules.SerializeToString(),
        "candidate_keys": np.array(candidates.keys, np.int64),
        "candidate_sources": np.array(candidates.source_masks, np.uint32),
        "video_ids": [each.video_id for each in slate.items],
        "item_scores": [each.score for each in slate.items],
        "item_sources": [sum(map(_BITS.__getitem__, each.sources)) for each in slate.items],
        "placements": [_PLACEMENTS.get(each, str(each)) for each in ranking.placements],
        "propensities": list(ranking.propensities),
        "video_features": np.frombuffer(ranking.video_features, _FLOAT),
        "blocked_keys": np.array(candidates.blocked_keys, np.int64),
        "lacks_changes": candidates.lacks_changes,
        "left_out_keys": list(record.left_out_keys),
        "left_out_sources": list(record.left_out_sources),
        "retrieved_videos": [
            each.SerializeToString(deterministic=True) for each in candidates.live
        ],
        "ranked_videos": [each.SerializeToString(deterministic=True) for each in ranking.live],
    }
    places = np.array(ranking.places, np.uint32)
    scores = np.frombuffer(ranking.scores, _FLOAT).reshape(len(ranking.columns), len(places))
    if len(places) and not len(scores):
        raise ValueError("it is of a build that records scores otherwise")
    _align(row, row["candidate_keys"].take(places))  # raises IndexError for what is no candidate
    row |= {"recorded": places} | _NO_SCORES | dict(zip(ranking.columns, scores, strict=True))
    retrieval.ClearField("viewer")
    request.ClearField("viewer_id")
    return row | {
        "request": request.SerializeToString(),
        "retrieval": retrieval.SerializeToString(),
    }


def _align(row: Row, recorded: Int64Array) -> None:
    """Bring a page's columns to the order of its slate, in which others replace unknown videos.

    `recorded` are the keys of the recorded candidates, those of the page first.
    """
    page = recorded[: len(row["placements"])].tolist()
    shown = [video_key(each) for each in row["video_ids"]]
    if page and page != shown:
        known = {key: place for place, key in enumerate(page)}
        order = [known.get(key, -1) for key in shown]
        for name, missing in (("placements", ""), ("propensities", None)):
            values = [*row[name], missing]
            row[name] = [values[place] for place in order]
        features = row["video_features"].reshape(len(page), -1)
        unknown = np.full((1, features.shape[1]), np.nan, np.float32)
        row["video_features"] = np.concatenate([features, unknown])[order].ravel()


def rows_in(kind: Kind, files: Sequence[Path]) -> Any:
    """Return the rows of some files, an Arrow dataset; columns that a file lacks are null."""
    from pyarrow.dataset import dataset  # which consumers don't need

    return dataset([*map(str, files)], schema=kind.schema, format="parquet")


def request_of(row: Row) -> candidate_pb2.RetrieveCandidatesRequest:
    """Return what was asked of retrieval, with the viewer's features."""
    request = candidate_pb2.RetrieveCandidatesRequest.FromString(row["retrieval"])
    request.viewer.MergeFromString(row["viewer_features"])
    request.viewer.asked_at = row["asked_at"]
    hour, weekday, device, language = row["context"]
    request.viewer.context.CopyFrom(
        viewer_pb2.ContextIds(hour=hour, weekday=weekday, device=device, language=language)
    )
    return request


def _arm(record: SlateRecord, retrieved: str) -> str:
    """Return whether a slate is of the gateway's release, of the canary's, or of both.

    `retrieved` is the release of its candidates, if it has some.
    """
    releases = {record.slate.release_id, retrieved or record.slate.release_id}
    if releases == {record.gateway_release_id}:
        return "production"
    return "canary" if len(releases) == 1 else "mixed"


def _event_rows(entry: Entry) -> list[Callable[[], Row]]:
    recorded = RecordedEvents.FromString(entry.data)
    received_at = recorded.received_at.ToMicroseconds()
    return [partial(_event_row, each, received_at, entry.sequence) for each in recorded.events]


def _event_row(event: Any, received_at: int, sequence: int) -> Row:
    row = {
        "kind": EVENT_KINDS.get(event.kind, str(event.kind)),
        "at": event.time.ToMicroseconds(),
        "received_at": received_at,
        "sequence": sequence,
    }
    if event.HasField("watched_seconds"):
        row["watched_seconds"] = event.watched_seconds
    if event.HasField("watched_fraction"):
        row["watched_fraction"] = event.watched_fraction
    return row | {name: getattr(event, name) for name in _EVENT_FIELDS}


@dataclass(frozen=True)
class Kind:
    """What is archived of a stream."""

    name: str
    stream: Stream
    schema: Any
    """Arrow's schema of the rows."""
    rows: Callable[[Entry], Sequence[Callable[[], Row]]]
    """Returns what makes each row of a message; raises DecodeError if it can't be parsed."""
    identity: Sequence[str]
    """Columns by which a row is the same as another one."""
    time: str
    """Column that says when the message was made."""


SLATE_ROWS = Kind("slates", SLATES, _SLATES_SCHEMA, _slate_rows, ("request_id",), "answered_at")
EVENT_ROWS = Kind(
    "events", EVENTS, _EVENTS_SCHEMA, _event_rows, ("viewer_id", "event_id"), "received_at"
)
KINDS = {each.name: each for each in (SLATE_ROWS, EVENT_ROWS)}


def table_of(kind: Kind, entries: Sequence[Entry]) -> tuple[Any, Counter[str]]:
    """Return the rows of some messages as an Arrow table, and how many were left out, by reason.

    "unreadable" is a message that can't be parsed, "unfit" a record that can't be a row.
    """
    skipped = Counter[str]()
    made, tables = _rows(kind, entries, skipped), [kind.schema.empty_table()]
    while rows := [*islice(made, _ROWS_AT_A_TIME)]:
        tables += _tables(kind, rows, skipped)
    return pa.concat_tables(tables), skipped


def _rows(kind: Kind, entries: Sequence[Entry], skipped: Counter[str]) -> Iterator[Row]:
    for entry in entries:
        try:
            makers = kind.rows(entry)
        except (DecodeError, ValueError):
            skipped["unreadable"] += 1
            continue
        for make in makers:
            try:
                yield make()
            except Exception:  # noqa: BLE001  # whatever is wrong with one, others are archived
                skipped["unfit"] += 1


def _tables(kind: Kind, rows: Sequence[Row], skipped: Counter[str]) -> Iterable[Any]:
    """Return rows as tables: one, or without those that Arrow refuses one for each."""
    try:
        return [pa.Table.from_pylist(rows, kind.schema)]
    except Exception:  # noqa: BLE001  # as above
        if len(rows) > 1:
            return [table for row in rows for table in _tables(kind, [row], skipped)]
        skipped["unfit"] += 1
        return []


def parquet_of(kind: Kind, table: Any, last: Position) -> bytes:
    """Return a file with some rows, the last message of which is at a position."""
    floats, others = list[str](), list[str]()
    for field in kind.schema:
        nested = pa.types.is_list(field.type)
        path = f"{field.name}.list.element" if nested else field.name
        if pa.types.is_floating(field.type.value_type if nested else field.type):
            floats.append(path)
        elif path not in ("request_id", "event_id", "request", "retrieval"):  # hardly any is twice
            others.append(path)
    sink = pa.BufferOutputStream()
    metadata = {VERSION: SCHEMA_VERSION, LAST: str(last)}
    pq.write_table(
        table.replace_schema_metadata(metadata),
        sink,
        compression="zstd",
        use_dictionary=others,
        use_byte_stream_split=floats,
        write_statistics=["viewer_id", "sequence", kind.time],
        dictionary_pagesize_limit=_DICTIONARY_BYTES,
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content
