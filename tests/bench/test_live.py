from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from vireo.v1 import event_pb2

from bench.live.durable import shuffled
from bench.live.log import measure_log
from bench.live.near import nearest
from bench.live.plan import SHORT
from bench.live.site import event, in_batches
from server.releases.layout import CONTENT_VECTORS
from tests.builders.releases import build_release


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
