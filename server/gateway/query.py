"""A request to the gateway, with the defaults of absent fields filled in."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.viewer_pb2 import ViewerFeatures

from server.arrays import Int64Array
from server.features.keys import video_key, video_keys
from server.gateway.bucket import BUCKET_HEADER, viewer_bucket
from server.rpc.guard import REQUEST_ID

DEFAULT_PAGE_SIZE = 10
ANSWER_SECONDS = 0.01
"""Reserved for building and sending the response after the last stage."""
_NO_KEYS = np.empty(0, np.int64)


class RecommendQuery(NamedTuple):
    """A valid request for a slate."""

    viewer_id: str
    page_size: int
    playing_key: int | None
    """Key of the video that is playing; never returned."""
    seed_key: int | None
    """The same key if the slate follows that video (UP_NEXT); None on HOME."""
    excluded_keys: Int64Array
    """Videos not to return, int64[e]."""
    explain: bool
    asked_at: int
    """When the slate will be shown, Unix seconds."""
    request_id: str
    deadline: float
    """When the caller stops waiting, on the monotonic clock."""
    metadata: tuple[tuple[str, str], ...]
    """Metadata of inner calls: request id, the viewer's bucket, the caller's trace context."""

    @staticmethod
    def of(
        request: pb.RecommendRequest,
        request_id: str,
        deadline: float,
        trace: tuple[tuple[str, str], ...] = (),
    ) -> RecommendQuery:
        """Return the query of a valid request, with the caller's trace context."""
        viewer_id, excluded = request.viewer_id, request.excluded_video_ids
        playing = video_key(request.seed_video_id) if request.seed_video_id else None
        bucket = str(viewer_bucket(viewer_id))
        return RecommendQuery(
            viewer_id=viewer_id,
            page_size=request.page_size if request.HasField("page_size") else DEFAULT_PAGE_SIZE,
            playing_key=playing,
            seed_key=playing if request.surface == pb.SURFACE_UP_NEXT else None,
            excluded_keys=video_keys(excluded) if excluded else _NO_KEYS,
            explain=request.explain,
            asked_at=_moment(request),
            request_id=request_id,
            deadline=deadline,
            metadata=((REQUEST_ID, request_id), (BUCKET_HEADER, bucket), *trace),
        )

    def budget(self, now: float, limit: float, share: float = 1.0) -> float:
        """Return the seconds that a stage may take.

        Args:
            now: the stage's start, on the monotonic clock.
            limit: the stage's own limit in seconds.
            share: share of the time left that it may use, so that later stages get theirs.
        """
        return min(limit, share * max(0.0, self.deadline - now - ANSWER_SECONDS))

    def blocked_keys(self, viewer: ViewerFeatures) -> Int64Array:
        """Return the videos that the slate must not have, int64[b]: watched, playing, excluded."""
        blocked = np.array(viewer.watched_keys, np.int64)
        if self.playing_key is None and not len(self.excluded_keys):
            return blocked
        playing = [] if self.playing_key is None else [self.playing_key]
        return np.concatenate([blocked, self.excluded_keys, np.array(playing, np.int64)])


def _moment(request: pb.RecommendRequest) -> int:
    """Return the request's time in Unix seconds, 0 if it is before 1970; now if absent."""
    if request.context.HasField("time"):
        return max(0, request.context.time.seconds)
    return int(time.time())
