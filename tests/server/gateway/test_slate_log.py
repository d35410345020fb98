"""Slates are recorded in a real log, off the path of the answer, and counted if they can't be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from tests.builders.chain import POPULAR, SKIPPED, Chain, GatewayStub
from tests.builders.nats import RunningNats, running_nats, settings_of
from tests.builders.reading import take
from tests.builders.tiny_home import VIEWER
from tests.builders.waiting import until
from vireo.server.errors import VireoError
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import BEGIN, SLATES
from vireo.server.features.keys import video_key
from vireo.server.gateway import slate_log
from vireo.server.gateway.slate_log import RECORDED_CANDIDATES, in_share
from vireo.server.live.live import Live
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.candidate_pb2 import RetrieveCandidatesResponse
from vireo.v1.ranking_pb2 import RankingRecord
from vireo.v1.slate_pb2 import RecordedSlates, SlateRecord
from vireo.v1.viewer_pb2 import ViewerFeatures


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[RunningNats]:
    with running_nats(tmp_path / "nats") as server:
        yield server


@pytest.fixture(autouse=True)
def _unfollowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Live, "wait", lambda *_: None)
    monkeypatch.setattr(Live, "merged", lambda _, release: release.sequence)


@asynccontextmanager
async def recording(
    chain: Chain, nats: RunningNats, tmp_path: Path, **changes: Any
) -> AsyncIterator[GatewayStub]:
    settings: dict[str, Any] = {"slate_share": 1.0, "event_log": settings_of(nats), **changes}
    async with chain.gateway(cache=tmp_path / "cache", **settings) as stub:
        yield stub


async def messages(nats: RunningNats, count: int) -> list[list[SlateRecord]]:
    """The first messages of the log that have so many slates, each with those of it."""
    log = JetStreamLog(settings_of(nats))
    try:
        found, place = list[list[SlateRecord]](), BEGIN
        while sum(map(len, found)) < count:
            for entry in await take(log, SLATES, after=place, count=1):
                slates = RecordedSlates.FromString(entry.data).slates
                found.append([SlateRecord.FromString(each) for each in slates])
                place = entry.position
        return found
    finally:
        await log.close()


async def records(nats: RunningNats, count: int) -> list[SlateRecord]:
    """The first slates of the log."""
    return [record for some in await messages(nats, count) for record in some]


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_a_record_has_the_slate_and_all_that_it_was_made_from(
    chain: Chain, nats: RunningNats, tmp_path: Path
) -> None:
    request = pb.RecommendRequest(
        viewer_id=VIEWER,
        page_size=5,
        context=pb.RequestContext(device="phone", locale="de-CH"),
        excluded_video_ids=["video-9"],
    )
    async with recording(chain, nats, tmp_path) as stub:
        slate = await stub.Recommend(request)
        again = pb.RecommendRequest()
        again.CopyFrom(request)
        again.page_token = slate.next_page_token
        second = await stub.Recommend(again)
        first, later = await records(nats, 2)

    token, slate.next_page_token = slate.next_page_token, ""
    assert token
    assert first.slate == slate
    request.ClearField("excluded_video_ids")
    assert first.request == request
    assert first.gateway_release_id == slate.release_id
    assert first.answered_at.seconds > 0
    viewer = ViewerFeatures.FromString(first.viewer_features)
    assert viewer.history_keys
    assert viewer.watched_keys
    assert not viewer.asked_at
    assert not first.retrieval.viewer.history_keys
    assert first.retrieval.viewer.asked_at > 0
    assert first.retrieval.viewer.context.device == 1
    assert video_key("video-9") in first.retrieval.excluded_keys
    candidates = RetrieveCandidatesResponse.FromString(first.candidates)
    record = RankingRecord.FromString(first.ranking)
    assert not candidates.scores
    page = [candidates.keys[place] for place in record.places[:5]]
    assert page == [video_key(item.video_id) for item in slate.items]
    assert {*record.columns} >= {"score", "task_watch", "task_like", "retrieval_ease"}
    scores = np.frombuffer(record.scores, "<f4").reshape(len(record.columns), len(record.places))
    shown = scores[[*record.columns].index("score"), :5]
    assert shown.tolist() == [item.score for item in slate.items]
    assert len(record.placements) == len(record.propensities) == 5

    assert later.request == request  # without the token
    assert later.shown_before == 5
    assert set(page) <= {*later.retrieval.excluded_keys}
    assert [item.video_id for item in later.slate.items] == [each.video_id for each in second.items]


@pytest.mark.parametrize(("away", "degradations"), [("ranking", SKIPPED), ("candidate", POPULAR)])
async def test_degraded_slates_are_recorded_as_far_as_they_came(
    chain: Chain, nats: RunningNats, tmp_path: Path, away: str, degradations: list[Any]
) -> None:
    async with recording(chain, nats, tmp_path, away=away) as stub:
        slate = await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER))
        [record] = await records(nats, 1)
    assert degradations[0] in record.slate.degradations
    assert [*record.slate.items] == [*slate.items]
    assert bool(record.candidates) == (away == "ranking")
    assert not record.ranking


def test_the_same_share_of_the_viewers_is_recorded_in_every_gateway() -> None:
    viewers = [f"viewer-{each}" for each in range(4000)]

    def recorded(share: float) -> set[str]:
        return {each for each in viewers if in_share(each, share)}

    assert recorded(0.25) == recorded(0.25) < recorded(0.5) < recorded(1.0) == {*viewers}
    assert 0.2 < len(recorded(0.25)) / len(viewers) < 0.3


async def test_other_viewers_slates_and_those_of_batches_are_not_recorded(
    chain: Chain, nats: RunningNats, tmp_path: Path
) -> None:
    async with recording(chain, nats, tmp_path, slate_share=0.5) as stub:
        names = [f"viewer-{each}" for each in range(20)]
        batch = stub.BatchRecommend(pb.BatchRecommendRequest(viewer_ids=names, page_size=3))
        assert len([each async for each in batch]) == len(names)
        await stub.SimilarVideos(pb.SimilarVideosRequest(video_id="video-1"))
        for name in names:
            await stub.Recommend(pb.RecommendRequest(viewer_id=name, page_size=3))
        expected = [each for each in names if in_share(each, 0.5)]
        found = await records(nats, len(expected))
    assert 0 < len(expected) < len(names)
    assert [each.request.viewer_id for each in found] == expected
    candidates = RetrieveCandidatesResponse.FromString(found[0].candidates)
    places = RankingRecord.FromString(found[0].ranking).places
    assert len(places) == min(RECORDED_CANDIDATES, len(candidates.keys))


async def test_slates_wait_for_a_log_that_is_away_and_are_stored_once(
    chain: Chain, nats: RunningNats, tmp_path: Path
) -> None:
    async with recording(chain, nats, tmp_path) as stub:
        await stub.Recommend(pb.RecommendRequest(viewer_id="first"))
        await records(nats, 1)
        nats.kill()
        for number in range(40):
            slate = await stub.Recommend(pb.RecommendRequest(viewer_id=f"viewer-{number}"))
            assert slate.items
        await until(lambda: counted("vireo_slates_waiting_bytes") > 0)
        nats.start()
        found = await records(nats, 41)
        await until(lambda: counted("vireo_slates_waiting_bytes") == 0)
    viewers = [each.request.viewer_id for each in found]
    assert sorted(viewers) == sorted(["first", *(f"viewer-{number}" for number in range(40))])


@pytest.mark.parametrize("bytes_together", [1 << 19, 1])
async def test_slates_of_a_moment_are_one_message_up_to_its_bytes(
    chain: Chain,
    nats: RunningNats,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bytes_together: int,
) -> None:
    monkeypatch.setattr(slate_log, "_JOIN_SECONDS", 3600.0)  # they are appended at the stop
    monkeypatch.setattr(slate_log, "_JOIN_BYTES", bytes_together)
    async with recording(chain, nats, tmp_path) as stub:
        for number in range(6):
            await stub.Recommend(pb.RecommendRequest(viewer_id=f"v-{number}"))
    found = await messages(nats, 6)
    viewers = {each.request.viewer_id for some in found for each in some}
    assert viewers == {f"v-{number}" for number in range(6)}
    assert len(found) == (1 if bytes_together > 1 else 6)


async def test_slates_beyond_the_bound_and_too_large_ones_are_dropped_and_counted(
    chain: Chain, nats: RunningNats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slate_log, "_MAX_BYTES", 1)
    full, large = (counted("vireo_slates_dropped_total", reason=why) for why in ("full", "large"))
    async with recording(chain, nats, tmp_path) as stub:
        assert (await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER))).items
        await until(lambda: counted("vireo_slates_dropped_total", reason="full") == full + 1)
        monkeypatch.setattr(slate_log, "MAX_MESSAGE_BYTES", 100)
        assert (await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER))).items
        await until(lambda: counted("vireo_slates_dropped_total", reason="large") == large + 1)


async def test_a_gateway_that_stops_records_what_waits(
    chain: Chain, nats: RunningNats, tmp_path: Path
) -> None:
    async with recording(chain, nats, tmp_path) as stub:
        await asyncio.gather(
            *(stub.Recommend(pb.RecommendRequest(viewer_id=f"v-{each}")) for each in range(4))
        )
    assert len(await records(nats, 4)) == 4


async def test_slates_cannot_be_recorded_without_a_log(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(VireoError, match="VIREO_NATS_URL"):
        async with chain.gateway(cache=tmp_path / "cache", slate_share=1.0):
            pass
