"""What a gateway knows of the log before it serves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import structlog
from server.gateway.followed import LogFollower

from server.event_log.jetstream import JetStreamLog
from server.event_log.log import CATALOG
from server.features.keys import video_key
from server.gateway.release import GatewayRelease
from server.gateway.service import gateway_pod
from server.gateway.settings import GatewaySettings
from tests.builders.catalogue import change, key_of
from tests.builders.nats import running_nats, settings_of
from tests.builders.s3 import unreachable_s3


async def test_a_gateway_waits_for_the_removed_videos_but_not_for_ever(tmp_path: Path) -> None:
    with running_nats(tmp_path) as nats:
        event_log = settings_of(nats)
        log = JetStreamLog(event_log)
        await log.append(CATALOG, key_of("gone"), change("gone", is_removed=True))
        settings = GatewaySettings(port=1, s3=unreachable_s3(), event_log=event_log)
        follower = LogFollower(log, settings)
        with structlog.testing.capture_logs() as lines:
            await asyncio.to_thread(follower.wait, 0.01)
        assert [line["log_level"] for line in lines] == ["warning"]
        following = asyncio.ensure_future(follower.run())
        with structlog.testing.capture_logs() as lines:
            await asyncio.to_thread(follower.wait, 60.0)
        assert not [line for line in lines if line["log_level"] == "warning"]
        assert set(follower.removed) == {video_key("gone")}
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await log.close()


async def test_a_release_is_loaded_only_after_the_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done: list[str] = []
    monkeypatch.setenv("VIREO_NATS_URL", "nats://127.0.0.1:1")
    monkeypatch.setattr(LogFollower, "wait", lambda _: done.append("wait"))
    monkeypatch.setattr(GatewayRelease, "load", lambda *_: done.append("load"))
    pod = gateway_pod(GatewaySettings(port=1, s3=unreachable_s3()))
    pod.build(tmp_path)
    assert done == ["wait", "load"]
