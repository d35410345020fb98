from pathlib import Path

import pytest

from tests.builders.releases import build_release
from vireo.server.recommend.ranking.release import RankingRelease


@pytest.fixture(scope="session")
def release_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_release(tmp_path_factory.mktemp("ranking-release"))


@pytest.fixture(scope="session")
def release(release_folder: Path) -> RankingRelease:
    return RankingRelease.load(release_folder)
