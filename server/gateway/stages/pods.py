"""Asks candidate pods for candidates, and ranking pods for their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from functools import partial
from itertools import chain, compress, repeat
from typing import TypeVar

import grpc

from vireo.server.features.context import sent
from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.release import GatewayRelease
from vireo.server.gateway.stages.call import StageCall, StageFailedError
from vireo.server.gateway.stages.check import check_candidates, check_ranked
from vireo.v1 import candidate_pb2, ranking_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.rules_pb2 import LabelColumn, RuleColumns
from vireo.v1.viewer_pb2 import ScoreColumn, ViewerFeatures

RetrievalCall = StageCall[
    candidate_pb2.RetrieveCandidatesRequest, candidate_pb2.RetrieveCandidatesResponse
]
RankingCall = StageCall[ranking_pb2.RankCandidatesRequest, ranking_pb2.RankCandidatesResponse]

SHARE = 0.6
"""Share of the remaining time at the start of retrieval; the rest is for ranking."""

_Value = TypeVar("_Value")


class UnknownSeedError(Exception):
    """The seed video isn't in the release that the candidate pod serves."""


def retrieve_request(
    query: RecommendQuery,
    viewer: ViewerFeatures,
    count: int,
    release_id: str,
    *,
    count_of_release: bool = False,
) -> candidate_pb2.RetrieveCandidatesRequest:
    """Return the request for a query's candidates.

    Args:
        query: what was asked.
        viewer: the viewer's features.
        count: how many to return at most.
        release_id: the release to answer from while the pod holds it; empty for its own.
        count_of_release: whether the release that answers says how many instead.
    """
    request = candidate_pb2.RetrieveCandidatesRequest(
        viewer=viewer,
        count=count,
        excluded_keys=query.excluded_keys,
        seed_key=query.seed_key,
        page_size=query.page_size,
        release_id=release_id,
        count_of_release=count_of_release,
        locale=query.locale,
        filter=query.filter,
        rules=None if query.rules is None else query.rules.message,
        explained_key=query.explained_key,
    )
    if query.session:
        request.session_keys[:], request.session_weights[:] = zip(*query.session, strict=True)
    if query.rules is not None and query.explain:
        request.rules.counts = True
    request.viewer.asked_at = query.asked_at  # the store's row has no time of a request
    sent(query.context, request.viewer.context)
    return request


async def retrieve(
    call: RetrievalCall,
    query: RecommendQuery,
    request: candidate_pb2.RetrieveCandidatesRequest,
    release: GatewayRelease | None = None,
) -> tuple[candidate_pb2.RetrieveCandidatesResponse, dict[int, int]]:
    """Return the candidates for a query, best first, and their source masks by key.

    Raises:
        StageFailedError: no pod gave a good answer in time.
        UnknownSeedError: the query follows a video that the release doesn't have.
        RpcError: INVALID_ARGUMENT: `release` can't be filtered so either.
    """
    try:
        return await call(request, query, check_candidates)
    except StageFailedError as error:
        if error.code is grpc.StatusCode.NOT_FOUND and query.seed_key is not None:
            raise UnknownSeedError(str(error)) from error
        if error.code is grpc.StatusCode.INVALID_ARGUMENT and release is not None:
            query.expression(release.declared)
        raise


async def rank(
    call: RankingCall,
    query: RecommendQuery,
    viewer: ViewerFeatures,
    candidates: candidate_pb2.RetrieveCandidatesResponse,
    masks: Mapping[int, int],
) -> ranking_pb2.RankCandidatesResponse:
    """Return the best page of the candidates, from their release while the pod holds it.

    Args:
        call: how to call a ranking pod.
        query: what was asked.
        viewer: the features as retrieval got them, with the request's time.
        candidates: what retrieval returned.
        masks: the candidates' source masks by key.

    Raises:
        StageFailedError: no pod gave a good answer in time.
    """
    request = ranking_pb2.RankCandidatesRequest(
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
    if query.explained_key is not None:
        explained = candidates.explained
        lost = explained.lost_at == pb.LOST_AT_RETRIEVAL and bool(explained.scores)
        if lost or query.explained_key in masks:
            request.explained_key = query.explained_key
            request.explained_scores.extend(explained.scores)
    return await call(request, query, partial(check_ranked, candidates=masks))


def without(
    candidates: candidate_pb2.RetrieveCandidatesResponse, removed: Set[int]
) -> candidate_pb2.RetrieveCandidatesResponse:
    """Return candidates but for those of some keys."""
    stay = [key not in removed for key in candidates.keys]

    def kept(column: Iterable[_Value]) -> list[_Value]:
        return [*compress(column, stay)]

    rules = None
    if candidates.HasField("rules"):
        columns = candidates.rules
        rules = RuleColumns(
            factors=kept(columns.factors),
            labels=[
                LabelColumn(
                    counts=kept(each.counts),
                    labels=compress(
                        each.labels, chain.from_iterable(map(repeat, stay, each.counts))
                    ),
                )
                for each in columns.labels
            ],
            forbidden=columns.forbidden,
            boosted=columns.boosted,
        )
    return candidate_pb2.RetrieveCandidatesResponse(
        keys=kept(candidates.keys),
        source_masks=kept(candidates.source_masks),
        scores=[
            ScoreColumn(name=each.name, values=kept(each.values)) for each in candidates.scores
        ],
        ids=kept(candidates.ids),
        release_id=candidates.release_id,
        sources=candidates.sources,
        filtered=candidates.filtered,
        filter_share=candidates.filter_share,
        rules=rules,
        explained=candidates.explained if candidates.HasField("explained") else None,
    )
