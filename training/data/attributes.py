"""Attributes of videos, for filters: names, kinds and columns, and their values in the log."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
from vireo.training.data.schema import ATTRIBUTE_PREFIX, ATTRIBUTE_TYPES, AttributeKind
from vireo.v1 import catalog_pb2

LEFT_OUT = "attributes of videos left out: of another kind, or too many"
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


def attribute_kinds(
    base: Mapping[str, AttributeKind], videos: Iterable[catalog_pb2.Video]
) -> dict[str, AttributeKind]:
    """Return the attributes to declare: the base's, then those that most videos have.

    Each has the kind that it has in the base, or in most of the videos.

    Args:
        base: kinds of the base's attributes.
        videos: videos of the log.
    """
    counts = Counter((each.name, _kind(each)) for video in videos for each in video.attributes)
    kinds = dict(base)
    for (name, kind), _ in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        if len(kinds) == MAX_ATTRIBUTES:
            break
        if re.fullmatch(ATTRIBUTE_NAME, name):
            kinds.setdefault(name, kind)
    return kinds


def attribute_values(
    video: catalog_pb2.Video, kinds: Mapping[str, AttributeKind], notes: Counter[str]
) -> dict[str, list[str] | float]:
    """Return a video's attributes by column; `notes` counts those that aren't declared so."""
    values: dict[str, list[str] | float] = {}
    for each in video.attributes:
        if kinds.get(each.name) != _kind(each):
            notes[LEFT_OUT] += 1
        elif each.HasField("number"):
            if math.isfinite(each.number):
                values[attribute_column(each.name)] = each.number
        else:
            values[attribute_column(each.name)] = list(dict.fromkeys(each.labels))
    return values


def _kind(attribute: catalog_pb2.VideoAttribute) -> AttributeKind:
    return "number" if attribute.HasField("number") else "labels"
