"""Recorded slates, and what the archive has of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vireo.server.consumer.archive_files import ArchiveFile, files_of, names_for
from vireo.server.consumer.archived_rows import KINDS, parquet_of, table_of
from vireo.server.event_log.log import Entry, Position
from vireo.server.features.keys import video_key
from vireo.server.releases.bucket import Bucket
from vireo.server.signals import SCORES, TASKS
from vireo.v1 import ranking_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.candidate_pb2 import RetrieveCandidatesResponse
from vireo.v1.slate_pb2 import RecordedSlates, SlateRecord
from vireo.v1.viewer_pb2 import ViewerFeatures


def slate(request: str, viewer: str = "v", at: float = 1_700_000_000.0) -> SlateRecord:
    """A ranked slate of two of three candidates, answered at a time in Unix seconds."""
    record = SlateRecord(gateway_release_id="r-1")
    record.answered_at.FromNanoseconds(round(at * 1e9))
    record.request.viewer_id = viewer
    record.request.context.device = "tv"
    record.viewer_features = ViewerFeatures(history_keys=[7], history_times=[1]).SerializeToString()
    record.retrieval.viewer.asked_at = 99
    record.retrieval.viewer.context.hour = 5
    record.retrieval.count = 3
    failed = pb.SourceReport(source=viewer_pb2.SOURCE_CO_WATCH, failure="it is away")
    record.candidates = RetrieveCandidatesResponse(
        keys=map(video_key, "abc"), source_masks=[2, 4, 6], release_id="r-1", sources=[failed]
    ).SerializeToString()
    columns = ("score", f"task_{TASKS[0].name}", *(f"retrieval_{each.name}" for each in SCORES))
    values = [[0.75, 0.5, 0.25]] * 2 + [[0.125, 0.5, 0.25]] * len(SCORES)
    record.ranking = ranking_pb2.RankingRecord(
        places=[2, 0, 1],
        columns=columns,
        scores=np.array(values, "<f4").tobytes(),
        placements=(ranking_pb2.PLACEMENT_SCORE, ranking_pb2.PLACEMENT_DIVERSITY),
        propensities=[1.0, 0.5],
        video_features=np.arange(8, dtype="<f4").tobytes(),
    ).SerializeToString()
    record.slate.request_id, record.slate.release_id = request, "r-1"
    record.slate.degradations.append(viewer_pb2.DEGRADATION_SOURCE_MISSING)
    sources = (viewer_pb2.SOURCE_TWO_TOWER, viewer_pb2.SOURCE_CO_WATCH)
    record.slate.items.add(video_id="c", score=0.75, position=1, sources=sources)
    record.slate.items.add(video_id="a", score=0.5, position=2, sources=sources[:1])
    record.rules.add(name="a rule")
    return record


def logged(*slates: SlateRecord) -> bytes:
    """A message of the log that has some slates."""
    return RecordedSlates(slates=[each.SerializeToString() for each in slates]).SerializeToString()


def archived(bucket: Bucket, kind: str, partition: int = 0) -> Any:
    """All rows of a partition, an Arrow table, in the order of the files' names."""
    found = [KINDS[kind].schema.empty_table()]
    for file in files(bucket, kind, partition):
        content = bucket.get(file.stored.name, 1 << 30)
        assert content is not None
        found.append(pq.read_table(pa.BufferReader(content[0])).replace_schema_metadata())
    return pa.concat_tables(found)


def files(bucket: Bucket, kind: str, partition: int = 0) -> list[ArchiveFile]:
    """A partition's files."""
    return [each for each in files_of(bucket, kind) if each.partition == partition]


def put(bucket: Bucket, kind: str, *messages: bytes, at: float, partition: int = 0) -> str:
    """Store a file with some messages, as stored at a time; return its name."""
    entries = [
        Entry(number, str(partition), data, log="a-log", stored_at=at)
        for number, data in enumerate(messages, start=1)
    ]
    table, _ = table_of(KINDS[kind], entries)
    _, name = names_for(KINDS[kind], partition, entries[0])
    last: Position = entries[-1].position
    assert bucket.swap(f"{name}.parquet", parquet_of(KINDS[kind], table, last), None)
    return f"{name}.parquet"
