"""Attributes of new and changed videos: as a filter says of each, whatever came in between."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import faiss
import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders.attributes import DECLARED
from tests.builders.filters import random_expression
from vireo.server.recommend.filters.declared import Declared
from vireo.server.recommend.filters.table import LiveAttributes, labels_of, numbers_of
from vireo.server.recommend.retrieval.allowed import AppliedFilter
from vireo.server.recommend.retrieval.index import VideoIndex
from vireo.server.releases.manifest import IndexDescription
from vireo.v1.catalog_pb2 import Video, VideoAttribute

LABELS = {"creator": ["ann", "bob"], "language": ["de", "en"], "tag": ["a", "b", "c", "="]}
NUMBERS = {"age_rating": [0.0, 16.0], "duration": [60.0, 600.0], "published": [-10.0, 1e9]}


def random_video(draw: random.Random) -> Video:
    """Return a video with some attributes."""
    video = Video(
        video_id=str(draw.randrange(30)),
        tags=draw.sample(LABELS["tag"], draw.randrange(4)),
        creator=draw.choice(["", *LABELS["creator"]]),
    )
    if draw.random() < 0.7:
        video.duration = draw.choice(NUMBERS["duration"])
    if draw.random() < 0.7:
        video.published.seconds = int(draw.choice(NUMBERS["published"]))
    if draw.random() < 0.7:
        video.attributes.add(name="language", labels=draw.sample(LABELS["language"], 1))
    if draw.random() < 0.7:
        video.attributes.add(name="age_rating", number=draw.choice(NUMBERS["age_rating"]))
    return video


def test_a_videos_fields_are_its_attributes() -> None:
    video = Video(
        video_id="v",
        tags=["x", "y"],
        creator="ann",
        published=Timestamp(seconds=7, nanos=500_000_000),
        duration=60.5,
        attributes=[
            VideoAttribute(name="language", labels=["de", "en"]),
            VideoAttribute(name="age_rating", number=16),
            VideoAttribute(name="undeclared", labels=["x"], number=1),
            VideoAttribute(name="tag", labels=["not by this way"]),
            VideoAttribute(name="duration", number=1),
        ],
    )

    labels = ["tag=x", "tag=y", "creator=ann", "language=de", "language=en"]
    assert list(labels_of(video, DECLARED)) == labels
    assert numbers_of(video, DECLARED) == {"age_rating": 16, "duration": 60.5, "published": 7.5}


def test_what_a_video_lacks_isnt_known() -> None:
    nothing = VideoAttribute(name="age_rating")
    video = Video(video_id="v", duration=math.nan, attributes=[nothing])

    assert not list(labels_of(video, DECLARED))
    assert numbers_of(video, DECLARED) == {}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
def test_filters_follow_every_change(seed: int) -> None:
    draw, room = random.Random(seed), 30
    attributes = LiveAttributes(Declared(tuple(LABELS), tuple(NUMBERS)), room)
    videos: Any = SimpleNamespace(attributes=attributes, own_rows=np.full(room, -1), count=0)
    base = np.array([draw.random() < 0.5 for _ in range(10)])
    index = VideoIndex(faiss.IndexFlatIP(1), IndexDescription())
    filters = [random_expression(draw, LABELS, NUMBERS)[1] for _ in range(5)]
    kept = [(each, AppliedFilter(each, base, index, videos)) for each in filters]
    places, unused = dict[str, int](), list[int]()
    known: dict[str, Video] = {}
    most_parts = 0
    for _ in range(40):
        video = random_video(draw)
        name = video.video_id
        if draw.random() < 0.3:
            if known.pop(name, None):
                place = places.pop(name)
                attributes.drop(place)
                videos.own_rows[place] = -1
                unused.append(place)
        else:
            known[name] = video
            if name not in places:
                places[name] = unused.pop() if unused else videos.count
            place = places[name]
            attributes.put(place, video)
            videos.own_rows[place] = int(name) if int(name) < 10 else -1
            videos.count = max(videos.count, place + 1)
        for asked, each in draw.sample(kept, 2):
            with patch("vireo.server.recommend.retrieval.allowed._PART", draw.randrange(1, 9)):
                next(each.updates(asked), None)  # others ask meanwhile
                most_parts = max(most_parts, sum(1 for _ in each.updates(asked)))
            said = {
                name: asked.holds(set(labels_of(video, DECLARED)), numbers_of(video, DECLARED))
                for name, video in known.items()
            }
            assert {name: each.live[places[name]] for name in known} == said
            own = {int(name): held for name, held in said.items() if int(name) < 10}
            allowed = [row for row, held in own.items() if held and not base[row]]
            forbidden = [row for row, held in own.items() if not held and base[row]]
            assert sorted(each.allowed_rows.tolist()) == sorted(allowed)
            assert sorted(each.forbidden_rows.tolist()) == sorted(forbidden)
    assert most_parts > 1
