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
from vireo.server.gateway.rules import ActiveRules
from vireo.server.gateway.slate import TASKS, sources_of
from vireo.server.gateway.slate_metrics import kind_of
from vireo.server.recommend.filters.expression import unmet
from vireo.server.recommend.wording import REMOVED, UNPUBLISHED, ordinal, why_blocked
from vireo.v1 import ranking_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb


async def explain_video(
    pipeline: RecommendPipeline, query: RecommendQuery, release: GatewayRelease, video_id: str
) -> pb.ExplainVideoResponse:
    """Return what became of a video in the slate for a query; raises what `make` raises."""
    key = video_key(video_id)
    explaining = replace(pipeline, shown=False)
    made = await explaining.make(query._replace(explain=True, explained_key=key), release)
    slate, told = made.slate, made.slate.explanation
    response = pb.ExplainVideoResponse(
        release_id=slate.release_id,
        degradations=slate.degradations,
        request_id=query.request_id,
        candidates=told.candidates,
        features_age=told.features_age if told.HasField("features_age") else None,
    )
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
        _explain_fallback(response, pipeline, made, video_id)
    else:
        _explain_retrieval(response, made, video_id)
    if slate.degradations:
        kinds = ", ".join(kind_of(each).replace("_", " ") for each in slate.degradations)
        response.reason += f" The slate is degraded: {kinds}."
    return response


def _explain_fallback(
    response: pb.ExplainVideoResponse, pipeline: RecommendPipeline, made: Made, video_id: str
) -> None:
    """Explain a slate of the popular list."""
    query, release = made.query, made.release
    rules, size = query.rules, query.page_size
    if rules is not None:
        # What is pinned after the page's end is on it by its place in the list, or not at all.
        rules = replace(rules, pinned={at: name for at, name in rules.pinned.items() if at < size})
    blocked, count = {*blocked_keys(made.request)}, len(release.popular.keys)

    def place(rules: ActiveRules | None) -> int:
        """Return its place among all that may be shown of the list; 0 if it has none."""
        whole = pipeline.popular(query._replace(page_size=count, rules=rules), release, blocked)
        return next((each.position for each in whole.items if each.video_id == video_id), 0)

    position = place(rules)
    if not position:
        response.lost_at, response.reason = _lost_in_fallback(pipeline, made, video_id)
        return
    if not response.position:
        response.lost_at, response.position = pb.LOST_AT_RANKING, position
    rank = place(rules and replace(rules, pinned={}))  # 0 if without its pin a cap keeps it off
    placed = f"it is the {ordinal(rank)} of the popular list; " if rank else ""
    response.reason = (
        f"Retrieval failed: {placed}the page has the first {size:,}."
        f"{_moved_by_pins(made, video_id, rank)}"
    )


def _lost_in_fallback(
    pipeline: RecommendPipeline, made: Made, video_id: str
) -> tuple[pb.LostAt.ValueType, str]:
    """Return where and why a video was lost that isn't in what may be shown of the list."""
    key, request, release = video_key(video_id), made.request, made.release
    blocked = why_blocked(
        key,
        seed_key=request.seed_key if request.HasField("seed_key") else None,
        hidden=request.viewer.hidden_keys,
        watched=request.viewer.watched_keys,
        excluded=request.excluded_keys,
    )
    if blocked:
        return pb.LOST_AT_BLOCKED, blocked
    popular = release.popular
    if video_id not in popular.keys:
        count = f"{len(popular.keys):,}"
        reason = f"Retrieval failed, and the popular list of {count} videos lacks it."
        return pb.LOST_AT_RETRIEVAL, reason
    expression = site_and_request(made.query, release)
    if expression is not None:
        video, reason = popular.attributes[key], ""
        if not expression.applies_to(release.declared):
            reason = "A filter of the site names an attribute that the release doesn't declare: "
            reason += "nothing is shown."
        elif pipeline.overlay.changed_after(key, release.merged):
            reason = "It changed in the catalogue: while retrieval fails, nobody knows whether it "
            reason += "meets the filter."
        elif unfit := unmet(expression, video.labels, video.numbers):
            reason = f"A filter forbids it: {unfit}."
        if reason:
            return pb.LOST_AT_FILTER, reason
    return pb.LOST_AT_RANKING, "Retrieval failed, and a cap of the site's rules keeps it off."


def _moved_by_pins(made: Made, video_id: str, rank: int) -> str:
    """Return a sentence on what pins did to a video of this rank; empty if nothing."""
    names, rules = [item.video_id for item in made.slate.items], made.query.rules
    if rules is None:
        return ""
    pinned = next((1 + at for at, name in rules.pinned.items() if name == video_id), 0)
    if pinned > made.query.page_size:
        return f" The site's rules pin it to position {pinned}, after the page's end."
    if pinned and names[pinned - 1 : pinned] == [video_id]:
        return f" The site's rules pin it to position {pinned}."
    if video_id not in names and 0 < rank <= len(names):
        return " Videos that the site's rules pin have taken its place."
    return ""


def _explain_retrieval(response: pb.ExplainVideoResponse, made: Made, video_id: str) -> None:
    """Explain a slate for which a candidate pod has found videos."""
    key, found, ranked = video_key(video_id), made.candidates, made.ranked
    assert found is not None
    explained = found.explained
    response.retrieval_scores.extend(
        pb.NamedValue(name=column.name, value=column.values[0]) for column in explained.scores
    )
    response.source_ranks.extend(explained.source_ranks)
    if key in found.keys:
        place = found.keys[:].index(key)
        response.retrieval_rank = place + 1
        response.sources.extend(sources_of(found.source_masks[place]))
        if not response.position:
            response.lost_at = pb.LOST_AT_RANKING
    else:
        response.lost_at, response.reason = explained.lost_at, explained.reason
    if ranked is not None and ranked.HasField("explained"):
        _add_ranking(response, ranked.explained)
    elif ranked is None and key in found.keys:
        response.position = response.position or response.retrieval_rank
        response.reason = (
            f"Ranking was skipped: it is the {ordinal(response.retrieval_rank)} of "
            f"{response.candidates:,} candidates in the order of retrieval; the page has the "
            f"first {made.query.page_size:,}."
            f"{_moved_by_pins(made, video_id, response.retrieval_rank)}"
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
