from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.nats import RunningNats, running_nats
from tests.builders.redis import RunningRedis, running_redis
from vireo.training.features.online_store import OnlineStoreSettings


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(redis_server: RunningRedis, monkeypatch: pytest.MonkeyPatch) -> RunningRedis:
    """The server of the module, which settings name."""
    monkeypatch.setenv("VIREO_REDIS_URL", redis_server.url)
    return redis_server


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNats]:
    with running_nats(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest) -> OnlineStoreSettings:
    """Each kind of online store."""
    if request.param == "sqlite":
        return OnlineStoreSettings(online_store="sqlite")
    request.getfixturevalue("redis")
    return OnlineStoreSettings(online_store="redis")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where feature repositories are, each in a folder of its data set's name."""
    return tmp_path / "features"
