"""An ONNX model that runs on one core."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from vireo.server.arrays import Float32Array
from vireo.server.models.signature import Signature
from vireo.server.releases.manifest import ReleaseError

Inputs = Mapping[str, npt.NDArray[Any]]


_REFUSALS = (Fail, InvalidArgument, RuntimeException)
"""What ONNX Runtime raises for unfit inputs; they share no base class."""
_REASON_LENGTH = 300
"""Maximum characters of a reason, which callers get."""


class ModelInputError(Exception):
    """A model can't be run on the values or sizes of its inputs."""


class ModelOutputError(Exception):
    """A model's output has NaN or infinity: the request fails."""


class Model:
    """An ONNX Runtime session of a model with one output.

    One thread and no spinning: a pod is one process a core, and ONNX Runtime's own thread
    pool would waste the core on waiting. Safe to run from several threads.
    """

    def __init__(
        self,
        path: Path,
        signature: Signature,
        constants: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        """Load the model at `path`, which must have `signature`.

        Args:
            path: the model file.
            signature: the inputs that this build feeds, and the output that it reads.
            constants: by name, the constants that the model file doesn't contain. They aren't
                copied.

        Raises:
            ReleaseError: the file isn't a model that this build can run, or its inputs or output
                are others.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Fatal messages only: errors are raised, and callers' inputs shouldn't fill logs.
        options.log_severity_level = 4
        # Its own arena would keep the memory of the largest batch, and is no faster than malloc.
        options.enable_cpu_mem_arena = False
        self._constants = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(array)
            for name, array in (constants or {}).items()
        }
        for name, value in self._constants.items():
            options.add_initializer(name, value)
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # ONNX Runtime has no base class of its own for the errors of a bad model.
            raise ReleaseError(f"{path}: ONNX Runtime can't load the model: {error}") from error
        signature.check(path, self._session.get_inputs(), self._session.get_outputs())
        self.path = path
        self.name, self.version = path.parent.parent.name, path.parent.name
        """As in a model repository, in which `path` is `<name>/<version>/model.onnx`."""
        self.inputs = {
            value.name: signature.inputs[value.name] for value in self._session.get_inputs()
        }
        """The inputs that it reads, as this build feeds them."""
        self.output = signature.output
        self.answer = signature.answer
        self.probabilities = signature.probabilities

    def run(self, inputs: Inputs) -> Float32Array:
        """Return the output for `inputs`; those that the model doesn't read are ignored.

        Raises:
            ModelInputError: the inputs' sizes differ, or an id is out of range.
            ModelOutputError: the output isn't finite.
        """
        feed = {name: inputs[name] for name in self.inputs}
        try:
            [output] = self._session.run([self.output], feed)
        except _REFUSALS as error:
            raise ModelInputError(
                f"{self.name} can't be run on these inputs: {_reason(error)}"
            ) from error
        result: Float32Array = np.asarray(output, np.float32)
        if not np.isfinite(result).all():
            raise ModelOutputError(f"{self.name} gave a value that isn't finite")
        return result


def _reason(error: Exception) -> str:
    """Return ONNX Runtime's message without its constant prefix, on one line of bounded length."""
    return " ".join(str(error).rpartition("Status Message: ")[2].split())[:_REASON_LENGTH]
