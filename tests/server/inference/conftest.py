from pathlib import Path

import pytest

from tests.builders.releases import build_release


@pytest.fixture(scope="session")
def release_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_release(tmp_path_factory.mktemp("inference-release"))
