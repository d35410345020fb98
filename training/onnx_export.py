"""Export of modules to ONNX, whose outputs staging compares with PyTorch's, and Triton's config.

Model folders are a Triton model repository: `<name>/config.pbtxt`, `<name>/1/model.onnx`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import torch
from google.protobuf import text_format
from onnx import TensorProto
from torch import nn

from vireo.inference import model_config_pb2 as pb
from vireo.server.models.signature import BATCH, CANDIDATES, HISTORY, Signature

Inputs = dict[str, npt.NDArray[Any]]
"""Arrays by the name of the model's input."""

_EXAMPLE_SIZES = {BATCH: 2, CANDIDATES: 3, HISTORY: 1}
"""Sizes of the inputs that a module is traced with; a tower may read histories of one video."""


def export(module: nn.Module, signature: Signature, path: Path, opset: int | None = None) -> None:
    """Write a module to `path`.

    Args:
        module: reads the signature's inputs, in its order, and returns its output.
        signature: what the module is served as.
        path: the file; its folder is created.
        opset: version of the operators; the exporter's default if None.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = []
    for value in signature.inputs.values():
        sizes = [_EXAMPLE_SIZES[size] if isinstance(size, str) else size for size in value.shape]
        tensors.append(torch.zeros(sizes, dtype=getattr(torch, value.dtype)))
    with torch.no_grad(), warnings.catch_warnings():
        # It says that the exporter by torch.export will replace it: that one takes twenty times as
        # long, for graphs that run 3% faster at most.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(tensors),
            path,
            input_names=list(signature.inputs),
            output_names=[signature.output],
            opset_version=opset,
            dynamic_axes={
                name: {at: size for at, size in enumerate(value.shape) if isinstance(size, str)}
                for name, value in signature.inputs.items()
            },
            dynamo=False,
        )
    model = onnx.load(str(path))
    model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value = int(signature.answer.shape[-1])
    onnx.save(model, str(path))


_DATA_TYPES: Mapping[int, pb.DataType.ValueType] = {
    TensorProto.INT64: pb.TYPE_INT64,
    TensorProto.FLOAT: pb.TYPE_FP32,
}


def write_triton_config(model_path: Path) -> Path:
    """Write `config.pbtxt` for the model at `<name>/1/model.onnx` and return its path.

    Triton's own batching is off (max_batch_size 0, the default): the batch is an ordinary dimension
    of our inputs. Dynamic dimensions are -1.
    """
    model = onnx.load(str(model_path), load_external_data=False)
    folder = model_path.parent.parent
    config = pb.ModelConfig(
        name=folder.name,
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        input=[pb.ModelInput(**_tensor(value)) for value in model.graph.input],
        output=[pb.ModelOutput(**_tensor(value)) for value in model.graph.output],
    )
    path = folder / "config.pbtxt"
    path.write_text(text_format.MessageToString(config))
    return path


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    """Return name, type and dimensions of a tensor."""
    kind = value.type.tensor_type
    dims = [size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim]
    return {"name": value.name, "data_type": _DATA_TYPES[kind.elem_type], "dims": dims}
