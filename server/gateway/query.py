"""A request to the gateway, with the defaults of absent fields filled in."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import xxhash

from vireo.server.features.context import UNKNOWN, BadTimeZoneError, ContextIds, context_ids
from vireo.server.features.keys import video_key
from vireo.server.gateway.rules import ActiveRules
from vireo.server.recommend.filters.declared import Declared
from vireo.server.recommend.filters.expression import BadFilterError, FilterExpression, decode
from vireo.server.rpc.errors import invalid_argument
from vireo.server.rpc.guard import REQUEST_ID
from vireo.v1 import filter_pb2
from vireo.v1 import recommendation_pb2 as pb

BUCKETS = 10_000
BUCKET_HEADER = "x-vireo-bucket"
"""Metadata key of a bucket on the inner hops; routes compare it with the canary's share."""
_SEED = 20_001
"""Makes buckets independent of video keys, which are the same hash."""

DEFAULT_PAGE_SIZE = 10
ANSWER_SECONDS = 0.01
"""Reserved for building and sending the response after the last stage."""
_SESSION_WEIGHTS: Mapping[int, float] = {
    pb.SESSION_ACTION_SEARCHED: 0.5,
    pb.SESSION_ACTION_HOVERED: 0.25,
}
"""How much a video of the session counts beside a watch; 1 if it was opened."""


def viewer_bucket(viewer_id: str) -> int:
    """Return the viewer's bucket, uniform in [0, BUCKETS); it depends on the id alone."""
    return xxhash.xxh3_64_intdigest(viewer_id.encode(), seed=_SEED) % BUCKETS


def decode_filter(message: filter_pb2.Filter, field: str, declared: Declared) -> FilterExpression:
    """Return what a filter says; raise INVALID_ARGUMENT if a release can't be filtered so.

    Args:
        message: the filter.
        field: its field in the caller's request.
        declared: the release's attributes.
    """
    try:
        return decode(message, field, declared)
    except BadFilterError as error:
        raise invalid_argument(error.violations) from error


class RecommendQuery(NamedTuple):
    """A valid request for a slate."""

    viewer_id: str
    page_size: int
    seed_key: int | None
    """Key of the video that is playing if the slate follows it (UP_NEXT); never returned."""
    excluded_keys: Sequence[int]
    """Videos not to return."""
    explain: bool
    asked_at: int
    """When the slate will be shown, Unix seconds."""
    request_id: str
    deadline: float
    """When the caller stops waiting, on the monotonic clock."""
    metadata: tuple[tuple[str, str], ...]
    """Metadata of inner calls: request id, the viewer's bucket, the caller's trace context."""
    locale: str = ""
    """BCP 47 language tag; empty if unknown."""
    profile: pb.RequestProfile | None = None
    """What the caller itself knows of the viewer."""
    filter: filter_pb2.Filter | None = None
    """Which videos may be returned; None for all."""
    filter_field: str = "filter"
    """Its field in the caller's request."""
    seed_named: str = ""
    """Field and id of the seed video in the caller's request."""
    session: Sequence[tuple[int, float]] = ()
    """Keys of the videos that the viewer came upon in this session, oldest first, and how much each
    counts beside a watch."""
    context: ContextIds = UNKNOWN
    """Where and when the slate will be shown, as ids that models read."""
    region: str = ""
    """Where the viewer is; empty if unknown."""
    first_page: bool = True
    """Whether it begins a slate."""
    rules: ActiveRules | None = None
    """The site's rules for it; None if none applies."""
    explained_key: int | None = None
    """The video that pods explain too; None for none."""
    shown_before: int = 0
    """Number of the last of `excluded_keys` that were on the pages before."""
    recorded: int = 0
    """Number of candidates to record; 0 if the slate isn't recorded."""

    @staticmethod
    def of(
        request: pb.RecommendRequest,
        request_id: str,
        deadline: float,
        trace: tuple[tuple[str, str], ...] = (),
        field: str = "",
    ) -> RecommendQuery:
        """Return the query of a valid request.

        Args:
            request: the request.
            request_id: its id.
            deadline: when the caller stops waiting, on the monotonic clock.
            trace: the caller's trace context.
            field: begin of its fields' paths in the caller's request, for example "request.".

        Raises:
            RpcError: INVALID_ARGUMENT if the time zone can't be parsed.
        """
        context = request.context
        # Before 1970 it counts as 1970.
        seconds = context.time.seconds if context.HasField("time") else time.time()
        asked_at = max(0, int(seconds))
        seed_key = video_key(request.seed_video_id) if request.seed_video_id else None
        excluded = [video_key(video_id) for video_id in request.excluded_video_ids]
        if seed_key is not None and request.surface != pb.SURFACE_UP_NEXT:
            # On HOME it leads to nothing: among the watched videos EASE would go by it.
            excluded, seed_key = [*excluded, seed_key], None
        try:
            ids = context_ids(asked_at, context.time_zone, context.device, context.locale)
        except BadTimeZoneError as error:
            raise invalid_argument([(f"{field}context.time_zone", str(error))]) from error
        bucket = str(viewer_bucket(request.viewer_id))
        return RecommendQuery(
            viewer_id=request.viewer_id,
            page_size=request.page_size if request.HasField("page_size") else DEFAULT_PAGE_SIZE,
            seed_key=seed_key,
            excluded_keys=excluded,
            explain=request.explain,
            asked_at=asked_at,
            request_id=request_id,
            deadline=deadline,
            metadata=((REQUEST_ID, request_id), (BUCKET_HEADER, bucket), *trace),
            locale=context.locale,
            profile=request.profile if request.HasField("profile") else None,
            filter=request.filter if request.HasField("filter") else None,
            filter_field=f"{field}filter",
            seed_named=f"{field}seed_video_id: {request.seed_video_id!r}",
            session=[
                (video_key(each.video_id), _SESSION_WEIGHTS.get(each.action, 1.0))
                for each in request.session
            ],
            context=ids,
            region=context.region,
            first_page=not request.page_token,
        )

    def expression(self, declared: Declared) -> FilterExpression | None:
        """Return what the filter says of a release that declares these attributes.

        Pods decode filters: only a slate without them needs it.

        Raises:
            RpcError: INVALID_ARGUMENT: the release can't be filtered so.
        """
        if self.filter is None:
            return None
        return decode_filter(self.filter, self.filter_field, declared)

    def budget(self, now: float, limit: float, share: float = 1.0) -> float:
        """Return the seconds that a stage may take.

        Args:
            now: the stage's start, on the monotonic clock.
            limit: the stage's own limit in seconds.
            share: share of the time left that it may use, so that later stages get theirs.
        """
        return min(limit, share * max(0.0, self.deadline - now - ANSWER_SECONDS))
