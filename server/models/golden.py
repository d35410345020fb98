"""Golden replay: a model is served only if its outputs here match those in training."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from vireo.server.models.model import Model, ModelOutputError
from vireo.server.releases.layout import GOLDEN_TOLERANCE
from vireo.server.releases.manifest import ReleaseError

_MIN_PROBABILITY = 1e-4
"""Differences are relative to at least this: below it, the sigmoid is exact to about 1e-8."""


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
