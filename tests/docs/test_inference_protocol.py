"""What the document says of models and of grpcurl holds on pods."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.builders.releases import SCHEMA, VECTOR_SIZE, build_release
from tests.builders.rpc import serving
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.models.signature import Signature, ranker_signature, tower_signature

DOCUMENT = (Path(__file__).parents[2] / "docs" / "inference-protocol.md").read_text()
DATATYPES = {"FP32": "float32", "INT64": "int64"}


@pytest.mark.parametrize(
    ("model", "signature"),
    [
        ("viewer_tower", tower_signature(SCHEMA)),
        ("ranker", ranker_signature(SCHEMA)),
    ],
)
def test_every_tensor_is_described_with_its_type_and_shape(
    model: str, signature: Signature
) -> None:
    section = DOCUMENT.split(f"\n`{model}`, on ")[1].split("\n\n")[1]
    described = {
        name: (DATATYPES[datatype], shape.replace("d]", f"{VECTOR_SIZE}]"))
        for name, datatype, shape in re.findall(
            r"^\| `(\w+)` \| (\w+) \| (\[.*?\]) \|", section, re.MULTILINE
        )
    }
    tensors = {**signature.inputs, signature.output: signature.answer}
    assert described == {
        name: (tensor.dtype, f"[{', '.join(map(str, tensor.shape))}]")
        for name, tensor in tensors.items()
    }


@pytest.mark.integration
async def test_the_grpcurl_examples_answer(tmp_path: Path) -> None:
    folder = build_release(tmp_path)
    answers: list[dict[str, Any]] = []
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    async with serving(CANDIDATE_POD, folder) as (server, _):
        for example in re.findall(r"```sh\n(grpcurl.*?)```", DOCUMENT, re.DOTALL):
            assert "127.0.0.1:8120" in example
            process = await asyncio.create_subprocess_exec(
                "bash",
                "-euc",
                example.replace("127.0.0.1:8120", f"127.0.0.1:{server.port}"),
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "PATH": path},
            )
            printed, _ = await asyncio.wait_for(process.communicate(), 60)
            assert process.returncode == 0
            answers.append(json.loads(printed))
    metadata, inference = answers
    assert [tensor["name"] for tensor in metadata["outputs"]] == ["viewer_vector"]
    [output] = inference["outputs"]
    assert output["shape"] == ["1", str(VECTOR_SIZE)]
    assert len(output["contents"]["fp32Contents"]) == VECTOR_SIZE
