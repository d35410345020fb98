from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.releases import build_release
from tests.builders.s3 import running_s3
from vireo.server.releases.s3 import S3Settings


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Settings]:
    """A real S3 server for all tests that need one; each uses names of its own."""
    with running_s3(tmp_path_factory.mktemp("s3")) as settings:
        yield settings


@pytest.fixture(scope="session")
def release_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_release(tmp_path_factory.mktemp("release"))
