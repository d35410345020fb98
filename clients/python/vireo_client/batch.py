"""A batch: the slates of any number of viewers, in as many calls as it takes."""

from __future__ import annotations

import random
import time as clock
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import grpc

from vireo_client.errors import Overloaded, Unavailable, VireoError
from vireo_client.messages import BatchRecommendRequest, BatchRecommendResponse
from vireo_client.methods import BATCH
from vireo_client.request import Call, Metadata, SlateArguments
from vireo_client.slate import Slate, slate_of

MAX_VIEWERS = 10_000
"""Maximum viewers of one call."""
STREAM_SECONDS = 320.0
"""Timeout of one call: more than the 300 s after which the server ends it."""
_FIRST_PAUSE, _MAX_PAUSE = 0.1, 5.0
"""Seconds before the first and before later calls that continue one that failed."""
_RESUMED = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        # What becomes of a stream whose gateway is killed.
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
    }
)


@dataclass(frozen=True, kw_only=True)
class BatchAsk(SlateArguments):
    """The arguments of `batch`."""

    viewer_ids: Iterable[str]
    patience: float
    request_id: str
    metadata: Metadata

    def parts(self) -> Iterator[BatchPart]:
        """Yield the parts of the batch, each of one call if nothing fails.

        Raises:
            InvalidRequest: a value that no message can hold.
        """
        viewers = iter(self.viewer_ids)
        while part := list(islice(viewers, MAX_VIEWERS)):
            yield BatchPart(self._call(part), self.patience)

    def _call(self, viewer_ids: list[str]) -> Call[Slate]:
        def build() -> BatchRecommendRequest:
            return self._message(viewer_ids)

        return Call(BATCH, build, STREAM_SECONDS, self.request_id, self.metadata)

    def _message(self, viewer_ids: list[str]) -> BatchRecommendRequest:
        request = BatchRecommendRequest(viewer_ids=viewer_ids, page_size=self.page_size)
        self.set_filter_and_context(request)
        return request


class BatchPart:
    """A part of a batch that one request asks for, and how far it is."""

    def __init__(self, call: Call[Slate], patience: float) -> None:
        """Begin; `patience` is the maximum seconds for which calls may fail in a row."""
        self.call = call
        self.request: BatchRecommendRequest = call.message()
        """The request for what is left."""
        self._patience = patience
        self._ends: float | None = None
        """When to give up, on the monotonic clock; None unless calls fail."""
        self._pause = _FIRST_PAUSE

    def take(self, response: BatchRecommendResponse) -> tuple[str, Slate]:
        """Return the viewer and the slate of a response, and continue after it from now on."""
        self.request.resume_token = response.resume_token
        self._ends, self._pause = None, _FIRST_PAUSE
        return response.viewer_id, slate_of(response.slate)

    def pause(self, error: VireoError, *, closed: bool) -> float:
        """Return the seconds to wait before the next call after one that failed.

        Raises `error` if there is none: it can't be mended so, has lasted for too long, or the
        client is closed.
        """
        after = error.retry_after if isinstance(error, Overloaded | Unavailable) else None
        too_large = isinstance(error, Overloaded) and after is None
        pause = max(self._pause, after.total_seconds() if after else 0.0)
        now = clock.monotonic()
        self._ends = self._ends or now + self._patience
        late = now + pause > self._ends
        if error.code not in _RESUMED or too_large or late or closed:
            raise error
        self._pause = min(2 * self._pause, _MAX_PAUSE)
        return pause * random.uniform(1.0, 1.2)  # noqa: S311
