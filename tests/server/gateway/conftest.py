from collections.abc import AsyncIterator

import pytest

from tests.builders.chain import (
    candidate_target,
    chain,
    features,
    ranking_target,
    release,
    whole,
)
from tests.builders.recording import Recorder, recording
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.features.keys import video_key
from vireo.server.live.live import Live
from vireo.server.recommend.catalogue.overlay import Overlay, Takedowns

__all__ = ["candidate_target", "chain", "features", "ranking_target", "release", "whole"]


@pytest.fixture
async def recorder(log: JetStreamLog) -> AsyncIterator[Recorder]:
    """A server of both services that append to the log of the module."""
    async with recording(log) as recorder:
        yield recorder


@pytest.fixture
def _with_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gateways have a log, and don't wait to hear from it."""
    monkeypatch.setenv("VIREO_NATS_URL", "nats://127.0.0.1:1")
    monkeypatch.setattr(Live, "wait", lambda *_: None)
    monkeypatch.setattr(Live, "merged", lambda _, release: release.sequence)


@pytest.fixture
def down(_with_log: None, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Videos that gateways, unlike pods, know to be removed; for a test to fill."""
    names: set[str] = set()
    monkeypatch.setattr(Takedowns, "among", lambda _, keys: {*map(video_key, names)} & {*keys})
    return names


@pytest.fixture
def changed(_with_log: None, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Videos that gateways know to have changed in the catalogue; for a test to fill."""
    names: set[str] = set()
    monkeypatch.setattr(Overlay, "changed_after", lambda _, key, __: key in map(video_key, names))
    return names
