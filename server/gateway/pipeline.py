"""The gateway's chain: read the viewer's features, retrieve, rank, answer.

If a stage fails, the slate is made without it and says so in `degradations`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field

from vireo.server.gateway.check import blocked_keys
from vireo.server.gateway.features import FeatureReader
from vireo.server.gateway.pods import (
    RankingCall,
    RetrievalCall,
    StageFailedError,
    rank,
    retrieve,
    retrieve_request,
    without,
)
from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.release import GatewayRelease, digest_of
from vireo.server.gateway.rules import ActiveRules, SiteRules
from vireo.server.gateway.slate import popular_slate, ranked_slate, retrieved_slate
from vireo.server.gateway.slate_metrics import FEATURE_AGE, count_slate
from vireo.server.gateway.viewer import LastFeatures, Progress, with_profile
from vireo.server.pod.stage_metrics import StageMetrics
from vireo.server.recommend.catalogue.overlay import Overlay
from vireo.server.recommend.filters.expression import FilterExpression, all_of
from vireo.server.recommend.runner import Run
from vireo.v1 import candidate_pb2, ranking_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.viewer_pb2 import SOURCE_NEW, ViewerFeatures

_SHOWN, _UNSHOWN = StageMetrics("gateway"), StageMetrics("gateway", timed=False)


@dataclass
class Made:
    """A slate, and what it is made from."""

    query: RecommendQuery
    release: GatewayRelease
    run: Run
    viewer: ViewerFeatures = field(default_factory=ViewerFeatures)
    request: candidate_pb2.RetrieveCandidatesRequest = field(init=False)
    candidates: candidate_pb2.RetrieveCandidatesResponse | None = None
    """What a candidate pod answered, but for videos that this gateway knows to be removed or not
    published yet; None if retrieval failed."""
    left_out: Mapping[int, int] = field(default_factory=dict)
    """Source masks of those videos by key."""
    ranked: ranking_pb2.RankCandidatesResponse | None = None
    """What a ranking pod answered; None if ranking failed."""
    slate: pb.RecommendResponse = field(default_factory=pb.RecommendResponse)
    degradations: list[viewer_pb2.Degradation.ValueType] = field(default_factory=list)


@dataclass(frozen=True)
class RecommendPipeline:
    """The chain of stages behind a slate."""

    read_features: Callable[[RecommendQuery, FeatureReader], Awaitable[ViewerFeatures]]
    retrieval: RetrievalCall
    ranking: RankingCall
    candidates: int | None = None
    """Number of candidates to rank; None for the release's own number."""
    progress: Progress | None = None
    """Whether features lag behind the log of events; None without a log."""
    overlay: Overlay = field(default_factory=lambda: Overlay(0))
    """Which videos changed or were taken down; empty without a log."""
    rules: Callable[[], SiteRules] | None = None
    """Returns the site's rules; None without a file of them."""
    shown: bool = False
    """Whether viewers wait for its slates: then these are counted and their stages timed."""
    last: LastFeatures | None = None
    """The rows last read, for viewers whose row can't be read; None for none."""

    async def make(self, query: RecommendQuery, release: GatewayRelease) -> Made:
        """Return the slate for a query, and what it is made from.

        Raises:
            RpcError: NOT_FOUND: the query follows a video that the release doesn't have.
                INVALID_ARGUMENT: the release can't be filtered so.
        """
        if self.rules is not None:
            up_next = query.seed_key is not None
            active = self.rules().active(
                up_next=up_next, region=query.region, first_page=query.first_page
            )
            query = query._replace(rules=active)
        made = Made(query, release, Run(_SHOWN if self.shown else _UNSHOWN))
        await self._read(made)
        await self._retrieve(made)
        await self._rank(made)
        with made.run.stage("answer"):
            self._finish(made)
        return made

    async def _read(self, made: Made) -> None:
        """Read the viewer's features, or take those last read; add the request's own."""
        query, reader, failures = made.query, made.release.reader, made.run.failures
        profile = query.profile
        with made.run.stage("features", StageFailedError):
            if profile is None or profile.use != pb.PROFILE_USE_INSTEAD:
                if self.progress is not None and self.progress.behind(query.viewer_id):
                    made.degradations.append(viewer_pb2.DEGRADATION_FEATURES_BEHIND)
                made.viewer = await self.read_features(query, reader)
        if "features" in failures:
            cached = None if self.last is None else self.last.find(reader.dataset, query.viewer_id)
            if cached is None:
                made.degradations.append(viewer_pb2.DEGRADATION_FEATURES_MISSING)
            else:
                made.viewer = cached
                made.degradations.append(viewer_pb2.DEGRADATION_FEATURES_STALE)
        if profile is not None:
            made.viewer = with_profile(made.viewer, profile, query.asked_at)

    async def _retrieve(self, made: Made) -> None:
        query, release = made.query, made.release
        count = max(query.page_size, self.candidates or release.manifest.candidates)
        own = release.manifest.release_id
        # A canary pod's release may state another number than the gateway's.
        stated = self.candidates is None
        request = retrieve_request(query, made.viewer, count, own, count_of_release=stated)
        made.request = request
        with made.run.stage("retrieval", StageFailedError):
            made.candidates = await retrieve(self.retrieval, query, request, release)
        if made.candidates is None:
            return
        if query.filter is not None:
            # Not before: of a call that is refused nothing is evaluated.
            release.evaluated[digest_of(query.filter, query.rules)] = None
        if gone := self.overlay.left_out(made.candidates.keys):  # the log may be away for a pod
            found = made.candidates
            masks = zip(found.keys, found.source_masks, strict=True)
            made.left_out = {key: mask for key, mask in masks if key in gone}
            made.candidates = without(found, gone)

    async def _rank(self, made: Made) -> None:
        """Make the slate of what the stages found: ranked, as retrieved or popular."""
        query, candidates = made.query, made.candidates
        missing = candidates is not None and any(each.failure for each in candidates.sources)
        if missing:
            made.degradations.append(viewer_pb2.DEGRADATION_SOURCE_MISSING)
        if candidates is None or (missing and not candidates.keys):
            made.degradations.append(viewer_pb2.DEGRADATION_POPULAR_FALLBACK)
            made.slate = self.popular(query, made.release, {*blocked_keys(made.request)})
            return
        if candidates.keys:  # or the viewer has watched everything
            with made.run.stage("ranking", StageFailedError):
                made.ranked = await rank(self.ranking, query, made.request.viewer, candidates)
            if made.ranked is None:
                made.degradations.append(viewer_pb2.DEGRADATION_RANKING_SKIPPED)
        if made.ranked is None:
            made.slate = retrieved_slate(candidates, query.rules)
        else:
            made.slate = ranked_slate(made.ranked, candidates)
            if made.slate.release_id != candidates.release_id:
                made.degradations.append(viewer_pb2.DEGRADATION_MIXED_RELEASES)

    def _finish(self, made: Made) -> None:
        """Complete the slate with what isn't about its videos; count it."""
        query, slate, candidates = made.query, made.slate, made.candidates
        if candidates is not None and not slate.items:
            slate.filter_unmet = candidates.filtered and candidates.filter_share == 0
        slate.request_id = query.request_id
        slate.degradations.extend(made.degradations)
        if query.explain:
            explain_slate(made)
        if self.shown:
            if updated_at := made.viewer.updated_at:
                FEATURE_AGE.observe(time.time() - updated_at)
            count_slate(query, slate)

    def popular(
        self, query: RecommendQuery, release: GatewayRelease, blocked: Set[int]
    ) -> pb.RecommendResponse:
        """Return the slate without pods.

        With a filter, videos that changed since the release are left out: the gateway doesn't know
        their new attributes. The slate is empty if the release lacks an attribute of the site's
        filters: what law forbids isn't shown because nobody knows.
        """
        expression, left_out = site_and_request(query, release), self.left_out(release)
        if expression is not None:
            if not expression.applies_to(release.declared):
                slate = popular_slate([], release.manifest.release_id)
                slate.filter_unmet = True
                return slate
            every = release.popular.keys.values()
            left_out |= {key for key in every if self.overlay.changed_after(key, release.merged)}
        shown = query.excluded_keys[-query.shown_before :] if query.shown_before else ()
        best = release.popular.best(
            query.page_size, blocked | left_out, expression, query.rules, shown
        )
        slate = popular_slate(best, release.manifest.release_id)
        if expression is not None and not best:
            slate.filter_unmet = not release.popular.any_meets(expression)
        return slate

    def left_out(self, release: GatewayRelease) -> set[int]:
        """Return the popular videos that nobody may be shown: taken down, or not published yet."""
        overlay, popular = self.overlay, release.popular
        now = overlay.clock()
        unpublished = {
            key
            for key, published in popular.unpublished.items()
            if published > now
            and ((change := overlay.get(key)) is None or change.position <= release.merged)
        }
        return unpublished | overlay.left_out(popular.keys.values())


def site_and_request(query: RecommendQuery, release: GatewayRelease) -> FilterExpression | None:
    """Return what the filters of the request and of the site's rules say; None without any.

    Raises:
        RpcError: INVALID_ARGUMENT: the release can't be filtered so.
    """
    of_site = None if query.rules is None else query.rules.filter
    asked = [each for each in (query.expression(release.declared), of_site) if each is not None]
    return all_of(asked) if asked else None


def explain_slate(made: Made) -> None:
    """Add to a slate how it was made."""
    explanation, candidates, seconds = made.slate.explanation, made.candidates, made.run.seconds
    for stage, time_of in (
        ("features", explanation.features_time),
        ("retrieval", explanation.retrieval_time),
        ("ranking", explanation.ranking_time),
    ):
        time_of.FromNanoseconds(round(seconds.get(stage, 0.0) * 1e9))
    explanation.history_length = len(made.viewer.history_keys)
    if updated_at := made.viewer.updated_at:
        explanation.features_age.seconds = max(0, int(time.time()) - updated_at)
    if candidates is not None:
        explanation.sources.extend(candidates.sources)
        explanation.candidates = len(candidates.keys)
        if candidates.filtered:
            explanation.filter_share = candidates.filter_share
    if made.query.rules is not None:
        explanation.rules.extend(applied_rules(made.query.rules, made))


def applied_rules(rules: ActiveRules, made: Made) -> Iterator[pb.AppliedRule]:
    """Yield each rule with the number of videos that it concerned, 0 if its stage failed."""
    candidates, ranked = made.candidates, made.ranked
    shown = [item.video_id for item in made.slate.items]
    new = sum(SOURCE_NEW in item.sources for item in made.slate.items)
    counts = {
        pb.RULE_KIND_FILTER: iter(() if candidates is None else candidates.rules.forbidden),
        pb.RULE_KIND_BOOST: iter(() if candidates is None else candidates.rules.boosted),
        pb.RULE_KIND_PIN: iter(
            int(shown[position : position + 1] == [name]) for position, name in rules.pinned.items()
        ),
        pb.RULE_KIND_CAP: iter(() if ranked is None else ranked.capped),
        pb.RULE_KIND_NEW_SHARE: iter([new] * len(rules.applied)),
    }
    for name, kind in rules.applied:
        yield pb.AppliedRule(name=name, kind=kind, count=next(counts[kind], 0))
