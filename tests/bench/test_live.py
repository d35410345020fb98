from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from bench.live.hide import nearest
from bench.live.run import measure_live
from bench.live.stack import SHORT
from bench.live.swap import Counts, count
from bench.load import Answer
from tests.builders.releases import build_release, video_ids
from tests.builders.tiny_home import DATASET, build_tiny_home
from vireo.server.releases.layout import CONTENT_VECTORS
from vireo.training.data.schema import VIDEOS
from vireo.v1 import viewer_pb2

_VIDEOS = 200


SLATES = {("a", "viewer"): ("1", "2"), ("b", "viewer"): ("2", "1")}


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (Answer("viewer", 0, 0.1, ("1", "2"), "a"), Counts(0, 0, 0, 0)),
        (Answer("viewer", 0, 0.1, ("2", "1"), "b"), Counts(0, 0, 0, 0)),
        (Answer("viewer", 0, 0.1, ("2", "1"), "a"), Counts(0, 0, 0, 1)),
        (Answer("viewer", 0, 0.1, ("1", "2"), "c"), Counts(0, 0, 0, 1)),
        (Answer("viewer", 0, 0.1, failure="UNAVAILABLE: gone"), Counts(1, 0, 0, 0)),
        (
            Answer("viewer", 0, 0.1, ("2", "1"), "a", (viewer_pb2.DEGRADATION_MIXED_RELEASES,)),
            Counts(0, 1, 1, 0),
        ),
        (
            Answer("viewer", 0, 0.1, ("1",), "a", (viewer_pb2.DEGRADATION_RANKING_SKIPPED,)),
            Counts(0, 1, 0, 0),
        ),
    ],
)
def test_each_answer_is_held_against_the_slate_of_the_release_that_it_declares(
    answer: Answer, wanted: Counts
) -> None:
    assert count([answer], SLATES) == wanted


def test_the_nearest_videos_are_those_of_like_content(tmp_path: Path) -> None:
    release = build_release(tmp_path)
    vectors = np.load(release / CONTENT_VECTORS)
    near = nearest(release, limit=1)
    assert len(near) == len(vectors)
    assert all(video not in others for video, others in near.items())


@pytest.mark.integration
def test_events_and_changes_of_the_catalogue_have_their_effect_through_kills(
    tmp_path: Path,
) -> None:
    home = build_tiny_home(tmp_path)
    build_release(home.staged_release(DATASET), videos=_VIDEOS)
    columns = {
        "video_id": video_ids(_VIDEOS),
        "title": video_ids(_VIDEOS),
        "tags": [[f"tag-{row % 5}", f"tag-{5 + row % 3}"] for row in range(_VIDEOS)],
    }
    unknown = {name: [None] * _VIDEOS for name in VIDEOS.names if name not in columns}
    videos = pa.table(columns | unknown, VIDEOS)
    pq.write_table(videos, home.data(DATASET) / "videos.parquet")
    plan = replace(SHORT, viewers=4, hiding=4, videos=1, upserts=200)
    parts = ["effect", "swap", "hide", "catalogue"]
    rows = list(measure_live(home, DATASET, plan, Console(), parts))
    # A release with random numbers knows no kinds, so that only promises are looked at.
    broken = {row.measure: row.figure for row in rows if row.bound == 0 and not row.holds}
    assert broken == {}
    assert sum(row.bound == 0 for row in rows) == 7
    [swapped] = [row.figure for row in rows if row.measure == "slates beside swaps"]
    assert swapped > 50
