"""A request to the gateway, with the defaults of absent fields filled in."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.viewer_pb2 import ViewerFeatures

from server.arrays import Int64Array
from server.features.keys import video_key, video_keys
from server.gateway.bucket import BUCKET_HEADER, viewer_bucket
from server.gateway.deadline import Deadline
from server.rpc.guard import REQUEST_ID

DEFAULT_PAGE_SIZE = 10
_NO_KEYS = np.empty(0, np.int64)


@dataclass(frozen=True)
class RecommendQuery:
    """A valid request for a slate."""

    viewer_id: str
    page_size: int
    playing_key: int | None
    """Key of the video that is playing; never returned."""
    follows_playing: bool
    """Whether the slate follows that video (UP_NEXT)."""
    excluded_keys: Int64Array
    """Videos not to return, int64[e]."""
    explain: bool
    asked_at: int
    """When the slate will be shown, Unix seconds."""
    request_id: str
    deadline: Deadline
    metadata: tuple[tuple[str, str], ...]
    """Metadata of inner calls: request id, the viewer's bucket, the caller's trace context."""

    @property
    def seed_key(self) -> int | None:
        """The key that candidates and ranking follow; None on HOME."""
        return self.playing_key if self.follows_playing else None

    def blocked_keys(self, viewer: ViewerFeatures) -> Int64Array:
        """Return the videos that the slate must not have, int64[b]: watched, playing, excluded."""
        blocked = np.array(viewer.watched_keys, np.int64)
        if self.playing_key is None and not len(self.excluded_keys):
            return blocked
        playing = [] if self.playing_key is None else [self.playing_key]
        return np.concatenate([blocked, self.excluded_keys, np.array(playing, np.int64)])

    @staticmethod
    def of(
        request: pb.RecommendRequest,
        request_id: str,
        deadline: Deadline,
        trace: tuple[tuple[str, str], ...] = (),
    ) -> RecommendQuery:
        """Return the query of a valid request, with the caller's trace context."""
        seed, excluded = request.seed_video_id, request.excluded_video_ids
        return RecommendQuery(
            viewer_id=request.viewer_id,
            page_size=request.page_size if request.HasField("page_size") else DEFAULT_PAGE_SIZE,
            playing_key=video_key(seed) if seed else None,
            follows_playing=request.surface == pb.SURFACE_UP_NEXT,
            excluded_keys=video_keys(excluded) if excluded else _NO_KEYS,
            explain=request.explain,
            asked_at=_moment(request),
            request_id=request_id,
            deadline=deadline,
            metadata=(
                (REQUEST_ID, request_id),
                (BUCKET_HEADER, str(viewer_bucket(request.viewer_id))),
                *trace,
            ),
        )

    def again(self, deadline: Deadline) -> RecommendQuery:
        """Return the same query with another deadline."""
        return replace(self, deadline=deadline)


def _moment(request: pb.RecommendRequest) -> int:
    """Return the request's time in Unix seconds, 0 if it is before 1970; now if absent."""
    if request.context.HasField("time"):
        return max(0, request.context.time.seconds)
    return int(time.time())
