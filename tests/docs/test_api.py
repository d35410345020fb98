"""The API reference says what the protos say; that they say it of everything, `buf lint` holds."""

from __future__ import annotations

import re

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from protos.protoc import DESCRIPTOR_SET
from protos.reference import PAGE, reference


def test_the_page_is_the_one_that_the_protos_make() -> None:
    described = FileDescriptorSet.FromString(DESCRIPTOR_SET.read_bytes())
    assert PAGE.read_text() == reference(described), "make it again: python -m protos.reference"


@pytest.mark.parametrize(
    "row",
    [
        "| `viewer_id` | 1 | string | 1 to 128 bytes |",
        "| `page_size` | 2 | optional int32 | 1 to 500 |",
        "| `surface` | 3 | [Surface](#surface) | a value of the enum |",
        "| `excluded_video_ids` | 6 | repeated string | at most 1,000 items, each 1 to 128 bytes |",
        "| `watch_count` | 5 | int64 | at least 0 |",
        "| `viewer` | 1 | [ViewerFeatures](#viewerfeatures) | required |",
        "| `parameters` | 4 | map of string to [InferParameter](#inferparameter) | |",
    ],
)
def test_rules_are_bounds_in_words(row: str) -> None:
    assert row in PAGE.read_text().replace("|  |", "| |")


def test_links_lead_to_headings_of_the_page() -> None:
    page = PAGE.read_text()
    headings = {
        title.lower().replace(".", "") for title in re.findall(r"^#+ (\S+)$", page, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) <= headings
