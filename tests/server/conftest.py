from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from tests.builders.nats import RunningNats, running_nats, settings_of
from tests.builders.redis import RunningRedis, running_redis
from tests.builders.releases import build_release
from tests.builders.s3 import running_s3
from tests.builders.samples import grown
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.releases.s3 import S3Settings
from vireo.training.features.online_store import OnlineStoreSettings

__all__ = ["grown"]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests on the event loop of the servers."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Settings]:
    """A real S3 server for all tests that need one; each uses names of its own."""
    with running_s3(tmp_path_factory.mktemp("s3")) as settings:
        yield settings


@pytest.fixture(scope="session")
def release_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_release(tmp_path_factory.mktemp("release"))


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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where feature repositories are, each in a folder of its data set's name."""
    return tmp_path / "features"
