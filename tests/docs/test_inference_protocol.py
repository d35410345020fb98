"""What the document says of models is what releases have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.builders.releases import SCHEMA, VECTOR_SIZE
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
