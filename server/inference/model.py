"""An ONNX model that runs on one core."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from server.inference.signature import Signature
from server.releases.manifest import ReleaseError

Float32Array = npt.NDArray[np.float32]
Inputs = Mapping[str, npt.NDArray[Any]]


class ModelOutputError(Exception):
    """A model gave NaN or infinity: the request that it was asked for fails."""


class Model:
    """An ONNX Runtime session of a model with one output.

    One thread and no spinning: a pod is one process a core, and ONNX Runtime's own thread
    pool would burn the core's time in waiting. Safe to run from several threads.
    """

    def __init__(self, path: Path, signature: Signature) -> None:
        """Loads the model at `path`, which must have `signature`.

        Raises:
            ReleaseError: the file isn't a model that this build can run, or one with other
                inputs or another output.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # ONNX Runtime has no base class of its own for what a bad model raises.
            raise ReleaseError(f"{path}: ONNX Runtime can't load the model: {error}") from error
        signature.check(path, self._session.get_inputs(), self._session.get_outputs())
        self.path = path
        self.output = signature.output
        self._inputs = [value.name for value in self._session.get_inputs()]

    def run(self, inputs: Inputs) -> Float32Array:
        """The output for `inputs`, of which those that the model doesn't read are left out.

        Raises:
            ModelOutputError: the output isn't finite.
        """
        feed = {name: inputs[name] for name in self._inputs}
        result: Float32Array = np.asarray(self._session.run([self.output], feed)[0], np.float32)
        if not np.isfinite(result).all():
            raise ModelOutputError(f"{self.path.parent.parent.name} gave a value that isn't finite")
        return result
