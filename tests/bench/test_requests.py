from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from bench.load import Answer, beside
from bench.requests.batch import BatchPlan, _tails
from bench.requests.plan import SHORT, RequestsPlan
from bench.requests.run import measure_requests
from tests.builders.attributes import labels_of, numbers_of
from tests.builders.releases import CREATORS, build_release, video_ids
from tests.builders.tiny_home import DATASET, build_tiny_home
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.training.data.dataset import DESCRIPTION
from vireo.training.data.schema import ATTRIBUTE_TYPES, VIDEOS

_VIDEOS = 600
"""Enough for 50 pages of 10, and for what is excluded."""


def test_what_was_not_trained_is_a_row_that_names_the_commands(tmp_path: Path) -> None:
    plan = RequestsPlan(large="huge")
    [search] = measure_requests(Home(tmp_path), DATASET, plan, Console(quiet=True), ["search"])
    assert search.holds is False
    assert "make bench-data" in search.measure
    assert "vireo train --data huge" in search.measure


def test_a_small_catalogue_is_not_searched_by_filters(tmp_path: Path) -> None:
    home = build_tiny_home(tmp_path)
    plan = RequestsPlan(large=DATASET)
    [row] = measure_requests(home, DATASET, plan, Console(quiet=True), ["search"])
    assert row.holds is False
    assert "searched exactly" in row.measure


PLAN = BatchPlan(turns=2, seconds=2.0)
TURNS = [(10.0, False), (12.0, True), (14.0, False), (16.0, True)]


def answered(at: float, seconds: float) -> Answer:
    return Answer("v", at, seconds)


def test_a_slate_counts_for_the_turn_in_which_it_left() -> None:
    answers = [answered(at + 0.1 * step, at) for at, _ in TURNS for step in range(2, 20)]
    alone, beside = _tails(answers, TURNS, PLAN)
    assert alone == pytest.approx(14, abs=0.1)
    assert beside == pytest.approx(16, abs=0.1)


def test_what_leaves_at_the_beginning_of_a_turn_or_outside_of_all_does_not_count() -> None:
    answers = [answered(11, 1), answered(13, 2)]
    others = [answered(at, 1000) for at in (9.9, 10.0, 12.1, 14.05, 18.1)]
    assert _tails([*others, *answers], TURNS, PLAN) == (1, 2)


async def test_faults_that_have_ended_before_the_block_are_no_measurement() -> None:
    async def fails() -> None:
        raise VireoError("no pod came back")

    with pytest.raises(VireoError, match="no pod came back"):
        async with beside(fails()):
            await asyncio.sleep(0)


async def test_faults_end_with_the_block() -> None:
    happened = list[str]()

    async def goes_on() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            happened.append("ended")

    async with beside(goes_on()):
        await asyncio.sleep(0)
    assert happened == ["ended"]


@pytest.mark.integration
def test_filters_pages_and_batches_keep_their_promises_through_kills_and_swaps(
    tmp_path: Path,
) -> None:
    home = build_tiny_home(tmp_path)
    build_release(home.staged_release(DATASET), videos=_VIDEOS)
    _describe_videos(home)
    plan = replace(
        SHORT, positions=5_000, viewers=4, batch=replace(SHORT.batch, turns=1, viewers=100)
    )
    rows = list(measure_requests(home, DATASET, plan, Console()))
    broken = {row.measure: row.figure for row in rows if row.holds is False}
    assert broken == {}
    assert sum(row.bound == 0 for row in rows) == 18
    assert any("filtered slates that were degraded" in row.measure and row.holds for row in rows)


def _describe_videos(home: Home) -> None:
    """Give the data set's videos the attributes that the release has of them."""
    labels = [_by_name(labels_of(row, CREATORS)) for row in range(_VIDEOS)]
    numbers = [numbers_of(row) for row in range(_VIDEOS)]

    def number(name: str) -> list[float | None]:
        return [None if each[name] != each[name] else each[name] for each in numbers]

    published = [
        None if at is None else datetime.fromtimestamp(at, UTC) for at in number("published")
    ]
    columns = {
        "video_id": video_ids(_VIDEOS),
        "title": video_ids(_VIDEOS),
        "tags": [[each["tag"]] for each in labels],
        "published": published,
        "duration": number("duration"),
        "creator": [each["creator"] for each in labels],
        "attribute.language": [[each["language"]] if "language" in each else [] for each in labels],
        "attribute.age_rating": number("age_rating"),
    }
    schema = pa.schema(
        [
            *VIDEOS,
            pa.field("attribute.language", ATTRIBUTE_TYPES["labels"]),
            pa.field("attribute.age_rating", ATTRIBUTE_TYPES["number"]),
        ]
    )
    folder = home.data(DATASET)
    pq.write_table(pa.table(columns, schema), folder / "videos.parquet")
    description = json.loads((folder / DESCRIPTION).read_bytes())
    description["attributes"] = {"language": "labels", "age_rating": "number"}
    (folder / DESCRIPTION).write_text(json.dumps(description))


def _by_name(labels: set[str]) -> dict[str, str]:
    return {name: value for name, _, value in (each.partition("=") for each in labels)}
