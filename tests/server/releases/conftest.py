import itertools
from pathlib import Path

import pytest

from tests.builders.loading import Followed
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore

_numbers = itertools.count(1)


@pytest.fixture
def store(s3: S3Settings) -> ReleaseStore:
    return ReleaseStore(s3)


@pytest.fixture
def name() -> str:
    """Return a name that no other test uses, valid for a release or a channel."""
    return f"n{next(_numbers)}"


@pytest.fixture
def followed(store: ReleaseStore, name: str, tmp_path: Path) -> Followed:
    return Followed(name, store, tmp_path)
