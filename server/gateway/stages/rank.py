"""Has the candidates ranked by a ranking pod."""

from __future__ import annotations

from vireo.v1 import candidate_pb2
from vireo.v1 import ranking_pb2 as pb
from vireo.v1.viewer_pb2 import ViewerFeatures

from server.gateway.query import RecommendQuery
from server.gateway.stages.call import StageCall
from server.gateway.stages.check import check_ranked


class Rank:
    """Requests the order of a query's candidates."""

    def __init__(
        self, call: StageCall[pb.RankCandidatesRequest, pb.RankCandidatesResponse]
    ) -> None:
        """Hold the call to ranking pods."""
        self._call = call

    async def __call__(
        self,
        query: RecommendQuery,
        viewer: ViewerFeatures,
        candidates: candidate_pb2.RetrieveCandidatesResponse,
        pool: tuple[tuple[str, str], ...] = (),
    ) -> pb.RankCandidatesResponse:
        """Return the best page of the candidates, from their release while the pod holds it.

        `pool` is metadata that sends the call to another pool than the viewer's.

        Raises:
            StageFailedError: no pod gave a good answer in time.
        """
        request = pb.RankCandidatesRequest(
            viewer=viewer,
            keys=candidates.keys,
            scores=candidates.scores,
            source_masks=candidates.source_masks,
            page_size=query.page_size,
            seed_key=query.seed_key,
            titles=query.explain,
            release_id=candidates.release_id,
        )
        request.viewer.asked_at = query.asked_at
        request.viewer.ClearField("watched_keys")  # only retrieval reads them
        return await self._call(request, query, lambda answer: check_ranked(answer, request), pool)
