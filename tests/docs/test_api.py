"""The API reference says what the protos say; that they say it of everything, `buf lint` holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from protos.protoc import DESCRIPTOR_SET
from protos.reference import FOLDER, INDEX, reference

DESCRIBED = FileDescriptorSet.FromString(DESCRIPTOR_SET.read_bytes())


def page(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text()


def test_the_pages_are_those_that_the_protos_make() -> None:
    written = {path: path.read_text() for path in (INDEX, *FOLDER.glob("*.md"))}
    assert written == reference(DESCRIBED), "make them again: python -m protos.reference"


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("recommendation", "| `viewer_id` | 1 | string | 1 to 128 bytes |"),
        ("recommendation", "| `page_size` | 2 | optional int32 | 1 to 500 |"),
        ("recommendation", "| `surface` | 3 | [Surface](#surface) | a value of the enum |"),
        (
            "recommendation",
            "| `excluded_video_ids` | 6 | repeated string | at most 1,000 items, "
            "each 1 to 128 bytes |",
        ),
        ("shared", "| `watch_count` | 5 | int64 | at least 0 |"),
        ("ranking", "| `viewer` | 1 | [ViewerFeatures](shared.md#viewerfeatures) | required |"),
        (
            "inference",
            "| `parameters` | 4 | map of string to [InferParameter](#inferparameter) | |",
        ),
    ],
)
def test_rules_are_bounds_in_words(name: str, row: str) -> None:
    assert row in page(name).replace("|  |", "| |")


def headings(path: Path) -> set[str]:
    return {
        title.lower().replace(".", "")
        for title in re.findall(r"^#+ (\S+)$", path.read_text(), re.MULTILINE)
    }


@pytest.mark.parametrize("path", reference(DESCRIBED), ids=lambda path: path.stem)
def test_links_lead_to_headings_of_a_page(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([\w.]*)#([^)]*)\)", path.read_text()):
        assert anchor in headings(path.parent / target if target else path)


def test_every_message_is_on_one_page() -> None:
    found = [each for path in FOLDER.glob("*.md") for each in headings(path)]
    assert len(found) == len(set(found)) > 100
