"""The inputs and output of each model, checked against the model when it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vireo.server.features.content import CONTENT_LIMIT
from vireo.server.features.model_inputs import (
    ATTRIBUTE_LIMIT,
    RETRIEVAL_FEATURES,
    VIDEO_FEATURES,
    VIEWER_FEATURES,
)
from vireo.server.releases.manifest import FeatureSchema, ReleaseError

BATCH = "batch"
"""Name of the dimension that is the number of viewers."""
CANDIDATES = "candidates"
"""Name of the dimension that is the number of candidates of each viewer."""
VIDEOS = "videos"
"""The viewer tower's constant that its file doesn't contain: the vectors of all videos."""
HISTORY = "history"
"""Name of the dimension that is the number of videos in each history."""

_TYPES = {"tensor(float)": "float32", "tensor(int64)": "int64"}


@dataclass(frozen=True)
class Tensor:
    """One input or output."""

    dtype: str
    """NumPy dtype."""
    shape: tuple[int | str, ...]
    """Sizes; a name if requests choose the size, the same in all tensors with that name."""

    def __str__(self) -> str:
        sizes = ("any" if isinstance(size, str) else str(size) for size in self.shape)
        return f"{self.dtype}[{', '.join(sizes)}]"


@dataclass(frozen=True)
class Signature:
    """The inputs and the one output of a model."""

    inputs: Mapping[str, Tensor]
    """All inputs that this build can feed; a model may omit what it doesn't need."""
    output: str
    answer: Tensor
    probabilities: bool = False
    """Whether the output is probabilities."""

    def check(self, path: Path, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Compare with the inputs and outputs that ONNX Runtime found in the model at `path`.

        Raises:
            ReleaseError: the model has other inputs or another output; the message names it.
        """
        for argument in inputs:
            if argument.name not in self.inputs:
                raise ReleaseError(
                    f"{path}: the model reads input {argument.name!r}, which this build doesn't "
                    f"feed; it feeds {sorted(self.inputs)}"
                )
            _compare(f"{path}: input {argument.name!r}", argument, self.inputs[argument.name])
        found = {argument.name: argument for argument in outputs}
        if self.output not in found:
            raise ReleaseError(
                f"{path}: the model has no output {self.output!r}, only {sorted(found)}"
            )
        _compare(f"{path}: output {self.output!r}", found[self.output], self.answer)


def _compare(what: str, argument: Any, ours: Tensor) -> None:
    """Raise ReleaseError unless the model's input or output has our dtype and shape."""
    # ONNX Runtime gives a number for a fixed size, and a name or None for a free one.
    sizes = tuple(size if isinstance(size, int) else str(size) for size in argument.shape)
    theirs = Tensor(_TYPES.get(argument.type, argument.type), sizes)
    fits = len(theirs.shape) == len(ours.shape) and all(
        isinstance(size, str) or size == wanted
        for size, wanted in zip(theirs.shape, ours.shape, strict=True)
    )
    if theirs.dtype != ours.dtype or not fits:
        raise ReleaseError(f"{what} is {theirs} in the model, this build has {ours}")


def tower_signature(schema: FeatureSchema) -> Signature:
    """Return the viewer tower's signature: `tower_inputs` to embeddings."""
    return Signature(
        inputs={
            "history": Tensor("int64", (BATCH, HISTORY)),
            "gaps": Tensor("int64", (BATCH, HISTORY)),
            "asked_gap": Tensor("int64", (BATCH,)),
            "lengths": Tensor("int64", (BATCH,)),
            "attributes": Tensor("int64", (BATCH, ATTRIBUTE_LIMIT)),
            **_context(schema),
        },
        output="viewer_vector",
        answer=Tensor("float32", (BATCH, schema.vector_size)),
    )


def video_tower_signature(schema: FeatureSchema) -> Signature:
    """Return the video tower's signature: a bag of tokens to the parts of `layout.VIDEO_TOWER`."""
    return Signature(
        inputs={"content": Tensor("int64", (BATCH, CONTENT_LIMIT))},
        output="video_vectors",
        answer=Tensor("float32", (BATCH, 2 * schema.vector_size)),
    )


def ranker_signature(schema: FeatureSchema) -> Signature:
    """Return the ranker's signature: `ranking_inputs` to a probability of each task."""
    vector = schema.vector_size
    return Signature(
        inputs={
            "candidate_vectors": Tensor("float32", (BATCH, CANDIDATES, vector)),
            "candidate_features": Tensor("float32", (BATCH, CANDIDATES, len(VIDEO_FEATURES))),
            "retrieval_features": Tensor("float32", (BATCH, CANDIDATES, len(RETRIEVAL_FEATURES))),
            "match_features": Tensor("float32", (BATCH, CANDIDATES, len(schema.match_features))),
            "history_vectors": Tensor("float32", (BATCH, HISTORY, vector)),
            "history_lengths": Tensor("int64", (BATCH,)),
            "viewer_features": Tensor("float32", (BATCH, len(VIEWER_FEATURES))),
            "attributes": Tensor("int64", (BATCH, ATTRIBUTE_LIMIT)),
            **_context(schema),
        },
        output="scores",
        answer=Tensor("float32", (BATCH, CANDIDATES, len(schema.tasks))),
        probabilities=True,
    )


def _context(schema: FeatureSchema) -> dict[str, Tensor]:
    """Return the input of the context, if the models read any."""
    count = len(schema.context_features)
    return {"context": Tensor("int64", (BATCH, count))} if count else {}
