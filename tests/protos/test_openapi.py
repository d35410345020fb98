"""The OpenAPI document says of REST what the protos say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from openapi_spec_validator import validate

from protos.generate import OPENAPI
from protos.openapi import openapi
from protos.protoc import DESCRIPTOR_SET

GET = "/v1/viewers/{viewer_id}/recommendations"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi(FileDescriptorSet.FromString(DESCRIPTOR_SET.read_bytes()))


def test_the_document_is_valid_and_the_one_that_was_generated(document: dict[str, Any]) -> None:
    validate(document)
    assert json.loads(OPENAPI.read_text()) == document


def test_every_binding_is_an_operation(document: dict[str, Any]) -> None:
    operations = {path: list(verbs) for path, verbs in document["paths"].items()}
    assert operations == {
        GET: ["get"],
        "/v1/recommendations": ["post"],
        "/v1/recommendations:batch": ["post"],
        "/v1/events": ["post"],
        "/v1/videos": ["post"],
        "/v1/videos:remove": ["post"],
        "/v1/videos:similar": ["post"],
        "/v1/videos:explain": ["post"],
        "/v1/videos/{video_id}/similar": ["get"],
        "/v1/release": ["get"],
    }


def test_parameters_are_the_fields_that_the_path_lacks_with_their_bounds(
    document: dict[str, Any],
) -> None:
    parameters = {each["name"]: each for each in document["paths"][GET]["get"]["parameters"]}
    assert parameters["viewer_id"]["in"] == "path"
    assert parameters["viewer_id"]["schema"] == {"type": "string", "minLength": 1, "maxLength": 128}
    size = parameters["page_size"]["schema"]
    assert (size["minimum"], size["maximum"]) == (1, 500)
    excluded = parameters["excluded_video_ids"]["schema"]
    assert excluded["maxItems"] == 1000
    assert excluded["items"] == {"type": "string", "minLength": 1, "maxLength": 128}
    assert "profile.history" not in parameters, "messages in a list can't be parameters"
    assert parameters["context.time"]["schema"] == {"type": "string", "format": "date-time"}
    assert "context" not in parameters


def test_a_body_requires_only_fields_that_cannot_be_empty(document: dict[str, Any]) -> None:
    schema = document["components"]["schemas"]["RecommendRequest"]
    assert schema["required"] == ["viewerId"]
    assert "seed_video_id is required when surface is SURFACE_UP_NEXT" in schema["description"]


def test_everything_in_it_is_described(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        assert schema["description"], name
        for field, each in schema.get("properties", {}).items():
            assert field == "@type" or each["description"], f"{name}.{field}"
