"""What was removed from the catalogue reaches no caller, even if pods don't know of it."""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.builders.attributes import labels_of
from tests.builders.catalogue import change, key_of, removed
from tests.builders.chain import AWAY, NOWHERE, Chain, gateway, gateway_settings, names
from tests.builders.nats import running_nats, settings_of
from tests.builders.releases import CREATORS, video_ids
from tests.builders.rpc import serving
from tests.builders.tiny_home import VIEWER, WATCHED
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import REMOVED
from vireo.server.gateway.service import gateway_pod
from vireo.server.recommend.catalogue.overlay import Takedowns
from vireo.server.releases.layout import TAKEDOWNS
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub
from vireo.v1.release_pb2 import GetServingReleaseRequest
from vireo.v1.release_pb2_grpc import ReleaseServiceStub

SLATE = pb.RecommendRequest(viewer_id=VIEWER, page_size=10)
WHOLE = pb.RecommendRequest(viewer_id=VIEWER, page_size=37)


@pytest.mark.parametrize(("away", "degradations"), AWAY)
async def test_removed_videos_are_in_no_slate(
    chain: Chain, down: set[str], away: str, degradations: list[int]
) -> None:
    async with chain.gateway(away=away) as stub:
        first = names(await stub.Recommend(SLATE))
        gone = set(first[::2])
        down.update(gone)

        short, whole = await stub.Recommend(SLATE), await stub.Recommend(WHOLE)

    assert list(whole.degradations) == degradations
    assert sorted(names(whole)) == sorted(set(video_ids(40)) - set(WATCHED) - gone)
    assert not gone & {*names(short)}
    if not away:
        assert len(short.items) == 10


async def test_a_removed_video_moves_no_pin_and_counts_for_no_cap(
    chain: Chain, tmp_path: Path, down: set[str]
) -> None:
    def is_cat(name: str) -> bool:
        return "tag=cat" in labels_of(int(name.removeprefix("video-")), CREATORS)

    pinned = next(name for name in reversed(video_ids(40)) if not is_cat(name))
    rules = tmp_path / "rules.toml"
    rules.write_text(
        f'[[pins]]\nname = "launch"\nvideo_id = "{pinned}"\nposition = 4\n'
        '[[caps]]\nname = "one"\nattribute = "tag"\nvalues = ["cat"]\nmax = 1\n'
    )
    async with chain.gateway(rules=rules) as stub:
        before = names(await stub.Recommend(SLATE))
        [cat] = filter(is_cat, before)
        gone = {cat, next(name for name in before if not is_cat(name))}
        down.update(gone)
        after = names(await stub.Recommend(SLATE))
    assert before[3] == after[3] == pinned
    assert pinned not in gone
    assert len(after) == 10
    assert not gone & {*after}
    assert sum(map(is_cat, after)) == 1, "another cat has the place of the one that is gone"


async def test_without_a_log_what_a_release_says_is_taken_down_is_in_no_slate(
    chain: Chain, tmp_path: Path
) -> None:
    first = next(name for name in video_ids(40) if name not in WATCHED)
    takedowns, folder = Takedowns(), tmp_path / "release"
    shutil.copytree(chain.release, folder)
    takedowns.take([removed(1, first)])
    takedowns.write(folder / TAKEDOWNS)
    async with gateway(folder, chain.features, chain.candidate, chain.ranking) as stub:
        slate = await stub.Recommend(WHOLE)
    assert not slate.degradations
    assert {*names(slate)} == {*video_ids(40)} - {*WATCHED, first}


async def test_a_gateway_loads_its_release_once_it_knows_all_takedowns(
    release: Path, features: Path, tmp_path: Path
) -> None:
    first = next(name for name in video_ids(40) if name not in WATCHED)
    with running_nats(tmp_path / "nats") as nats:
        event_log = settings_of(nats)
        log = JetStreamLog(event_log)
        await log.append(REMOVED, key_of(first), change(first, is_removed=True))
        settings = gateway_settings(
            features, NOWHERE, NOWHERE, event_log=event_log, cache=tmp_path / "cache"
        )
        pod = gateway_pod(settings)
        loading = asyncio.create_task(asyncio.to_thread(pod.build, release))
        following = [asyncio.create_task(run()) for run in pod.background]
        built = await loading
        async with serving(replace(pod, build=lambda _: built, background=()), release) as (
            _,
            channel,
        ):
            slate = await RecommendationServiceStub(channel).Recommend(WHOLE)
            state = await ReleaseServiceStub(channel).GetServingRelease(GetServingReleaseRequest())
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        await log.close()
    assert {*names(slate)} == {*video_ids(40)} - {*WATCHED, first}
    assert time.time() - 60 < state.takedowns_as_of.seconds <= time.time()
