from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from tests.builders.releases import build_release
from tests.builders.s3 import running_s3
from tests.builders.samples import grown
from tests.builders.shared_servers import log, nats, redis, redis_server, store
from vireo.server.releases.s3 import S3Settings

__all__ = ["grown", "log", "nats", "redis", "redis_server", "store"]


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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where feature repositories are, each in a folder of its data set's name."""
    return tmp_path / "features"
