"""What two builds make of each other's formats."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from vireo.ops.upgrades.documents import document_fields, model_fields
from vireo.ops.upgrades.formats import Build, Format, unreadable
from vireo.ops.upgrades.previous import PREVIOUS
from vireo.ops.upgrades.this_build import this_build
from vireo.server.errors import VireoError

DOCS = Path(__file__).parents[3] / "docs"
OLD = Format(
    name="x", version="1", reads=("1",), fields={"a": "always"}, required=("a",), effect="mend it"
)


def build(*formats: Format) -> Build:
    return Build(build="a build", formats=formats)


def test_another_version_can_be_read_only_if_the_reader_lists_it() -> None:
    new = OLD.model_copy(update={"version": "2", "reads": ("2", "1")})
    assert unreadable(build(OLD), build(new)) == []
    [found] = unreadable(build(new), build(OLD))
    assert (found.why, found.certain, found.effect) == ("version 2, it reads 1", True, "mend it")


def test_a_new_field_is_read_where_unknown_ones_are_ignored_and_refused_where_they_are_not() -> (
    None
):
    new = OLD.model_copy(update={"fields": {"a": "always", "b": "always", "c": "if set"}})
    assert unreadable(build(new), build(OLD)) == []
    strict = OLD.model_copy(update={"unknown_fields": "refused"})
    [found] = unreadable(build(new), build(strict))
    assert (found.why, found.certain) == ("it doesn't know b", True)
    rare = OLD.model_copy(update={"fields": {"a": "always", "c": "if set"}})
    [found] = unreadable(build(rare), build(strict))
    assert (found.why, found.certain) == ("it doesn't know c", False)


def test_a_field_that_is_gone_is_missed_by_readers_that_need_it() -> None:
    new = OLD.model_copy(update={"fields": {"b": "always"}})
    [found] = unreadable(build(new), build(OLD))
    assert found.why == "it needs a"


def test_a_format_that_the_reader_does_not_have_is_no_difference() -> None:
    assert unreadable(build(OLD), build()) == []


def test_fields_of_documents_are_named_alike_by_their_definition_and_by_what_was_written() -> None:
    class Inner(BaseModel):
        x: int = 0

    class Outer(BaseModel):
        one: Inner
        some: list[Inner] = []
        named: dict[str, Inner] = {}
        perhaps: Inner | None = None
        rare: dict[str, int] = Field(default={}, exclude_if=lambda value: not value)

    written = Outer(one=Inner(), some=[Inner()], named={"k": Inner()}, perhaps=Inner())
    fields = model_fields(Outer)
    found = document_fields(written.model_dump(), Outer)
    assert set(found) == {name for name in fields if name != "rare"}
    assert fields["rare"] == "if set"
    assert (fields["one.x"], fields["some.x"], fields["named.x"]) == ("always", "if set", "if set")
    assert document_fields({"one": {"y": 1}}, Outer) == ["one", "one.y"]


def test_this_build_reads_all_that_the_previous_one_writes() -> None:
    assert unreadable(Build.read(PREVIOUS), this_build()) == []


def test_what_the_previous_build_cannot_read_of_this_one_is_in_the_docs() -> None:
    page = (DOCS / "upgrades.md").read_text()
    for difference in unreadable(this_build(), Build.read(PREVIOUS)):
        assert f"| {difference.format} |" in page, difference
        assert not difference.certain, f"write it only if it is used: {difference}"


def test_every_format_is_in_the_docs_with_its_version_and_rule() -> None:
    page = (DOCS / "upgrades.md").read_text()
    for each in this_build().formats:
        rule = f"{each.version or '—'} | {each.unknown_fields} |"
        assert f"| {each.name} | {rule}" in page, f"| {each.name} | {rule}"


def test_a_file_that_is_no_description_is_an_error_with_the_command_that_writes_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(VireoError, match="vireo upgrade formats --json"):
        Build.read(tmp_path / "x.json")
