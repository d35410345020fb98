"""Golden replay: a model is served only when it answers here as it did in training."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from server.inference.model import Model, ModelOutputError
from server.releases.layout import GOLDEN_TOLERANCE
from server.releases.manifest import ReleaseError

_MIN_PROBABILITY = 1e-4
"""Differences of smaller ones are shares of this: their sigmoid is exact to some 1e-8."""


class GoldenMismatchError(ReleaseError):
    """A model answers otherwise than it did in training."""

    def __init__(self, message: str, difference: float) -> None:
        """Make the error.

        Args:
            message: what differs.
            difference: the largest of an output; of probabilities, as a share of what was recorded,
                since most are a few thousandths.
        """
        super().__init__(message)
        self.difference = difference


def replay(model: Model, golden: Path) -> None:
    """Runs the golden requests through `model` and compares with the recorded outputs.

    Args:
        model: the model as it will serve.
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
        got = model.run(inputs)
    except ModelOutputError as error:
        raise ReleaseError(
            f"{golden}: replay failed: {error}; its weights may hold NaN: train it again"
        ) from error
    except Exception as error:
        # An input that is missing, or whatever ONNX Runtime raises of one that doesn't fit.
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
