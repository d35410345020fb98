"""Has candidates found by a candidate pod."""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import accumulate, chain

import grpc

from vireo.server.features.context import sent
from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.stages.call import StageCall
from vireo.server.gateway.stages.check import check_candidates
from vireo.server.gateway.stages.failure import StageFailedError
from vireo.server.live.overlay import Overlay
from vireo.v1 import candidate_pb2 as pb
from vireo.v1.rules_pb2 import LabelColumn, RuleColumns
from vireo.v1.viewer_pb2 import ScoreColumn, ViewerFeatures

RetrievalCall = StageCall[pb.RetrieveCandidatesRequest, pb.RetrieveCandidatesResponse]

SHARE = 0.6
"""Share of the remaining time at the start of retrieval; the rest is for ranking."""


class UnknownSeedError(Exception):
    """The seed video isn't in the release that the candidate pod serves."""


def retrieve_request(
    query: RecommendQuery,
    viewer: ViewerFeatures,
    count: int,
    release_id: str,
    *,
    count_of_release: bool = False,
) -> pb.RetrieveCandidatesRequest:
    """Return the request for a query's candidates.

    Args:
        query: what was asked.
        viewer: the viewer's features.
        count: how many to return at most.
        release_id: the release to answer from while the pod holds it; empty for its own.
        count_of_release: whether the release that answers says how many instead.
    """
    request = pb.RetrieveCandidatesRequest(
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
    request: pb.RetrieveCandidatesRequest,
    overlay: Overlay | None = None,
) -> tuple[pb.RetrieveCandidatesResponse, dict[int, int]]:
    """Return the candidates for a query, best first, and their source masks by key.

    Videos that `overlay` leaves out are left out: the log may be away for a pod alone.

    Raises:
        StageFailedError: no pod gave a good answer in time.
        UnknownSeedError: the query follows a video that the release doesn't have.
    """
    try:
        candidates, masks = await call(request, query, check_candidates)
    except StageFailedError as error:
        if error.code is grpc.StatusCode.NOT_FOUND and query.seed_key is not None:
            raise UnknownSeedError(str(error)) from error
        raise
    if overlay and (gone := overlay.left_out(masks.keys())):
        masks = {key: mask for key, mask in masks.items() if key not in gone}
        candidates = _without(candidates, gone)
    return candidates, masks


def _without(
    candidates: pb.RetrieveCandidatesResponse, removed: Set[int]
) -> pb.RetrieveCandidatesResponse:
    kept = [place for place, key in enumerate(candidates.keys) if key not in removed]
    return pb.RetrieveCandidatesResponse(
        keys=[candidates.keys[place] for place in kept],
        source_masks=[candidates.source_masks[place] for place in kept],
        scores=[
            ScoreColumn(name=each.name, values=[each.values[place] for place in kept])
            for each in candidates.scores
        ],
        ids=[candidates.ids[place] for place in kept if place < len(candidates.ids)],
        release_id=candidates.release_id,
        sources=candidates.sources,
        filtered=candidates.filtered,
        filter_share=candidates.filter_share,
        rules=_kept_columns(candidates.rules, kept) if candidates.HasField("rules") else None,
    )


def _kept_columns(columns: RuleColumns, kept: Sequence[int]) -> RuleColumns:
    labels = []
    for column in columns.labels:
        ends = [0, *accumulate(column.counts)]
        labels.append(
            LabelColumn(
                counts=[column.counts[place] for place in kept],
                labels=chain.from_iterable(
                    column.labels[ends[place] : ends[place + 1]] for place in kept
                ),
            )
        )
    return RuleColumns(
        factors=[columns.factors[place] for place in kept] if columns.factors else (),
        labels=labels,
        forbidden=columns.forbidden,
        boosted=columns.boosted,
    )
