"""A model's configuration as Triton describes it; the same as the release's `config.pbtxt`."""

from __future__ import annotations

from inference import model_config_pb2 as pb

from server.inference.model import Model
from server.inference.signature import Tensor
from server.inference.tensors import metadata

PLATFORM = "onnxruntime_onnx"
_BACKEND = "onnxruntime"


def model_config(model: Model) -> pb.ModelConfig:
    """Return the configuration of a model that is served."""
    return pb.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend=_BACKEND,
        max_batch_size=0,
        input=[_input(name, tensor) for name, tensor in model.inputs.items()],
        output=[_output(model.output, model.answer)],
    )


def _input(name: str, tensor: Tensor) -> pb.ModelInput:
    found = metadata(name, tensor)
    return pb.ModelInput(name=name, data_type=_data_type(found.datatype), dims=found.shape)


def _output(name: str, tensor: Tensor) -> pb.ModelOutput:
    found = metadata(name, tensor)
    return pb.ModelOutput(name=name, data_type=_data_type(found.datatype), dims=found.shape)


def _data_type(datatype: str) -> pb.DataType.ValueType:
    return pb.DataType.Value(f"TYPE_{datatype}")
