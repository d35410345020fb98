"""Triton's client by HTTP, and its load generator, against a ranking pod."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders.inference import golden
from tests.builders.inference_http import serving_http
from tests.builders.triton import output, triton_environment
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases import layout

SCRIPT = Path(__file__).with_name("triton_http_client.py")

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def programs() -> Path:
    return triton_environment()


@pytest.fixture(scope="module")
def results(programs: Path, release_folder: Path) -> dict[str, Any]:
    """Responses of a ranking pod to the client."""

    async def ask() -> str:
        async with serving_http(RANKING_POD, release_folder) as pod:
            return await output(
                programs / "python",
                "-I",
                SCRIPT,
                f"127.0.0.1:{pod.port}",
                release_folder / layout.GOLDEN_RANKER,
            )

    found: dict[str, Any] = json.loads(asyncio.run(ask()))
    return found


def test_the_client_sees_the_pod_and_its_model(results: dict[str, Any]) -> None:
    assert (results["live"], results["ready"]) == (True, True)
    assert results["model_ready"] == [True, False]
    assert results["server"]["name"] == "vireo"
    assert results["model"]["name"] == results["config"]["name"] == "ranker"


@pytest.mark.parametrize("form", ["binary", "json", "mixed"])
def test_the_client_gets_the_golden_scores(
    results: dict[str, Any], release_folder: Path, form: str
) -> None:
    wanted = golden(release_folder, layout.GOLDEN_RANKER)[1]["scores"]
    assert np.abs(np.array(results[form]) - wanted).max() < layout.GOLDEN_TOLERANCE


def test_the_client_shows_what_was_wrong(results: dict[str, Any]) -> None:
    status, message = results["missing"]
    assert status == "400"
    assert "is missing; it is" in message
    assert results["no_model"][0] == results["no_load"][0] == "404"
    assert "there is no model 'other' here" in results["no_model"][1]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_the_load_generator_measures_a_pod(
    programs: Path, release_folder: Path, protocol: str
) -> None:
    program = programs / "perf_analyzer"
    if not program.exists():
        pytest.skip("perf_analyzer can't be installed here: it needs glibc 2.38")
    inputs = golden(release_folder, layout.GOLDEN_RANKER)[0]
    shapes = [
        part
        for name, array in inputs.items()
        for part in ("--shape", f"{name}:{','.join(map(str, array.shape))}")
    ]
    async with serving_http(RANKING_POD, release_folder) as pod:
        port = pod.port if protocol == "http" else pod.server.port
        printed = await output(
            *(program, "-m", "ranker", "-i", protocol, "-u", f"127.0.0.1:{port}"),
            *("--input-data", "zero", "--request-count", "30", "--concurrency-range", "1", "-v"),
            *shapes,
        )
    assert re.search(r"Client:\s+Request count: 30\b", printed)
