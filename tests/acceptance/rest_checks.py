"""What Schemathesis checks of REST besides its own: valid is what protos and rules take.

It is a module of hooks for `schemathesis run`, named in schemathesis.toml. Its own check of what is
accepted knows only the OpenAPI document, which can't say that ids are bounded in bytes, or that a
field is required because of another.
"""

from __future__ import annotations

from typing import Any

import protovalidate
import schemathesis
from google.protobuf.json_format import ParseDict, ParseError
from schemathesis import Case, CheckContext, GenerationMode, Response
from vireo.v1.recommendation_pb2 import RecommendRequest


@schemathesis.check
def refuses_only_what_breaks_a_rule(_: CheckContext, response: Response, case: Case[Any]) -> None:
    """A request that fits the document gets a 400 where it breaks a rule of the protos."""
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
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
    if "viewerId" not in fields and "viewer_id" not in fields:
        return bool(fields)  # the release's state, which takes no parameters
    # Unknown fields are ignored, but for one without a name.
    if any("" in each for each in (fields, fields.get("context")) if isinstance(each, dict)):
        return True
    try:
        request = ParseDict(fields, RecommendRequest(), ignore_unknown_fields=True)
    except ParseError:
        return True
    return bool(protovalidate.collect_violations(request))
