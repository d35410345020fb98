from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from google.protobuf import text_format

from tests.builders.releases import build_release
from vireo.inference.model_config_pb2 import DataType, ModelConfig
from vireo.server.home import Home
from vireo.server.releases import layout

OF_ONNX = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}
MODELS = {
    layout.VIEWER_TOWER_CONFIG: layout.VIEWER_TOWER,
    layout.VIDEO_TOWER_CONFIG: layout.VIDEO_TOWER,
    layout.RANKER_CONFIG: layout.RANKER,
}


def signature(value: Any) -> tuple[str, str, list[int]]:
    """Name, type and dimensions of what ONNX Runtime says of a tensor."""
    dims = [size if isinstance(size, int) else -1 for size in value.shape]
    return value.name, OF_ONNX[value.type], dims


@pytest.mark.parametrize("config_path", MODELS)
@pytest.mark.parametrize("trained", [False, True], ids=["built", "trained"])
def test_a_release_is_a_triton_model_repository(
    config_path: str, trained: bool, trained_home: Home, tmp_path: Path
) -> None:
    folder = trained_home.staged_release("trained") if trained else build_release(tmp_path)
    config = text_format.Parse((folder / config_path).read_text(), ModelConfig())
    session = onnxruntime.InferenceSession(str(folder / MODELS[config_path]))
    assert config.name == config_path.split("/")[0]
    assert (config.platform, config.backend) == ("onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size == 0
    for tensors, values in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        declared = [(each.name, DataType.Name(each.data_type), [*each.dims]) for each in tensors]
        assert declared == list(map(signature, values))
        assert all(dims[0] == -1 for _, _, dims in declared), "any size of batch will do"
