"""Triton's own clients, and its load generator, against a ranking pod."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders.inference import golden
from tests.builders.inference_http import HttpPod, serving_http
from tests.builders.rpc import serving
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases import layout

CHECKOUT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("triton_client.py")
DOCUMENT = CHECKOUT / "docs" / "inference-protocol.md"

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def programs() -> Path:
    """The folder of the programs with Triton's clients; skips the tests without them."""
    make = ["make", "oip-env", f"PYTHON={sys.executable}"]
    done = subprocess.run(make, cwd=CHECKOUT, capture_output=True, text=True, timeout=280)
    if done.returncode:
        pytest.skip(f"tritonclient can't be installed: {done.stderr.strip()[-500:]}")
    return CHECKOUT / ".vireo" / "oip-env" / "bin"


@pytest.fixture(scope="module", params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def results(programs: Path, release_folder: Path, protocol: str) -> dict[str, Any]:
    """Responses of a ranking pod to the client."""

    async def ask() -> str:
        async with serving_http(RANKING_POD, release_folder) as pod:
            address = f"127.0.0.1:{_port(pod, protocol)}"
            goldens = release_folder / layout.GOLDEN_RANKER
            # -I: none of this process's paths.
            return await output(programs / "python", "-I", SCRIPT, protocol, address, goldens)

    found: dict[str, Any] = json.loads(asyncio.run(ask()))
    return found


async def output(*command: Path | str) -> str:
    """What a command prints, which ends well; this process serves meanwhile."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        printed, errors = await asyncio.wait_for(process.communicate(), 120)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return printed.decode()


def _port(pod: HttpPod, protocol: str) -> int:
    return pod.server.port if protocol == "grpc" else pod.port


def test_the_client_sees_the_pod_and_its_model(results: dict[str, Any]) -> None:
    assert (results["live"], results["ready"]) == (True, True)
    assert results["model_ready"] == [True, False]
    assert results["server"]["name"] == "vireo"
    model, config = results["model"], results["config"]
    sizes = {each["name"]: [int(size) for size in each["shape"]] for each in model["inputs"]}
    assert (model["versions"], sizes["attributes"]) == (["1"], [-1, 16])
    assert [each["name"] for each in config["input"]] == [*sizes]


def test_the_client_gets_the_golden_scores_in_each_form(
    results: dict[str, Any], release_folder: Path
) -> None:
    wanted = golden(release_folder, layout.GOLDEN_RANKER)[1]["scores"]
    for scores in results["scores"]:
        assert np.shape(scores) == wanted.shape
        assert np.abs(np.array(scores) - wanted).max() < layout.GOLDEN_TOLERANCE
    assert results["id"] == "mine"
    assert results["release"] in ("tiny-1", {"string_param": "tiny-1"})


@pytest.mark.parametrize(
    ("mistake", "codes", "message"),
    [
        ("wrong_shape", ("INVALID_ARGUMENT", 400), "'viewer_features' must have sizes [batch, 2]"),
        ("no_model", ("NOT_FOUND", 404), "there is no model 'other' here"),
        ("no_statistics", ("UNIMPLEMENTED", 404), ""),
    ],
)
def test_a_mistake_is_refused_and_named(
    results: dict[str, Any], protocol: str, mistake: str, codes: tuple[str, int], message: str
) -> None:
    status, said = results[mistake]
    assert status == (f"StatusCode.{codes[0]}" if protocol == "grpc" else str(codes[1]))
    assert message in said


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
        address = f"127.0.0.1:{_port(pod, protocol)}"
        printed = await output(
            *(program, "-m", "ranker", "-i", protocol, "-u", address),
            *("--input-data", "zero", "--request-count", "30", "--concurrency-range", "1", "-v"),
            *shapes,
        )
    assert re.search(r"Client:\s+Request count: 30\b", printed)


async def test_the_documents_example_runs(programs: Path, release_folder: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    async with serving(RANKING_POD, release_folder) as (server, _):
        assert "127.0.0.1:8130" in example
        script = example.replace("127.0.0.1:8130", f"127.0.0.1:{server.port}")
        printed = await output(programs / "python", "-I", "-c", script)
    assert re.fullmatch(r"\[\[\[\S+\s+\S+\]\]\]\ntiny-1\n", printed)
