from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from bench.live.run import PARTS, measure
from bench.live.slates import count
from bench.load import Answer, beside
from bench.rows import Plan
from tests.builders.attributes import labels_of, numbers_of
from tests.builders.releases import CREATORS, build_release, video_ids
from tests.builders.tiny_home import DATASET, build_tiny_home
from vireo.ops.stack.state import Layout
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.training.data.dataset import DESCRIPTION
from vireo.training.data.schema import ATTRIBUTE_TYPES, VIDEOS
from vireo.v1 import viewer_pb2

_VIDEOS = 600
"""Enough for 50 pages of 10, and for what is excluded."""
SLATES = {("a", "viewer"): ("1", "2"), ("b", "viewer"): ("2", "1")}


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (Answer("viewer", 0, 0.1, ("1", "2"), "a"), {}),
        (Answer("viewer", 0, 0.1, ("2", "1"), "b"), {}),
        (Answer("viewer", 0, 0.1, ("2", "1"), "a"), {"undeclared": 1}),
        (Answer("viewer", 0, 0.1, ("1", "2"), "c"), {"undeclared": 1}),
        (Answer("viewer", 0, 0.1, failure="UNAVAILABLE: gone"), {"failed": 1}),
        (
            Answer("viewer", 0, 0.1, ("2", "1"), "a", (viewer_pb2.DEGRADATION_MIXED_RELEASES,)),
            {"degraded": 1, "declared": 1},
        ),
        (
            Answer("viewer", 0, 0.1, ("1",), "a", (viewer_pb2.DEGRADATION_RANKING_SKIPPED,)),
            {"degraded": 1},
        ),
    ],
)
def test_each_answer_is_held_against_the_slate_of_the_release_that_it_declares(
    answer: Answer, wanted: dict[str, int]
) -> None:
    assert +count([answer], SLATES) == wanted


async def test_faults_end_with_the_block_and_are_no_measurement_if_they_ended_before() -> None:
    ended = asyncio.Event()

    async def goes_on() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def fails() -> None:
        raise VireoError("no pod came back")

    async with beside(goes_on()):
        await asyncio.sleep(0)
    assert ended.is_set()
    with pytest.raises(VireoError, match="no pod came back"):
        async with beside(fails()):
            await asyncio.sleep(0)


@pytest.mark.integration
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("layout", "promise"), [("separate", "live"), ("together", "requests")])
def test_events_videos_and_requests_keep_their_promises_through_kills_and_swaps(
    tmp_path: Path, layout: Layout, promise: str
) -> None:
    home = build_tiny_home(tmp_path)
    build_release(home.staged_release(DATASET), videos=_VIDEOS)
    _describe_videos(home)
    plan = Plan(layout, timed=False)
    rows = list(measure(home, DATASET, plan, Console(), PARTS[promise]))
    broken = {row.measure: row.figure for row in rows if row.holds is False}
    assert broken == {}
    if promise == "live":
        [swapped] = [row.figure for row in rows if row.measure == "slates beside swaps"]
        assert swapped > 50
        assert sum(row.bound == 0 for row in rows) == 7
    else:
        degraded = "filtered slates that were degraded"
        assert any(degraded in row.measure and row.holds for row in rows)
        assert sum(row.bound == 0 for row in rows) == 14


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_slates_are_archived_once_and_made_again_whatever_is_killed_and_swapped(
    tmp_path: Path,
) -> None:
    home = build_tiny_home(tmp_path)
    build_release(home.staged_release(DATASET), videos=_VIDEOS)
    _describe_videos(home)
    plan = Plan("together", timed=False)
    rows = list(measure(home, DATASET, plan, Console(), ("cost", "lost", "replay")))
    assert {row.measure: row.figure for row in rows if row.holds is False} == {}
    figures = {row.measure: row.figure for row in rows}
    assert figures["slates made again, as they were"] > 50
    assert figures["slates answered while consumer, log and S3 are killed in turn"] > 50
    assert sum(row.bound == 0 for row in rows) == 6


def _describe_videos(home: Home) -> None:
    """Give the data set's videos the attributes that the release has of them."""
    labels = [dict(each.split("=") for each in labels_of(row, CREATORS)) for row in range(_VIDEOS)]
    numbers = [numbers_of(row) for row in range(_VIDEOS)]

    def number(name: str) -> list[float | None]:
        return [None if each[name] != each[name] else each[name] for each in numbers]

    columns = {
        "video_id": video_ids(_VIDEOS),
        "title": video_ids(_VIDEOS),
        "tags": [[each["tag"]] for each in labels],
        "published": [
            None if at is None else datetime.fromtimestamp(at, UTC) for at in number("published")
        ],
        "duration": number("duration"),
        "creator": [each["creator"] for each in labels],
        "attribute.language": [[each["language"]] if "language" in each else [] for each in labels],
        "attribute.age_rating": number("age_rating"),
    }
    fields = [
        pa.field("attribute.language", ATTRIBUTE_TYPES["labels"]),
        pa.field("attribute.age_rating", ATTRIBUTE_TYPES["number"]),
    ]
    folder = home.data(DATASET)
    pq.write_table(pa.table(columns, pa.schema([*VIDEOS, *fields])), folder / "videos.parquet")
    description = json.loads((folder / DESCRIPTION).read_bytes())
    description["attributes"] = {"language": "labels", "age_rating": "number"}
    (folder / DESCRIPTION).write_text(json.dumps(description))
