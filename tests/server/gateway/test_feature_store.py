"""The feature store fails, hangs and comes back; viewers get answers all the while."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.builders.chain import gateway
from tests.builders.redis import RunningRedis, running_redis
from tests.builders.sqlite_lock import let_writers_lock_readers
from tests.builders.tiny_home import DATASET, VIEWER, WATCHED, build_tiny_features
from vireo.server.gateway import service
from vireo.server.gateway.features import FeatureReader
from vireo.server.gateway.viewer import PAUSE_SECONDS
from vireo.server.home import Home
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2

if TYPE_CHECKING:
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceAsyncStub

pytestmark = pytest.mark.slow

STALE = viewer_pb2.DEGRADATION_FEATURES_STALE
MISSING = viewer_pb2.DEGRADATION_FEATURES_MISSING
TIMEOUT = 0.5
"""Timeout of a read; long enough for a healthy store on a busy machine."""


async def ask(
    stub: RecommendationServiceAsyncStub, viewer: str = VIEWER, seconds: float | None = 60
) -> pb.RecommendResponse:
    request = pb.RecommendRequest(viewer_id=viewer, page_size=37, explain=True)
    return await stub.Recommend(request, timeout=seconds)


async def ask_until(
    stub: RecommendationServiceAsyncStub,
    degradations: list[viewer_pb2.Degradation.ValueType],
    viewer: str = VIEWER,
) -> pb.RecommendResponse:
    """The first answer with exactly these degradations."""
    async with asyncio.timeout(30):
        while True:
            response = await ask(stub, viewer)
            if list(response.degradations) == degradations:
                return response
            await asyncio.sleep(0.05)


def waited(response: pb.RecommendResponse) -> bool:
    """Whether this request waited for the store until it gave up."""
    return response.explanation.features_time.ToTimedelta().total_seconds() >= TIMEOUT


def tries_since(began: float, seconds: float) -> float:
    """How many reads that take so long may have been tried: three, then one after each pause."""
    return 4 + (time.monotonic() - began) / (PAUSE_SECONDS + seconds)


def names(response: pb.RecommendResponse) -> list[str]:
    return [item.video_id for item in response.items]


@pytest.fixture
def own_features(features: Path, tmp_path: Path) -> Path:
    """Features in SQLite that the test may do harm to."""
    shutil.copytree(features, tmp_path / "features")
    let_writers_lock_readers(tmp_path / "features" / DATASET / "online.db")
    return tmp_path / "features"


@contextmanager
def locked(features: Path) -> Iterator[None]:
    """Has another process lock the store's file."""
    script = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1])\n"
        "connection.execute('BEGIN EXCLUSIVE')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(features / DATASET / "online.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        try:
            yield
        finally:
            process.kill()


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


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The viewers for whom the store has been asked, in this process."""
    asked: list[str] = []
    read = FeatureReader.read

    async def counted(
        self: FeatureReader, viewer_id: str, seconds: float
    ) -> viewer_pb2.ViewerFeatures:
        asked.append(viewer_id)
        return await read(self, viewer_id, seconds)

    monkeypatch.setattr(FeatureReader, "read", counted)
    return asked


async def test_while_the_store_is_locked_cached_features_are_used_and_declared(
    release: Path, own_features: Path, candidate_target: str, ranking_target: str
) -> None:
    async with gateway(
        release, own_features, candidate_target, ranking_target, features_timeout=TIMEOUT
    ) as stub:
        whole = await ask_until(stub, [])
        with locked(own_features):
            stale, unknown = await ask(stub), await ask(stub, "nobody")
        assert list(stale.degradations) == [STALE]
        assert names(stale) == names(whole)
        assert stale.explanation.history_length == len(WATCHED)
        assert list(unknown.degradations) == [MISSING]
        again = await ask_until(stub, [])
        assert names(again) == names(whole)


async def test_expired_features_are_not_used(
    release: Path,
    own_features: Path,
    candidate_target: str,
    ranking_target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "STALE_FEATURES_SECONDS", 0)
    async with gateway(
        release,
        own_features,
        candidate_target,
        ranking_target,
        features_timeout=TIMEOUT,
    ) as stub:
        await ask_until(stub, [])
        with locked(own_features):
            assert list((await ask(stub)).degradations) == [MISSING]


async def test_a_store_that_hangs_is_left_alone_and_used_again_once_it_is_back(
    release: Path,
    own_features: Path,
    candidate_target: str,
    ranking_target: str,
) -> None:
    async with gateway(
        release, own_features, candidate_target, ranking_target, features_timeout=TIMEOUT
    ) as stub:
        await ask_until(stub, [])
        with locked(own_features):
            await asyncio.gather(*(ask(stub) for _ in range(10)))
            began = time.monotonic()
            responses = [await ask(stub, viewer) for viewer in (VIEWER, "nobody") * 30]
            most = tries_since(began, TIMEOUT)
        assert [list(each.degradations) for each in responses] == [[STALE], [MISSING]] * 30
        assert sum(map(waited, responses)) <= most, "the read that hangs holds up no others"
        response = await ask_until(stub, [])
        assert response.explanation.history_length == len(WATCHED)


async def test_a_store_that_hangs_is_left_alone_though_all_callers_are_in_a_hurry(
    release: Path,
    own_features: Path,
    candidate_target: str,
    ranking_target: str,
    reads: list[str],
) -> None:
    async with gateway(
        release,
        own_features,
        candidate_target,
        ranking_target,
        features_timeout=TIMEOUT,
        default_deadline=0.2,
    ) as stub:
        await ask_until(stub, [])
        with locked(own_features):
            before, began = len(reads), time.monotonic()
            for _ in range(60):
                await ask(stub, seconds=None)
            # Until it counts as hanging, each of them may try; then three, and one in each pause.
            most = tries_since(began, 0) + TIMEOUT / 0.05
        assert len(reads) - before <= most


async def test_a_store_that_fails_at_once_is_asked_only_now_and_then(
    release: Path,
    own_features: Path,
    candidate_target: str,
    ranking_target: str,
    reads: list[str],
) -> None:
    online = own_features / DATASET / "online.db"
    async with gateway(
        release, own_features, candidate_target, ranking_target, features_timeout=TIMEOUT
    ) as stub:
        await ask_until(stub, [])
        with sqlite3.connect(online) as connection:
            query = "SELECT name FROM sqlite_master WHERE type = 'table'"
            for (name,) in connection.execute(query).fetchall():
                connection.execute(f'ALTER TABLE "{name}" RENAME TO "away_{name}"')
        before, began = len(reads), time.monotonic()
        for _ in range(60):
            assert list((await ask(stub)).degradations) == [STALE]
        assert len(reads) - before <= tries_since(began, 0)
        with sqlite3.connect(online) as connection:
            for (name,) in connection.execute(query).fetchall():
                connection.execute(f'ALTER TABLE "{name}" RENAME TO "{name.removeprefix("away_")}"')
        await ask_until(stub, [])


async def test_one_viewers_bad_row_doesnt_open_the_circuit(
    release: Path,
    own_features: Path,
    candidate_target: str,
    ranking_target: str,
) -> None:
    online = own_features / DATASET / "online.db"
    async with gateway(release, own_features, candidate_target, ranking_target) as stub:
        await ask_until(stub, [])
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
    release: Path, own_features: Path, candidate_target: str, ranking_target: str
) -> None:
    targets = (release, own_features, candidate_target, ranking_target)
    async with AsyncExitStack() as stack:
        with locked(own_features):
            stub = await stack.enter_async_context(gateway(*targets, features_timeout=TIMEOUT))
            assert list((await ask(stub)).degradations) == [MISSING]
        await ask_until(stub, [])


@pytest.mark.parametrize(
    ("lose", "bring_back"),
    [
        (RunningRedis.hang, RunningRedis.go_on),
        (RunningRedis.kill, RunningRedis.start),
    ],
)
async def test_redis_that_hangs_or_dies_is_done_without_until_it_is_back(
    release: Path,
    redis_features: Path,
    candidate_target: str,
    ranking_target: str,
    redis: RunningRedis,
    lose: Callable[[RunningRedis], None],
    bring_back: Callable[[RunningRedis], None],
) -> None:
    async with gateway(
        release, redis_features, candidate_target, ranking_target, features_timeout=TIMEOUT
    ) as stub:
        whole = await ask_until(stub, [])
        lose(redis)
        stale = await ask(stub)
        assert list(stale.degradations) == [STALE]
        assert names(stale) == names(whole)
        began = time.monotonic()
        responses = [await ask(stub, "nobody") for _ in range(60)]
        assert all(list(each.degradations) == [MISSING] for each in responses)
        assert sum(map(waited, responses)) <= tries_since(began, TIMEOUT)
        bring_back(redis)
        assert names(await ask_until(stub, [])) == names(whole)


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
