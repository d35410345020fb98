"""The gateway's pipeline: read the viewer's features, retrieve, rank, answer.

If a stage fails, the slate is made without it and says so in `degradations`.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2
from vireo.v1.candidate_pb2 import RetrieveCandidatesResponse
from vireo.v1.ranking_pb2 import RankCandidatesResponse
from vireo.v1.viewer_pb2 import ViewerFeatures

from server.gateway.quality import Quality
from server.gateway.query import RecommendQuery
from server.gateway.release import GatewayRelease
from server.gateway.stages.answer import popular_items, ranked_items, retrieved_items
from server.gateway.stages.attempt import Attempt, attempt
from server.gateway.stages.rank import Rank
from server.gateway.stages.read_features import ReadFeatures
from server.gateway.stages.retrieve import Retrieve
from server.gateway.stages.shadow import Shadow

_NOT_RUN: Attempt[RankCandidatesResponse] = Attempt(None, 0.0)


@dataclass(frozen=True)
class RecommendPipeline:
    """The chain of stages behind a slate."""

    read_features: ReadFeatures
    quality: Quality
    retrieve: Retrieve
    rank: Rank
    shadow: Shadow | None = None
    """Repeats requests that were answered in full, for comparison."""
    candidates: int | None = None
    """Number of candidates to rank; None for the release's own number."""

    async def recommend(
        self, query: RecommendQuery, release: GatewayRelease
    ) -> pb.RecommendResponse:
        """Return the slate for a query.

        Raises:
            UnknownSeedError: the query follows a video that the release doesn't have.
        """
        degradations: list[viewer_pb2.Degradation.ValueType] = []

        features = await attempt("features", self.read_features(query, release.reader))
        viewer = features.value
        if viewer is None:
            viewer = self.read_features.last(query, release.reader)
            if viewer is not None:
                degradations.append(viewer_pb2.DEGRADATION_FEATURES_STALE)
            else:
                degradations.append(viewer_pb2.DEGRADATION_FEATURES_MISSING)
                viewer = ViewerFeatures()

        own = release.manifest.release_id
        wanted = self.candidates or release.manifest.candidates
        count = self.quality.count(query.page_size, wanted)
        # A canary pod's release may state another number than the gateway's.
        stated = self.candidates is None and count >= wanted
        retrieval = await attempt(
            "retrieval", self.retrieve(query, viewer, count, own, count_of_release=stated)
        )
        candidates = retrieval.value
        missing = candidates is not None and any(report.failure for report in candidates.sources)
        if missing:
            degradations.append(viewer_pb2.DEGRADATION_SOURCE_MISSING)
        if candidates is not None and count < wanted:
            degradations.append(viewer_pb2.DEGRADATION_CANDIDATES_REDUCED)
        ranking = _NOT_RUN
        if candidates is None or (missing and not candidates.keys):
            degradations.append(viewer_pb2.DEGRADATION_POPULAR_FALLBACK)
            blocked = query.blocked_keys(viewer)
            items = popular_items(release.popular.best(query.page_size, blocked))
            release_id = own
        elif not candidates.keys:  # the viewer has watched everything
            items, release_id = [], candidates.release_id
        else:
            ranking = await attempt("ranking", self.rank(query, viewer, candidates))
            if ranking.value is None:
                degradations.append(viewer_pb2.DEGRADATION_RANKING_SKIPPED)
                items, release_id = retrieved_items(candidates), candidates.release_id
            else:
                items = ranked_items(ranking.value, candidates)
                release_id = ranking.value.release_id
                if release_id != candidates.release_id:
                    degradations.append(viewer_pb2.DEGRADATION_MIXED_RELEASES)
                elif self.shadow is not None and not degradations:
                    seconds = retrieval.seconds + ranking.seconds
                    self.shadow.offer(query, viewer, count, stated, items, release_id, seconds)

        return pb.RecommendResponse(
            items=items,
            request_id=query.request_id,
            release_id=release_id,
            degradations=degradations,
            explanation=_explain(viewer, features, retrieval, ranking) if query.explain else None,
        )


def _explain(
    viewer: ViewerFeatures,
    features: Attempt[ViewerFeatures],
    retrieval: Attempt[RetrieveCandidatesResponse],
    ranking: Attempt[RankCandidatesResponse],
) -> pb.Explanation:
    candidates = retrieval.value
    return pb.Explanation(
        features_time=_duration(features.seconds),
        retrieval_time=_duration(retrieval.seconds),
        ranking_time=_duration(ranking.seconds),
        sources=candidates.sources if candidates else (),
        candidates=len(candidates.keys) if candidates else 0,
        history_length=len(viewer.history_keys),
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
