"""Tables of a data set, the same for MovieLens and a user's own data, and attributes of videos."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from vireo.server.errors import VireoError
from vireo.server.recommend.filters.declared import (
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

TIME = pa.timestamp("us", tz="UTC")

INTERACTIONS = pa.schema(
    [
        pa.field("viewer_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("timestamp", TIME, nullable=False),
        pa.field("row", pa.int64(), nullable=False),  # data row of the user's file, from 1
        pa.field("event", pa.string(), nullable=False),
        pa.field("watched_fraction", pa.float32()),
        pa.field("rating", pa.float32()),  # on the scale from 1 to MAX_RATING
        pa.field("held_out", pa.bool_(), nullable=False),  # the test part of a packaged split
    ]
)
"""Sorted by (timestamp, row)."""

VIDEOS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("tags", pa.list_(pa.string()), nullable=False),
        pa.field("published", TIME),
        pa.field("duration", pa.float32()),  # seconds
        pa.field("creator", pa.string()),  # who made it
    ]
)
"""In the order of the user's file. A table may also have declared attributes."""

VIEWERS = pa.schema(
    [
        pa.field("viewer_id", pa.string(), nullable=False),
        pa.field("attributes", pa.list_(pa.string()), nullable=False),  # "name=value"
    ]
)
"""The viewers file's viewers, then those that only interactions name."""

MAX_RATING = 5.0
"""Best rating; an import converts those of other scales."""
EVENTS = ("play", "like", "hide", "impression", "bounce")
"""Kinds of interactions; a bounce is a play that ended so early that it is no watch."""
WATCH_EVENTS = ("play", "like")
"""The kinds that count as a watch."""
HIDE_EVENTS = ("hide",)
"""The kinds by which a viewer hides a video."""

AttributeKind = Literal["labels", "number"]
ATTRIBUTE_PREFIX = "attribute."
"""Begins the name of a column that holds a declared attribute."""
ATTRIBUTE_TYPES: dict[AttributeKind, pa.DataType] = {
    "labels": pa.list_(pa.string()),
    "number": pa.float64(),
}
"""Column types of declared attributes; null is unknown, and so is an empty list."""
MAX_VALUES = 64
"""Maximum labels that a video may have of one attribute."""
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
                f"name, for example own={each.column}"
            )
        if names.count(each.name) > 1:
            raise VireoError(f"attribute {each.name} is declared twice; declare it once")
    if len(names) > MAX_ATTRIBUTES:
        raise VireoError(
            f"{len(names)} attributes are declared, and at most {MAX_ATTRIBUTES} are possible; "
            "leave out those that no filter asks for"
        )


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
