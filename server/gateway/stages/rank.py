"""Has the candidates ranked by a ranking pod."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.stages.call import StageCall
from vireo.server.gateway.stages.check import check_ranked
from vireo.v1 import ranking_pb2 as pb
from vireo.v1.candidate_pb2 import RetrieveCandidatesResponse
from vireo.v1.viewer_pb2 import ViewerFeatures

RankingCall = StageCall[pb.RankCandidatesRequest, pb.RankCandidatesResponse]


async def rank(
    call: RankingCall,
    query: RecommendQuery,
    viewer: ViewerFeatures,
    candidates: RetrieveCandidatesResponse,
    masks: Mapping[int, int],
) -> pb.RankCandidatesResponse:
    """Return the best page of the candidates, from their release while the pod holds it.

    `viewer` has the features as retrieval got them, with the request's time; `masks` are the
    candidates' source masks by key.

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
        rules=None if query.rules is None else query.rules.message,
        rule_columns=candidates.rules if candidates.HasField("rules") else None,
    )
    request.viewer.ClearField("watched_keys")  # only retrieval reads them
    return await call(request, query, partial(check_ranked, candidates=masks))
