from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from tests.builders.releases import build_release
from vireo.server.releases import layout

FIELD = descriptor_pb2.FieldDescriptorProto
_KINDS = "INVALID BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 STRING BF16"
DATA_TYPES = [f"TYPE_{kind}" for kind in _KINDS.split()]
OF_ONNX = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}
MODELS = {
    layout.VIEWER_TOWER_CONFIG: layout.VIEWER_TOWER,
    layout.RANKER_CONFIG: layout.RANKER,
}


def model_config() -> Any:
    """A message with the fields of Triton's `inference.ModelConfig` that a model needs.

    Names and numbers are those of its model_config.proto; the package that has it wants an
    older protobuf than ours.
    """
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference")
    kinds = file.enum_type.add(name="DataType")
    for number, name in enumerate(DATA_TYPES):
        kinds.value.add(name=name, number=number)
    for message, dims in (("ModelInput", 4), ("ModelOutput", 3)):
        tensor = file.message_type.add(name=message)
        add(tensor, "name", 1, FIELD.TYPE_STRING)
        add(tensor, "data_type", 2, FIELD.TYPE_ENUM, type_name=".inference.DataType")
        add(tensor, "dims", dims, FIELD.TYPE_INT64, repeated=True)
    config = file.message_type.add(name="ModelConfig")
    add(config, "name", 1, FIELD.TYPE_STRING)
    add(config, "platform", 2, FIELD.TYPE_STRING)
    add(config, "max_batch_size", 4, FIELD.TYPE_INT32)
    for field, number, kind in (("input", 5, "ModelInput"), ("output", 6, "ModelOutput")):
        name = f".inference.{kind}"
        add(config, field, number, FIELD.TYPE_MESSAGE, type_name=name, repeated=True)
    add(config, "backend", 17, FIELD.TYPE_STRING)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))()


def add(
    message: descriptor_pb2.DescriptorProto,
    name: str,
    number: int,
    kind: int,
    *,
    type_name: str | None = None,
    repeated: bool = False,
) -> None:
    label = FIELD.LABEL_REPEATED if repeated else FIELD.LABEL_OPTIONAL
    message.field.add(
        name=name,
        number=number,
        type=kind,
        label=label,
        type_name=type_name,
    )


def signature(values: Sequence[Any]) -> list[tuple[str, str, list[int]]]:
    """Name, type and dimensions of what ONNX Runtime says of a model's tensors."""
    return [
        (
            value.name,
            OF_ONNX[value.type],
            [size if isinstance(size, int) else -1 for size in value.shape],
        )
        for value in values
    ]


def check(folder: Path, config_path: str) -> None:
    parsed = text_format.Parse((folder / config_path).read_text(), model_config())
    session = onnxruntime.InferenceSession(str(folder / MODELS[config_path]))
    assert parsed.name == config_path.split("/")[0]
    assert (parsed.platform, parsed.backend) == ("onnxruntime_onnx", "onnxruntime")
    assert parsed.max_batch_size == 0
    for tensors, values in (
        (parsed.input, session.get_inputs()),
        (parsed.output, session.get_outputs()),
    ):
        declared = [(each.name, DATA_TYPES[each.data_type], list(each.dims)) for each in tensors]
        assert declared == signature(values)
        assert all(dims[0] == -1 for _, _, dims in declared), "any size of batch will do"


@pytest.mark.parametrize("config_path", MODELS)
def test_tritons_config_has_the_models_signature(config_path: str, tmp_path: Path) -> None:
    check(build_release(tmp_path), config_path)


@pytest.mark.parametrize("config_path", MODELS)
def test_a_trained_release_is_a_triton_model_repository(
    config_path: str, trained_home: Any
) -> None:
    check(trained_home.staged_release("trained"), config_path)
