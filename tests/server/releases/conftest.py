import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from server.releases.s3 import S3Settings
from server.releases.store import ReleaseStore
from tests.builders.releases import build_release

_numbers = itertools.count(1)


@pytest.fixture
def store(s3: S3Settings) -> ReleaseStore:
    return ReleaseStore(s3)


@pytest.fixture
def name() -> str:
    """A name that no other test uses, fit for a release or a channel."""
    return f"n{next(_numbers)}"


@pytest.fixture
def publish(store: ReleaseStore, tmp_path: Path) -> Callable[[str], Path]:
    """Builds and publishes a release of a given id; gives its folder."""

    def build_and_publish(release_id: str) -> Path:
        folder = build_release(tmp_path / "staged" / release_id, release_id=release_id)
        store.publish(folder)
        return folder

    return build_and_publish
