"""Fixtures of real servers that the tests of a module share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.builders.nats import RunningNats, running_nats, settings_of
from tests.builders.redis import RunningRedis, running_redis
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.training.features.online_store import OnlineStoreSettings


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNats]:
    """A server for the tests of a module; each uses a key of its own, or goes on from the end."""
    with running_nats(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
async def log(nats: RunningNats) -> AsyncIterator[JetStreamLog]:
    opened = JetStreamLog(settings_of(nats))
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    """A server for the tests of a module; what each stores has keys of its own."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(redis_server: RunningRedis, monkeypatch: pytest.MonkeyPatch) -> RunningRedis:
    """The server of the module, which settings name."""
    monkeypatch.setenv("VIREO_REDIS_URL", redis_server.url)
    return redis_server


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest) -> OnlineStoreSettings:
    """Each kind of online store."""
    if request.param == "redis":
        request.getfixturevalue("redis")
    return OnlineStoreSettings(online_store=request.param)
