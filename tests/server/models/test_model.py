"""Models that load: one with another signature is refused, and none has its runtime report."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.builders.releases import SCHEMA, save_model
from vireo.server.models.model import Model
from vireo.server.models.signature import tower_signature
from vireo.server.releases.manifest import ReleaseError

INPUTS: dict[str, tuple[int, list[str | int]]] = {
    "history": (TensorProto.INT64, ["b", "l"]),
    "gaps": (TensorProto.INT64, ["b", "l"]),
    "asked_gap": (TensorProto.INT64, ["b"]),
    "lengths": (TensorProto.INT64, ["b"]),
    "attributes": (TensorProto.INT64, ["b", 16]),
}


def tower(path: Path, width: int = 8, output: str = "viewer_vector", **changes: Any) -> Path:
    """A tower that answers zeros, with some inputs changed, added or (None) left out."""
    inputs = {name: kind for name, kind in {**INPUTS, **changes}.items() if kind is not None}
    save_model(
        path,
        inputs=inputs,
        outputs={output: ["b", width]},
        nodes=[
            helper.make_node("Shape", ["lengths"], ["count"]),
            helper.make_node("Concat", ["count", "width"], ["shape"], axis=0),
            helper.make_node("ConstantOfShape", ["shape"], [output]),
        ],
        constants={"width": np.array([width])},
    )
    return path


def test_a_model_may_lack_inputs_that_it_does_not_need(tmp_path: Path) -> None:
    model = Model(
        tower(tmp_path / "model.onnx", gaps=None, asked_gap=None, attributes=None),
        tower_signature(SCHEMA),
    )
    fed = {"lengths": np.array([1, 2]), "history": np.zeros((2, 1), np.int64)}
    assert model.run(fed).shape == (2, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mood": (TensorProto.INT64, ["b"])},
            r"reads input 'mood', which this build doesn't feed; it feeds \['asked_gap', 'attri",
        ),
        (
            {"gaps": (TensorProto.FLOAT, ["b", "l"])},
            r"input 'gaps' is float32\[any, any\] in the model, this build has int64\[any, any\]",
        ),
        ({"gaps": (TensorProto.INT64, ["b", "l", 1])}, r"input 'gaps' is int64\[any, any, 1\]"),
        (
            {"attributes": (TensorProto.INT64, ["b", 8])},
            r"input 'attributes' is int64\[any, 8\] in the model, this build has int64\[any, 16\]",
        ),
        ({"history": (TensorProto.INT64, [1, 50])}, r"input 'history' is int64\[1, 50\]"),
        ({"output": "vector"}, r"has no output 'viewer_vector', only \['vector'\]"),
        (
            {"width": 4},
            r"output 'viewer_vector' is float32\[any, 4\] in the model, this build has "
            r"float32\[any, 8\]",
        ),
    ],
)
def test_a_model_with_another_signature_is_refused_with_the_difference(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tower(tmp_path / "model.onnx", **changes)
    with pytest.raises(ReleaseError, match=r"model\.onnx: .*" + message):
        Model(path, tower_signature(SCHEMA))


def test_onnx_runtime_starts_no_thread_that_reports() -> None:
    assert _threads_after("vireo.server.models.model") == _threads_after("vireo.server.arrays")


def _threads_after(module: str) -> str:
    count = f"import {module}, os; print(len(os.listdir('/proc/self/task')))"
    # Without our variables, which say more than the code, and those by which it knows a CI machine,
    # where it reports nothing anyway.
    return subprocess.check_output([sys.executable, "-c", count], env={}, text=True)
