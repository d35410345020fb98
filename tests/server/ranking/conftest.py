from pathlib import Path

import pytest

from vireo.server.recommend.ranking.release import RankingRelease


@pytest.fixture(scope="session")
def release(release_folder: Path) -> RankingRelease:
    return RankingRelease.load(release_folder)
