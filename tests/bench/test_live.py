from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench.live.durable import shuffled
from bench.live.log import measure_log
from bench.live.plan import SHORT
from bench.live.site import event, in_batches
from rich.console import Console

from bench.live.hide import nearest
from bench.live.run import measure_live
from tests.builders.releases import build_release, video_ids
from tests.builders.tiny_home import DATASET, build_tiny_home
from vireo.server.releases.layout import CONTENT_VECTORS
from vireo.training.data.schema import VIDEOS
from vireo.v1 import event_pb2

_VIDEOS = 200


def test_what_a_kill_loses_of_the_log_is_counted(tmp_path: Path) -> None:
    plan = replace(SHORT, messages=300)
    rows = list(measure_log(tmp_path / "log", plan, Console(quiet=True), clusters=False))
    assert [row.figure for row in rows] == [0, 0]
    assert all(row.holds for row in rows)


def test_every_event_is_sent_and_some_twice() -> None:
    play = event_pb2.EVENT_KIND_PLAY
    events = [event(str(number), "viewer", play, "video") for number in range(2_000)]
    sent = Counter(each.event_id for batch in shuffled(events) for each in batch)
    assert set(sent) == {each.event_id for each in events}
    assert set(sent.values()) == {1, 2}


def test_batches_hold_everything_in_order() -> None:
    assert in_batches(range(5), 2) == [[0, 1], [2, 3], [4]]


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
    plan = replace(SHORT, viewers=4, events=2_000, hiding=4, videos=1, upserts=200)
    parts = ["effect", "hide", "catalogue", "durable"]
    rows = list(measure_live(home, DATASET, plan, Console(), parts))
    # A release with random numbers knows no kinds, so that only promises are looked at.
    broken = {row.measure: row.figure for row in rows if row.bound == 0 and not row.holds}
    assert broken == {}
    assert sum(row.bound == 0 for row in rows) == 6
