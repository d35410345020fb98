"""What Schemathesis checks of REST besides its own: valid is what protos and rules take.

It is a module of hooks for `schemathesis run`, named in schemathesis.toml. Its own check of what is
accepted knows only the OpenAPI document, which can't say that ids are bounded in bytes, or that a
field is required because of another.
"""

from __future__ import annotations

import time
from typing import Any

import protovalidate
import schemathesis
from google.protobuf.json_format import ParseDict, ParseError
from schemathesis import Case, CheckContext, GenerationMode, Response

from vireo.server.features.context import BadTimeZoneError, time_zone
from vireo.server.gateway.catalog import violations
from vireo.server.gateway.events import problems
from vireo.server.recommend.filters.declared import Declared
from vireo.server.recommend.filters.expression import BadFilterError, decode
from vireo.v1.catalog_pb2 import RemoveVideosRequest, UpsertVideosRequest
from vireo.v1.event_pb2 import RecordEventsRequest
from vireo.v1.recommendation_pb2 import (
    BatchRecommendRequest,
    ExplainVideoRequest,
    RecommendRequest,
    SimilarVideosRequest,
)

_REQUESTS: dict[str, Any] = {
    "/v1/events": RecordEventsRequest,
    "/v1/videos": UpsertVideosRequest,
    "/v1/videos:remove": RemoveVideosRequest,
    "/v1/viewers/{viewer_id}/recommendations": RecommendRequest,
    "/v1/recommendations": RecommendRequest,
    "/v1/recommendations:batch": BatchRecommendRequest,
    "/v1/videos/{video_id}/similar": SimilarVideosRequest,
    "/v1/videos:similar": SimilarVideosRequest,
    "/v1/videos:explain": ExplainVideoRequest,
}
"""Requests by path; the release's state takes no parameters."""


@schemathesis.check
def refuses_only_what_breaks_a_rule(_: CheckContext, response: Response, case: Case[Any]) -> None:
    """A request that fits the document gets a 400 where it breaks a rule of the protos."""
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    if _has_nameless_fields(case.body):
        return  # whether Envoy refuses one depends on its value
    assert (response.status_code == 400) == _breaks_a_rule(case), response.text


def _breaks_a_rule(case: Case[Any]) -> bool:
    fields: dict[str, Any] = {}
    if isinstance(case.body, dict):
        fields = case.body
    else:
        parameters = {**(case.query or {}), **(case.path_parameters or {})}
        for name, value in parameters.items():
            *outer, last = name.split(".")
            inner = fields
            for each in outer:
                inner = inner.setdefault(each, {})
            inner[last] = value == "true" if value in ("true", "false") else value
    kind = _REQUESTS.get(case.operation.path)
    if kind is None:
        return bool(fields)
    # Unknown fields are ignored, but for one without a name.
    if any("" in each for each in (fields, fields.get("context")) if isinstance(each, dict)):
        return True
    try:
        request = ParseDict(fields, kind(), ignore_unknown_fields=True)
    except ParseError:
        return True
    if protovalidate.collect_violations(request):
        return True
    if isinstance(request, RecordEventsRequest):
        return any(problems(request.events, time.time_ns()))
    if isinstance(request, UpsertVideosRequest | RemoveVideosRequest):
        return bool(violations(request))
    return _is_not_served(request.request if isinstance(request, ExplainVideoRequest) else request)


def _is_not_served(request: Any) -> bool:
    """Return whether the gateway refuses what fits the protos' rules, of a slate or similar videos.

    The release that is tested declares no attributes of its own, and nobody has a token of a page
    or a batch.
    """
    try:
        if request.HasField("filter"):
            decode(request.filter, "filter", Declared())
        if request.context.time_zone:
            time_zone(request.context.time_zone)
    except (BadFilterError, BadTimeZoneError):
        return True
    if isinstance(request, BatchRecommendRequest):
        return bool(request.resume_token)
    return isinstance(request, RecommendRequest) and bool(request.page_token)


def _has_nameless_fields(body: Any) -> bool:
    """Return whether a message within a body has a field without a name."""
    if not isinstance(body, dict | list):
        return False
    inner = body if isinstance(body, list) else list(body.values())
    return any(
        (isinstance(each, dict) and "" in each) or _has_nameless_fields(each) for each in inner
    )
