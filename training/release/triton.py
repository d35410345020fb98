"""Triton's configuration of a model, derived from the model.

Model folders are a Triton model repository: `<name>/config.pbtxt`, `<name>/1/model.onnx`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
from onnx import TensorProto

_DATA_TYPES: Mapping[int, str] = {
    TensorProto.BOOL: "TYPE_BOOL",
    TensorProto.INT32: "TYPE_INT32",
    TensorProto.INT64: "TYPE_INT64",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.DOUBLE: "TYPE_FP64",
}


def write_triton_config(model_path: Path) -> Path:
    """Write `config.pbtxt` for the model at `<name>/1/model.onnx` and return its path.

    Triton's own batching is off (max_batch_size 0): the batch is an ordinary dimension of our
    inputs. Dynamic dimensions are -1.
    """
    model = onnx.load(str(model_path), load_external_data=False)
    folder = model_path.parent.parent
    constants = {weights.name for weights in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    lines = [
        f'name: "{folder.name}"',
        'platform: "onnxruntime_onnx"',
        'backend: "onnxruntime"',
        "max_batch_size: 0",
        *_tensors("input", inputs),
        *_tensors("output", model.graph.output),
    ]
    path = folder / "config.pbtxt"
    path.write_text("\n".join(lines) + "\n")
    return path


def _tensors(field: str, values: Iterable[onnx.ValueInfoProto]) -> list[str]:
    """Return a text-format block for each tensor."""
    blocks = []
    for value in values:
        kind = value.type.tensor_type
        dims = [size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim]
        blocks.append(
            f"{field} {{\n"
            f'  name: "{value.name}"\n'
            f"  data_type: {_DATA_TYPES[kind.elem_type]}\n"
            f"  dims: {dims}\n"
            "}"
        )
    return blocks
