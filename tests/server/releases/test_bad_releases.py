"""Whatever is wrong with a new release, the old one keeps serving and the reason is shown."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.builders.bad_releases import BAD_RELEASES, BadRelease, upload
from tests.builders.columns import request_for_one_video
from tests.builders.faulty_s3 import Fault, faulty_s3
from tests.builders.loading import Followed, serves
from tests.builders.pods import RunningPod, running_pod
from tests.builders.waiting import until
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.v1 import release_pb2
from vireo.v1.ranking_pb2_grpc import RankingServiceStub

pytestmark = pytest.mark.integration
BAD = [bad for bad in BAD_RELEASES if bad.pod == RANKING_POD.kind]


@pytest.fixture
def followed(s3: S3Settings, name: str, tmp_path: Path) -> Followed:
    """A bucket of its own: whoever lists the common one would stumble over what is bad."""
    store = ReleaseStore(s3.model_copy(update={"bucket": "bad-releases"}))
    store.bucket.make()
    return Followed(name, store, tmp_path)


def point(followed: Followed, release_id: str) -> None:
    """Point the channel anywhere: the store would refuse what isn't a release."""
    store, name = followed.store, f"channels/{followed.name}.json"
    body, etag = store.bucket.get(name) or (b"{}", "")
    store.bucket.swap(
        name, json.dumps({**json.loads(body), "release_id": release_id}).encode(), etag
    )


async def answer_of(pod: RunningPod) -> str:
    """The release that a request is answered from."""
    stub = RankingServiceStub(pod.channel)
    return (await stub.RankCandidates(request_for_one_video(), timeout=30)).release_id


@asynccontextmanager
async def serving_old(
    followed: Followed, through: S3Settings | None = None
) -> AsyncIterator[RunningPod]:
    """A pod that serves a good release, and whose channel names it; it reads `through`."""
    [old] = followed.publish("old")
    followed.point(old)
    store = ReleaseStore(through) if through else followed.store
    async with running_pod(RANKING_POD, store, followed.cache.root, followed.name) as pod:
        await until(lambda: serves(pod.loader, old) and not pod.loader.failures.reason)
        yield pod


async def assert_refused(pod: RunningPod, bad: str, reason: str) -> None:
    """Wait until the pod reports why it refuses `bad`, while it answers from the old release."""
    old = f"{bad.rpartition('-')[0]}-old"
    await until(lambda: re.search(reason, pod.loader.failures.reason) is not None)
    state = await pod.state()
    assert state.state == release_pb2.RELEASE_STATE_SERVING
    assert state.release_id == old
    assert re.search(reason, state.last_failure)
    assert re.search(reason, state.latest_failure.reason)
    assert state.latest_failure.release_id == bad
    assert state.latest_failure.stage not in (
        release_pb2.LOAD_STAGE_UNSPECIFIED,
        release_pb2.LOAD_STAGE_SERVING,
    )
    assert state.latest_failure.time.seconds > 0
    assert await answer_of(pod) == old


async def assert_recovers(pod: RunningPod, release_id: str) -> None:
    """Wait until the pod serves a release and reports no failure."""
    await until(lambda: serves(pod.loader, release_id) and not pod.loader.failures.reason)
    state = await pod.state()
    assert (state.release_id, state.last_failure) == (release_id, "")
    assert state.latest_failure.reason, "the latest failure is still reported"
    assert await answer_of(pod) == release_id


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
async def test_bad_release_is_refused_and_a_good_one_taken(
    followed: Followed, bad: BadRelease
) -> None:
    release_id = f"{followed.name}-bad"
    # Of another seed: files that both had would come from the cache, and be good.
    upload(followed.store.settings, bad.build(followed.folder / "bad", release_id, 3), release_id)
    async with serving_old(followed) as pod:
        point(followed, release_id)
        await assert_refused(pod, release_id, bad.reason)
        [good] = followed.publish("good")
        point(followed, good)
        await assert_recovers(pod, good)


async def test_a_channel_without_a_release_is_reported(followed: Followed) -> None:
    release_id = f"{followed.name}-nothing"
    async with serving_old(followed) as pod:
        point(followed, release_id)
        await assert_refused(pod, release_id, f"{release_id} isn't in bucket")
        followed.publish("nothing")
        await assert_recovers(pod, release_id)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("stops", r"can't be reached \((ProtocolError|IncompleteRead)\)"),
        ("hangs", r"can't be reached \(ReadTimeoutError\)"),
        ("silent", r"can't be reached \(ReadTimeoutError\)"),
        ("refuses", r"refuses the key .* \(AccessDenied\); check VIREO_S3_ACCESS_KEY"),
        ("fails", r"InternalError|fails"),
    ],
)
async def test_an_s3_failure_during_a_download_is_reported_and_retried(
    followed: Followed, fault: Fault, reason: str
) -> None:
    [new] = followed.publish("new", seed=3)
    # Only of what comes to nothing that is to be found soon.
    seconds = 2.0 if fault in ("hangs", "silent") else 30.0
    with faulty_s3(followed.store.settings, read_timeout=seconds, retries=0) as proxy:
        async with serving_old(followed, through=proxy.settings) as pod:
            proxy.only, proxy.after_bytes, proxy.fault = b"model.onnx", 1000, fault
            point(followed, new)
            await assert_refused(pod, new, reason)
            assert (await pod.state()).latest_failure.stage == release_pb2.LOAD_STAGE_DOWNLOADING
            proxy.fault = "none"
            await assert_recovers(pod, new)
