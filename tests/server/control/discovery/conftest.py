from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import structlog

from tests.builders.kubernetes_api import RecordedApi, recorded_api
from tests.builders.kubernetes_following import Logs
from vireo.server.control import kubernetes


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
