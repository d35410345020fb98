from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

from tests.builders.kubernetes_api import RecordedApi, recorded_api
from tests.builders.kubernetes_following import LISTED, Following, Logs, following
from tests.builders.waiting import until
from vireo.server.control import kubernetes
from vireo.server.control.settings import KubernetesSettings


@pytest.fixture
def logs() -> Iterator[Logs]:
    """What is logged."""
    with structlog.testing.capture_logs() as entries:
        yield entries


@pytest.fixture
async def api() -> AsyncIterator[RecordedApi]:
    async with recorded_api() as running:
        yield running


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "_MAX_BACKOFF_SECONDS", 0.05)


@pytest.fixture
def settings(api: RecordedApi, tmp_path: Path) -> KubernetesSettings:
    """Settings that lead to the API."""
    return KubernetesSettings(config=api.kubeconfig(tmp_path))


@pytest.fixture
async def follower(api: RecordedApi, settings: KubernetesSettings) -> AsyncIterator[Following]:
    """A source that has listed, and watches."""
    async with following(settings) as follower:
        await until(lambda: bool(api.open_watches))
        assert follower.published == [LISTED]
        yield follower
