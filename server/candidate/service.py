"""CandidateService's RPC surface: decode, retrieve, encode."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field

from vireo.server.columns import encode_columns
from vireo.server.inference.service import (
    MAX_BATCH,
    ServedModel,
    add_inference_service,
    serve_inference_http,
)
from vireo.server.inference.tensors import Limits
from vireo.server.live.live import Live
from vireo.server.models.signature import BATCH, HISTORY
from vireo.server.pod.pod import Pod, PodSettings, following
from vireo.server.pod.release_service import ReleaseFacts, Releases, served
from vireo.server.pod.run_queue import RunQueue
from vireo.server.pod.stage_metrics import StageMetrics
from vireo.server.pod.viewer import decode_viewer
from vireo.server.recommend.filters.expression import BadFilterError, all_of
from vireo.server.recommend.filters.expression import decode as decode_filter
from vireo.server.recommend.retrieval.explain import explain
from vireo.server.recommend.retrieval.pipeline import (
    CandidatePipeline,
    CandidateQuery,
    RetrievedCandidates,
    UnknownSeedError,
)
from vireo.server.recommend.retrieval.release import FILES, FILTER_CACHE_BYTES, CandidateRelease
from vireo.server.recommend.retrieval.rules import (
    RetrievalRules,
    labels_made,
    retrieval_rules,
    rule_columns,
)
from vireo.server.recommend.runner import Caller
from vireo.server.rpc.errors import invalid_argument, not_found
from vireo.server.rpc.reading import Context
from vireo.server.signals import EVERY_SOURCE, SOURCES
from vireo.v1 import candidate_pb2, candidate_pb2_grpc, recommendation_pb2, viewer_pb2

NAME = candidate_pb2.DESCRIPTOR.services_by_name["CandidateService"].full_name
MAX_BLOCKED, MAX_ALLOWED = 2_000, 100
"""Maximum videos that are recorded as blocked, and as allowed, since the release was trained."""


@dataclass(frozen=True)
class CandidateServicer(candidate_pb2_grpc.CandidateServiceServicer):
    """Answers from the release that the loader serves, or the one that a call is pinned to."""

    loader: Releases[CandidatePipeline]
    queue: RunQueue
    """Where pipelines run."""

    async def RetrieveCandidates(  # noqa: N802
        self, request: candidate_pb2.RetrieveCandidatesRequest, context: Context
    ) -> candidate_pb2.RetrieveCandidatesResponse:
        """Return the candidates for one viewer."""
        pipeline = served(self.loader, request.release_id).content
        try:
            query, rules = decode(request, pipeline.release)
        except BadFilterError as error:
            raise invalid_argument(error.violations) from error
        caller = Caller(context.time_remaining())
        if rules is not None:
            await labels_made(rules, pipeline.release)
        asked = [] if query.filter is None else [(query.filter, True)]
        asked += [] if rules is None else [(each, False) for each in rules.expressions]
        _held = await pipeline.release.filters.make(asked)  # until it has been answered
        if query.filter is not None and request.HasField("explained_key"):
            [row] = pipeline.release.rows.find(np.array([request.explained_key])).tolist()
            await asyncio.to_thread(pipeline.release.filters.attributes_of, row)  # and kept

        def answer() -> candidate_pb2.RetrieveCandidatesResponse:
            found = pipeline.retrieve(query, caller)
            shown = request.excluded_keys[-request.shown_before :] if request.shown_before else ()
            response = encode(found, pipeline.release, request.page_size, rules, shown)
            if request.recorded:
                record_live(response, pipeline.release, query, found)
            if request.HasField("explained_key"):
                response.explained.CopyFrom(explain(pipeline, query, found, request.explained_key))
            return response

        try:
            # In one run: rows beside the release are valid until the catalogue's next change.
            return await self.queue.run(answer, caller)
        except UnknownSeedError as error:
            raise not_found(str(error)) from error


def decode(
    request: candidate_pb2.RetrieveCandidatesRequest, release: CandidateRelease
) -> tuple[CandidateQuery, RetrievalRules | None]:
    """Return the query of a request to a release, and the site's rules for it.

    Raises:
        RpcError: INVALID_ARGUMENT that names the field.
        BadFilterError: the release can't apply the filter.
    """
    weights = np.array(request.session_weights, np.float32)
    if len(weights) != len(request.session_keys):
        raise invalid_argument([("session_weights", "must have as many values as session_keys")])
    if len(weights) and not ((weights >= 0) & (weights <= 1)).all():
        raise invalid_argument([("session_weights", "must be 0 to 1 each")])
    declared, count = release.declared, request.count
    rules = retrieval_rules(request.rules, declared) if request.HasField("rules") else None
    filters = [] if rules is None or rules.filter is None else [rules.filter]
    if request.HasField("filter"):
        filters.insert(0, decode_filter(request.filter, "filter", declared))
    if request.count_of_release:
        count = max(release.manifest.candidates, request.page_size)
    query = CandidateQuery(
        viewer=decode_viewer(request.viewer),
        count=count,
        excluded_keys=np.array(request.excluded_keys, np.int64),
        seed_key=request.seed_key if request.HasField("seed_key") else None,
        locale=request.locale,
        filter=all_of(filters) if filters else None,
        pinned_keys=np.empty(0, np.int64) if rules is None else rules.pinned_keys,
        session_keys=np.array(request.session_keys, np.int64),
        session_weights=weights,
    )
    return query, rules


def encode(
    found: RetrievedCandidates,
    release: CandidateRelease,
    page_size: int,
    rules: RetrievalRules | None = None,
    shown: Sequence[int] = (),
) -> candidate_pb2.RetrieveCandidatesResponse:
    """Return the response, with the ids of the first `page_size` candidates.

    `shown` are the keys of the videos of the pages before, which caps count.
    """
    return candidate_pb2.RetrieveCandidatesResponse(
        keys=found.keys.tolist(),
        scores=encode_columns(found.scores),
        source_masks=found.source_masks.tolist(),
        ids=[release.video_id(row) for row in found.rows[:page_size].tolist()],
        release_id=release.manifest.release_id,
        filtered=found.filtered,
        filter_share=found.filter_share,
        rules=None if rules is None else rule_columns(rules, release, found, shown),
        sources=[
            recommendation_pb2.SourceReport(
                source=viewer_pb2.Source.ValueType(source.number),
                proposed=int(np.count_nonzero(found.source_masks & source.bit)),
                failure=found.failures.get(source.name, ""),
            )
            for source in (SOURCES if release.live is None else EVERY_SOURCE)
        ],
    )


def record_live(
    response: candidate_pb2.RetrieveCandidatesResponse,
    release: CandidateRelease,
    query: CandidateQuery,
    found: RetrievedCandidates,
) -> None:
    """Record in a response what a query's answer owes to changes since the release was trained."""
    if release.live is None:
        return
    live, blocked, allowed = release.live, release.live.removed_rows, list[int]()
    if len(unpublished := release.embargo.unpublished()):  # of those, what changed since
        changed = np.intersect1d(unpublished, live.own_rows[: live.count])
        blocked = np.union1d(blocked, changed)
    if query.filter is not None:
        applied = release.filters.apply(query.filter)
        blocked = np.union1d(blocked, applied.forbidden_rows)
        allowed = applied.allowed_rows.tolist()
    if live.waiting or len(blocked) > MAX_BLOCKED or len(allowed) > MAX_ALLOWED:
        response.lacks_changes = True
        return
    response.blocked_keys.extend(release.keys.take(blocked).tolist())
    rows = set[int]()
    if live.places:
        keyed = zip(response.keys, found.rows.tolist(), strict=True)
        rows = {row for key, row in keyed if key in live.places}
    if query.seed_key is not None:
        [seed] = release.find(np.array([query.seed_key], np.int64)).tolist()
        rows |= {seed} if seed >= live.first else set()
    response.live.extend(filter(None, map(release.changed_video, rows.union(allowed))))


def build_pipeline(
    folder: Path,
    vector_cache_size: int = 0,
    filter_cache_bytes: int = FILTER_CACHE_BYTES,
    live: Live | None = None,
) -> CandidatePipeline:
    """Return the pipeline of the release in a folder; see `CandidateRelease.load`."""
    return CandidatePipeline(
        CandidateRelease.load(folder, vector_cache_size, live, filter_cache_bytes),
        observer=StageMetrics("candidate", traced=True),
    )


def release_facts(pipeline: CandidatePipeline) -> ReleaseFacts:
    """Return what metrics tell of a release."""
    release = pipeline.release
    caches = {"viewer_vectors": release.viewers.nbytes, "filters": release.filters.nbytes}
    return ReleaseFacts(release.manifest, caches)


def served_models(pipeline: CandidatePipeline) -> tuple[ServedModel]:
    """Return the viewer tower, for the Open Inference Protocol."""
    history = pipeline.release.manifest.feature_schema.history_limit
    sizes = {BATCH: MAX_BATCH, HISTORY: history}
    return (ServedModel(pipeline.release.tower, Limits(sizes, product=MAX_BATCH * history)),)


class CandidateSettings(PodSettings):
    """Settings of the candidate pod."""

    viewer_vector_cache_size: int = Field(default=10_000, ge=0)
    """Number of viewers' vectors in the LRU cache; 0 runs the viewer tower for every request."""
    filter_cache_bytes: int = Field(default=FILTER_CACHE_BYTES, ge=0)
    """Maximum memory of each release's cached filters in bytes; 0 evaluates the filter of every
    request."""


CANDIDATE_POD = Pod(
    kind="candidate",
    service=NAME,
    files=FILES,
    build=build_pipeline,
    replay=lambda pipeline: pipeline.release.replay_goldens(),
    facts=release_facts,
    register=lambda loader, queue, server: (
        candidate_pb2_grpc.add_CandidateServiceServicer_to_server(
            CandidateServicer(loader, queue), server
        )
    ),
    services=partial(add_inference_service, models_of=served_models),
    inference_http=serve_inference_http,
)
"""The candidate pod."""


def candidate_pod(settings: CandidateSettings) -> Pod[CandidatePipeline]:
    """Return the candidate pod; it follows the log if the settings name one."""
    build = partial(
        build_pipeline,
        vector_cache_size=settings.viewer_vector_cache_size,
        filter_cache_bytes=settings.filter_cache_bytes,
    )
    pod = replace(CANDIDATE_POD, build=build)
    return following(pod, settings, lambda live: partial(build, live=live))
