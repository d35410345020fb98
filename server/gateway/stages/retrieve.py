"""Has candidates found by a candidate pod."""

from __future__ import annotations

import grpc
from vireo.v1 import candidate_pb2 as pb
from vireo.v1 import viewer_pb2

from server.gateway.query import RecommendQuery
from server.gateway.stages.attempt import StageFailedError
from server.gateway.stages.call import StageCall
from server.gateway.stages.check import check_candidates

SHARE = 0.6
"""Share of the remaining time at the start of retrieval; the rest is for ranking."""


class UnknownSeedError(Exception):
    """The seed video isn't in the release that the candidate pod serves."""


class Retrieve:
    """Requests the candidates of a query."""

    def __init__(
        self, call: StageCall[pb.RetrieveCandidatesRequest, pb.RetrieveCandidatesResponse]
    ) -> None:
        """Hold the call to candidate pods."""
        self._call = call

    async def __call__(
        self,
        query: RecommendQuery,
        viewer: viewer_pb2.ViewerFeatures,
        count: int,
        release_id: str,
        pool: tuple[tuple[str, str], ...] = (),
        *,
        count_of_release: bool = False,
    ) -> pb.RetrieveCandidatesResponse:
        """Return the candidates for a query, best first.

        Args:
            query: what was asked.
            viewer: the viewer's features.
            count: how many to return at most.
            release_id: the release to answer from while the pod holds it; empty for its own.
            pool: metadata that sends the call to another pool than the viewer's.
            count_of_release: whether the release that answers says how many instead.

        Raises:
            StageFailedError: no pod gave a good answer in time.
            UnknownSeedError: the query follows a video that the release doesn't have.
        """
        request = retrieve_request(query, viewer, count, release_id)
        request.count_of_release = count_of_release
        blocked = query.blocked_keys(viewer)
        try:
            return await self._call(
                request, query, lambda answer: check_candidates(answer, request, blocked), pool
            )
        except StageFailedError as error:
            if error.code is grpc.StatusCode.NOT_FOUND and query.seed_key is not None:
                raise UnknownSeedError(str(error)) from error
            raise


def retrieve_request(
    query: RecommendQuery, viewer: viewer_pb2.ViewerFeatures, count: int, release_id: str
) -> pb.RetrieveCandidatesRequest:
    """Return the request for a query, pinned to a release if one is given."""
    request = pb.RetrieveCandidatesRequest(
        viewer=viewer,
        count=count,
        excluded_keys=query.excluded_keys.tolist(),
        seed_key=query.seed_key,
        page_size=query.page_size,
        release_id=release_id,
    )
    request.viewer.asked_at = query.asked_at  # the store's row has no time of a request
    if query.playing_key is not None and query.seed_key is None:
        # On HOME the playing video leads to nothing: among the watched ones EASE would go by it.
        request.excluded_keys.append(query.playing_key)
    return request
