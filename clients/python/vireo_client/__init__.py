"""A client of Vireo: asks what a viewer should watch next, and tells what viewers do."""

from vireo_client._generated.enums import (
    Degradation,
    EventKind,
    LostAt,
    ProfileUse,
    SessionAction,
    Source,
    Surface,
)
from vireo_client.aio import AsyncClient
from vireo_client.client import Client
from vireo_client.connection import Tls
from vireo_client.errors import (
    AccessDenied,
    DeadlineExceeded,
    FieldViolation,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    VireoError,
)
from vireo_client.inputs import (
    Condition,
    Event,
    EventDetails,
    Filter,
    RequestProfile,
    SessionVideo,
    Video,
    WatchedVideo,
)
from vireo_client.sender import AsyncEventSender, EventSender
from vireo_client.slate import (
    Explanation,
    Slate,
    SlateItem,
    SourceRank,
    SourceReport,
    TaskScores,
    VideoExplanation,
)
from vireo_client.version import __version__

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "AsyncEventSender",
    "Client",
    "Condition",
    "DeadlineExceeded",
    "Degradation",
    "Event",
    "EventDetails",
    "EventKind",
    "EventSender",
    "Explanation",
    "FieldViolation",
    "Filter",
    "InvalidRequest",
    "LostAt",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "ProfileUse",
    "RequestProfile",
    "SessionAction",
    "SessionVideo",
    "Slate",
    "SlateItem",
    "Source",
    "SourceRank",
    "SourceReport",
    "Surface",
    "TaskScores",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Video",
    "VideoExplanation",
    "VireoError",
    "WatchedVideo",
    "__version__",
]
