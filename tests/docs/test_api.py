"""The API reference says what the protos say, and the protos say it of everything."""

from __future__ import annotations

import re
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from protos.contract import Contract
from protos.protoc import DESCRIPTOR_SET
from protos.reference import PACKAGES, PAGE, reference


@pytest.fixture(scope="module")
def described() -> FileDescriptorSet:
    return FileDescriptorSet.FromString(DESCRIPTOR_SET.read_bytes())


def test_the_page_is_the_one_that_the_protos_make(described: FileDescriptorSet) -> None:
    assert PAGE.read_text() == reference(described), "make it again: python -m protos.reference"


def test_every_element_of_our_protos_has_a_comment(described: FileDescriptorSet) -> None:
    contract = Contract(described)
    elements: list[Any] = []
    for file in (each for package in PACKAGES for each in contract.files(package)):
        for service in file.services_by_name.values():
            elements += [service, *service.methods]
        for message in file.message_types_by_name.values():
            elements += [message, *message.fields, *message.nested_types, *message.enum_types]
        elements += file.enum_types_by_name.values()
    values = [
        f"{each.full_name}.{value.name}"
        for each in elements
        for value in getattr(each, "values", ())
    ]
    made = (each.full_name for each in elements if each.full_name.endswith("Entry"))
    names = {each.full_name for each in elements}.union(values).difference(made)
    assert [name for name in sorted(names) if not contract.comments[name]] == []
    assert len(names) > 200


def test_every_declared_element_is_on_the_page(described: FileDescriptorSet) -> None:
    page = PAGE.read_text()
    for package in PACKAGES:
        for file in Contract(described).files(package):
            for service in file.services_by_name.values():
                for method in service.methods:
                    assert f"#### {service.name}.{method.name}\n" in page
            for message in file.message_types_by_name.values():
                section = page.split(f"\n### {message.name}\n")[1].split("\n### ")[0]
                shown = re.findall(r"^\| `(\w+)` \| (\d+) \|", section, re.MULTILINE)
                assert shown == [(field.name, str(field.number)) for field in message.fields]


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
