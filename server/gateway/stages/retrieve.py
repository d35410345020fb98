"""Has candidates found by a candidate pod."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from vireo.v1 import candidate_pb2 as pb
from vireo.v1 import viewer_pb2

from server.features.viewer import ViewerFeatures
from server.gateway.query import RecommendQuery
from server.gateway.stages.attempt import StageFailedError
from server.gateway.stages.tries import one_try

if TYPE_CHECKING:
    from vireo.v1.candidate_pb2_grpc import CandidateServiceAsyncStub

_SHARE = 0.6
"""Of the time that is left when it starts; the rest is for ranking."""


class UnknownSeedError(Exception):
    """The seed video isn't in the release that the candidate pod serves."""


class Retrieve:
    """One call for the candidates of a query."""

    def __init__(self, stub: CandidateServiceAsyncStub, timeout: float, candidates: int) -> None:
        """Takes the pods' stub, the most seconds of a call, and how many candidates to get."""
        self._stub = stub
        self._timeout = timeout
        self._candidates = candidates

    async def __call__(
        self,
        query: RecommendQuery,
        viewer: ViewerFeatures,
        release_id: str,
        pool: tuple[tuple[str, str], ...] = (),
    ) -> pb.RetrieveCandidatesResponse:
        """The candidates, best first, from `release_id` while the pod holds it.

        `pool` is metadata that sends the call to another pool than the viewer's. Such a call is
        for comparison, and one pod has all of its time.

        Raises:
            StageFailedError: no pod answered in time.
            UnknownSeedError: the query follows a video that the release doesn't have.
        """
        request = retrieve_request(query, viewer, self._candidates, release_id)
        budget = query.deadline.budget(self._timeout, _SHARE)
        try:
            return await self._stub.RetrieveCandidates(
                request, timeout=budget, metadata=query.metadata + (pool or one_try(budget))
            )
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND and query.seed_key is not None:
                raise UnknownSeedError(error.details()) from error
            raise StageFailedError(f"{error.code().name}: {error.details()}") from error


def retrieve_request(
    query: RecommendQuery, viewer: ViewerFeatures, candidates: int, release_id: str = ""
) -> pb.RetrieveCandidatesRequest:
    """The request for a query: at least a page of candidates, pinned to a release if given."""
    message = viewer_message(viewer)
    message.watched_keys.extend(viewer.watched_keys.tolist())
    if query.playing_key is not None and query.seed_key is None:
        # On HOME the playing video leads to nothing, but it is being watched.
        message.watched_keys.append(query.playing_key)
    return pb.RetrieveCandidatesRequest(
        viewer=message,
        count=max(candidates, query.page_size),
        excluded_keys=query.excluded_keys.tolist(),
        seed_key=query.seed_key,
        page_size=query.page_size,
        release_id=release_id,
    )


def viewer_message(viewer: ViewerFeatures) -> viewer_pb2.ViewerFeatures:
    """The viewer's features as the models read them: without the watched keys."""
    return viewer_pb2.ViewerFeatures(
        history_keys=viewer.history_keys.tolist(),
        history_times=viewer.history_times.tolist(),
        attributes=viewer.attributes,
        watch_count=viewer.watch_count,
        like_count=viewer.like_count,
    )
