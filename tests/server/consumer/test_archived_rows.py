"""Rows of slates and events, and their files."""

from __future__ import annotations

import io
import math
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.builders.archiving import logged, slate
from tests.builders.event_batches import HIDE, event
from vireo.server.consumer.archived_rows import EVENT_ROWS, SLATE_ROWS, Kind, parquet_of, table_of
from vireo.server.event_log.log import Entry, Position
from vireo.server.features.keys import video_key
from vireo.server.signals import SCORES, TASKS
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.candidate_pb2 import RetrieveCandidatesRequest, RetrieveCandidatesResponse
from vireo.v1.log_pb2 import RecordedEvents
from vireo.v1.ranking_pb2 import RankingRecord
from vireo.v1.slate_pb2 import SlateRecord
from vireo.v1.viewer_pb2 import ViewerFeatures


def row(record: SlateRecord) -> dict[str, object]:
    table, skipped = table_of(SLATE_ROWS, [Entry(7, "0", logged(record))])
    assert not skipped
    [found] = table.to_pylist()
    return dict(found)


def changed(record: SlateRecord, **fields: Any) -> SlateRecord:
    """The record with other values in fields of its ranking."""
    ranking = RankingRecord.FromString(record.ranking)
    for name, value in fields.items():
        ranking.ClearField(name)  # type: ignore[arg-type]
        ranking.MergeFrom(RankingRecord(**{name: value}))
    record.ranking = ranking.SerializeToString()
    return record


def test_a_slate_has_all_that_it_was_made_from() -> None:
    found = row(slate("r", at=1_700_000_000.5))
    binary = {name: found.pop(name) for name in ("viewer_features", "request", "retrieval")}
    assert found == {
        "request_id": "r",
        "viewer_id": "v",
        "sequence": 7,
        "answered_at": datetime.fromtimestamp(1_700_000_000.5, UTC),
        "asked_at": 99,
        "surface": "home",
        "shown_before": 0,
        "page_size": 10,
        "device": "tv",
        **dict.fromkeys(("seed_video_id", "locale", "time_zone", "region"), ""),
        "arm": "production",
        **dict.fromkeys(("release_id", "retrieval_release_id", "gateway_release_id"), "r-1"),
        "degradations": ["source_missing"],
        "rules": ["a rule"],
        "failed_sources": ["co_watch"],
        "context": [5, 0, 0, 0],
        "rule_columns": b"",
        "candidate_keys": [*map(video_key, "abc")],
        "candidate_sources": [2, 4, 6],
        "recorded": [2, 0, 1],
        "score": [0.75, 0.5, 0.25],
        **{f"retrieval_{each.name}": [0.125, 0.5, 0.25] for each in SCORES},
        **{f"task_{each.name}": [] for each in TASKS},
        "task_watch": [0.75, 0.5, 0.25],
        "video_ids": ["c", "a"],
        "item_scores": [0.75, 0.5],
        "item_sources": [6, 2],
        "placements": ["score", "diversity"],
        "propensities": [1.0, 0.5],
        "video_features": [*range(8)],
        **{f"{name}_keys": [] for name in ("blocked", "left_out")},
        "left_out_sources": [],
        "retrieved_videos": [],
        "ranked_videos": [],
        "lacks_changes": False,
    }
    assert ViewerFeatures.FromString(binary["viewer_features"]) == ViewerFeatures(  # type: ignore[arg-type]
        history_keys=[7], history_times=[1]
    )
    request = pb.RecommendRequest.FromString(binary["request"])  # type: ignore[arg-type]
    assert request == pb.RecommendRequest(context=pb.RequestContext(device="tv"))
    asked = RetrieveCandidatesRequest.FromString(binary["retrieval"])  # type: ignore[arg-type]
    assert asked == RetrieveCandidatesRequest(count=3)


@pytest.mark.parametrize(
    ("retrieval", "ranking", "arm"),
    [("r-1", "r-1", "production"), ("r-2", "r-2", "canary"), ("r-1", "r-2", "mixed")],
)
def test_the_arm_is_that_of_both_stages(retrieval: str, ranking: str, arm: str) -> None:
    record = slate("r")
    candidates = RetrieveCandidatesResponse.FromString(record.candidates)
    candidates.release_id, record.slate.release_id = retrieval, ranking
    record.candidates = candidates.SerializeToString()
    assert row(record)["arm"] == arm


def test_a_popular_fallback_has_neither_candidates_nor_scores() -> None:
    record = slate("r")
    record.ClearField("candidates")
    record.ClearField("ranking")
    found = row(record)
    assert found["arm"] == "production"
    empty = ("candidate_keys", "recorded", "score", "retrieval_ease", "placements", "propensities")
    assert [found[name] for name in empty] == [[]] * len(empty)


def test_an_event_has_its_fields_and_what_it_lacks_is_null() -> None:
    play = event("v", "a", at=5.25, watched_seconds=3.5, request_id="r", position=2, locale="de")
    recorded = RecordedEvents(events=[play, event("w", "b", HIDE)])
    recorded.received_at.FromSeconds(9)
    table, skipped = table_of(EVENT_ROWS, [Entry(4, "0", recorded.SerializeToString())])
    first, second = table.to_pylist()
    assert not skipped
    assert first == {
        "event_id": "v a",
        "viewer_id": "v",
        "kind": "play",
        "video_id": "a",
        "at": datetime.fromtimestamp(5.25, UTC),
        "received_at": datetime.fromtimestamp(9, UTC),
        "watched_seconds": 3.5,
        "watched_fraction": None,
        "request_id": "r",
        "position": 2,
        "locale": "de",
        **dict.fromkeys(("creator", "device", "time_zone"), ""),
        "sequence": 4,
    }
    assert (second["kind"], second["watched_seconds"]) == ("hide", None)


def test_what_placed_a_video_stays_with_it_if_another_one_replaces_an_unknown_video() -> None:
    record = slate("r")
    record.slate.items[0].video_id = "a"  # the ranking pod doesn't know c, and b is shown instead
    record.slate.items[1].video_id = "b"
    found = row(changed(record, video_features=np.arange(1, 5, dtype="<f4").tobytes()))
    assert found["video_ids"] == ["a", "b"]
    assert found["placements"] == ["diversity", ""]
    assert found["propensities"] == [0.5, None]
    features: Any = found["video_features"]
    assert features[:2] == [3.0, 4.0]
    assert [*map(math.isnan, features[2:])] == [True, True]


def at_no_time() -> SlateRecord:
    record = slate("bad")
    record.answered_at.seconds = 1 << 60
    return record


@pytest.mark.parametrize(
    "bad",
    [
        at_no_time(),
        slate(""),
        changed(slate("bad"), places=[2, 0, 3]),  # of three candidates
        changed(slate("bad"), places=[2, 0, -1]),
        changed(slate("bad"), places=[2, 0]),  # and three values a column
        changed(slate("bad"), scores=b"\0" * 59),
        changed(slate("bad"), columns=[], scores=b""),  # as another build records them
        SlateRecord(slate=slate("bad").slate, ranking=b"\xff"),
        SlateRecord(slate=slate("bad").slate, candidates=b"\xff"),
    ],
)
def test_a_record_that_can_be_no_row_is_left_out_alone(bad: SlateRecord) -> None:
    records = [slate("a"), bad, slate("b")]
    entries = [Entry(1, "0", logged(*records)), Entry(9, "0", b"\xff")]
    table, skipped = table_of(SLATE_ROWS, entries)
    assert table["request_id"].to_pylist() == ["a", "b"]
    assert skipped == {"unfit": 1, "unreadable": 1}


def test_what_arrow_refuses_is_left_out_alone() -> None:
    rows: list[dict[str, Any]] = [{"event_id": each} for each in "abc"]
    rows[1]["position"] = 1 << 40
    of_rows = Kind(
        "events",
        EVENT_ROWS.stream,
        EVENT_ROWS.schema,
        lambda entry: [lambda: rows[entry.sequence]],
        (),
        "",
    )
    table, skipped = table_of(of_rows, [Entry(number, "0", b"") for number in range(3)])
    assert table["event_id"].to_pylist() == ["a", "c"]
    assert skipped == {"unfit": 1}


def test_pandas_reads_a_file_and_each_version_of_a_viewer_is_in_it_once() -> None:
    records = [slate(f"r-{number}", at=time.time()) for number in range(300)]
    for record in records:
        features = ViewerFeatures(watched_keys=range(10_000, 12_000))
        record.viewer_features = features.SerializeToString()
    entries = [Entry(n, "0", logged(each)) for n, each in enumerate(records, start=1)]
    table, _ = table_of(SLATE_ROWS, entries)
    content = parquet_of(SLATE_ROWS, table, Position(300, "log", 5))
    frame = pd.read_parquet(io.BytesIO(content))
    assert frame["request_id"].tolist() == [f"r-{number}" for number in range(300)]
    assert frame["candidate_keys"][0].tolist() == [*map(video_key, "abc")]
    metadata = pq.read_metadata(io.BytesIO(content))
    assert metadata.metadata[b"vireo.schema"] == b"1"
    assert metadata.metadata[b"vireo.last"] == b"300@log#0000000000000005"
    columns = {
        each.path_in_schema: each
        for each in map(metadata.row_group(0).column, range(metadata.num_columns))
    }
    features = columns["viewer_features"]
    assert features.total_uncompressed_size < 2 * len(table["viewer_features"][0].as_py())
    assert features.compression == "ZSTD"
    assert "BYTE_STREAM_SPLIT" in columns["retrieval_ease.list.element"].encodings
