"""No slate has a video before it is published, whichever pods respond; then slates have it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.builders.attributes import DECLARED
from tests.builders.catalogue import upserted
from tests.builders.chain import AWAY, Chain
from tests.builders.clock import Clock
from tests.builders.releases import video_ids
from tests.builders.rpc import serving
from tests.builders.tiny_home import VIEWER, WATCHED
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.gateway import service
from vireo.server.gateway.pipeline import RecommendPipeline
from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.release import GatewayRelease, PopularList
from vireo.server.recommend.catalogue.overlay import Overlay
from vireo.server.recommend.filters.declared import PUBLISHED, Declared
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases import layout
from vireo.server.releases.manifest import Manifest
from vireo.v1 import recommendation_pb2 as pb

if TYPE_CHECKING:
    from vireo.server.gateway.pods import RankingCall, RetrievalCall
    from vireo.server.gateway.viewer import ReadFeatures

NOON = 4_000_000_000
SOON = [name for name in video_ids(40) if name not in WATCHED][:6:2]
"""Some of the most popular, published at NOON."""


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON - 1.0)


@pytest.fixture
def dated(release: Path, tmp_path: Path) -> Path:
    """A release whose videos SOON are published at NOON."""
    folder = Path(shutil.copytree(release, tmp_path / "release"))
    numbers = np.load(folder / layout.NUMBERS)
    popular = json.loads((folder / layout.POPULAR_ATTRIBUTES).read_text())
    for row in (video_ids(40).index(name) for name in SOON):
        numbers[row, DECLARED.numbers.index(PUBLISHED)] = NOON
        popular[row]["numbers"][PUBLISHED] = NOON
    np.save(folder / layout.NUMBERS, numbers)
    (folder / layout.POPULAR_ATTRIBUTES).write_text(json.dumps(popular))
    return folder


@pytest.mark.parametrize(("away", "degradations"), AWAY)
async def test_a_video_is_in_no_slate_before_it_is_published(
    dated: Path,
    features: Path,
    ranking_target: str,
    clock: Clock,
    away: str,
    degradations: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "Overlay", partial(Overlay, clock=clock))
    pod = replace(
        CANDIDATE_POD,
        build=lambda folder: CandidatePipeline(CandidateRelease.load(folder, clock=clock)),
    )
    slate = pb.RecommendRequest(viewer_id=VIEWER, page_size=37)
    # The time of a request is the caller's to say; when a video is published isn't.
    slate.context.time.seconds = 2 * NOON
    async with serving(pod, dated) as (server, _):
        chain = Chain(dated, features, f"127.0.0.1:{server.port}", ranking_target)
        async with chain.gateway(away=away) as stub:
            before = await stub.Recommend(slate)
            told = await stub.ExplainVideo(pb.ExplainVideoRequest(request=slate, video_id=SOON[0]))
            clock.now = NOON
            after = await stub.Recommend(slate)

    every = set(video_ids(40)) - set(WATCHED)
    assert {item.video_id for item in before.items} == every - {*SOON}
    assert {item.video_id for item in after.items} == every
    assert list(before.degradations) == list(after.degradations) == degradations
    assert told.lost_at == pb.LOST_AT_BLOCKED
    assert told.reason.startswith("It isn't published yet.")


def test_the_fallback_goes_by_the_last_change_of_a_video(dated: Path, clock: Clock) -> None:
    overlay = Overlay(10, contents=False, clock=clock)
    first, second, *_ = SOON
    later = next(name for name in video_ids(40) if name not in {*SOON, *WATCHED})
    overlay.take(
        [
            upserted(1, second),  # the release has this change
            upserted(2, first, published=Timestamp(seconds=NOON - 60)),
            upserted(3, later, published=Timestamp(seconds=NOON + 60)),
        ]
    )
    release = GatewayRelease(
        Manifest.read(dated), PopularList.load(dated), cast("Any", None), Declared.read(dated), 1
    )
    pipeline = RecommendPipeline(
        cast("ReadFeatures", None),
        cast("RetrievalCall", None),
        cast("RankingCall", None),
        overlay=overlay,
    )
    query = RecommendQuery.of(pb.RecommendRequest(viewer_id="1", page_size=40), "id", 100.0)

    def missing() -> set[str]:
        slate = pipeline.popular(query, release, frozenset())
        return set(video_ids(40)) - {item.video_id for item in slate.items}

    assert missing() == {*SOON, later} - {first}
    clock.now = NOON
    assert missing() == {later}
    clock.now = NOON + 60
    assert missing() == set()
