"""RankingService's RPC surface: decode, rank, encode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from prometheus_client import Histogram

from vireo.server.columns import (
    SCORE_COLUMNS,
    BadColumnError,
    check_rule_columns,
    decode_columns,
    encode_columns,
)
from vireo.server.features.model_inputs import RANKER_HISTORY
from vireo.server.inference.service import (
    MAX_BATCH,
    ServedModel,
    add_inference_service,
    serve_inference_http,
)
from vireo.server.inference.tensors import Limits
from vireo.server.live.live import Live
from vireo.server.models.signature import BATCH, CANDIDATES, HISTORY
from vireo.server.pod.pod import Pod, PodSettings, following
from vireo.server.pod.release_service import ReleaseFacts, Releases, served
from vireo.server.pod.run_queue import RunQueue
from vireo.server.pod.stage_metrics import StageMetrics
from vireo.server.pod.viewer import decode_viewer
from vireo.server.recommend.page import LabelsOf
from vireo.server.recommend.ranking.explain import explain
from vireo.server.recommend.ranking.pipeline import RankedCandidates, RankingPipeline, RankingQuery
from vireo.server.recommend.ranking.record import Record
from vireo.server.recommend.ranking.release import FILES, PageRules, RankingRelease
from vireo.server.recommend.runner import Caller
from vireo.server.releases.manifest import MAX_CANDIDATES
from vireo.server.rpc.errors import invalid_argument
from vireo.server.rpc.reading import Context
from vireo.server.signals import ORDERING, TASKS
from vireo.v1 import ranking_pb2, ranking_pb2_grpc, rules_pb2

_SCORE = Histogram(
    "vireo_ranking_score",
    "Scores of the videos in ranked pages.",
    buckets=(
        *(0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075),
        *(0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1),
    ),
)
_PREDICTED_WATCH = Histogram(
    "vireo_predicted_watch",
    "Mean predicted probability of a watch, by page.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
)

NAME = ranking_pb2.DESCRIPTOR.services_by_name["RankingService"].full_name


def page_rules(
    rules: rules_pb2.SlateRules, columns: rules_pb2.RuleColumns, count: int
) -> PageRules:
    """Return what rules ask of the page of `count` candidates.

    Raises:
        BadColumnError: a column doesn't fit.
    """
    check_rule_columns(columns, rules, count)
    return PageRules(
        factors=np.array(columns.factors, np.float32) if columns.factors else None,
        pins={pin.position - 1: pin.key for pin in rules.pins},
        caps=[
            (cap.max, _labels_of(column))
            for cap, column in zip(rules.caps, columns.labels, strict=False)
        ],
        shown=[column.shown[:] for column in columns.labels],
        new_share=rules.new_share if rules.HasField("new_share") else None,
    )


def _labels_of(column: rules_pb2.LabelColumn) -> LabelsOf:
    """Return what finds the labels of the candidate at a place, of which each has any number."""
    labels, ends = column.labels[:], np.cumsum(column.counts).tolist()
    return lambda place: labels[ends[place - 1] if place else 0 : ends[place]]


@dataclass(frozen=True)
class RankingServicer(ranking_pb2_grpc.RankingServiceServicer):
    """Answers from the release that the loader serves, or the one that a call is pinned to."""

    loader: Releases[RankingPipeline]
    queue: RunQueue
    """Where pipelines run."""

    async def RankCandidates(  # noqa: N802
        self, request: ranking_pb2.RankCandidatesRequest, context: Context
    ) -> ranking_pb2.RankCandidatesResponse:
        """Return the best of the request's candidates."""
        pipeline = served(self.loader, request.release_id).content
        query = decode(request)
        explained = None
        if request.HasField("explained_key"):
            with _refused("explained_scores"):
                explained = decode_columns(request.explained_scores, 1, SCORE_COLUMNS)
        caller = Caller(context.time_remaining())

        def answer() -> ranking_pb2.RankCandidatesResponse:
            ranked = pipeline.rank(query, caller)
            response = encode(ranked, pipeline.release, titles=request.titles)
            if ranked.record is not None:
                videos = recorded_videos(pipeline.release, query)
                response.record = encode_record(ranked.record, videos)
            if explained is None:
                _count_page(ranked)
            else:
                key = request.explained_key
                response.explained.CopyFrom(explain(pipeline, query, key, explained))
            return response

        # In one run: rows beside the release are valid until the catalogue's next change.
        return await self.queue.run(answer, caller)


def decode(request: ranking_pb2.RankCandidatesRequest) -> RankingQuery:
    """Return the query of a request.

    Raises:
        RpcError: INVALID_ARGUMENT if source_masks differs from the keys in length; if two_tower is
            missing, or a score is unknown, occurs twice, differs from the keys in length, or has a
            value out of its bounds; or if a column for the site's rules doesn't fit. The message
            names it.
    """
    if len(request.source_masks) != len(request.keys):
        raise invalid_argument([("source_masks", "must have as many values as keys")])
    # Callers of the inner hops as they were send no columns: their pages would be in no order.
    if not any(column.name == ORDERING for column in request.scores):
        raise invalid_argument([("scores", f"{ORDERING} is missing")])
    rules = None
    with _refused("scores"):
        scores = decode_columns(request.scores, len(request.keys), SCORE_COLUMNS)
    with _refused("rule_columns"):
        if request.HasField("rules"):
            rules = page_rules(request.rules, request.rule_columns, len(request.keys))
    return RankingQuery(
        viewer=decode_viewer(request.viewer),
        keys=np.array(request.keys, np.int64),
        scores=scores,
        source_masks=np.array(request.source_masks, np.uint32),
        page_size=request.page_size,
        seed_key=request.seed_key if request.HasField("seed_key") else None,
        rules=rules,
        recorded=request.recorded,
    )


@contextmanager
def _refused(field: str) -> Iterator[None]:
    """Refuse a request whose columns in a field don't fit."""
    try:
        yield
    except BadColumnError as error:
        raise invalid_argument([(field, str(error))]) from error


def encode(
    ranked: RankedCandidates, release: RankingRelease, *, titles: bool
) -> ranking_pb2.RankCandidatesResponse:
    """Return the response; ids and titles are empty for keys that the release doesn't know."""
    rows = ranked.rows.tolist()
    return ranking_pb2.RankCandidatesResponse(
        keys=ranked.keys.tolist(),
        ids=[release.video_id(row) if row >= 0 else "" for row in rows],
        scores=ranked.scores.tolist(),
        task_scores=encode_columns(ranked.tasks),
        source_masks=ranked.source_masks.tolist(),
        titles=[release.title(row) if row >= 0 else "" for row in rows] if titles else [],
        release_id=release.manifest.release_id,
        unknown_candidates=ranked.unknown,
        capped=ranked.capped,
    )


def encode_record(record: Record, videos: Iterable[ranking_pb2.RecordedVideo]) -> bytes:
    """Return the RankingRecord of a page; for `videos` see `recorded_videos`."""
    columns = (each.astype("<f4", copy=False).tobytes() for each in record.scores.values())
    return ranking_pb2.RankingRecord(
        places=record.places.tolist(),
        placements=[*map(int, record.placements)],  # type: ignore[list-item]
        propensities=record.propensities.tolist(),
        live=videos,
        video_features=record.video_features.astype("<f4", copy=False).tobytes(),
        columns=record.scores,
        scores=b"".join(columns),
    ).SerializeToString()


def _count_page(ranked: RankedCandidates) -> None:
    """Count a ranked page; an empty one isn't counted."""
    for score in ranked.scores.tolist():
        _SCORE.observe(score)
    if watch := ranked.tasks[TASKS[0].name].tolist():
        _PREDICTED_WATCH.observe(sum(watch) / len(watch))


def recorded_videos(
    release: RankingRelease, query: RankingQuery
) -> Iterator[ranking_pb2.RecordedVideo]:
    """Yield the videos of the log that a ranking read."""
    live, viewer = release.live, query.viewer.playing(query.seed_key)
    if live is None or not live.count:
        return
    rows = release.find(np.concatenate([query.keys, viewer.history_keys, viewer.hidden_keys]))
    for row in np.unique(rows[rows >= live.first]).tolist():
        features = [] if live.waiting else live.features[row - live.first].tolist()
        yield ranking_pb2.RecordedVideo(video=live.video(row), features=features)


def build_pipeline(folder: Path, live: Live | None = None) -> RankingPipeline:
    """Return the pipeline of the release in a folder; see `RankingRelease.load`."""
    return RankingPipeline(RankingRelease.load(folder, live), StageMetrics("ranking", traced=True))


def served_models(pipeline: RankingPipeline) -> tuple[ServedModel]:
    """Return the ranker, for the Open Inference Protocol."""
    sizes = {BATCH: MAX_BATCH, CANDIDATES: MAX_CANDIDATES, HISTORY: RANKER_HISTORY}
    # The maximum of one viewer; those of a batch share it.
    limits = Limits(sizes, product=MAX_CANDIDATES * RANKER_HISTORY)
    return (ServedModel(pipeline.release.ranker, limits),)


RANKING_POD = Pod(
    kind="ranking",
    service=NAME,
    files=FILES,
    build=build_pipeline,
    replay=lambda pipeline: pipeline.release.replay_goldens(),
    facts=lambda pipeline: ReleaseFacts(pipeline.release.manifest),
    register=lambda loader, queue, server: ranking_pb2_grpc.add_RankingServiceServicer_to_server(
        RankingServicer(loader, queue), server
    ),
    services=partial(add_inference_service, models_of=served_models),
    inference_http=serve_inference_http,
)
"""The ranking pod."""


def ranking_pod(settings: PodSettings) -> Pod[RankingPipeline]:
    """Return the ranking pod; it follows the log if the settings name one."""
    return following(RANKING_POD, settings, lambda live: partial(build_pipeline, live=live))
