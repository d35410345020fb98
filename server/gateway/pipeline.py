"""The gateway's pipeline: read the viewer's features, retrieve, rank, answer.

If a stage fails, the slate is made without it and says so in `degradations`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field

from vireo.server.features.activity import HISTORY_LIMIT
from vireo.server.features.keys import video_key
from vireo.server.filters.expression import all_of
from vireo.server.gateway.features import FeatureReader
from vireo.server.gateway.progress import Progress
from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.release import GatewayRelease, digest_of
from vireo.server.gateway.rules import ActiveRules
from vireo.server.gateway.slate_metrics import FEATURE_AGE, count_slate, time_stages
from vireo.server.gateway.stages.answer import popular_slate, ranked_slate, retrieved_slate
from vireo.server.gateway.stages.check import blocked_keys
from vireo.server.gateway.stages.failure import StageFailedError, log_failure
from vireo.server.gateway.stages.rank import RankingCall, rank
from vireo.server.gateway.stages.read_features import ReadFeatures
from vireo.server.gateway.stages.retrieve import RetrievalCall, retrieve, retrieve_request
from vireo.server.gateway.stages.shadow import Shadow
from vireo.server.live.overlay import Overlay
from vireo.v1 import candidate_pb2, ranking_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.recommendation_pb2 import RequestProfile
from vireo.v1.viewer_pb2 import SOURCE_NEW, ViewerFeatures


def applied_rules(
    rules: ActiveRules,
    slate: pb.RecommendResponse,
    candidates: candidate_pb2.RetrieveCandidatesResponse | None,
    ranked: ranking_pb2.RankCandidatesResponse | None,
) -> Iterator[pb.AppliedRule]:
    """Yield each rule with the number of videos that it concerned, 0 if its stage failed.

    Args:
        rules: the slate's.
        slate: what it became.
        candidates: what retrieval answered; None if it failed.
        ranked: what ranking answered; None if it failed.
    """
    shown = [item.video_id for item in slate.items]
    new = sum(SOURCE_NEW in item.sources for item in slate.items)
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


def with_profile(stored: ViewerFeatures, profile: RequestProfile, asked_at: int) -> ViewerFeatures:
    """Return the viewer's features with those of a request; `stored` isn't changed.

    A video that is stored as watched keeps its place in the history: the first watch counts, as in
    the feature store. Of two attributes of one name the request's counts.

    Args:
        stored: the features that are stored.
        profile: the request's.
        asked_at: time of the request, Unix seconds, for watches without a time.
    """
    viewer = ViewerFeatures()
    viewer.CopyFrom(stored)
    known = set(stored.watched_keys)
    watched: dict[int, int] = {}
    for each in profile.history:
        time = max(0, each.time.seconds) if each.HasField("time") else asked_at
        key = video_key(each.video_id)
        watched[key] = min(time, watched.get(key, time))
    new = [(time, key) for key, time in watched.items() if key not in known]
    if new:
        stored_history = zip(stored.history_times, stored.history_keys, strict=True)
        history = sorted([*stored_history, *new])[-HISTORY_LIMIT:]
        viewer.history_times[:] = [time for time, _ in history]
        viewer.history_keys[:] = [key for _, key in history]
        viewer.watched_keys.extend(key for _, key in sorted(new))
        viewer.watch_count += len(new)
    if profile.attributes:
        names = {_name(each) for each in profile.attributes}
        kept = [each for each in stored.attributes if _name(each) not in names]
        viewer.attributes[:] = [*profile.attributes, *kept]
    return viewer


def _name(attribute: str) -> str:
    return attribute.partition("=")[0]


@dataclass(frozen=True)
class RecommendPipeline:
    """The chain of stages behind a slate."""

    read_features: ReadFeatures
    retrieval: RetrievalCall
    ranking: RankingCall
    shadow: Shadow | None = None
    """Repeats requests that were answered in full, for comparison."""
    candidates: int | None = None
    """Number of candidates to rank; None for the release's own number."""
    progress: Progress | None = None
    """Whether features lag behind the log of events; None without a log."""
    overlay: Overlay = field(default_factory=lambda: Overlay(0))
    """Which videos changed or were taken down; empty without a log."""
    rules_of: Callable[[RecommendQuery], ActiveRules | None] | None = None
    """Returns the site's rules for a query, None if none applies; None without a file of rules."""
    shown: bool = False
    """Whether viewers wait for its slates: then these are counted and their stages timed."""

    async def recommend(
        self, query: RecommendQuery, release: GatewayRelease
    ) -> pb.RecommendResponse:
        """Return the slate for a query.

        Raises:
            UnknownSeedError: the query follows a video that the release doesn't have.
        """
        degradations: list[viewer_pb2.Degradation.ValueType] = []
        if self.rules_of is not None:
            query = query._replace(rules=self.rules_of(query))
        if query.filter is not None:
            # Not before: a call that is refused has had nothing evaluated.
            release.evaluated[digest_of(query.filter, query.rules)] = None

        started = time.perf_counter()
        profile = query.profile
        if profile is not None and profile.use == pb.PROFILE_USE_INSTEAD:
            viewer = ViewerFeatures()
        else:
            viewer = await self._stored(query, release.reader, degradations)
        updated_at = viewer.updated_at
        if profile is not None:
            viewer = with_profile(viewer, profile, query.asked_at)
        read = time.perf_counter()

        own = release.manifest.release_id
        wanted = self.candidates or release.manifest.candidates
        count = max(query.page_size, wanted)
        # A canary pod's release may state another number than the gateway's.
        stated = self.candidates is None
        request = retrieve_request(query, viewer, count, own, count_of_release=stated)
        candidates = ranked = None
        try:
            candidates, masks = await retrieve(self.retrieval, query, request, self.overlay)
        except StageFailedError as error:
            log_failure("retrieval", error, time.perf_counter() - read)
        retrieved = finished = time.perf_counter()

        missing = candidates is not None and any(each.failure for each in candidates.sources)
        if missing:
            degradations.append(viewer_pb2.DEGRADATION_SOURCE_MISSING)
        if candidates is None or (missing and not candidates.keys):
            degradations.append(viewer_pb2.DEGRADATION_POPULAR_FALLBACK)
            slate = self.popular(query, release, frozenset(blocked_keys(request)))
        elif not candidates.keys:  # the viewer has watched everything
            slate = retrieved_slate(candidates, query.rules)
        else:
            try:
                ranked = await rank(self.ranking, query, request.viewer, candidates, masks)
                slate = ranked_slate(ranked, candidates)
            except StageFailedError as error:
                log_failure("ranking", error, time.perf_counter() - retrieved)
                degradations.append(viewer_pb2.DEGRADATION_RANKING_SKIPPED)
                slate = retrieved_slate(candidates, query.rules)
            finished = time.perf_counter()
            if slate.release_id != candidates.release_id:
                degradations.append(viewer_pb2.DEGRADATION_MIXED_RELEASES)

        if candidates is not None and not slate.items:
            slate.filter_unmet = candidates.filtered and candidates.filter_share == 0

        slate.request_id = query.request_id
        slate.degradations.extend(degradations)
        if self.shadow is not None and ranked is not None and not degradations:
            self.shadow.offer(query, request, slate, finished - read)
        if query.next_page is not None and len(slate.items) == query.page_size:
            ids = ranked.ids[:] if ranked is not None else [""]
            if "" in ids:  # some don't come from ranking
                ids = [item.video_id for item in slate.items]
            slate.next_page_token = query.next_page(ids)
        if query.explain:
            explanation = slate.explanation
            explanation.features_time.FromNanoseconds(round((read - started) * 1e9))
            explanation.retrieval_time.FromNanoseconds(round((retrieved - read) * 1e9))
            explanation.ranking_time.FromNanoseconds(round((finished - retrieved) * 1e9))
            explanation.history_length = len(viewer.history_keys)
            if updated_at:
                explanation.features_age.seconds = max(0, int(time.time()) - updated_at)
            if candidates is not None:
                explanation.sources.extend(candidates.sources)
                explanation.candidates = len(candidates.keys)
                if candidates.filtered:
                    explanation.filter_share = candidates.filter_share
            if query.rules is not None:
                explanation.rules.extend(applied_rules(query.rules, slate, candidates, ranked))
        if self.shown:
            if updated_at:
                FEATURE_AGE.observe(time.time() - updated_at)
            count_slate(query, slate, candidates if ranked is None else ranked)
            time_stages(started, read, retrieved, finished)
        return slate

    def popular(
        self, query: RecommendQuery, release: GatewayRelease, blocked: Set[int]
    ) -> pb.RecommendResponse:
        """Return the slate without pods.

        With a filter, videos that changed since the release are left out: the gateway doesn't know
        their new attributes. The slate is empty if the release lacks an attribute of the site's
        filters: what law forbids isn't shown because nobody knows.
        """
        rules, expressions = query.rules, [query.expression]
        if rules is not None:
            expressions.append(rules.filter)
        asked = [each for each in expressions if each is not None]
        left_out = self.left_out(release)
        if asked:
            every = release.popular.keys.values()
            left_out |= {key for key in every if self.overlay.changed_after(key, release.merged)}

        expression = all_of(asked) if asked else None
        if expression is not None and not expression.applies_to(release.declared):
            slate = popular_slate([], release.manifest.release_id)
            slate.filter_unmet = True
            return slate
        best = release.popular.best(query.page_size, blocked | left_out, expression, rules)
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

    async def _stored(
        self,
        query: RecommendQuery,
        reader: FeatureReader,
        degradations: list[viewer_pb2.Degradation.ValueType],
    ) -> ViewerFeatures:
        """Return the stored features, or those last read; add the degradations to the list."""
        if self.progress is not None and self.progress.behind(query.viewer_id):
            degradations.append(viewer_pb2.DEGRADATION_FEATURES_BEHIND)
        started = time.perf_counter()
        try:
            return await self.read_features(query, reader)
        except StageFailedError as error:
            log_failure("features", error, time.perf_counter() - started)
        cached = self.read_features.last(query, reader)
        if cached is None:
            degradations.append(viewer_pb2.DEGRADATION_FEATURES_MISSING)
            return ViewerFeatures()
        degradations.append(viewer_pb2.DEGRADATION_FEATURES_STALE)
        return cached
