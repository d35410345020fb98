"""S3 is away until no more slates fit into the log: what a gateway, a log and archivers do then."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from tests.builders.archive_site import Site, proxy, quick
from tests.builders.chain import Chain
from tests.builders.faulty_s3 import FaultyS3
from tests.builders.nats import running_nats, settings_of
from tests.builders.waiting import until
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import SLATES
from vireo.server.gateway import slate_log
from vireo.server.live.live import Live
from vireo.server.releases.bucket import Bucket
from vireo.v1 import recommendation_pb2 as pb

__all__ = ["proxy", "quick"]

_STREAM_BYTES = 1 << 20
_PAGES = 16


def dropped() -> float:
    return REGISTRY.get_sample_value("vireo_slates_dropped_total", {"reason": "full"}) or 0.0


async def test_slates_beyond_the_budget_are_dropped_and_all_earlier_ones_archived_once(
    chain: Chain, proxy: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Live, "wait", lambda *_: None)
    monkeypatch.setattr(Live, "merged", lambda _, release: release.sequence)
    # The gateway's own memory is as little as is soon full, too.
    monkeypatch.setattr(slate_log, "_MAX_BYTES", _STREAM_BYTES // 4)
    monkeypatch.setattr(slate_log, "_JOIN_SECONDS", 0.05)
    monkeypatch.setattr(slate_log, "_JOIN_BYTES", _STREAM_BYTES // 16)
    before, answered = dropped(), Counter[str]()
    bucket = Bucket(proxy.settings.model_copy(update={"bucket": "slate-budget"}))
    bucket.make()
    async with AsyncExitStack() as stack:
        server = stack.enter_context(running_nats(tmp_path / "nats"))
        settings = settings_of(server, slate_max_bytes=_STREAM_BYTES)
        log = JetStreamLog(settings)
        stack.push_async_callback(log.close)
        site = Site(log, bucket)
        proxy.fault = "fails"
        archivers = await stack.enter_async_context(site.archiving(*site.archivers(bucket)))
        stub = await stack.enter_async_context(
            chain.gateway(cache=tmp_path / "cache", slate_share=1.0, event_log=settings)
        )

        async def ask() -> None:
            request = pb.RecommendRequest(
                viewer_id=f"viewer-{answered.total()}",
                excluded_video_ids=map("excluded-{}".format, range(400)),  # for large records
            )
            slate = await stub.Recommend(request)
            assert slate.items
            assert not slate.degradations
            answered[slate.request_id] += 1

        async def ask_until_dropped() -> None:
            while dropped() < before + _PAGES:
                await ask()

        async with asyncio.timeout(240):
            await asyncio.gather(*(ask_until_dropped() for _ in range(_PAGES)))
        used, limit = await log.usage(SLATES)
        assert limit == _STREAM_BYTES
        assert used > limit // 2

        proxy.fault = "none"
        kept = answered.total() - (dropped() - before)
        await until(lambda: site.requests().total() >= kept, 60)
        await site.done(archivers)
        assert site.requests().total() == kept
        assert max(site.requests().values()) == 1
        assert site.requests().keys() <= answered.keys()

        await ask()  # and it goes on
        await until(lambda: site.requests().total() == kept + 1, 60)
