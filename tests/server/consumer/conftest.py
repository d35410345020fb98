from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.builders.nats import RunningNats, running_nats
from tests.builders.redis import RunningRedis, running_redis
from training.features.online_store import OnlineStoreSettings


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNats]:
    with running_nats(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest) -> OnlineStoreSettings:
    """Each kind of online store."""
    if request.param == "sqlite":
        return OnlineStoreSettings(online_store="sqlite")
    server: RunningRedis = request.getfixturevalue("redis")
    return OnlineStoreSettings(online_store="redis", redis_url=SecretStr(server.url))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where feature repositories are, each in a folder of its data set's name."""
    return tmp_path / "features"
