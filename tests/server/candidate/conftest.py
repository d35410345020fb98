from pathlib import Path

import pytest

from tests.builders.releases import build_release
from vireo.server.recommend.retrieval.release import CandidateRelease


@pytest.fixture(scope="session")
def release_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_release(tmp_path_factory.mktemp("candidate-release"))


@pytest.fixture(scope="session")
def release(release_folder: Path) -> CandidateRelease:
    return CandidateRelease.load(release_folder)
