"""Triton's own client gets metadata, answers and proper errors from a ranking pod."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders.inference import golden
from tests.builders.rpc import serving
from tests.builders.triton import CHECKOUT, output, triton_environment
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases import layout

SCRIPT = Path(__file__).with_name("triton_client.py")
DOCUMENT = CHECKOUT / "docs" / "inference-protocol.md"

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def environment() -> Path:
    """The Python that has tritonclient."""
    return triton_environment() / "python"


@pytest.fixture(scope="module")
def results(environment: Path, release_folder: Path) -> dict[str, Any]:
    """Responses of a ranking pod to the client."""

    async def ask() -> str:
        async with serving(RANKING_POD, release_folder) as (server, _):
            address = f"127.0.0.1:{server.port}"
            # -I: none of this process's paths.
            return await output(
                environment, "-I", SCRIPT, address, release_folder / layout.GOLDEN_RANKER
            )

    found: dict[str, Any] = json.loads(asyncio.run(ask()))
    return found


def test_the_client_sees_the_pod_and_its_model(results: dict[str, Any]) -> None:
    assert (results["live"], results["ready"], results["model_ready"]) == (
        True,
        True,
        [True, False],
    )
    assert results["server"]["name"] == "vireo"
    model = results["model"]
    assert (model["name"], model["versions"], model["platform"]) == (
        "ranker",
        ["1"],
        "onnxruntime_onnx",
    )
    inputs = {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in model["inputs"]}
    assert inputs["history_vectors"] == ("FP32", ["-1", "-1", "8"])
    assert inputs["attributes"] == ("INT64", ["-1", "16"])
    assert len(inputs) == 8
    assert model["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": ["-1", "-1", "2"]}]


@pytest.mark.parametrize("form", ["raw", "typed"])
def test_the_client_gets_the_golden_scores(
    results: dict[str, Any], release_folder: Path, form: str
) -> None:
    wanted = golden(release_folder, layout.GOLDEN_RANKER)[1]["scores"]
    assert np.shape(results[form]) == wanted.shape
    assert np.abs(np.array(results[form]) - wanted).max() < layout.GOLDEN_TOLERANCE


def test_answers_are_in_the_form_of_the_request(results: dict[str, Any]) -> None:
    assert (results["raw_bytes"], results["typed_values"]) == (5 * 2 * 4, 5 * 2)
    assert (results["id"], results["release"]) == ("mine", "tiny-1")


@pytest.mark.parametrize("form", [0, 1], ids=["raw", "typed"])
@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("wrong_name", "ranker has no input 'viewer_mood'"),
        ("wrong_shape", "input 'viewer_features' must have sizes [batch, 2]"),
        ("wrong_dtype", "input 'viewer_features' must be FP32, is 'FP64'"),
        ("missing", "input 'viewer_features' is missing; it is FP32 of sizes [batch, 2]"),
    ],
)
def test_a_mistake_is_an_invalid_argument_that_names_the_input(
    results: dict[str, Any], mistake: str, message: str, form: int
) -> None:
    status, said = results[mistake][form]
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert message in said


def test_another_model_or_version_is_not_found(results: dict[str, Any]) -> None:
    assert results["no_model"][0] == results["no_version"][0] == "StatusCode.NOT_FOUND"


def test_other_methods_are_unimplemented(results: dict[str, Any]) -> None:
    assert results["no_load"][0] == "StatusCode.UNIMPLEMENTED"
    assert results["no_statistics"][0] == "StatusCode.UNIMPLEMENTED"


def test_the_client_reads_the_configuration(results: dict[str, Any]) -> None:
    config = results["config"]
    assert (config["name"], config["platform"]) == ("ranker", "onnxruntime_onnx")
    assert [each["name"] for each in config["input"]] == [
        each["name"] for each in results["model"]["inputs"]
    ]
    assert config["output"] == [
        {"name": "scores", "data_type": "TYPE_FP32", "dims": ["-1", "-1", "2"]}
    ]


async def test_the_documents_example_runs(environment: Path, release_folder: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    async with serving(RANKING_POD, release_folder) as (server, _):
        assert "127.0.0.1:8130" in example
        script = example.replace("127.0.0.1:8130", f"127.0.0.1:{server.port}")
        printed = await output(environment, "-I", "-c", script)
    assert re.fullmatch(r"\[\[\[\S+\s+\S+\]\]\]\ntiny-1\n", printed)
