"""Slates as pods and gateway make and record them, as rows of the archive."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.builders.archiving import logged
from tests.builders.catalogue import followed
from vireo.server.candidate import service as candidate
from vireo.server.consumer.archived_rows import SLATE_ROWS, table_of
from vireo.server.event_log.log import Entry
from vireo.server.gateway.pods import without
from vireo.server.gateway.slate import ranked_slate
from vireo.server.gateway.slate_log import record_retrieval
from vireo.server.live.live import Live
from vireo.server.ranking import service as ranking
from vireo.server.recommend.ranking.pipeline import RankingPipeline
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.v1 import ranking_pb2
from vireo.v1.candidate_pb2 import RetrieveCandidatesRequest
from vireo.v1.slate_pb2 import SlateRecord


class Serving:
    """Both stages of a release, with what the log added."""

    def __init__(self, folder: Path, live: Live | None = None) -> None:
        """Load a release."""
        live = live or followed()
        self.retrieval = CandidatePipeline(CandidateRelease.load(folder, live=live))
        self.ranking = RankingPipeline(RankingRelease.load(folder, live))

    def row(
        self,
        request: RetrieveCandidatesRequest,
        name: str = "request-1",
        gone: frozenset[int] = frozenset(),
        **changes: Any,
    ) -> dict[str, Any]:
        """Return the archived row of a slate, but for `changes` of its columns.

        Args:
            request: what its gateway asked of retrieval, with page_size.
            name: its request id.
            gone: keys of the videos that its gateway left out.
            changes: columns with other values than were recorded.
        """
        record = self.record(request, name, gone)
        table, skipped = table_of(SLATE_ROWS, [Entry(1, "0", logged(record))])
        assert not skipped
        [row] = table.to_pylist()
        return {**row, **changes}

    def record(
        self, request: RetrieveCandidatesRequest, name: str, gone: frozenset[int]
    ) -> SlateRecord:
        """Return the record of a slate."""
        request.recorded = True
        release = self.retrieval.release
        has_rules = request.HasField("rules")
        query, rules = candidate.decode(request, release)
        found = self.retrieval.retrieve(query)
        shown = request.excluded_keys[-request.shown_before :] if request.shown_before else ()
        candidates = candidate.encode(found, release, request.page_size, rules, shown)
        candidate.record_live(candidates, release, query, found)
        masks: Mapping[int, int] = dict(zip(candidates.keys, candidates.source_masks, strict=True))
        left = without(candidates, gone) if gone & masks.keys() else candidates
        asked = ranking_pb2.RankCandidatesRequest(
            viewer=request.viewer,
            keys=left.keys,
            scores=left.scores,
            source_masks=left.source_masks,
            page_size=request.page_size,
            seed_key=request.seed_key if request.HasField("seed_key") else None,
            rules=request.rules if has_rules else None,
            rule_columns=left.rules if has_rules else None,
            recorded=20,
        )
        ranked_query = ranking.decode(asked)
        ranked = self.ranking.rank(ranked_query)
        answer = ranking.encode(ranked, self.ranking.release, titles=False)
        assert ranked.record is not None
        videos = ranking.recorded_videos(self.ranking.release, ranked_query)
        slate = ranked_slate(answer, left)
        left.ClearField("scores")
        record = SlateRecord(
            candidates=left.SerializeToString(),
            ranking=ranking.encode_record(ranked.record, videos),
            slate=slate,
            gateway_release_id=release.manifest.release_id,
            shown_before=request.shown_before,
            left_out_keys=gone & masks.keys(),
            left_out_sources=[masks[key] for key in gone & masks.keys()],
        )
        record_retrieval(record, request)
        record.request.page_size = request.page_size
        record.request.viewer_id = "viewer-1"
        record.slate.request_id = name
        record.answered_at.FromDatetime(datetime.now(UTC))
        return record
