"""Attributes of videos in the log: which ones a data set declares, and their values."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from vireo.server.filters.declared import ATTRIBUTE_NAME, MAX_ATTRIBUTES
from vireo.training.data.attributes import attribute_column
from vireo.training.data.schema import AttributeKind
from vireo.v1 import catalog_pb2

LEFT_OUT = "attributes of videos left out: of another kind, or too many"


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
