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

Inputs = dict[str, npt.NDArray[Any]]
"""Arrays by the name of the model's input."""


def export(
    module: nn.Module,
    example: Inputs,
    axes: Mapping[str, tuple[str, ...]],
    output: str,
    path: Path,
    opset: int | None = None,
) -> None:
    """Write a module to `path`.

    Args:
        module: has a single output, whose last axis is of one size.
        example: valid inputs.
        axes: names of each input's leading, dynamic axes; inputs in the order of arguments.
        output: name of the output.
        path: the file; its folder is created.
        opset: version of the operators; the exporter's default if None.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = tuple(torch.from_numpy(example[name]) for name in axes)
    with torch.no_grad(), warnings.catch_warnings():
        # It says that the exporter by torch.export will replace it: that one takes twenty times as
        # long, for graphs that run 3% faster at most.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tensors,
            path,
            input_names=list(axes),
            output_names=[output],
            opset_version=opset,
            dynamic_axes={name: dict(enumerate(names)) for name, names in axes.items()},
            dynamo=False,
        )
        size = module(*tensors).shape[-1]
    model = onnx.load(str(path))
    model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value = size
    onnx.save(model, str(path))


_DATA_TYPES: Mapping[int, pb.DataType.ValueType] = {
    TensorProto.BOOL: pb.TYPE_BOOL,
    TensorProto.INT32: pb.TYPE_INT32,
    TensorProto.INT64: pb.TYPE_INT64,
    TensorProto.FLOAT16: pb.TYPE_FP16,
    TensorProto.FLOAT: pb.TYPE_FP32,
    TensorProto.DOUBLE: pb.TYPE_FP64,
}


def write_triton_config(model_path: Path) -> Path:
    """Write `config.pbtxt` for the model at `<name>/1/model.onnx` and return its path.

    Triton's own batching is off (max_batch_size 0, the default): the batch is an ordinary dimension
    of our inputs. Dynamic dimensions are -1.
    """
    model = onnx.load(str(model_path), load_external_data=False)
    folder = model_path.parent.parent
    constants = {weights.name for weights in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    config = pb.ModelConfig(
        name=folder.name,
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        input=[pb.ModelInput(**_tensor(value)) for value in inputs],
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
