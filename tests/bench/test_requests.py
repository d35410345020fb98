from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench.beside import beside
from bench.speed.row import Row
from rich.console import Console

from bench.requests.plan import SHORT, RequestsPlan
from bench.requests.run import measure_requests
from tests.builders.attributes import labels_of, numbers_of
from tests.builders.releases import CREATORS, build_release, video_ids
from tests.builders.tiny_home import DATASET, build_tiny_home
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.training.data.dataset import DESCRIPTION
from vireo.training.data.schema import ATTRIBUTE_TYPES, VIDEOS
from vireo.training.evaluation.report import CONTEXT
from vireo.training.evaluation.studies import ABSENT, OFF, WITH, Studies

_VIDEOS = 600
"""Enough for 50 pages of 10, and for what is excluded."""


def test_what_was_not_trained_is_a_row_that_names_the_commands(tmp_path: Path) -> None:
    plan = RequestsPlan(large="huge", context="evening")
    search, context = measure_requests(
        Home(tmp_path), DATASET, plan, Console(quiet=True), ("search", "context")
    )
    assert search.holds is context.holds is False
    assert "make bench-data" in search.measure
    assert "vireo train --data huge" in search.measure
    assert "vireo data synth --context" in context.measure
    assert "--name evening && vireo train --data evening" in context.measure


def test_a_small_catalogue_is_not_searched_by_filters(tmp_path: Path) -> None:
    home = build_tiny_home(tmp_path)
    plan = RequestsPlan(large=DATASET)
    [row] = measure_requests(home, DATASET, plan, Console(quiet=True), ["search"])
    assert row.holds is False
    assert "searched exactly" in row.measure


def test_the_study_of_context_is_read_if_it_is_of_the_newest_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    build_release(home.measuring.staged_release(DATASET))
    report = home.measuring.run(DATASET) / "report"
    report.mkdir()
    before, now = _study("an earlier one", 0.2), _study("tiny-1", 0.3)
    plan = RequestsPlan(context=DATASET)

    def measured() -> list[Row]:
        return list(measure_requests(home, DATASET, plan, Console(quiet=True), ["context"]))

    monkeypatch.setattr(Studies, "context", lambda _: now)
    (report / CONTEXT).write_text(json.dumps(before))
    fresh = measured()
    assert [row.figure for row in fresh] == [0.3, 0.31, 0.32, 0.01, -0.02, 0.02, -0.004]
    assert [row.holds for row in fresh[-3:]] == [False, None, True]
    assert fresh[0].measure == f"NDCG@10 with context, {DATASET}"
    assert fresh[0].spread == (0.2, 0.4)
    monkeypatch.undo()
    (report / CONTEXT).write_text(json.dumps(now))
    assert measured() == fresh


def _study(release_id: str, figure: float) -> dict[str, Any]:
    def ndcg(value: float, low: float = 0.2, high: float = 0.4) -> dict[str, Any]:
        return {"ndcg_10": {"value": value, "low": low, "high": high}}

    return {
        "release_id": release_id,
        "systems": {name: ndcg(figure + n / 100) for n, name in enumerate((WITH, ABSENT, OFF))},
        "tests": {
            WITH: {OFF: ndcg(0.01, low=-0.02)},
            ABSENT: {OFF: ndcg(0.02, high=-0.004)},
        },
    }


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
    assert sum(row.bound == 0 for row in rows) == 19
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
