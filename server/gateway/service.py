"""The RPC surface of the gateway: decode, run the pipeline, encode."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import grpc.aio
from google.protobuf.message import Message

from vireo.server.errors import VireoError
from vireo.server.event_log.jetstream import JetStreamLog, open_log
from vireo.server.features.context import time_zones
from vireo.server.gateway.appender import LogRoom
from vireo.server.gateway.batch import BATCH_RETRY, MAX_BATCHES, OPEN, batch_pipeline, batch_slates
from vireo.server.gateway.check import check_candidates, check_ranked
from vireo.server.gateway.events import add_recording
from vireo.server.gateway.explain import explain_video
from vireo.server.gateway.page_token import next_page_token, shown_keys
from vireo.server.gateway.pipeline import RecommendPipeline
from vireo.server.gateway.pods import (
    RETRIEVAL_SHARE,
    Ranking,
    RankingCall,
    Remote,
    Retrieval,
    RetrievalCall,
    StageCall,
)
from vireo.server.gateway.query import DEFAULT_PAGE_SIZE, RecommendQuery
from vireo.server.gateway.release import FILES, GatewayRelease, pods_serve
from vireo.server.gateway.rules import RulesFile
from vireo.server.gateway.settings import GatewaySettings
from vireo.server.gateway.slate_log import SlateLog
from vireo.server.gateway.viewer import CACHED_BYTES, LastFeatures, Progress, ReadFeatures
from vireo.server.live.live import Live
from vireo.server.pod.pod import Pod
from vireo.server.pod.release_service import ReleaseFacts, Releases, served
from vireo.server.pod.run_queue import RunQueue
from vireo.server.recommend.catalogue.overlay import Overlay, Takedowns
from vireo.server.recommend.filters.declared import Declared
from vireo.server.releases.layout import TAKEDOWNS
from vireo.server.rpc.errors import invalid_argument
from vireo.server.rpc.guard import request_id
from vireo.server.rpc.reading import Context
from vireo.server.rpc.streams import Places
from vireo.server.rpc.tls import lasting_channel
from vireo.server.rpc.trace import current_call
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub
from vireo.v1.ranking_pb2_grpc import RankingServiceStub
from vireo.v1.recommendation_pb2_grpc import (
    RecommendationServiceServicer,
    add_RecommendationServiceServicer_to_server,
)
from vireo.v1.release_pb2_grpc import ReleaseServiceStub

NAME = pb.DESCRIPTOR.services_by_name["RecommendationService"].full_name

STALE_FEATURES_BYTES, STALE_FEATURES_SECONDS = 64 << 20, 3600
"""Maximum memory and age of the features that are served while the online store fails."""
_VIEWER_SECONDS = 1e-5
"""Cost of a viewer of a batch, whose slates are made while nobody else calls."""
_CHANNEL_OPTIONS = (
    # Reconnect within a second once a pod or Envoy is back; by default it can take two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),  # also the timeout of a connection attempt
    ("grpc.max_reconnect_backoff_ms", 1000),
)


@dataclass(frozen=True)
class RecommendationServicer(RecommendationServiceServicer):
    """Answers with the pipelines, from the release that the loader serves."""

    pipeline: RecommendPipeline
    batches: RecommendPipeline
    """That of batches' slates."""
    loader: Releases[GatewayRelease]
    default_deadline: float
    """Seconds granted to calls that carry no deadline."""
    slates: SlateLog | None
    """Records slates; None to record none."""

    async def Recommend(  # noqa: N802
        self, request: pb.RecommendRequest, context: Context
    ) -> pb.RecommendResponse:
        """Return the slate for one viewer."""
        shown = shown_keys(request) if request.page_token else ()
        query = self._query(request, context)
        query = query._replace(
            excluded_keys=[*query.excluded_keys, *shown], shown_before=len(shown)
        )
        if self.slates is not None:
            recorded = self.slates.candidates_to_record(query.viewer_id)
            query = query._replace(recorded=recorded)
        made = await self.pipeline.make(query, served(self.loader).content)
        slate = made.slate
        if self.slates is not None and query.recorded:
            self.slates.offer(made, request)
        if len(slate.items) == query.page_size:
            ids = (item.video_id for item in slate.items)
            slate.next_page_token = next_page_token(request, shown, ids)
        return slate

    async def SimilarVideos(  # noqa: N802
        self, request: pb.SimilarVideosRequest, context: Context
    ) -> pb.SimilarVideosResponse:
        """Return the videos most like one: what follows it for a viewer without features."""
        asked = pb.RecommendRequest(
            viewer_id=request.video_id,
            page_size=request.page_size or DEFAULT_PAGE_SIZE,
            surface=pb.SURFACE_UP_NEXT,
            seed_video_id=request.video_id,
            context=request.context if request.HasField("context") else None,
            excluded_video_ids=request.excluded_video_ids,
            profile=pb.RequestProfile(use=pb.PROFILE_USE_INSTEAD),
            filter=request.filter if request.HasField("filter") else None,
        )
        query = self._query(asked, context)
        query = query._replace(seed_named=f"video_id: {request.video_id!r}")
        slate = (await self.pipeline.make(query, served(self.loader).content)).slate
        return pb.SimilarVideosResponse(
            items=slate.items,
            request_id=slate.request_id,
            release_id=slate.release_id,
            degradations=slate.degradations,
            filter_unmet=slate.filter_unmet,
        )

    def BatchRecommend(  # noqa: N802
        self, request: pb.BatchRecommendRequest, context: Context
    ) -> AsyncGenerator[pb.BatchRecommendResponse, None]:
        """Return the slates of many viewers."""
        return batch_slates(self.batches, self.loader, request, context)

    async def ExplainVideo(  # noqa: N802
        self, request: pb.ExplainVideoRequest, context: Context
    ) -> pb.ExplainVideoResponse:
        """Return what became of a video in the slate for a request."""
        asked = request.request
        if asked.page_token:
            reason = "must be empty: only the first page can be explained"
            raise invalid_argument([("request.page_token", reason)])
        query = self._query(asked, context, "request.")
        release = served(self.loader).content
        return await explain_video(self.pipeline, query, release, request.video_id)

    def _query(
        self, request: pb.RecommendRequest, context: Context, field: str = ""
    ) -> RecommendQuery:
        """Return the query of a request; for `field` see `RecommendQuery.of`."""
        left = context.time_remaining()
        return RecommendQuery.of(
            request,
            request_id(),
            time.monotonic() + (self.default_deadline if left is None else left),
            current_call().headers,
            field,
        )


def request_cost(
    loader: Releases[GatewayRelease], rules: RulesFile | None, request: Message
) -> float:
    """Return what a valid request costs beyond a plain slate, in seconds."""
    asked = request.request if isinstance(request, pb.ExplainVideoRequest) else request
    assert isinstance(
        asked, pb.RecommendRequest | pb.SimilarVideosRequest | pb.BatchRecommendRequest
    )
    cost, up_next = 0.0, True
    if isinstance(asked, pb.BatchRecommendRequest):
        cost, up_next = len(asked.viewer_ids) * _VIEWER_SECONDS, False
    elif isinstance(asked, pb.RecommendRequest):
        up_next = asked.surface == pb.SURFACE_UP_NEXT
    if loader.serving is None or not asked.HasField("filter"):
        return cost
    active = rules.rules.active(up_next=up_next, region=asked.context.region) if rules else None
    return cost + loader.serving.content.filter_cost(asked.filter, active)


def gateway_pod(settings: GatewaySettings) -> Pod[GatewayRelease]:
    """Return the gateway's pod. Call it in the event loop that will serve it."""
    candidate, ranking = (
        lasting_channel(target, settings.tls, "envoy", _CHANNEL_OPTIONS)
        for target in (settings.candidate_target, settings.ranking_target)
    )
    finder, ranker = CandidateServiceStub(candidate), RankingServiceStub(ranking)
    find: Retrieval = Remote("retrieval", finder.RetrieveCandidates, check_candidates)
    order: Ranking = Remote("ranking", ranker.RankCandidates, check_ranked)
    log = open_log(settings.event_log)
    live = Live(log, settings.live, settings.cache / TAKEDOWNS, videos=False) if log else None
    pod = slates_of(settings, find, order, log, live)
    if target := settings.control_target:  # without a control plane nobody knows the pods
        control = lasting_channel(target, settings.tls, "control", _CHANNEL_OPTIONS)
        ready = partial(pods_serve, ReleaseServiceStub(control), settings.release_swap_timeout)
        return replace(pod, ready=ready)
    return pod


def slates_of(
    settings: GatewaySettings,
    find: Retrieval,
    order: Ranking,
    log: JetStreamLog | None,
    live: Live | None,
) -> Pod[GatewayRelease]:
    """Return the pod that makes slates of two stages, wherever those run.

    Args:
        settings: of the gateway.
        find: where candidates come from.
        order: where they are ranked.
        log: the log of events; None without one.
        live: what follows it.

    Raises:
        VireoError: slates are to be recorded, and there is no log.
    """
    retrieval: RetrievalCall = StageCall(
        "retrieval", find, settings.retrieval_timeout, RETRIEVAL_SHARE
    )
    rank: RankingCall = StageCall("ranking", order, settings.ranking_timeout)
    progress = room = slates = None
    if log:
        partitions = settings.event_log.event_partitions
        progress = Progress(log, partitions, settings.max_events_lag)
        room = LogRoom(log, settings.event_log.event_retention)
        if settings.slate_share:
            slates = SlateLog(log, partitions, settings.slate_share)
    elif settings.slate_share:
        raise VireoError("VIREO_SLATE_SHARE needs a log to record slates in: set VIREO_NATS_URL")
    overlay = live.overlay if live else Overlay(0)
    rules = RulesFile(settings.rules) if settings.rules else None
    places = Places(MAX_BATCHES, BATCH_RETRY)
    OPEN.set_function(lambda: places.taken)

    last = LastFeatures(STALE_FEATURES_BYTES, STALE_FEATURES_SECONDS)
    CACHED_BYTES.set_function(lambda: last.bytes)
    pipeline = RecommendPipeline(
        ReadFeatures(settings.features_timeout, last),
        retrieval,
        rank,
        settings.candidates,
        progress,
        overlay,
        (lambda: rules.rules) if rules else None,
        shown=True,
        last=last,
    )

    def register(loader: Releases[GatewayRelease], _: RunQueue, server: grpc.aio.Server) -> None:
        def attributes() -> tuple[str, Declared] | None:
            release = loader.serving and loader.serving.content
            return (release.manifest.release_id, release.declared) if release else None

        if rules:
            rules.serving = attributes
        batches, deadline = batch_pipeline(pipeline, settings), settings.default_deadline
        servicer = RecommendationServicer(pipeline, batches, loader, deadline, slates)
        add_RecommendationServiceServicer_to_server(servicer, server)

    def build(folder: Path) -> GatewayRelease:
        time_zones()  # or requests would have them read on the event loop
        if live:
            live.wait(folder)
        elif (folder / TAKEDOWNS).exists():
            overlay.takedowns.merge_copy(Takedowns.read(folder / TAKEDOWNS))
        release = GatewayRelease.load(
            folder, settings.features, settings.features_timeout, settings.redis
        )
        position = release.manifest.catalog_log_position
        return replace(release, merged=live.merged(position)) if live else release

    return Pod(
        kind="gateway",
        service=NAME,
        files=FILES,
        build=build,
        max_slates=settings.max_slates,
        register=register,
        places=places,
        work=lambda loader: partial(request_cost, loader, rules),
        background=[each.run for each in (live, progress, rules, room, slates) if each],
        describe=live.describe if live else None,
        facts=lambda release: ReleaseFacts(release.manifest),
        services=lambda server, *_: add_recording(server, settings, log, room, overlay.takedowns),
        event_log=log,
    )
