"""A stage's call to an inner pod: within its budget, checked, and retried if the pod is broken.

And how a stage of the gateway fails: the request continues without it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import grpc
import grpc.aio
import structlog
from prometheus_client import Counter

from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.stages.check import BadAnswerError
from vireo.server.pod.stage_metrics import ExpectedFailureError
from vireo.server.rpc.spans import outgoing, span

if TYPE_CHECKING:
    from grpc.aio import UnaryUnaryMultiCallable

log = structlog.get_logger()

Request = TypeVar("Request")
Answer = TypeVar("Answer")
Checked = TypeVar("Checked")

MIN_BUDGET_SECONDS = 0.005
"""Minimum budget of a call: with less it would hardly be answered, and waste a pod's work."""
_SHORT_DEADLINE_SECONDS = 0.05
"""A pod that misses a shorter deadline isn't at fault: its caller is."""
TRY_HEADER = "x-envoy-upstream-rq-per-try-timeout-ms"
"""Metadata key of Envoy's timeout of each try."""
_TRY_SHARE, _MIN_TRY_SECONDS = 0.5, 0.1
"""Share of a call's time for one try, which leaves time for another pod, and the minimum: a healthy
pod responds within it. With less, callers in a hurry would have Envoy eject pods that are slow for
a moment."""
_POD = "x-vireo-pod"
"""In the answer's metadata: which pod Envoy had it from."""
_MAX_POD_LABELS = 100
"""Maximum pods with a label of their own in the counter: the first ones."""

_BROKEN = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS)
"""What a pod answers when it is at fault itself, which another may not be, and Envoy can't repeat.
INTERNAL it has repeated already."""

INVALID_RESPONSES = Counter(
    "vireo_invalid_responses",
    "Invalid responses of candidate and ranking pods, by stage and the pod's address "
    "(empty if unknown).",
    ["stage", "address"],
)
_pods: set[str] = set()


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
        self.reason = reason or ("error" if code is None else code.name.lower())


class StageSkippedError(StageFailedError):
    """A stage was skipped, or given up soon, because the caller left too little time."""

    level = logging.DEBUG

    def __init__(self, message: str, reason: str = "skipped") -> None:
        """Make the error; `reason` is one of those that metrics distinguish."""
        super().__init__(message, reason=reason)


class _BrokenPodError(StageFailedError):
    """One pod is at fault; another one may succeed."""


@dataclass(frozen=True)
class StageCall(Generic[Request, Answer]):
    """How one stage calls its pods."""

    stage: str
    """Name in logs and metrics."""
    method: UnaryUnaryMultiCallable[Request, Answer]
    limit: float
    """Maximum seconds of a call, including its retry."""
    share: float = 1.0
    """Share of the query's remaining time at the start of the stage."""
    pool: tuple[tuple[str, str], ...] = ()
    """Metadata that sends the call to another pool than the viewer's; there it is made once, and
    one pod has all of its time."""

    async def __call__(
        self,
        request: Request,
        query: RecommendQuery,
        check: Callable[[Answer, Request], Checked],
    ) -> Checked:
        """Return what `check` makes of the first valid response of at most two tries.

        Args:
            request: what to ask.
            query: whose time is spent, and whose metadata goes along.
            check: returns what is used of an answer, or raises BadAnswerError.

        Raises:
            StageFailedError: there is none; `code` says why where a pod has.
            StageSkippedError: the caller left too little time.
        """
        now = time.monotonic()
        left = query.budget(now, self.limit, self.share)
        if left < MIN_BUDGET_SECONDS:
            raise StageSkippedError(f"{1000 * left:.1f} ms are too little to ask a pod")
        try:
            with span(self.stage, "client"):
                return await self._try(request, query, check, left)
        except _BrokenPodError:
            left -= time.monotonic() - now
            if self.pool or left < MIN_BUDGET_SECONDS:
                raise
        with span(self.stage, "client"):
            return await self._try(request, query, check, left)

    async def _try(
        self,
        request: Request,
        query: RecommendQuery,
        check: Callable[[Answer, Request], Checked],
        left: float,
    ) -> Checked:
        one_try = 1000 * max(_MIN_TRY_SECONDS, _TRY_SHARE * left)
        metadata = grpc.aio.Metadata(
            *outgoing(query.metadata),
            *(self.pool or ((TRY_HEADER, str(round(one_try))),)),
        )
        call = self.method(request, timeout=left, metadata=metadata)
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            code = error.code()
            kind = _BrokenPodError if code in _BROKEN else StageFailedError
            if code is grpc.StatusCode.DEADLINE_EXCEEDED and left < _SHORT_DEADLINE_SECONDS:
                raise StageSkippedError(f"{1000 * left:.1f} ms were too little") from error
            raise kind(f"{code.name}: {error.details()}", code) from error
        try:
            if answer is None:  # gRPC's way to say so
                raise BadAnswerError("it can't be parsed")
            return check(answer, request)
        except BadAnswerError as error:
            pod = str((await call.initial_metadata()).get(_POD, ""))
            INVALID_RESPONSES.labels(self.stage, _label(pod)).inc()
            log.warning("bad answer of a pod", stage=self.stage, pod=pod, reason=str(error))
            message = f"bad answer of {pod or 'a pod'}: {error}"
            raise _BrokenPodError(message, reason="invalid") from error


def _label(pod: str) -> str:
    if len(_pods) < _MAX_POD_LABELS:
        _pods.add(pod)
    return pod if pod in _pods else "other"
