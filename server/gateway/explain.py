"""What became of one video in a slate: at which stage it was lost and why, or its place.

The slate is made as for `Recommend`, but pods explain the video beside their usual work.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vireo.server.features.keys import video_key
from vireo.server.gateway.pipeline import Made, RecommendPipeline
from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.release import GatewayRelease
from vireo.server.gateway.slate_metrics import kind_of
from vireo.server.gateway.stages.answer import TASKS, sources_of
from vireo.server.gateway.stages.check import blocked_keys
from vireo.server.recommend.filters.expression import unmet
from vireo.server.recommend.wording import REMOVED, UNPUBLISHED, ordinal, why_blocked
from vireo.v1 import ranking_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb


async def explain_video(
    pipeline: RecommendPipeline, query: RecommendQuery, release: GatewayRelease, video_id: str
) -> pb.ExplainVideoResponse:
    """Return what became of a video in the slate for a query; raises what `make` raises."""
    explaining = replace(pipeline, shadow=None, shown=False)
    made = await explaining.make(
        query._replace(explain=True, explained_key=video_key(video_id)), release
    )
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
    explanation = _Explanation(pipeline, made, video_id, item, response)
    if viewer_pb2.DEGRADATION_POPULAR_FALLBACK in slate.degradations:
        explanation.of_fallback()
    else:
        explanation.of_slate()
    if slate.degradations:
        kinds = ", ".join(kind_of(each).replace("_", " ") for each in slate.degradations)
        response.reason += f" The slate is degraded: {kinds}."
    return response


@dataclass(frozen=True)
class _Explanation:
    """Fills in the response on one video."""

    pipeline: RecommendPipeline
    made: Made
    video_id: str
    item: pb.SlateItem | None
    """The video, if it is on the page."""
    response: pb.ExplainVideoResponse

    @property
    def key(self) -> int:
        return video_key(self.video_id)

    def of_slate(self) -> None:
        """Explain a slate that pods made."""
        response, found, ranked = self.response, self.made.found, self.made.ranked
        assert found is not None
        explained, keys = found.explained, found.keys
        response.retrieval_scores.extend(
            pb.NamedValue(name=column.name, value=column.values[0]) for column in explained.scores
        )
        response.source_ranks.extend(explained.source_ranks)
        gone = self.pipeline.overlay.left_out([self.key, *keys])
        if self.key in gone:
            response.lost_at, response.reason = pb.LOST_AT_BLOCKED, self._why_left_out()
        elif self.key in keys:
            place = [*keys].index(self.key)
            response.retrieval_rank = place + 1 - sum(key in gone for key in keys[:place])
            response.sources.extend(sources_of(found.source_masks[place]))
            self._explain_candidate()
        elif explained.lost_at:
            response.lost_at, response.reason = explained.lost_at, explained.reason
            if ranked is not None and ranked.HasField("explained"):
                self._add_ranking(ranked.explained)
                response.reason += f" {ranked.explained.reason}"
        else:
            response.lost_at = pb.LOST_AT_RETRIEVAL
            response.reason = (
                f"It isn't among the {len(keys):,} candidates; the candidate pod is of a build "
                "that doesn't say why."
            )

    def of_fallback(self) -> None:
        """Explain a slate of the popular list."""
        response, query, release = self.response, self.made.query, self.made.release
        blocked = frozenset(blocked_keys(self.made.request))
        rules, size = query.rules, query.page_size
        if rules is not None:
            # What is pinned after the page's end is on it by its place in the list, or not at all.
            rules = replace(rules, pinned={at: v for at, v in rules.pinned.items() if at < size})
        every = query._replace(page_size=max(1, len(release.popular.keys)), rules=rules)
        whole = self.pipeline.popular(every, release, blocked)
        place = next((each for each in whole.items if each.video_id == self.video_id), None)
        if place is None:
            response.lost_at, response.reason = self._lost_in_fallback()
            return
        response.position = place.position
        unpinned = every._replace(rules=rules and replace(rules, pinned={}))
        listed = self.pipeline.popular(unpinned, release, blocked).items
        rank = next(each.position for each in listed if each.video_id == self.video_id)
        response.reason = (
            f"Retrieval failed: it is the {ordinal(rank)} of the popular list; the page has the "
            f"first {size:,}.{self._moved_by_pins(rank)}"
        )
        if self.item is None:
            response.lost_at = pb.LOST_AT_RANKING

    def _moved_by_pins(self, rank: int) -> str:
        """Return a sentence on how pins moved a video of this rank; empty if they didn't."""
        rules, item = self.made.query.rules, self.item
        if item is None and rank <= self.made.query.page_size:
            return " Videos that the site's rules pin have taken its place."
        if item and rules and rules.pinned.get(item.position - 1) == self.video_id:
            return f" The site's rules pin it to position {item.position}."
        return ""

    def _lost_in_fallback(self) -> tuple[pb.LostAt.ValueType, str]:
        """Return where and why a video was lost that isn't in what may be shown of the list."""
        request, release = self.made.request, self.made.release
        why = why_blocked(
            self.key,
            seed_key=request.seed_key if request.HasField("seed_key") else None,
            hidden=request.viewer.hidden_keys,
            watched=request.viewer.watched_keys,
            excluded=request.excluded_keys,
        )
        gone = self.pipeline.overlay.left_out([self.key]) | self.pipeline.left_out(release)
        if why or self.key in gone:
            return pb.LOST_AT_BLOCKED, why or self._why_left_out()
        popular = release.popular
        if self.video_id not in popular.keys:
            count = len(popular.keys)
            reason = f"Retrieval failed, and the popular list of {count:,} videos lacks it."
            return pb.LOST_AT_RETRIEVAL, reason
        video = popular.attributes.get(self.key)
        rules = self.made.query.rules
        asked = [
            self.made.query.expression(release.declared),
            None if rules is None else rules.filter,
        ]
        expressions = [each for each in asked if each is not None]
        for expression in expressions:
            if not expression.applies_to(release.declared):
                return pb.LOST_AT_FILTER, (
                    "A filter of the site names an attribute that the release doesn't declare: "
                    "nothing is shown."
                )
            unfit = video and unmet(expression, video.labels, video.numbers)
            if unfit:
                return pb.LOST_AT_FILTER, f"A filter forbids it: {unfit}."
        if not expressions:
            return (
                pb.LOST_AT_RANKING,
                "Retrieval failed, and a cap of the site's rules keeps it off.",
            )
        return pb.LOST_AT_FILTER, (
            "It changed in the catalogue: while retrieval fails, nobody knows whether it meets the "
            "filter."
        )

    def _why_left_out(self) -> str:
        return REMOVED if self.key in self.pipeline.overlay.takedowns else UNPUBLISHED

    def _explain_candidate(self) -> None:
        response, item, ranked = self.response, self.item, self.made.ranked
        if item is None:
            response.lost_at = pb.LOST_AT_RANKING
        else:
            response.position = item.position
        if ranked is None:
            response.position = response.position or response.retrieval_rank
            response.reason = (
                f"Ranking was skipped: it is the {ordinal(response.retrieval_rank)} of "
                f"{response.candidates:,} candidates in the order of retrieval; the page has the "
                f"first {self.made.query.page_size:,}."
                f"{self._moved_by_pins(response.retrieval_rank)}"
            )
            return
        if item is not None:
            response.score = item.score
            if item.HasField("task_scores"):
                response.task_scores.CopyFrom(item.task_scores)
        if not ranked.HasField("explained"):
            response.reason = "The ranking pod is of a build that doesn't say more."
            return
        explained = ranked.explained
        response.position = response.position or explained.position
        response.reason = explained.reason
        self._add_ranking(explained)

    def _add_ranking(self, explained: ranking_pb2.ExplainedRanking) -> None:
        response = self.response
        response.score = explained.score
        response.score_factor = explained.score_factor
        response.task_weights.extend(explained.task_weights)
        response.ranking_features.extend(explained.features)
        for column in explained.task_scores:
            if column.name in TASKS:
                setattr(response.task_scores, column.name, column.values[0])
