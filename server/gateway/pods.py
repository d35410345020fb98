"""Calls of candidate and ranking pods: within budget, checked, repeated if the pod is broken."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Set
from dataclasses import dataclass
from itertools import chain, compress, repeat
from typing import Generic, TypeAlias, TypeVar

import grpc
import grpc.aio
import structlog
from prometheus_client import Counter

from vireo.server.columns import BadColumnError
from vireo.server.features.context import sent
from vireo.server.gateway.check import BadAnswerError
from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.release import GatewayRelease
from vireo.server.pod.stage_metrics import ExpectedFailureError
from vireo.server.rpc.errors import not_found
from vireo.server.rpc.spans import outgoing, span
from vireo.v1 import candidate_pb2, ranking_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.viewer_pb2 import ViewerFeatures

log = structlog.get_logger()

Request = TypeVar("Request")
Answer = TypeVar("Answer")
T = TypeVar("T")

RETRIEVAL_SHARE = 0.6
"""Share of the remaining time at the start of retrieval; the rest is for ranking."""
MIN_BUDGET_SECONDS = 0.005
"""Minimum budget of a call: with less it would hardly be answered, and waste a pod's work."""
_SHORT_DEADLINE_SECONDS = 0.05
"""A pod that misses a shorter deadline isn't at fault: its caller is."""
_TRY_HEADER = "x-envoy-upstream-rq-per-try-timeout-ms"
"""Metadata key of Envoy's timeout of each try."""
_TRY_SHARE, _MIN_TRY_SECONDS = 0.5, 0.1
"""Share of a call's time for one try, which leaves time for another pod, and the minimum: a healthy
pod responds within it. With less, callers in a hurry would have Envoy eject pods that are slow for
a moment."""
_POD = "x-vireo-pod"
"""In the response's metadata: which pod Envoy had it from."""
_MAX_POD_LABELS = 100
"""Maximum pods with a label of their own in the counter: the first ones."""
_BROKEN = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS)
"""Statuses of a pod that is at fault itself, which another may not be, and that Envoy can't retry.
INTERNAL it has retried already."""

INVALID_RESPONSES = Counter(
    "vireo_invalid_responses",
    "Invalid responses of candidate and ranking pods, by stage and the pod's address (empty if "
    "unknown, `other` after the first 100).",
    ["stage", "address"],
)
_labels: set[str] = set()


class StageFailedError(ExpectedFailureError):
    """A stage failed; the request continues without it. The message says why."""

    def __init__(self, message: str, code: grpc.StatusCode | None = None, reason: str = "") -> None:
        """Make the error.

        Args:
            message: why it failed.
            code: status that a pod responded with, if one did.
            reason: one of the reasons that metrics distinguish; that of the code by default.
        """
        super().__init__(message)
        self.code = code
        if code is not None:
            self.reason = code.name.lower()
        self.reason = reason or self.reason


class StageSkippedError(StageFailedError):
    """A stage was skipped, or given up soon, because the caller left too little time."""

    level, reason = logging.DEBUG, "skipped"


class BrokenPodError(StageFailedError):
    """One pod is at fault; another one may succeed."""


Stage: TypeAlias = Callable[[Request, RecommendQuery, float], Awaitable[Answer]]
"""Returns the response within so many seconds: of pods, or of the same service in this process. It
raises StageFailedError if there is none, BrokenPodError if another pod may have one."""


@dataclass(frozen=True)
class Remote(Generic[Request, Answer]):
    """Pods behind Envoy, or one of them."""

    name: str
    """The stage's in logs and metrics."""
    method: grpc.aio.UnaryUnaryMultiCallable[Request, Answer]
    check: Callable[[Answer, Request], None]
    """Raises BadAnswerError or BadColumnError for a response that can't be used."""

    async def __call__(self, request: Request, query: RecommendQuery, seconds: float) -> Answer:
        """Return a pod's response; Envoy may repeat the call on another one."""
        one_try = round(1000 * max(_MIN_TRY_SECONDS, _TRY_SHARE * seconds))
        metadata = grpc.aio.Metadata(*outgoing(query.metadata), (_TRY_HEADER, str(one_try)))
        call = self.method(request, timeout=seconds, metadata=metadata)
        try:
            answer = await call
            if answer is None:  # gRPC's way to say so
                raise BadAnswerError("it can't be parsed")
            self.check(answer, request)
        except grpc.aio.AioRpcError as error:
            code = error.code()
            kind = BrokenPodError if code in _BROKEN else StageFailedError
            raise kind(f"{code.name}: {error.details()}", code) from error
        except (BadAnswerError, BadColumnError) as error:
            pod = str((await call.initial_metadata()).get(_POD, ""))
            INVALID_RESPONSES.labels(self.name, _label(pod)).inc()
            log.warning("bad answer of a pod", stage=self.name, pod=pod, reason=str(error))
            message = f"bad answer of {pod or 'a pod'}: {error}"
            raise BrokenPodError(message, reason="invalid") from error
        return answer


@dataclass(frozen=True)
class StageCall(Generic[Request, Answer]):
    """How one stage is called."""

    name: str
    """Name of its spans."""
    stage: Stage[Request, Answer]
    limit: float
    """Maximum seconds of a call, including its retry."""
    share: float = 1.0
    """Share of the query's remaining time at the start of the stage."""

    async def __call__(self, request: Request, query: RecommendQuery) -> Answer:
        """Return the first valid response of at most two tries.

        Args:
            request: what to ask.
            query: whose time is spent, and whose metadata goes along.

        Raises:
            StageFailedError: there is none; `code` says why where a pod has.
            StageSkippedError: the caller left too little time.
        """
        now = time.monotonic()
        left = query.budget(now, self.limit, self.share)
        ends, repeated = now + left, False
        if left < MIN_BUDGET_SECONDS:
            raise StageSkippedError(f"{1000 * left:.1f} ms are too little to ask a pod")
        while True:
            try:
                with span(self.name, "client"):
                    return await self.stage(request, query, left)
            except BrokenPodError:
                left = ends - time.monotonic()
                if repeated or left < MIN_BUDGET_SECONDS:
                    raise
                repeated = True
            except StageFailedError as error:
                late = error.code is grpc.StatusCode.DEADLINE_EXCEEDED
                if late and left < _SHORT_DEADLINE_SECONDS:
                    raise StageSkippedError(f"{1000 * left:.1f} ms were too little") from error
                raise


def _label(pod: str) -> str:
    if len(_labels) < _MAX_POD_LABELS:
        _labels.add(pod)
    return pod if pod in _labels else "other"


Call: TypeAlias = Callable[[Request, RecommendQuery], Awaitable[Answer]]
"""A stage within the query's budget; it raises what `StageCall` does."""
Retrieval = Stage[candidate_pb2.RetrieveCandidatesRequest, candidate_pb2.RetrieveCandidatesResponse]
Ranking = Stage[ranking_pb2.RankCandidatesRequest, ranking_pb2.RankCandidatesResponse]
RetrievalCall = Call[
    candidate_pb2.RetrieveCandidatesRequest, candidate_pb2.RetrieveCandidatesResponse
]
RankingCall = Call[ranking_pb2.RankCandidatesRequest, ranking_pb2.RankCandidatesResponse]


def retrieve_request(
    query: RecommendQuery,
    viewer: ViewerFeatures,
    count: int,
    release_id: str,
    *,
    count_of_release: bool = False,
) -> candidate_pb2.RetrieveCandidatesRequest:
    """Return the request for a query's candidates.

    Args:
        query: what was asked.
        viewer: the viewer's features.
        count: how many to return at most.
        release_id: the release to answer from while the pod holds it; empty for its own.
        count_of_release: whether the release that answers says how many instead.
    """
    request = candidate_pb2.RetrieveCandidatesRequest(
        viewer=viewer,
        count=count,
        excluded_keys=query.excluded_keys,
        seed_key=query.seed_key,
        page_size=query.page_size,
        shown_before=query.shown_before,
        recorded=query.recorded > 0,
        release_id=release_id,
        count_of_release=count_of_release,
        locale=query.locale,
        filter=query.filter,
        rules=None if query.rules is None else query.rules.message,
        explained_key=query.explained_key,
    )
    if query.session:
        request.session_keys[:], request.session_weights[:] = zip(*query.session, strict=True)
    if query.rules is not None and query.explain:
        request.rules.counts = True
    request.viewer.asked_at = query.asked_at  # the store's row has no time of a request
    sent(query.context, request.viewer.context)
    return request


async def retrieve(
    call: RetrievalCall,
    query: RecommendQuery,
    request: candidate_pb2.RetrieveCandidatesRequest,
    release: GatewayRelease,
) -> candidate_pb2.RetrieveCandidatesResponse:
    """Return the candidates for a query, best first.

    Raises:
        StageFailedError: no pod gave a valid response in time.
        RpcError: NOT_FOUND: the query follows a video that the pod's release doesn't have.
            INVALID_ARGUMENT: `release` can't be filtered so either.
    """
    try:
        return await call(request, query)
    except StageFailedError as error:
        if error.code is grpc.StatusCode.NOT_FOUND and query.seed_key is not None:
            text = f"{query.seed_named} is not in the release that is served"
            raise not_found(text) from error
        if error.code is grpc.StatusCode.INVALID_ARGUMENT:
            query.expression(release.declared)
        raise


def without(
    candidates: candidate_pb2.RetrieveCandidatesResponse, keys: Set[int]
) -> candidate_pb2.RetrieveCandidatesResponse:
    """Return candidates but for those of some keys."""
    stay = [key not in keys for key in candidates.keys]

    def kept(column: Iterable[T]) -> list[T]:
        return [*compress(column, stay)]

    left = candidate_pb2.RetrieveCandidatesResponse()
    left.CopyFrom(candidates)
    left.keys[:], left.ids[:] = kept(candidates.keys), kept(candidates.ids)
    left.source_masks[:] = kept(candidates.source_masks)
    for score in left.scores:
        score.values[:] = kept(score.values)
    if left.HasField("rules"):
        left.rules.factors[:] = kept(left.rules.factors)
        for each in left.rules.labels:
            of_labels = chain.from_iterable(map(repeat, stay, each.counts))
            each.labels[:], each.counts[:] = [*compress(each.labels, of_labels)], kept(each.counts)
    return left


async def rank(
    call: RankingCall,
    query: RecommendQuery,
    viewer: ViewerFeatures,
    candidates: candidate_pb2.RetrieveCandidatesResponse,
) -> ranking_pb2.RankCandidatesResponse:
    """Return the best page of the candidates, from their release while the pod holds it.

    Args:
        call: how to call a ranking pod.
        query: what was asked.
        viewer: the features as retrieval got them, with the request's time.
        candidates: what retrieval returned.

    Raises:
        StageFailedError: no pod gave a valid response in time.
    """
    request = ranking_pb2.RankCandidatesRequest(
        viewer=viewer,
        keys=candidates.keys,
        scores=candidates.scores,
        source_masks=candidates.source_masks,
        page_size=query.page_size,
        seed_key=query.seed_key,
        titles=query.explain,
        release_id=candidates.release_id,
        rules=None if query.rules is None else query.rules.message,
        rule_columns=candidates.rules if candidates.HasField("rules") else None,
        recorded=query.recorded,
    )
    for name in ("watched_keys", "followed_keys"):  # only retrieval reads them
        request.viewer.ClearField(name)
    if query.explained_key is not None:
        explained = candidates.explained
        lost = explained.lost_at == pb.LOST_AT_RETRIEVAL and bool(explained.scores)
        if lost or query.explained_key in candidates.keys:
            request.explained_key = query.explained_key
            request.explained_scores.extend(explained.scores)
    return await call(request, query)
