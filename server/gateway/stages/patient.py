"""Stages of slates that nobody waits for: they are tried again instead of left out.

A mail to a viewer shouldn't hold the popular list because pods were busy for a second. So what is
away or overloaded is tried again for a while, and then the batch ends, to be resumed. Only what
would fail again is left out, as in any slate, and declared: a viewer's row that can't be used, or a
pod that answers with nonsense.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import grpc
from prometheus_client import Counter
from vireo.v1.viewer_pb2 import ViewerFeatures

from server.gateway.features import FeatureReader, UnfitRowError
from server.gateway.last_features import LastFeatures
from server.gateway.query import RecommendQuery
from server.gateway.stages.call import Answer, Checked, Request, StageCall
from server.gateway.stages.failure import StageFailedError, StageSkippedError
from server.gateway.stages.read_features import ReadFeatures
from server.rpc.errors import unavailable

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

Result = TypeVar("Result")


@dataclass(frozen=True)
class PatientCall(StageCall[Request, Answer]):
    """A stage's call that is made again while pods are overloaded or away."""

    @staticmethod
    def like(call: StageCall[Request, Answer]) -> PatientCall[Request, Answer]:
        """Return a call of the same pods; how late it is tells nothing of the load."""
        return PatientCall(call.stage, call.method, call.limit, call.share)

    async def __call__(
        self,
        request: Request,
        query: RecommendQuery,
        check: Callable[[Answer, Request], Checked],
    ) -> Checked:
        """Return what `check` makes of a valid response.

        Raises:
            StageFailedError: the pods fail in a way that a repetition won't mend.
            RpcError: UNAVAILABLE if they are overloaded or away for too long.
        """
        call = super().__call__
        return await _repeated(self.stage, lambda: call(request, query, check), _passes)


class PatientRead(ReadFeatures):
    """Reads features, again and again while the store is away; caches none."""

    def __init__(self, timeout: float) -> None:
        """Read with a timeout in seconds."""
        # A batch may end while its circuit is open, which nobody would close.
        super().__init__(timeout, _Nothing(), exported=False)

    async def __call__(self, query: RecommendQuery, reader: FeatureReader) -> ViewerFeatures:
        """Return the viewer's features.

        Raises:
            StageFailedError: the viewer's row can't be used.
            RpcError: UNAVAILABLE if the store is away for too long.
        """
        read = super().__call__
        return await _repeated("features", lambda: read(query, reader), _is_of_the_store)


class _Nothing(LastFeatures):
    """Caches nothing: the viewers of a batch would evict those who are on the site."""

    def __init__(self) -> None:
        pass

    def keep(self, dataset: str, viewer_id: str, viewer: ViewerFeatures) -> None:
        pass

    def find(self, dataset: str, viewer_id: str) -> ViewerFeatures | None:  # noqa: ARG002
        return None


async def _repeated(
    stage: str,
    attempt: Callable[[], Awaitable[Result]],
    repeats: Callable[[StageFailedError], bool],
) -> Result:
    """Return the result of the first attempt that succeeds, or fails for good."""
    ends, pause = time.monotonic() + PATIENCE_SECONDS, _FIRST_PAUSE
    while True:
        try:
            return await attempt()
        except StageFailedError as error:
            if not repeats(error):
                raise
            if time.monotonic() + pause > ends:
                reason = f"{stage} has failed for {PATIENCE_SECONDS:g} s: {error}"
                raise unavailable(f"{reason}; resume the batch later", _RESUME_AFTER) from error
        RETRIES.labels(stage).inc()
        await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311
        pause = min(2 * pause, _MAX_PAUSE)


def _passes(error: StageFailedError) -> bool:
    # A call is skipped if the stream's own deadline is near, which then ends it.
    return error.code in _TEMPORARY or isinstance(error, StageSkippedError)


def _is_of_the_store(error: StageFailedError) -> bool:
    return not isinstance(error.__cause__, UnfitRowError)
