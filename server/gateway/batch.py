"""BatchRecommend: the slates of many viewers, one after the other, while nobody else calls."""

from __future__ import annotations

import asyncio
import hashlib
import random
import struct
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import grpc
from prometheus_client import Counter, Gauge

from vireo.server.gateway.pipeline import RecommendPipeline
from vireo.server.gateway.pods import StageFailedError, StageSkippedError
from vireo.server.gateway.query import RecommendQuery, decode_filter
from vireo.server.gateway.release import GatewayRelease
from vireo.server.gateway.settings import GatewaySettings
from vireo.server.gateway.viewer import ReadFeatures
from vireo.server.pod.release_service import Releases, served
from vireo.server.rpc.admission import LOW_PRIORITY
from vireo.server.rpc.errors import invalid_argument, unavailable
from vireo.server.rpc.guard import request_id
from vireo.server.rpc.reading import Context
from vireo.server.rpc.streams import MAX_STREAM_SECONDS
from vireo.server.rpc.trace import current_call
from vireo.v1 import recommendation_pb2 as pb

PATIENCE_SECONDS = 10.0
"""Seconds for which a stage of one viewer is tried before the batch ends."""
_FIRST_PAUSE, _MAX_PAUSE = 0.05, 1.0
"""Seconds before the first and before later tries."""
_RESUME_AFTER = timedelta(seconds=1)

_TEMPORARY = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
)
"""Statuses of pods that are away, restart or have more urgent calls."""

RETRIES = Counter(
    "vireo_batch_retries", "Stages of batches' slates that were tried again.", ["stage"]
)
for _stage in ("features", "retrieval", "ranking"):  # so that each is exported as 0
    RETRIES.labels(_stage)

P = ParamSpec("P")
Result = TypeVar("Result")


def retried(
    stage: str, work: Callable[P, Awaitable[Result]]
) -> Callable[P, Coroutine[Any, Any, Result]]:
    """Return what does the work of a stage until an attempt succeeds.

    It raises:
        StageFailedError: it fails in a way that a repetition won't mend.
        RpcError: UNAVAILABLE: pods or the store are overloaded or away for too long.
    """

    async def attempts(*args: P.args, **kwargs: P.kwargs) -> Result:
        ends, pause = time.monotonic() + PATIENCE_SECONDS, _FIRST_PAUSE
        while True:
            try:
                return await work(*args, **kwargs)
            except StageFailedError as error:
                if not _is_temporary(stage, error):
                    raise
                if time.monotonic() + pause > ends:
                    reason = f"{stage} has failed for {PATIENCE_SECONDS:g} s: {error}"
                    raise unavailable(f"{reason}; resume the batch later", _RESUME_AFTER) from error
            RETRIES.labels(stage).inc()
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311
            pause = min(2 * pause, _MAX_PAUSE)

    return attempts


def _is_temporary(stage: str, error: StageFailedError) -> bool:
    if stage == "features":
        return error.reason != "invalid"
    # A call is skipped if the stream's own deadline is near, which then ends it.
    return error.code in _TEMPORARY or isinstance(error, StageSkippedError)


MAX_BATCHES = 2
"""Maximum concurrent calls of BatchRecommend on a gateway."""
BATCH_RETRY = timedelta(seconds=5)
"""Delay before a batch that was one too many is tried again: batches take minutes."""
VERSION = 1
_TOKEN = struct.Struct(">BI16s")
"""Version, number of viewers that were answered, and digest of the request."""

SLATES = Counter("vireo_batch_slates", "Slates of batches.")
OPEN = Gauge("vireo_batches_open", "Batches under way.")


def batch_slates(
    pipeline: RecommendPipeline,
    loader: Releases[GatewayRelease],
    request: pb.BatchRecommendRequest,
    context: Context,
) -> AsyncGenerator[pb.BatchRecommendResponse, None]:
    """Return a generator of the slates of a valid request's viewers, from its token on.

    Args:
        pipeline: makes them; see `batch_pipeline`.
        loader: has the release.
        request: the request; its token is cleared.
        context: that of the call.

    Raises:
        RpcError: INVALID_ARGUMENT, if the token isn't of this request, or the release can't be
            filtered so.
    """
    if request.HasField("filter"):
        decode_filter(request.filter, "filter", served(loader).content.declared)
    token, request.resume_token = request.resume_token, ""
    content = request.SerializeToString(deterministic=True)
    digest = hashlib.blake2b(content, digest_size=16).digest()
    begin = position_of(token, digest, len(request.viewer_ids)) if token else 0

    async def slates() -> AsyncGenerator[pb.BatchRecommendResponse, None]:
        trace = current_call().headers
        left = context.time_remaining()
        deadline = time.monotonic() + (MAX_STREAM_SECONDS if left is None else left)
        for position, viewer_id in enumerate(request.viewer_ids[begin:], begin + 1):
            query = RecommendQuery.of(_request(request, viewer_id), request_id(), deadline, trace)
            query = query._replace(metadata=(*query.metadata, LOW_PRIORITY))
            made = await pipeline.make(query, served(loader).content)
            SLATES.inc()
            yield pb.BatchRecommendResponse(
                viewer_id=viewer_id, slate=made.slate, resume_token=token_at(position, digest)
            )

    return slates()


def batch_pipeline(pipeline: RecommendPipeline, settings: GatewaySettings) -> RecommendPipeline:
    """Return the pipeline for slates that nobody waits for."""
    # It caches no features: the viewers of a batch would evict those who are on the site. And a
    # batch may end while the store is skipped, which nobody would find out to be back.
    return replace(
        pipeline,
        read_features=retried("features", ReadFeatures(settings.features_timeout)),
        retrieval=retried("retrieval", pipeline.retrieval),
        ranking=retried("ranking", pipeline.ranking),
        shown=False,
        last=None,
    )


def token_at(position: int, digest: bytes) -> str:
    """Return the token that continues a request after that many viewers.

    It needs no signature: whoever changes it gets slates that the same caller may ask for anyway.
    """
    return urlsafe_b64encode(_TOKEN.pack(VERSION, position, digest)).decode()


def position_of(token: str, digest: bytes, viewers: int) -> int:
    """Return the number of viewers that were answered before a token.

    Args:
        token: what the caller sent.
        digest: of its request.
        viewers: number of the request's viewers.

    Raises:
        RpcError: INVALID_ARGUMENT, the token isn't of this request.
    """
    position: int
    try:
        version, position, of = _TOKEN.unpack(urlsafe_b64decode(token))
    except (ValueError, struct.error):
        version, position, of = 0, 0, b""
    if version != VERSION or of != digest or not 0 < position <= viewers:
        reason = (
            "isn't a token of this request: nothing but the token may differ when it is resumed"
        )
        raise invalid_argument([("resume_token", reason)])
    return position


def _request(batch: pb.BatchRecommendRequest, viewer_id: str) -> pb.RecommendRequest:
    """Return the request for one viewer's slate."""
    return pb.RecommendRequest(
        viewer_id=viewer_id,
        page_size=batch.page_size if batch.HasField("page_size") else None,
        filter=batch.filter if batch.HasField("filter") else None,
        context=batch.context if batch.HasField("context") else None,
    )
