"""Has the candidates ranked by a ranking pod."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from vireo.v1 import candidate_pb2
from vireo.v1 import ranking_pb2 as pb

from server.features.viewer import ViewerFeatures
from server.gateway.query import RecommendQuery
from server.gateway.stages.attempt import StageFailedError
from server.gateway.stages.retrieve import viewer_message
from server.gateway.stages.tries import one_try

if TYPE_CHECKING:
    from vireo.v1.ranking_pb2_grpc import RankingServiceAsyncStub


class Rank:
    """One call for the order of a query's candidates."""

    def __init__(self, stub: RankingServiceAsyncStub, timeout: float) -> None:
        """Takes the pods' stub and the most seconds of a call."""
        self._stub = stub
        self._timeout = timeout

    async def __call__(
        self,
        query: RecommendQuery,
        viewer: ViewerFeatures,
        candidates: candidate_pb2.RetrieveCandidatesResponse,
        pool: tuple[tuple[str, str], ...] = (),
    ) -> pb.RankCandidatesResponse:
        """The best page of the candidates, from their release while the pod holds it.

        `pool` is metadata that sends the call to another pool than the viewer's. Such a call is
        for comparison, and one pod has all of its time.

        Raises:
            StageFailedError: no pod answered in time.
        """
        request = pb.RankCandidatesRequest(
            viewer=viewer_message(viewer),
            keys=candidates.keys,
            scores=candidates.scores,
            co_watch_scores=candidates.co_watch_scores,
            ease_scores=candidates.ease_scores,
            source_masks=candidates.source_masks,
            page_size=query.page_size,
            seed_key=query.seed_key,
            titles=query.explain,
            release_id=candidates.release_id,
        )
        budget = query.deadline.budget(self._timeout)
        try:
            return await self._stub.RankCandidates(
                request, timeout=budget, metadata=query.metadata + (pool or one_try(budget))
            )
        except grpc.aio.AioRpcError as error:
            raise StageFailedError(f"{error.code().name}: {error.details()}") from error
