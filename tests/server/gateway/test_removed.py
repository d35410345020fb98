"""What was removed from the catalogue reaches no caller, even if pods don't know of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2

from server.features.keys import video_key
from server.live.live import Live
from server.live.takedowns import Takedowns
from tests.builders.releases import video_ids
from tests.builders.tiny_home import VIEWER, WATCHED
from tests.server.gateway.conftest import NOWHERE, gateway

SLATE = pb.RecommendRequest(viewer_id=VIEWER, page_size=10)
WHOLE = pb.RecommendRequest(viewer_id=VIEWER, page_size=37)


@pytest.mark.parametrize(
    ("pods", "degradations"),
    [
        ("both", []),
        ("no ranking", [viewer_pb2.DEGRADATION_RANKING_SKIPPED]),
        ("none", [viewer_pb2.DEGRADATION_POPULAR_FALLBACK]),
    ],
)
async def test_removed_videos_are_in_no_slate(
    release: Path,
    features: Path,
    candidate_target: str,
    ranking_target: str,
    pods: str,
    degradations: list[viewer_pb2.Degradation.ValueType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    removed: set[int] = set()
    monkeypatch.setenv("VIREO_NATS_URL", "nats://127.0.0.1:1")
    monkeypatch.setattr(Live, "wait", lambda *_: None)
    monkeypatch.setattr(Takedowns, "among", lambda _, keys: removed & {*keys})
    candidate = NOWHERE if pods == "none" else candidate_target
    ranking = ranking_target if pods == "both" else NOWHERE
    async with gateway(release, features, candidate, ranking) as stub:
        first = [item.video_id for item in (await stub.Recommend(SLATE)).items]
        gone = set(first[::2])
        removed.update(map(video_key, gone))

        short, whole = await stub.Recommend(SLATE), await stub.Recommend(WHOLE)

    assert list(whole.degradations) == degradations
    names = [item.video_id for item in whole.items]
    assert sorted(names) == sorted(set(video_ids(40)) - set(WATCHED) - gone)
    assert not gone & {item.video_id for item in short.items}
    if pods == "both":
        assert len(short.items) == 10
