"""Attributes of videos that an import declares, for filters: their names, kinds and columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from vireo.server.errors import VireoError
from vireo.server.filters.declared import (
    ATTRIBUTE_NAME,
    BUILT_IN_LABELS,
    BUILT_IN_NUMBERS,
    CREATOR,
    DURATION,
    MAX_ATTRIBUTES,
    PUBLISHED,
    TAG,
    Declared,
)
from vireo.training.data.schema import ATTRIBUTE_PREFIX, ATTRIBUTE_TYPES, AttributeKind

_BUILT_IN = {TAG: "tags", CREATOR: "creator", PUBLISHED: "published", DURATION: "duration"}
"""Column of each attribute that every data set has."""


@dataclass(frozen=True)
class AttributeColumn:
    """An attribute that an import declares."""

    name: str
    column: str
    """Column of the videos file that has it."""
    kind: AttributeKind = "labels"

    @staticmethod
    def parse(text: str) -> AttributeColumn:
        """Parse NAME[=COLUMN][:number]; raise VireoError if it isn't that."""
        written, found, kind = text.rpartition(":")
        if not found or kind not in ATTRIBUTE_TYPES:
            written, kind = text, "labels"
        name, renamed, column = written.partition("=")
        if not name or (renamed and not column):
            raise VireoError(
                f"--attribute {text!r} lacks a name; write NAME, NAME=COLUMN or NAME:number, for "
                "example language, region=countries or age_rating:number"
            )
        return AttributeColumn(name, column or name, "number" if kind == "number" else "labels")


def check_attributes(attributes: Sequence[AttributeColumn]) -> None:
    """Raise VireoError unless the attributes can be declared together."""
    names = [each.name for each in attributes]
    for each in attributes:
        if each.name in _BUILT_IN:
            raise VireoError(
                f"every data set has the attribute {each.name}, from column "
                f"{_BUILT_IN[each.name]}: leave it out, or choose another name, for example "
                f"own_{each.name}={each.column}"
            )
        if not re.fullmatch(ATTRIBUTE_NAME, each.name):
            raise VireoError(
                f"{each.name!r} can't be the name of an attribute: names have 1 to 64 lower-case "
                "letters, digits and underscores, a letter first; the column may have another "
                f"name: {_possible(each.name)}={each.column}"
            )
        if names.count(each.name) > 1:
            raise VireoError(f"attribute {each.name} is declared twice; declare it once")
    if len(names) > MAX_ATTRIBUTES:
        raise VireoError(
            f"{len(names)} attributes are declared, and at most {MAX_ATTRIBUTES} are possible; "
            "leave out those that no filter asks for"
        )


def _possible(name: str) -> str:
    """Return a name like `name` that an attribute may have."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_0123456789")[:64] or "name"


def attribute_fields(kinds: Mapping[str, AttributeKind]) -> list[pa.Field]:
    """Return the columns of videos.parquet that hold declared attributes."""
    return [pa.field(attribute_column(name), ATTRIBUTE_TYPES[kinds[name]]) for name in kinds]


def attribute_column(name: str) -> str:
    """Return the column of videos.parquet that holds an attribute."""
    return _BUILT_IN.get(name, ATTRIBUTE_PREFIX + name)


def all_attributes(kinds: Mapping[str, AttributeKind]) -> Declared:
    """Return the attributes of a data set, those that each has included."""

    def named(kind: AttributeKind) -> Iterable[str]:
        return (name for name in kinds if kinds[name] == kind)

    return Declared(
        labels=tuple(sorted([*BUILT_IN_LABELS, *named("labels")])),
        numbers=tuple(sorted([*BUILT_IN_NUMBERS, *named("number")])),
    )
