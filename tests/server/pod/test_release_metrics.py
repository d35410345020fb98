import shutil
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tests.builders.releases import build_release
from tests.builders.rpc import idle_loader
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.pod.pod import Pod
from vireo.server.pod.release_metrics import ReleaseCollector
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases import layout
from vireo.server.releases.manifest import DATA_END, Manifest


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


def test_a_pod_exports_when_the_data_of_its_release_ended(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    Manifest.read(folder).model_copy(update={"metrics": {DATA_END: 893286638.0}}).write(copy)
    registry = exported(RANKING_POD, copy)
    assert registry.get_sample_value("vireo_release_data_timestamp_seconds") == 893286638


def test_a_pod_that_serves_nothing_yet_exports_no_release(folder: Path) -> None:
    registry = exported(CANDIDATE_POD, None)
    assert registry.get_sample_value("vireo_release_failing") == 0
    assert registry.get_sample_value("vireo_release_files_bytes") is None


def test_candidate_pods_export_what_their_caches_take(folder: Path) -> None:
    registry = exported(CANDIDATE_POD, folder)
    for cache in ("viewer_vectors", "filters"):
        assert registry.get_sample_value("vireo_cache_bytes", {"cache": cache}) == 0
