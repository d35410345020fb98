"""An ONNX model that runs on one core, and is served only if it gives what it gave in training."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from vireo.server.arrays import Float32Array
from vireo.server.models.signature import Signature
from vireo.server.releases.layout import GOLDEN_TOLERANCE
from vireo.server.releases.manifest import ReleaseError

Inputs = Mapping[str, npt.NDArray[Any]]

_REFUSALS = (Fail, InvalidArgument, RuntimeException)
"""What ONNX Runtime raises for unfit inputs; they share no base class."""
_REASON_LENGTH = 300
"""Maximum characters of a reason, which callers get."""
_MIN_PROBABILITY = 1e-4
"""Differences are relative to at least this: below it, the sigmoid is exact to about 1e-8."""


class ModelInputError(Exception):
    """A model can't be run on the values or sizes of its inputs."""


class ModelOutputError(Exception):
    """A model's output has NaN or infinity: the request fails."""


class GoldenMismatchError(ReleaseError):
    """A model's outputs differ from those in training."""

    def __init__(self, message: str, difference: float) -> None:
        """Make the error.

        Args:
            message: what differs.
            difference: the maximum difference of an output; for probabilities relative to the
                recorded one, since most are a few thousandths.
        """
        super().__init__(message)
        self.difference = difference


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


def replay(model: Model, golden: Path) -> None:
    """Run the golden requests one by one through `model`, and compare with the recorded outputs.

    Args:
        model: the model to be served.
        golden: .npz with `input/<name>` for each input and `output/<name>`.

    Raises:
        GoldenMismatchError: an output is further than GOLDEN_TOLERANCE from the recorded one.
        ReleaseError: the file is unfit, or an output isn't finite or has another shape.
    """
    try:
        with np.load(golden, allow_pickle=False) as arrays:
            inputs = {
                name.removeprefix("input/"): arrays[name]
                for name in arrays.files
                if name.startswith("input/")
            }
            wanted = arrays[f"output/{model.output}"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ReleaseError(f"{golden}: can't be read as golden requests: {error}") from error
    if not wanted.size:
        raise ReleaseError(f"{golden}: has no golden requests; train the release again")
    try:
        # Pages for all at once would take longer to get than to compute on, while calls wait.
        requests = [{name: of[[row]] for name, of in inputs.items()} for row in range(len(wanted))]
        got = np.concatenate([model.run(request) for request in requests])
    except ModelOutputError as error:
        raise ReleaseError(
            f"{golden}: replay failed: {error}; its weights may hold NaN: train it again"
        ) from error
    except Exception as error:
        # A missing input, or whatever ONNX Runtime raises for one that doesn't fit.
        raise ReleaseError(f"{golden}: replay failed: {error}") from error
    if got.shape != wanted.shape:
        raise ReleaseError(f"{golden}: replay gave shape {got.shape}, recorded {wanted.shape}")
    differences = np.abs(got - wanted)
    difference = float(differences.max(initial=0.0))
    # Written so that a recorded NaN is refused too.
    if not difference <= GOLDEN_TOLERANCE:
        scale = np.maximum(wanted, _MIN_PROBABILITY) if model.probabilities else 1.0
        raise GoldenMismatchError(
            f"{golden}: replay differs from the recorded outputs by {difference:.2g}, "
            f"more than {GOLDEN_TOLERANCE:g}",
            float((differences / scale).max()),
        )
