"""Whatever is wrong with a new release, the old one keeps serving and the reason is shown."""

import contextlib
import json
import re
import resource
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from tests.builders.bad_releases import BAD_RELEASES, BadRelease, bad_name
from tests.builders.columns import score_columns
from tests.builders.faulty_s3 import Fault, faulty_s3
from tests.builders.loading import serves
from tests.builders.pods import RunningPod, running_pod
from tests.builders.releases import build_release
from tests.builders.s3 import client_of, unreachable_s3
from tests.builders.waiting import until
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.features.keys import video_key
from vireo.server.pod.pod import Pod
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases import layout
from vireo.server.releases.cache import CacheError, ReleaseCache
from vireo.server.releases.channels import Change
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.v1 import candidate_pb2, ranking_pb2, release_pb2, viewer_pb2
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub
from vireo.v1.ranking_pb2_grpc import RankingServiceStub

pytestmark = pytest.mark.integration
Publish = Callable[[str], Path]
PODS: dict[str, Pod[Any]] = {"candidate": CANDIDATE_POD, "ranking": RANKING_POD}


@pytest.fixture
def store(s3: S3Settings) -> ReleaseStore:
    """A bucket of its own: whoever lists the common one would stumble over what is bad."""
    settings = s3.model_copy(update={"bucket": "bad-releases"})
    client = client_of(settings)
    if not client.bucket_exists(settings.bucket):
        client.make_bucket(settings.bucket)
    return ReleaseStore(settings)


def upload(settings: S3Settings, folder: Path, release_id: str) -> None:
    """Put a release's files into the store as they are: `publish` would refuse a bad one."""
    client = client_of(settings)
    for file in folder.rglob("*"):
        if file.is_file():
            name = f"releases/{release_id}/{file.relative_to(folder).as_posix()}"
            client.fput_object(settings.bucket, name, str(file))


def point(settings: S3Settings, channel: str, release_id: str) -> None:
    """Point a channel anywhere: the store would refuse what isn't a release."""
    client, name = client_of(settings), f"channels/{channel}.json"
    answer = client.get_object(settings.bucket, name)
    pointer = json.loads(answer.read())
    answer.release_conn()
    body = json.dumps({**pointer, "release_id": release_id}).encode()
    client.put_object(settings.bucket, name, BytesIO(body), len(body))


async def answer_of(pod: RunningPod, kind: str) -> str:
    """The release that a request is answered from."""
    viewer = viewer_pb2.ViewerFeatures(watch_count=0)
    if kind == "candidate":
        asked = candidate_pb2.RetrieveCandidatesRequest(viewer=viewer, count=5)
        found = await CandidateServiceStub(pod.channel).RetrieveCandidates(asked, timeout=30)
        return found.release_id
    ranked = await RankingServiceStub(pod.channel).RankCandidates(
        ranking_pb2.RankCandidatesRequest(
            viewer=viewer,
            keys=[video_key("video-1")],
            scores=score_columns([0]),
            source_masks=[2],
            page_size=1,
        ),
        timeout=10,
    )
    return ranked.release_id


@asynccontextmanager
async def serving_old(
    store: ReleaseStore,
    publish: Publish,
    name: str,
    cache: Path,
    kind: str = "ranking",
    through: ReleaseStore | None = None,
) -> AsyncIterator[RunningPod]:
    """A pod that serves a good release, and whose channel names it; it reads `through`."""
    publish(f"{name}-old")
    store.change_channel(name, Change(f"{name}-old"), None)
    async with running_pod(PODS[kind], through or store, cache, name) as pod:
        await until(lambda: serves(pod.loader, f"{name}-old") and not pod.loader.failures.reason)
        yield pod


async def assert_refused(pod: RunningPod, kind: str, name: str, bad: str, reason: str) -> None:
    """Wait until the pod reports why it refuses `bad`, while it answers from the old release."""
    await until(lambda: re.search(reason, pod.loader.failures.reason) is not None)
    state = await pod.state()
    assert state.state == release_pb2.RELEASE_STATE_SERVING
    assert state.release_id == f"{name}-old"
    assert re.search(reason, state.last_failure)
    assert re.search(reason, state.latest_failure.reason)
    assert state.latest_failure.release_id == bad
    assert state.latest_failure.stage not in (
        release_pb2.LOAD_STAGE_UNSPECIFIED,
        release_pb2.LOAD_STAGE_SERVING,
    )
    assert state.latest_failure.time.seconds > 0
    assert await answer_of(pod, kind) == f"{name}-old"


async def assert_recovers(pod: RunningPod, kind: str, release_id: str) -> None:
    """Wait until the pod serves a release and reports no failure."""
    await until(lambda: serves(pod.loader, release_id) and not pod.loader.failures.reason)
    state = await pod.state()
    assert (state.release_id, state.last_failure) == (release_id, "")
    assert state.latest_failure.reason, "the latest failure is still reported"
    assert await answer_of(pod, kind) == release_id


@pytest.mark.parametrize("bad", BAD_RELEASES, ids=bad_name)
async def test_bad_release_is_refused_and_a_good_one_taken(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path, bad: BadRelease
) -> None:
    # Of another seed: files that both had would come from the cache, and be good.
    upload(store.settings, bad.build(tmp_path / "bad", f"{name}-bad", seed=3), f"{name}-bad")
    async with serving_old(store, publish, name, tmp_path / "cache", bad.pod) as pod:
        point(store.settings, name, f"{name}-bad")
        await assert_refused(pod, bad.pod, name, f"{name}-bad", bad.reason)
        publish(f"{name}-good")
        point(store.settings, name, f"{name}-good")
        await assert_recovers(pod, bad.pod, f"{name}-good")


async def test_a_channel_without_a_release_is_reported(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    async with serving_old(store, publish, name, tmp_path / "cache") as pod:
        point(store.settings, name, f"{name}-nothing")
        reason = rf"releases/{name}-nothing/manifest\.json isn't in bucket"
        await assert_refused(pod, "ranking", name, f"{name}-nothing", reason)
        publish(f"{name}-nothing")
        await assert_recovers(pod, "ranking", f"{name}-nothing")


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
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path, fault: Fault, reason: str
) -> None:
    store.publish(build_release(tmp_path / "new", release_id=f"{name}-new", seed=3))
    # Only of what comes to nothing that is to be found soon.
    seconds = 2.0 if fault in ("hangs", "silent") else 30.0
    with faulty_s3(store.settings, read_timeout=seconds, retries=0) as proxy:
        through = ReleaseStore(proxy.settings)
        async with serving_old(store, publish, name, tmp_path / "cache", through=through) as pod:
            proxy.only, proxy.after_bytes, proxy.fault = b"model.onnx", 1000, fault
            point(store.settings, name, f"{name}-new")
            await assert_refused(pod, "ranking", name, f"{name}-new", reason)
            assert (await pod.state()).latest_failure.stage == release_pb2.LOAD_STAGE_DOWNLOADING
            proxy.fault = "none"
            await assert_recovers(pod, "ranking", f"{name}-new")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 4 MB."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"can't mount a file system here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


async def test_a_full_disk_during_a_download_is_reported_and_retried(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path, small_disk: Path
) -> None:
    new = build_release(tmp_path / "new", release_id=f"{name}-new", videos=20_000, seed=3)
    store.publish(new)
    filler = small_disk / "filler"

    def fill() -> None:
        with contextlib.suppress(OSError), filler.open("ab") as file:
            while True:
                file.write(bytes(4096))
                file.flush()

    with faulty_s3(store.settings) as proxy:
        through = ReleaseStore(proxy.settings)
        async with serving_old(store, publish, name, small_disk / "cache", through=through) as pod:
            proxy.only, proxy.before_answer = b"vectors.npy", fill
            point(store.settings, name, f"{name}-new")
            reason = "can't be used: No space left on device; free some disk space"
            await assert_refused(pod, "ranking", name, f"{name}-new", reason)
            proxy.before_answer = None
            # By now the room is known to be too small before the download.
            await until(lambda: "more in" in pod.loader.failures.reason)
            assert re.search(
                r"needs [\d.]+ MB more in .* left; free some", pod.loader.failures.reason
            )
            filler.unlink()
            await assert_recovers(pod, "ranking", f"{name}-new")


def test_a_failed_write_is_reported_and_leaves_nothing(
    store: ReleaseStore, name: str, tmp_path: Path
) -> None:
    store.publish(build_release(tmp_path / "new", release_id=name, videos=20_000))
    cache = ReleaseCache(tmp_path / "cache")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        with pytest.raises(CacheError, match="can't be used: File too large; free some disk"):
            cache.fetch(store, name, (layout.VIDEO_VECTORS,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((cache.root / "blobs").iterdir())


async def test_pod_without_store_and_cache_says_why_it_serves_nothing_and_recovers(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    publish(name)
    store.change_channel(name, Change(name), None)
    with faulty_s3(store.settings, read_timeout=1.5, retries=0) as proxy:
        proxy.fault = "silent"
        through = ReleaseStore(proxy.settings)
        async with running_pod(RANKING_POD, through, tmp_path / "cache", name) as pod:
            await until(lambda: "can't be reached" in pod.loader.failures.reason)
            state = await pod.state()
            assert state.state == release_pb2.RELEASE_STATE_LOADING
            assert "can't be reached" in state.last_failure
            assert state.loading.stage == release_pb2.LOAD_STAGE_LOOKING
            assert state.latest_failure.stage == release_pb2.LOAD_STAGE_LOOKING
            proxy.fault = "none"
            await assert_recovers(pod, "ranking", name)


async def test_release_that_failed_is_not_fetched_at_every_look(
    store: ReleaseStore, publish: Publish, name: str, tmp_path: Path
) -> None:
    attempts: list[Path] = []

    def build(folder: Path) -> Any:
        attempts.append(folder)
        if len(attempts) > 1:
            raise ZeroDivisionError("a bug")
        return RANKING_POD.build(folder)

    publish(f"{name}-a")
    publish(f"{name}-b")
    store.change_channel(name, Change(f"{name}-a"), None)
    with faulty_s3(store.settings) as proxy:
        through = ReleaseStore(proxy.settings)
        async with running_pod(RANKING_POD, through, tmp_path / "cache", name, build=build) as pod:
            await until(lambda: serves(pod.loader, f"{name}-a"))
            point(store.settings, name, f"{name}-b")

            def looks() -> int:
                return len([line for line in proxy.requests if b"/channels/" in line])

            # However long a look takes: pauses between attempts grow, those between looks don't.
            await until(lambda: len(attempts) >= 7 and looks() > 2 * len(attempts), seconds=60)
            point(store.settings, name, f"{name}-a")
            await until(lambda: not pod.loader.failures.reason)


async def test_pod_without_anything_is_not_kept_waiting_by_an_empty_cache(tmp_path: Path) -> None:
    store = ReleaseStore(unreachable_s3())
    async with running_pod(RANKING_POD, store, tmp_path / "cache", "production") as pod:
        await until(lambda: pod.loader.failures.latest is not None)
        assert (await pod.state()).latest_failure.release_id == ""
