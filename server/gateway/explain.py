"""What became of one video in a slate: at which stage it was lost and why, or its place.

The slate is made by the stages that make it for `Recommend`; only their calls differ: each has pods
explain the video beside their usual work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from vireo.server.columns import SCORE_COLUMNS, TASK_COLUMNS, BadColumnError, check_columns
from vireo.server.features.keys import video_key
from vireo.server.filters.unmet import unmet
from vireo.server.gateway.degradations import kind_of
from vireo.server.gateway.pipeline import RecommendPipeline
from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.release import GatewayRelease
from vireo.server.gateway.stages.answer import sources_of
from vireo.server.gateway.stages.call import Answer, Checked, Request, StageCall
from vireo.server.gateway.stages.check import BadAnswerError, blocked_keys
from vireo.server.signals import Column
from vireo.server.wording import REMOVED, UNPUBLISHED, ordinal, why_blocked
from vireo.v1 import candidate_pb2, ranking_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb

_TASKS = frozenset(pb.TaskScores.DESCRIPTOR.fields_by_name)


@dataclass(frozen=True, kw_only=True)
class _ExplainingCall(StageCall[Request, Answer]):
    """A stage's call that has a pod explain a video too."""

    add_question: Callable[[Request], None]
    """Adds the question to a request."""
    on_answer: Callable[[Answer], None]
    """Checks and keeps what a valid answer explains; raises BadAnswerError if that is invalid."""

    @staticmethod
    def like(
        call: StageCall[Request, Answer],
        add_question: Callable[[Request], None],
        on_answer: Callable[[Answer], None],
    ) -> _ExplainingCall[Request, Answer]:
        """Return a call of the same pods."""
        return _ExplainingCall(**vars(call), add_question=add_question, on_answer=on_answer)

    async def __call__(
        self,
        request: Request,
        query: RecommendQuery,
        check: Callable[[Answer, Request], Checked],
    ) -> Checked:
        """Return what `check` makes of the response, as `StageCall` does."""

        def check_both(answer: Answer, request: Request) -> Checked:
            checked = check(answer, request)
            self.on_answer(answer)
            return checked

        self.add_question(request)
        return await super().__call__(request, query, check_both)


async def explain_video(
    pipeline: RecommendPipeline, query: RecommendQuery, release: GatewayRelease, video_id: str
) -> pb.ExplainVideoResponse:
    """Return what became of a video in the slate for a query.

    Raises:
        UnknownSeedError: the query follows a video that the release doesn't have.
    """
    if pipeline.rules_of is not None:
        query = query._replace(rules=pipeline.rules_of(query))
    asked = _Asked(pipeline, query, release, video_id)
    explaining = replace(
        pipeline,
        retrieval=_ExplainingCall.like(pipeline.retrieval, asked.ask_retrieval, asked.on_retrieved),
        ranking=_ExplainingCall.like(pipeline.ranking, asked.ask_ranking, asked.on_ranked),
        shadow=None,
        rules_of=None,  # the query has them
        shown=False,
    )
    slate = await explaining.recommend(query._replace(explain=True), release)
    response = pb.ExplainVideoResponse(
        release_id=slate.release_id,
        degradations=slate.degradations,
        request_id=query.request_id,
        candidates=slate.explanation.candidates,
    )
    if slate.explanation.HasField("features_age"):
        response.features_age.CopyFrom(slate.explanation.features_age)
    item = next((each for each in slate.items if each.video_id == video_id), None)
    if viewer_pb2.DEGRADATION_POPULAR_FALLBACK in slate.degradations:
        asked.explain_fallback(response, item)
    else:
        asked.explain_slate(response, item)
    if slate.degradations:
        kinds = ", ".join(kind_of(each).replace("_", " ") for each in slate.degradations)
        response.reason += f" The slate is degraded: {kinds}."
    return response


class _Asked:
    """A question, and what pods answer to it."""

    def __init__(
        self,
        pipeline: RecommendPipeline,
        query: RecommendQuery,
        release: GatewayRelease,
        video_id: str,
    ) -> None:
        self.pipeline, self.query, self.release = pipeline, query, release
        self.video_id, self.key = video_id, video_key(video_id)
        self.request = candidate_pb2.RetrieveCandidatesRequest()
        self.found = candidate_pb2.RetrieveCandidatesResponse()
        self.ranked: ranking_pb2.RankCandidatesResponse | None = None

    def ask_retrieval(self, request: candidate_pb2.RetrieveCandidatesRequest) -> None:
        request.explained_key = self.key
        self.request = request

    def on_retrieved(self, answer: candidate_pb2.RetrieveCandidatesResponse) -> None:
        _check(answer.explained.scores, SCORE_COLUMNS)
        self.found = answer

    def ask_ranking(self, request: ranking_pb2.RankCandidatesRequest) -> None:
        explained = self.found.explained
        lost = explained.lost_at == pb.LOST_AT_RETRIEVAL and bool(explained.scores)
        if lost or self.key in request.keys:
            request.explained_key = self.key
            request.explained_scores.extend(explained.scores)

    def on_ranked(self, answer: ranking_pb2.RankCandidatesResponse) -> None:
        _check(answer.explained.task_scores, TASK_COLUMNS)
        if not math.isfinite(answer.explained.score):
            raise BadAnswerError("the explained video's score isn't finite")
        self.ranked = answer

    def explain_slate(self, response: pb.ExplainVideoResponse, item: pb.SlateItem | None) -> None:
        """Explain a slate that pods made; `item` is the video, if it is on the page."""
        explained, keys = self.found.explained, self.found.keys
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
            response.sources.extend(sources_of(self.found.source_masks[place]))
            self._explain_candidate(response, item)
        elif explained.lost_at:
            response.lost_at, response.reason = explained.lost_at, explained.reason
            if self.ranked is not None and self.ranked.HasField("explained"):
                self._add_ranking(response, self.ranked.explained)
                response.reason += f" {self.ranked.explained.reason}"
        else:
            response.lost_at = pb.LOST_AT_RETRIEVAL
            response.reason = (
                f"It isn't among the {len(keys):,} candidates; the candidate pod is of a build "
                "that doesn't say why."
            )

    def explain_fallback(
        self, response: pb.ExplainVideoResponse, item: pb.SlateItem | None
    ) -> None:
        """Explain a slate of the popular list; `item` is the video, if it is on the page."""
        blocked = frozenset(blocked_keys(self.request))
        rules, size = self.query.rules, self.query.page_size
        if rules is not None:
            # What is pinned after the page's end is on it by its place in the list, or not at all.
            rules = replace(rules, pinned={at: v for at, v in rules.pinned.items() if at < size})
        every = self.query._replace(page_size=max(1, len(self.release.popular.keys)), rules=rules)
        whole = self.pipeline.popular(every, self.release, blocked)
        place = next((each for each in whole.items if each.video_id == self.video_id), None)
        if place is None:
            response.lost_at, response.reason = self._lost_in_fallback()
            return
        response.position = place.position
        unpinned = every._replace(rules=rules and replace(rules, pinned={}))
        listed = self.pipeline.popular(unpinned, self.release, blocked).items
        rank = next(each.position for each in listed if each.video_id == self.video_id)
        response.reason = (
            f"Retrieval failed: it is the {ordinal(rank)} of the popular list; the page has the "
            f"first {size:,}.{self._moved_by_pins(item, rank)}"
        )
        if item is None:
            response.lost_at = pb.LOST_AT_RANKING

    def _moved_by_pins(self, item: pb.SlateItem | None, rank: int) -> str:
        """Return a sentence on how pins moved a video of this rank; empty if they didn't."""
        rules = self.query.rules
        if item is None and rank <= self.query.page_size:
            return " Videos that the site's rules pin have taken its place."
        if item and rules and rules.pinned.get(item.position - 1) == self.video_id:
            return f" The site's rules pin it to position {item.position}."
        return ""

    def _lost_in_fallback(self) -> tuple[pb.LostAt.ValueType, str]:
        """Return where and why a video was lost that isn't in what may be shown of the list."""
        request = self.request
        why = why_blocked(
            self.key,
            seed_key=request.seed_key if request.HasField("seed_key") else None,
            hidden=request.viewer.hidden_keys,
            watched=request.viewer.watched_keys,
            excluded=request.excluded_keys,
        )
        gone = self.pipeline.overlay.left_out([self.key]) | self.pipeline.left_out(self.release)
        if why or self.key in gone:
            return pb.LOST_AT_BLOCKED, why or self._why_left_out()
        popular = self.release.popular
        if self.video_id not in popular.keys:
            count = len(popular.keys)
            reason = f"Retrieval failed, and the popular list of {count:,} videos lacks it."
            return pb.LOST_AT_RETRIEVAL, reason
        video = popular.attributes.get(self.key)
        rules = self.query.rules
        asked = [self.query.expression, None if rules is None else rules.filter]
        expressions = [each for each in asked if each is not None]
        for expression in expressions:
            if not expression.applies_to(self.release.declared):
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

    def _explain_candidate(
        self, response: pb.ExplainVideoResponse, item: pb.SlateItem | None
    ) -> None:
        if item is None:
            response.lost_at = pb.LOST_AT_RANKING
        else:
            response.position = item.position
        if self.ranked is None:
            response.position = response.position or response.retrieval_rank
            response.reason = (
                f"Ranking was skipped: it is the {ordinal(response.retrieval_rank)} of "
                f"{response.candidates:,} candidates in the order of retrieval; the page has the "
                f"first {self.query.page_size:,}."
                f"{self._moved_by_pins(item, response.retrieval_rank)}"
            )
            return
        if item is not None:
            response.score = item.score
            if item.HasField("task_scores"):
                response.task_scores.CopyFrom(item.task_scores)
        if not self.ranked.HasField("explained"):
            response.reason = "The ranking pod is of a build that doesn't say more."
            return
        explained = self.ranked.explained
        response.position = response.position or explained.position
        response.reason = explained.reason
        self._add_ranking(response, explained)

    def _add_ranking(
        self, response: pb.ExplainVideoResponse, explained: ranking_pb2.ExplainedRanking
    ) -> None:
        response.score = explained.score
        response.score_factor = explained.score_factor
        response.task_weights.extend(explained.task_weights)
        response.ranking_features.extend(explained.features)
        for column in explained.task_scores:
            if column.name in _TASKS:
                setattr(response.task_scores, column.name, column.values[0])


def _check(columns: Sequence[viewer_pb2.ScoreColumn], declared: Mapping[str, Column]) -> None:
    try:
        check_columns(columns, 1, declared)
    except BadColumnError as error:
        raise BadAnswerError(f"the explained video: {error}") from error
