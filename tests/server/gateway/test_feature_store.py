"""The feature store fails, hangs and comes back; viewers get answers all the while."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import pytest

from tests.builders.chain import Chain, GatewayStub, gateway, names, slate_declaring
from tests.builders.redis import RunningRedis, running_redis
from tests.builders.samples import sample
from tests.builders.sqlite_lock import let_writers_lock_readers, locked
from tests.builders.tiny_home import DATASET, VIEWER, WATCHED, build_tiny_features
from vireo.server.gateway.features import FeatureReader
from vireo.server.home import Home
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2

pytestmark = pytest.mark.slow

STALE = viewer_pb2.DEGRADATION_FEATURES_STALE
MISSING = viewer_pb2.DEGRADATION_FEATURES_MISSING
TIMEOUT = 0.5
"""Timeout of a read; long enough for a healthy store on a busy machine."""


async def ask(stub: GatewayStub, viewer: str = VIEWER) -> pb.RecommendResponse:
    request = pb.RecommendRequest(viewer_id=viewer, page_size=37, explain=True)
    return await stub.Recommend(request)


async def whole_slate(stub: GatewayStub) -> pb.RecommendResponse:
    """The first that isn't degraded."""
    return await slate_declaring(stub, pb.RecommendRequest(viewer_id=VIEWER, page_size=37), [])


def gateway_over(chain: Chain, features: Path) -> AbstractAsyncContextManager[GatewayStub]:
    """A gateway that reads these features."""
    targets = chain.candidate, chain.ranking
    return gateway(chain.release, features, *targets, features_timeout=TIMEOUT)


def circuit_open() -> bool:
    """Whether requests skip the store, but for one now and then."""
    return sample("vireo_feature_store_circuit_open") == 1


@pytest.fixture
def own_features(features: Path, tmp_path: Path) -> Path:
    """Features in SQLite that the test may do harm to."""
    shutil.copytree(features, tmp_path / "features")
    let_writers_lock_readers(tmp_path / "features" / DATASET / "online.db")
    return tmp_path / "features"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RunningRedis]:
    with running_redis(tmp_path) as server:
        yield server


@pytest.fixture
def redis_features(redis: RunningRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Features in Redis."""
    monkeypatch.setenv("VIREO_ONLINE_STORE", "redis")
    monkeypatch.setenv("VIREO_REDIS_URL", redis.url)
    folder = build_tiny_features(Home(tmp_path / "home")).parent
    redis.save()
    return folder


async def test_while_the_store_is_locked_cached_features_are_used_and_declared(
    chain: Chain, own_features: Path
) -> None:
    async with gateway_over(chain, own_features) as stub:
        whole = await whole_slate(stub)
        cold = await ask(stub, "nobody")
        with locked(own_features / DATASET / "online.db", against_readers=True):
            stale, unknown, missing = [
                await ask(stub, viewer) for viewer in (VIEWER, "nobody", "another")
            ]
        assert list(stale.degradations) == [STALE]
        assert names(stale) == names(whole)
        assert stale.explanation.history_length == len(WATCHED)
        assert list(unknown.degradations) == list(missing.degradations) == [MISSING]
        assert names(missing) == names(cold)
        again = await whole_slate(stub)
        assert names(again) == names(whole)


async def test_one_viewers_bad_row_doesnt_open_the_circuit(
    chain: Chain, own_features: Path
) -> None:
    online = own_features / DATASET / "online.db"
    async with gateway_over(chain, own_features) as stub:
        await whole_slate(stub)
        with sqlite3.connect(online) as connection:
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table'"
            ).fetchall():
                connection.execute(
                    f'DELETE FROM "{name}" WHERE feature_name = ?', ("watched_keys",)
                )
        for _ in range(10):
            assert list((await ask(stub)).degradations) == [STALE]
            assert not (await ask(stub, "nobody")).degradations


async def test_a_gateway_that_starts_while_the_store_is_locked_answers_without_it(
    chain: Chain, own_features: Path
) -> None:
    async with AsyncExitStack() as stack:
        with locked(own_features / DATASET / "online.db", against_readers=True):
            stub = await stack.enter_async_context(gateway_over(chain, own_features))
            assert list((await ask(stub)).degradations) == [MISSING]
        await whole_slate(stub)


@pytest.mark.parametrize(
    ("lose", "bring_back"),
    [
        (RunningRedis.hang, RunningRedis.go_on),
        (RunningRedis.kill, RunningRedis.start),
    ],
)
async def test_redis_that_hangs_or_dies_is_done_without_until_it_is_back(
    chain: Chain,
    redis_features: Path,
    redis: RunningRedis,
    lose: Callable[[RunningRedis], None],
    bring_back: Callable[[RunningRedis], None],
) -> None:
    async with gateway_over(chain, redis_features) as stub:
        whole = await whole_slate(stub)
        lose(redis)
        stale = await ask(stub)
        assert list(stale.degradations) == [STALE]
        assert names(stale) == names(whole)
        for _ in range(10):
            assert list((await ask(stub, "nobody")).degradations) == [MISSING]
        assert circuit_open(), "most requests don't wait for it"
        bring_back(redis)
        assert names(await whole_slate(stub)) == names(whole)
        assert not circuit_open()


@pytest.mark.parametrize("lose", [RunningRedis.hang, RunningRedis.kill])
async def test_a_reader_opens_without_redis_and_reads_once_it_is_there(
    redis_features: Path, redis: RunningRedis, lose: Callable[[RunningRedis], None]
) -> None:
    import redis as client

    lose(redis)
    reader = await asyncio.to_thread(FeatureReader, redis_features / DATASET, TIMEOUT)
    with pytest.raises((client.ConnectionError, client.TimeoutError, TimeoutError)):
        await reader.read(VIEWER, TIMEOUT)  # and not without end
    redis.kill()
    redis.start()

    async def read() -> int:
        try:
            return len((await reader.read(VIEWER, TIMEOUT)).history_keys)
        except (client.ConnectionError, client.TimeoutError, TimeoutError):  # of a busy machine
            return 0

    async with asyncio.timeout(30):
        while await read() != len(WATCHED):  # noqa: ASYNC110 (Redis tells nobody)
            await asyncio.sleep(0.05)
