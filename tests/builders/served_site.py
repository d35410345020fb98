"""A site's feature build, the events since then, and slates with the features that follow."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.builders.releases import build_release, video_ids
from tests.builders.replaying import Serving
from tests.builders.shown import event
from tests.builders.tiny_home import build_watches
from vireo.server.consumer.archived_rows import EVENT_ROWS
from vireo.server.features.online_store import CONFIGURATION
from vireo.server.home import Home
from vireo.training.evaluation.viewer_skew import OfflineViewers
from vireo.v1.candidate_pb2 import RetrieveCandidatesRequest
from vireo.v1.viewer_pb2 import ViewerFeatures

VIEWERS = [f"viewer-{number}" for number in range(30)]
_WATCHES, _PLAYS = 6, 3
_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Site:
    """A feature build, the events since then, and what serves its release."""

    repo: Path
    events: Path
    release: Path
    played_at: datetime

    def offline(self) -> OfflineViewers:
        return OfflineViewers(self.repo, [self.events], VIEWERS)

    def row(
        self,
        viewer_id: str,
        change: Callable[[ViewerFeatures], object] = lambda _: None,
        played: int = _PLAYS,
        **changes: Any,
    ) -> dict[str, Any]:
        """A slate after some of the viewer's plays, whose features a fault may have changed."""
        request = RetrieveCandidatesRequest(count=20, page_size=5)
        request.viewer.CopyFrom(self.offline().after(viewer_id, played))
        request.viewer.asked_at = int(datetime.now(UTC).timestamp())
        change(request.viewer)
        return Serving(self.release).row(request, f"of {viewer_id}", viewer_id=viewer_id, **changes)


def build_site(folder: Path) -> Site:
    """Thirty viewers with six watches each in the build, and three an hour ago."""
    draw, start = random.Random(3), datetime(2024, 1, 1, tzinfo=UTC)
    played_at, watches, plays = datetime.now(UTC) - _HOUR, list[tuple[str, str, datetime]](), []
    for viewer in VIEWERS:
        videos = draw.sample(video_ids(40), _WATCHES + _PLAYS)
        # An odd number of seconds: float32 can't hold it.
        times = [start + timedelta(seconds=3_601 * n + 1) for n in range(_WATCHES)]
        watches += zip([viewer] * _WATCHES, videos, times, strict=False)
        for number, video in enumerate(videos[_WATCHES:]):
            at = played_at + timedelta(seconds=61 * number)
            play = event("play", viewer, video)
            fraction = float(number == 1)
            plays.append(
                {**play, "at": at, "received_at": at, "watched_fraction": max(fraction, 0.5)}
            )
    repo = build_watches(
        Home(folder), watches, ["occupation=artist", "age=30"], [5.0] * len(watches)
    )
    events = folder / "0-events.parquet"
    # Long before the slates, and another viewer's event after them: so all are comparable.
    long_ago = (played_at - _HOUR).timestamp()
    os.utime(repo / CONFIGURATION, (long_ago, long_ago))
    late = datetime.now(UTC) + _HOUR
    plays.append({**event("play", "somebody", "video-0"), "at": late, "received_at": late})
    pq.write_table(pa.Table.from_pylist(plays, EVENT_ROWS.schema), events)
    return Site(repo, events, build_release(folder / "release"), played_at)
