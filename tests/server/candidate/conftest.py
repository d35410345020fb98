from pathlib import Path

import pytest

from vireo.server.recommend.retrieval.release import CandidateRelease


@pytest.fixture(scope="session")
def release(release_folder: Path) -> CandidateRelease:
    return CandidateRelease.load(release_folder)
