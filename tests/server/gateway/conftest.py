from collections.abc import AsyncIterator

import pytest

from tests.builders.chain import (
    candidate_target,
    chain,
    features,
    ranking_target,
    release,
    whole,
)
from tests.builders.recording import Recorder, recording
from vireo.server.event_log.jetstream import JetStreamLog

__all__ = ["candidate_target", "chain", "features", "ranking_target", "release", "whole"]


@pytest.fixture
async def recorder(log: JetStreamLog) -> AsyncIterator[Recorder]:
    """A server of both services that append to the log of the module."""
    async with recording(log) as recorder:
        yield recorder
