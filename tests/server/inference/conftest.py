from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.builders.inference import Array, golden
from tests.builders.inference_http import HttpPod, serving_http
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases import layout


@pytest.fixture
async def pod(release_folder: Path) -> AsyncIterator[HttpPod]:
    """A ranking pod."""
    async with serving_http(RANKING_POD, release_folder) as pod:
        yield pod


@pytest.fixture
def inputs(release_folder: Path) -> dict[str, Array]:
    return golden(release_folder, layout.GOLDEN_RANKER)[0]


@pytest.fixture
def scores(release_folder: Path) -> Array:
    return golden(release_folder, layout.GOLDEN_RANKER)[1]["scores"]
