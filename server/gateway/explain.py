"""What became of one video in a slate: at which stage it was lost and why, or its place.

The slate is made as for `Recommend`, but pods explain the video beside their usual work.
"""

from __future__ import annotations

from dataclasses import replace

from vireo.server.features.keys import video_key
from vireo.server.gateway.check import blocked_keys
from vireo.server.gateway.pipeline import Made, RecommendPipeline, site_and_request
from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.release import GatewayRelease
from vireo.server.gateway.slate import TASKS, sources_of
from vireo.server.gateway.slate_metrics import kind_of
from vireo.server.recommend.wording import REMOVED, UNPUBLISHED, ordinal
from vireo.v1 import ranking_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb


async def explain_video(
    pipeline: RecommendPipeline, query: RecommendQuery, release: GatewayRelease, video_id: str
) -> pb.ExplainVideoResponse:
    """Return what became of a video in the slate for a query; raises what `make` raises."""
    key = video_key(video_id)
    explaining = replace(pipeline, shadow=None, shown=False)
    made = await explaining.make(query._replace(explain=True, explained_key=key), release)
    slate = made.slate
    response = pb.ExplainVideoResponse(
        release_id=slate.release_id,
        degradations=slate.degradations,
        request_id=query.request_id,
        candidates=slate.explanation.candidates,
    )
    if slate.explanation.HasField("features_age"):
        response.features_age.CopyFrom(slate.explanation.features_age)
    item = next((each for each in slate.items if each.video_id == video_id), None)
    if item is not None:
        response.position = item.position
        if made.ranked is not None:
            response.score = item.score
            response.task_scores.CopyFrom(item.task_scores)
    fallback = viewer_pb2.DEGRADATION_POPULAR_FALLBACK in slate.degradations
    gone = pipeline.overlay.left_out([key]) | (pipeline.left_out(release) if fallback else set())
    if key in gone:
        response.lost_at = pb.LOST_AT_BLOCKED
        response.reason = REMOVED if key in pipeline.overlay.takedowns else UNPUBLISHED
    elif fallback:
        _explain_fallback(response, made, key)
    else:
        _explain_retrieval(response, made, key)
    if slate.degradations:
        kinds = ", ".join(kind_of(each).replace("_", " ") for each in slate.degradations)
        response.reason += f" The slate is degraded: {kinds}."
    return response


def _explain_fallback(response: pb.ExplainVideoResponse, made: Made, key: int) -> None:
    """Explain a slate of the popular list."""
    expression = site_and_request(made.query, made.release)
    if response.position:
        response.reason = "Retrieval failed: the page has the first of the popular list."
    elif expression is not None and not expression.applies_to(made.release.declared):
        response.lost_at = pb.LOST_AT_FILTER
        response.reason = (
            "A filter of the site names an attribute that the release doesn't declare: nothing is "
            "shown."
        )
    elif key in blocked_keys(made.request):
        response.lost_at = pb.LOST_AT_BLOCKED
        response.reason = (
            "The viewer has watched or hidden it, or the request excludes it or follows it."
        )
    else:
        response.lost_at = pb.LOST_AT_RETRIEVAL
        response.reason = (
            "Retrieval failed: the page has the first of the popular list that meet all filters, "
            "and it isn't one of them."
        )


def _explain_retrieval(response: pb.ExplainVideoResponse, made: Made, key: int) -> None:
    """Explain a slate for which a candidate pod has found videos."""
    found, ranked = made.candidates, made.ranked
    assert found is not None
    explained = found.explained
    response.retrieval_scores.extend(
        pb.NamedValue(name=column.name, value=column.values[0]) for column in explained.scores
    )
    response.source_ranks.extend(explained.source_ranks)
    if key in made.masks:
        place = found.keys[:].index(key)
        response.retrieval_rank = place + 1
        response.sources.extend(sources_of(found.source_masks[place]))
        if not response.position:
            response.lost_at = pb.LOST_AT_RANKING
    else:
        response.lost_at, response.reason = explained.lost_at, explained.reason
    if ranked is not None and ranked.HasField("explained"):
        _add_ranking(response, ranked.explained)
    elif ranked is None and key in made.masks:
        response.position = response.position or response.retrieval_rank
        response.reason = (
            f"Ranking was skipped: it is the {ordinal(response.retrieval_rank)} of "
            f"{response.candidates:,} candidates in the order of retrieval; the page has the "
            f"first {made.query.page_size:,}."
        )


def _add_ranking(
    response: pb.ExplainVideoResponse, explained: ranking_pb2.ExplainedRanking
) -> None:
    """Add what a ranking pod says of a candidate, or of a video that it ranked beside them."""
    if response.retrieval_rank:
        response.position = response.position or explained.position
    response.reason = f"{response.reason} {explained.reason}".strip()
    response.score = explained.score
    response.score_factor = explained.score_factor
    response.task_weights.extend(explained.task_weights)
    response.ranking_features.extend(explained.features)
    for column in explained.task_scores:
        if column.name in TASKS:
            setattr(response.task_scores, column.name, column.values[0])
