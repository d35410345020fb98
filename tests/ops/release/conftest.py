"""What the tests of `vireo release` share: a real store, and the command run on it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest
from typer.testing import Result

from tests.builders.commands import vireo as run
from tests.builders.releases import build_release
from tests.builders.s3 import running_s3
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore

Vireo: TypeAlias = Callable[..., Result]
Publish: TypeAlias = Callable[[str], Path]

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Settings]:
    """A real S3 server."""
    with running_s3(tmp_path_factory.mktemp("s3")) as settings:
        yield settings


@pytest.fixture
def s3(server: S3Settings) -> S3Settings:
    """A bucket of this test's own."""
    return server.model_copy(update={"bucket": f"bucket-{next(_numbers)}"})


@pytest.fixture
def store(s3: S3Settings) -> ReleaseStore:
    return ReleaseStore(s3)


@pytest.fixture
def publish(store: ReleaseStore, tmp_path: Path) -> Publish:
    """Return a function that publishes a release with a given id, and returns its folder."""

    def build_and_publish(release_id: str) -> Path:
        seed = sum(release_id.encode())
        folder = build_release(tmp_path / "staged" / release_id, release_id=release_id, seed=seed)
        store.publish(folder)
        return folder

    return build_and_publish


@pytest.fixture
def vireo(s3: S3Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vireo:
    """Run `vireo release …` on the bucket, with an empty home unless one is set."""
    monkeypatch.setenv("VIREO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VIREO_CHANNEL", raising=False)
    monkeypatch.setenv("VIREO_USER", "ada@here")
    for variable, text in s3.environment().items():
        monkeypatch.setenv(variable, text)
    return partial(run, "release")
