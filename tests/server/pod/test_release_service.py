"""What a pod says of its releases: by ReleaseService and to Prometheus."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tests.builders.faulty_s3 import faulty_s3
from tests.builders.loading import Followed, serves
from tests.builders.pods import RunningPod, running_pod
from tests.builders.releases import build_release
from tests.builders.rpc import idle_loader
from tests.builders.waiting import until
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.pod.pod import Pod
from vireo.server.pod.release_service import ReleaseCollector, _stage
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases import layout
from vireo.server.releases.cache import Stage
from vireo.server.releases.manifest import DATA_END, Manifest
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.v1 import release_pb2

pytestmark = pytest.mark.integration
CHANNEL = "of-release-service"
FOREVER = 3600.0


def sample(pod: RunningPod, name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(ReleaseCollector(pod.loader))
    return registry.get_sample_value(name, labels)


def info(pod: RunningPod, release: str, role: str) -> float | None:
    labels: dict[str, Any] = {"release": release, "channel": CHANNEL, "origin": "s3", "role": role}
    return sample(pod, "vireo_release_info", **labels)


async def test_a_pod_reports_what_it_serves_holds_and_loads(s3: S3Settings, tmp_path: Path) -> None:
    followed = Followed(CHANNEL, ReleaseStore(s3), tmp_path)
    first, second, third = followed.publish("a", "b", "c")
    files = followed.store.manifest(third).files
    total = sum(file.size for path, file in files.items() if path in RANKING_POD.files)
    followed.point(first)
    with faulty_s3(s3) as proxy:
        through = ReleaseStore(proxy.settings)
        async with running_pod(
            RANKING_POD, through, tmp_path / "cache", CHANNEL, keep_previous_seconds=FOREVER
        ) as pod:
            await until(lambda: serves(pod.loader, first))
            await until(lambda: pod.loader.progress.stage is Stage.SERVING)
            state = await pod.state()
            assert (state.release_id, state.previous_release_id) == (first, "")
            assert not state.HasField("loading")
            assert not state.HasField("latest_failure")
            assert info(pod, first, "serving") == 1
            await followed.serve(pod.loader, second)
            assert (await pod.state()).previous_release_id == first
            assert info(pod, first, "previous") == 1
            assert info(pod, second, "serving") == 1
            proxy.only, proxy.fault = b"model.onnx", "hangs"
            followed.point(third)
            await until(lambda: pod.loader.progress.stage is Stage.DOWNLOADING)
            loading = (await pod.state()).loading
            assert loading.release_id == third
            assert loading.stage == release_pb2.LOAD_STAGE_DOWNLOADING
            assert 0 <= loading.bytes_done < loading.bytes_total == total
            assert sample(pod, "vireo_release_load_expected_bytes") == total
            assert sample(pod, "vireo_release_load_stage", stage="downloading") == 1
            assert sample(pod, "vireo_release_failing") == 0


@pytest.mark.parametrize("stage", list(Stage))
def test_every_stage_has_its_number_on_the_wire(stage: Stage) -> None:
    assert release_pb2.LoadStage.Name(_stage(stage)) == f"LOAD_STAGE_{stage.name}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_release(tmp_path_factory.mktemp("release-metrics"))


def exported(pod: Pod[Any], folder: Path | None) -> CollectorRegistry:
    """What a pod exports that serves the release in a folder, or none yet."""
    registry = CollectorRegistry()
    registry.register(ReleaseCollector(idle_loader(pod, folder), pod.files, pod.facts))
    return registry


@pytest.mark.parametrize("pod", [CANDIDATE_POD, RANKING_POD], ids=lambda pod: pod.kind)
def test_a_pod_exports_the_size_and_the_age_of_what_it_serves(pod: Pod[Any], folder: Path) -> None:
    manifest = Manifest.read(folder)
    sizes = {path: manifest.files[path].size for path in pod.files if path in manifest.files}
    registry = exported(pod, folder)
    created = registry.get_sample_value("vireo_release_created_timestamp_seconds")
    assert created == manifest.created_at.timestamp()
    assert registry.get_sample_value("vireo_release_data_timestamp_seconds") is None, "unknown"
    assert registry.get_sample_value("vireo_release_files_bytes") == sum(sizes.values())
    models = [size for path, size in sizes.items() if path.endswith("model.onnx")]
    assert registry.get_sample_value("vireo_model_bytes") == sum(models)
    assert registry.get_sample_value("vireo_index_bytes") == sizes.get(layout.VIDEO_INDEX)


def test_a_pod_exports_the_end_of_its_data_and_the_memory_of_its_caches(
    folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    Manifest.read(folder).model_copy(update={"metrics": {DATA_END: 893286638.0}}).write(copy)
    registry = exported(CANDIDATE_POD, copy)
    assert registry.get_sample_value("vireo_release_data_timestamp_seconds") == 893286638
    for cache in ("viewer_vectors", "filters"):
        assert registry.get_sample_value("vireo_cache_bytes", {"cache": cache}) == 0


def test_a_pod_that_serves_nothing_yet_exports_no_release() -> None:
    registry = exported(CANDIDATE_POD, None)
    assert registry.get_sample_value("vireo_release_failing") == 0
    assert registry.get_sample_value("vireo_release_files_bytes") is None
