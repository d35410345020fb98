"""Whatever is wrong with a new release, the old one keeps serving and the reason is shown."""

import json
import re
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.builders.bad_releases import BAD_RELEASES, BadRelease, bad_name, upload
from tests.builders.columns import request_for_one_video
from tests.builders.faulty_s3 import Fault, faulty_s3
from tests.builders.loading import Followed, serves
from tests.builders.pods import RunningPod, running_pod
from tests.builders.releases import build_release
from tests.builders.waiting import until
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.pod.pod import Pod
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases import layout
from vireo.server.releases.cache import CacheError
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.v1 import candidate_pb2, release_pb2
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub
from vireo.v1.ranking_pb2_grpc import RankingServiceStub

pytestmark = pytest.mark.integration
Publish = Callable[[str], Path]
PODS: dict[str, Pod[Any]] = {"candidate": CANDIDATE_POD, "ranking": RANKING_POD}


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


async def answer_of(pod: RunningPod, kind: str) -> str:
    """The release that a request is answered from."""
    if kind == "candidate":
        asked = candidate_pb2.RetrieveCandidatesRequest(count=5)
        asked.viewer.SetInParent()
        found = await CandidateServiceStub(pod.channel).RetrieveCandidates(asked, timeout=30)
        return found.release_id
    stub = RankingServiceStub(pod.channel)
    return (await stub.RankCandidates(request_for_one_video(), timeout=30)).release_id


@asynccontextmanager
async def serving_old(
    followed: Followed, kind: str = "ranking", through: S3Settings | None = None, **changes: Any
) -> AsyncIterator[RunningPod]:
    """A pod that serves a good release, and whose channel names it; it reads `through`."""
    [old] = followed.publish("old")
    followed.point(old)
    store = ReleaseStore(through) if through else followed.store
    cache = changes.pop("cache", followed.cache.root)
    async with running_pod(PODS[kind], store, cache, followed.name, **changes) as pod:
        await until(lambda: serves(pod.loader, old) and not pod.loader.failures.reason)
        yield pod


async def assert_refused(pod: RunningPod, kind: str, bad: str, reason: str) -> None:
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
    assert await answer_of(pod, kind) == old


async def assert_recovers(pod: RunningPod, kind: str, release_id: str) -> None:
    """Wait until the pod serves a release and reports no failure."""
    await until(lambda: serves(pod.loader, release_id) and not pod.loader.failures.reason)
    state = await pod.state()
    assert (state.release_id, state.last_failure) == (release_id, "")
    assert state.latest_failure.reason, "the latest failure is still reported"
    assert await answer_of(pod, kind) == release_id


@pytest.mark.parametrize("bad", [bad for bad in BAD_RELEASES if bad.pod in PODS], ids=bad_name)
async def test_bad_release_is_refused_and_a_good_one_taken(
    followed: Followed, bad: BadRelease
) -> None:
    release_id = f"{followed.name}-bad"
    # Of another seed: files that both had would come from the cache, and be good.
    upload(followed.store.settings, bad.build(followed.folder / "bad", release_id, 3), release_id)
    async with serving_old(followed, bad.pod) as pod:
        point(followed, release_id)
        await assert_refused(pod, bad.pod, release_id, bad.reason)
        [good] = followed.publish("good")
        point(followed, good)
        await assert_recovers(pod, bad.pod, good)


async def test_a_channel_without_a_release_is_reported(followed: Followed) -> None:
    release_id = f"{followed.name}-nothing"
    async with serving_old(followed) as pod:
        point(followed, release_id)
        await assert_refused(pod, "ranking", release_id, f"{release_id} isn't in bucket")
        followed.publish("nothing")
        await assert_recovers(pod, "ranking", release_id)


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
            await assert_refused(pod, "ranking", new, reason)
            assert (await pod.state()).latest_failure.stage == release_pb2.LOAD_STAGE_DOWNLOADING
            proxy.fault = "none"
            await assert_recovers(pod, "ranking", new)


def test_a_failed_write_is_reported_and_leaves_nothing(followed: Followed) -> None:
    release_id = f"{followed.name}-new"
    folder = build_release(followed.folder / "new", release_id=release_id, videos=20_000)
    followed.store.publish(folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        with pytest.raises(CacheError, match="can't be used: File too large; free some disk"):
            followed.cache.fetch(followed.store, release_id, (layout.VIDEO_VECTORS,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [each for each in followed.cache.root.rglob("*") if each.is_file()]
