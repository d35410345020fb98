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
    "Client",
    "Condition",
    "DeadlineExceeded",
    "Degradation",
    "Event",
    "EventDetails",
    "EventKind",
    "Explanation",
    "FieldViolation",
    "Filter",
    "InvalidRequest",
    "LostAt",
    "NotFound",
    "Overloaded",
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
    "Unavailable",
    "Video",
    "VideoExplanation",
    "VireoError",
    "WatchedVideo",
    "__version__",
]
