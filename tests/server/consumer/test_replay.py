"""A whole data set as events, through a real log, against the features that are built of it."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.builders.datasets import START, write_small_dataset
from tests.builders.event_batches import empty_repository, events_in_disorder, message, parts
from tests.builders.nats import RunningNats, settings_of
from vireo.server.consumer.follow import Follower
from vireo.server.consumer.live_state import LiveState
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import EVENTS
from vireo.server.features.activity import EventRules
from vireo.server.features.online_store import open_rows
from vireo.server.features.viewer_rows import ViewerRow
from vireo.server.home import Home
from vireo.training.features.build import build_features

VIEWERS = 200


def rated_interactions() -> pd.DataFrame:
    """Ratings, likes and hides; a viewer watches many videos at one moment, and some again."""
    random = np.random.default_rng(20)
    viewer = np.repeat(np.arange(VIEWERS), random.integers(5, 60, VIEWERS))
    count = len(viewer)
    event = random.choice(["play", "like", "hide", "impression"], count, p=[0.8, 0.05, 0.1, 0.05])
    rating = random.integers(1, 6, count).astype(np.float32)
    frame = pd.DataFrame(
        {
            "viewer_id": [f"w{number}" for number in viewer],
            "video_id": [f"v{number}" for number in random.integers(0, 60, count)],
            # Nine moments in all: most watches share theirs with others of the viewer.
            "timestamp": START + pd.to_timedelta(random.integers(0, 9, count) * 3_600, unit="s"),
            "event": event,
            "rating": np.where(event == "play", rating, np.float32("nan")),
            "watched_fraction": random.random(count).astype(np.float32),
            "row": np.arange(1, count + 1),
            "held_out": False,
        }
    )
    kinds = ["viewer_id", "video_id", "timestamp", "event"]  # an import keeps one of each
    return frame.drop_duplicates(kinds, keep="last").sort_values(
        ["timestamp", "row"], ignore_index=True
    )


def stored(repo: Path, viewers: list[str]) -> dict[str, list[Any]]:
    rows = open_rows(repo, 5)
    found = rows.read(viewers)
    rows.close()
    names = [each.name for each in fields(ViewerRow)]
    return {
        viewer: [np.asarray(getattr(row, name)).tolist() for name in names]
        for viewer, row in zip(viewers, found, strict=True)
    }


async def test_a_rated_data_set_as_events_gives_the_rows_that_are_built_of_it(
    nats: RunningNats, tmp_path: Path
) -> None:
    interactions, home, partition = rated_interactions(), Home(tmp_path), 9
    write_small_dataset(home, "small", interactions)
    await asyncio.to_thread(build_features, home, "small", "none")
    repo = empty_repository(tmp_path / "replayed", rules=EventRules.load(home.features("small")))
    log = JetStreamLog(settings_of(nats))
    last = 0
    for some in parts(events_in_disorder(interactions, 9), 100):
        last = await log.append(EVENTS, str(partition), message(some))
    state = LiveState(log, partition, 3600.0)
    following = asyncio.create_task(Follower(log, repo, partition, state, timeout=5).run())
    async with asyncio.timeout(60):
        while state.counted < last and not following.done():  # noqa: ASYNC110  # no event
            await asyncio.sleep(0.02)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await log.close()
    viewers = [f"w{number}" for number in range(VIEWERS)]
    replayed, built = stored(repo, viewers), stored(home.features("small"), viewers)
    for viewer in viewers:
        assert replayed[viewer] == built[viewer], viewer
    assert sum(row[4] for row in built.values()) > 500, "likes"
    assert sum(len(row[5]) for row in built.values()) > 200, "hides"
